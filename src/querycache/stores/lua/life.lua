-- Every script begins with this: which life of the store is this, and what time is it there?
--
-- KEYS[1]  the part's state, a hash that never expires: life, last, floor, salt, forgot; a field m<tag> for each tag that
--          is marked, a field g<tag> for each guard.
-- ARGV[1]  the last stamp that the caller has seen here, in microseconds; ARGV[2] three digits drawn at random.
--
-- A stamp is a moment in microseconds and the three digits of its life, written as one decimal number of 19 digits:
-- nanoseconds. Lua's numbers are exact up to 16 digits, hence microseconds wherever is reckoned.

local STATE = KEYS[1]

-- A write comes first, one that needs memory, so that a look-up is refused wherever a mark would be: by a replica, out of
-- memory, after a failed save, without enough replicas. It changes nothing where the state is there (and then nothing is
-- replicated either). No shebang says the same on Redis 6.2, which does not know it.
redis.call('HSETNX', STATE, 'last', '0')

local about = redis.call('INFO', 'replication')
if string.match(about, 'role:(%a+)') ~= 'master' then
  -- A replica that may be written to.
  return redis.error_reply('READONLY this server is a replica')
end

-- A server has another master_replid after each start and each promotion: whatever its data say, they may be those of a
-- dump or of a replica that lagged. Data that are older than what the caller has seen were put back under the server.
-- In both cases, and where the state was lost, a new life begins: no stamp made before it counts any more (the floor),
-- and none made in it equals one made before, even if the clock was set back. Marks stay: they can only cost a miss.
local id = string.match(about, 'master_replid:(%x+)') or ''
local time = redis.call('TIME')
local ticks = tonumber(time[1]) * 1000000 + tonumber(time[2])
local told = redis.call('HMGET', STATE, 'life', 'last', 'floor', 'salt', 'forgot')
local last, floor, salt = tonumber(told[2]) or 0, tonumber(told[3]), told[4]
local seen = tonumber(ARGV[1])

local function written(number)
  return string.format('%016.0f', number)
end

if told[1] ~= id or not floor or not salt or last < seen then
  last = math.max(last, seen, ticks) + 1
  floor, salt = last, ARGV[2]
  redis.call('HSET', STATE, 'life', id, 'last', written(last), 'floor', written(floor), 'salt', salt)
end

local saved = last
local now = math.max(last, ticks)

-- Make a stamp that nobody ever held.
local function new_stamp()
  last = math.max(last + 1, ticks)
  return written(last) .. salt
end

-- Keep the clock, and say how it stands: each script ends with this.
local function finish(answer)
  if last > saved then
    redis.call('HSET', STATE, 'last', written(last))
  end
  return { written(math.max(now, last)), written(last), written(floor), answer }
end
