-- What scripts that look at tags have in common: stamps, marks, guards.
--
-- A stamp is a key of its own, with an expiry: where it expires or is evicted, the tag gets another one, and that is a miss.
-- Marks are fields of the state, which has no expiry: policies that evict only what expires (volatile-*) never take it.
-- A mark is 32 characters: the writer's name (16), and its own deadline in microseconds (16).

-- Longer than any entry lives: whoever has seen a stamp has forgotten it when it is gone.
local STAMP_LIFE_MS = 90000000
local FOREIGNER = '----------------'

-- A tag's key ends with 22 characters that name it.
local function name_of(key)
  return string.sub(key, -22)
end

local function end_of(made)
  return math.floor(made / 1000) + STAMP_LIFE_MS
end

local function give_stamp(key)
  local stamp = new_stamp()
  redis.call('SET', key, stamp, 'PXAT', string.format('%.0f', end_of(last)))
  return stamp
end

-- A stamp that does not end when it was meant to has been put back: RESTORE gives what it restores no end, or a later one.
-- (Too early by less than a second is a server that was busy between TIME and PTTL.)
local function is_current(key, stamp)
  local made = stamp and #stamp == 19 and tonumber(string.sub(stamp, 1, 16))
  if not made or made < floor then
    return false
  end
  local late = redis.call('PTTL', key) - STAMP_LIFE_MS + (ticks - made) / 1000
  return late <= 10 and late >= -1000
end

-- Return the marks that are not over, without those of one writer.
local function living(marks, without)
  local left = {}
  for at = 1, #marks, 32 do
    local deadline = tonumber(string.sub(marks, at + 16, at + 31))
    if deadline and deadline > now and string.sub(marks, at, at + 15) ~= without then
      left[#left + 1] = string.sub(marks, at, at + 31)
    end
  end
  return table.concat(left)
end

local function keep_marks(name, marks)
  if marks == '' then
    redis.call('HDEL', STATE, 'm' .. name)
  else
    redis.call('HSET', STATE, 'm' .. name, marks)
  end
end

-- Set a writer's mark until its deadline, or end it where there is none; either way the tag gets a new stamp.
local function change(key, writer, deadline)
  local name = name_of(key)
  local marks = living(redis.call('HGET', STATE, 'm' .. name) or '', writer)
  if deadline then
    marks = marks .. writer .. written(deadline)
  end
  keep_marks(name, marks)
  give_stamp(key)
end
