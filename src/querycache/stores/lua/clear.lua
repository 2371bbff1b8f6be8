-- Make every entry invalid, also one whose fill is under way: all stamps made so far count as missing. Marks stay.
--
-- KEYS  state.  ARGV  seen, salt.  Returns the clock.

begin_anew()
return finish('')
