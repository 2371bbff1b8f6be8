-- What scripts that look at tags have in common: stamps, marks, guards.
--
-- A stamp is a key of its own, with an expiry: where it expires or is evicted, the tag gets another one, and that is a miss.
-- Marks are fields of the state, which has no expiry: policies that evict only what expires (volatile-*) never take it.
-- A mark is 32 characters: the writer's name (16), and its own deadline in microseconds (16).

-- Longer than any entry lives: whoever has seen a stamp has forgotten it when it is gone.
local STAMP_LIFE_MS = 90000000
local FOREIGNER = '----------------'

-- A command on many keys, or on many fields of one; Lua can hand over some thousands at once.
local function get_many(command, key, names, first, last)
  if last - first < 1000 then
    return first <= last and (key and redis.call(command, key, unpack(names, first, last))
      or redis.call(command, unpack(names, first, last))) or {}
  end
  local found = {}
  for from = first, last, 1000 do
    for _, value in ipairs(get_many(command, key, names, from, math.min(from + 999, last))) do
      found[#found + 1] = value
    end
  end
  return found
end

-- A tag's key ends with 22 characters that name it.
local function name_of(key)
  return string.sub(key, -22)
end

local end_ms, end_text = 0, ''
local function give_stamp(key)
  local stamp, ends = new_stamp(), math.floor(last / 1000) + STAMP_LIFE_MS
  if ends ~= end_ms then
    end_ms, end_text = ends, string.format('%.0f', ends)
  end
  redis.call('SET', key, stamp, 'PXAT', end_text)
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

-- Set a writer's mark on tags until its deadline, or end it where there is none; either way each gets a new stamp.
local function change(keys, writer, deadline)
  local fields, kept, gone = {}, {}, {}
  for at, key in ipairs(keys) do
    fields[at] = 'm' .. name_of(key)
  end
  local marks, mine = get_many('HMGET', STATE, fields, 1, #fields), deadline and writer .. written(deadline) or ''
  for at, field in ipairs(fields) do
    local left = (marks[at] and living(marks[at], writer) or '') .. mine
    if left ~= '' then
      kept[#kept + 1], kept[#kept + 2] = field, left
    elseif marks[at] then
      gone[#gone + 1] = field
    end
  end
  if #kept > 0 then
    redis.call('HSET', STATE, unpack(kept))
  end
  if #gone > 0 then
    redis.call('HDEL', STATE, unpack(gone))
  end
  for _, key in ipairs(keys) do
    give_stamp(key)
  end
end
