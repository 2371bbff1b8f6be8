-- Store an entry with its lease, unchecked: under outdated stamps it is never served.
--
-- KEYS  state, entry.
-- ARGV  seen, salt, microseconds to live, how many stamps (6 digits) and the stamps (19 each), payload.
-- Returns the clock.

local ends = now + tonumber(ARGV[3])
redis.call('SET', KEYS[2], written(now) .. written(ends) .. ARGV[4] .. ARGV[5], 'PX', math.ceil(tonumber(ARGV[3]) / 1000))
return finish('')
