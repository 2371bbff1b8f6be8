-- Make every entry invalid, also one whose fill is under way: all stamps made so far count as missing. Marks stay.
--
-- KEYS  state.  ARGV  seen, salt.  Returns the clock.

last = math.max(last + 1, ticks)
floor = last
redis.call('HSET', STATE, 'floor', written(floor))
return finish(1)
