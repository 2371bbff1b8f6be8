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
if not string.find(about, 'role:master', 1, true) then
  -- A replica that may be written to.
  return redis.error_reply('READONLY this server is a replica')
end

-- A server has another master_replid after each start and each promotion: whatever its data say, they may be those of a
-- dump or of a replica that lagged. Data that are older than what the caller has seen were put back under the server.
-- In both cases, and where the state was lost, a new life begins: no stamp made before it counts any more (the floor),
-- and none made in it equals one made before, even if the clock was set back. Marks stay: they can only cost a miss.
local time = redis.call('TIME')
local ticks = time[1] * 1000000 + time[2]
local told = redis.call('HMGET', STATE, 'life', 'last', 'floor', 'salt', 'forgot')
local life, last_text, floor_text, salt = told[1], told[2], told[3], told[4]
local last, floor = tonumber(last_text) or 0, tonumber(floor_text)
local seen = tonumber(ARGV[1])

local function written(number)
  return string.format('%016.0f', number)
end

-- To look for what one expects is cheaper than to read what there is.
local is_same_life = life and string.find(about, 'master_replid:' .. life .. '\r\n', 1, true)
local is_whole = floor and salt and #last_text == 16 and #floor_text == 16
if not is_same_life or not is_whole or last < seen then
  life = string.match(about, 'master_replid:(%x+)') or ''
  last = math.max(last, seen, ticks) + 1
  floor, salt = last, ARGV[2]
  last_text = written(last)
  floor_text = last_text
  redis.call('HSET', STATE, 'life', life, 'last', last_text, 'floor', floor_text, 'salt', salt)
end

local saved = last
local now = math.max(last, ticks)

-- Make a stamp that nobody ever held.
local function new_stamp()
  last = math.max(last + 1, ticks)
  return written(last) .. salt
end

-- Have no stamp count that was made so far.
local function begin_anew()
  last = math.max(last + 1, ticks)
  floor, floor_text = last, written(last)
  redis.call('HSET', STATE, 'floor', floor_text)
end

-- Keep the clock, and say how it stands (now, the last stamp, the floor: 16 digits each), and an answer: each script ends
-- with this. All in one text, for each value of its own costs the server and the client more than its bytes.
local function finish(answer)
  if last > saved then
    last_text = written(last)
    redis.call('HSET', STATE, 'last', last_text)
  end
  return written(math.max(now, last)) .. last_text .. floor_text .. answer
end
