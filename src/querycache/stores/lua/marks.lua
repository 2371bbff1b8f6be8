-- Count the tags that are marked.
--
-- KEYS  state.  ARGV  seen, salt.  Returns the clock, and the number.

local count, all = 0, redis.call('HGETALL', STATE)
for at = 1, #all, 2 do
  if #all[at] == 23 and string.sub(all[at], 1, 1) == 'm' and living(all[at + 1]) ~= '' then
    count = count + 1
  end
end
return finish(count)
