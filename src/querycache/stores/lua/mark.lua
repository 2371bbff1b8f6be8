-- Say that a writer is about to commit a change to tags.
--
-- KEYS  state, the stamps of ARGV[3] tags, those of ARGV[7] guards, then that of a guard that is only looked at, if any.
-- ARGV  seen, salt, how many tags, writer (16 characters), the mark's life in microseconds, how many fields the state may
--       have, how many guards, a fingerprint for each guard.
-- Returns the clock, then a digit for each guard ("1" where it was marked too, being absent or of another mind), the stamp of
-- the one that is looked at (empty where it is absent, marked or of another mind).

local tags, writer, life, guards = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[7])

-- Tags whose writers died, and that nobody asked for since, would stay in the state for good, and so would the guards of
-- databases that are gone. Now and then these are forgotten, and every stamp with them: that says more than is known, and
-- costs a miss. Guards made anew start marked, for a writer may have relied on one that is forgotten.
local function tidy()
  local forgot = tonumber(told[5]) or 0
  if redis.call('HLEN', STATE) <= tonumber(ARGV[6]) or now < forgot + life then
    return
  end
  local all = redis.call('HGETALL', STATE)
  for at = 1, #all, 2 do
    local field, kind = all[at], string.sub(all[at], 1, 1)
    if #field == 23 and (kind == 'g' or (kind == 'm' and living(all[at + 1]) == '')) then
      redis.call('HDEL', STATE, field)
    end
  end
  begin_anew()
  redis.call('HSET', STATE, 'forgot', written(now))
end

tidy()
local deadline = now + life
change({ unpack(KEYS, 2, 1 + tags) }, writer, deadline)
local marked = {}
for at = 1, guards do
  local key, mine = KEYS[1 + tags + at], ARGV[7 + at]
  local field = 'g' .. name_of(key)
  local mind = redis.call('HGET', STATE, field)
  if not mind then
    redis.call('HSET', STATE, field, mine)
  end
  if mind ~= mine then
    change({ key }, writer, deadline)
  end
  marked[at] = mind == mine and '0' or '1'
end

-- A mark that ended by its deadline says as little of the stamp as one that did not: a look-up replaces it.
local function stamp_as_it_is(key, mine)
  local name = name_of(key)
  if redis.call('HGET', STATE, 'g' .. name) ~= mine or redis.call('HGET', STATE, 'm' .. name) then
    return ''
  end
  local stamp = redis.call('MGET', key)[1]
  return is_current(key, stamp) and stamp or ''
end

local watched = KEYS[2 + tags + guards]
return finish(table.concat(marked) .. (watched and stamp_as_it_is(watched, ARGV[8 + guards]) or ''))
