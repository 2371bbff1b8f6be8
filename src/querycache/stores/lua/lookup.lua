-- Look for entries, and say the stamps of tags and whether these are marked: for any number of questions at one moment.
--
-- KEYS  state, the stamps of ARGV[3] tags, those of ARGV[4] guards, then entries.
-- ARGV  seen, salt, how many tags, how many guards, the life of a mark in microseconds, a fingerprint for each guard, then
--       for each entry the positions of its tags and guards among the KEYS after the state; 0 for one in another part. A near
--       cache adds for each entry the head of the one that it holds, empty where it holds none.
-- Returns the clock, and: stamps, a digit for each ("1": marked), entries (false where there is none that is valid as far
--       as this part can tell, 1 where it is the one that the caller holds).
--
-- An entry: when it was filled (16), when it ends (16), how many stamps (6), the stamps (19 each), all that is its head; the
-- payload.

local tags, guards, life = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local count = tags + guards

-- A command on many keys or fields; Lua can hand over some thousands at once.
local function get_many(names, command, first)
  local found = {}
  for from = 1, #names, 1000 do
    local part = { unpack(names, from, math.min(from + 999, #names)) }
    local values = first and redis.call(command, first, unpack(part)) or redis.call(command, unpack(part))
    for _, value in ipairs(values) do
      found[#found + 1] = value
    end
  end
  return found
end

local keys, fields = {}, {}
for at = 1, count do
  keys[at] = KEYS[1 + at]
  fields[at] = 'm' .. name_of(keys[at])
end
for at = 1, guards do
  fields[count + at] = 'g' .. name_of(keys[tags + at])
end
local stamps = get_many(keys, 'MGET')
local kept = get_many(fields, 'HMGET', STATE)

local held = {}
for at = 1, count do
  local key, marks = keys[at], kept[at] or ''
  local stamp = stamps[at]
  local left = living(marks)
  -- A mark that ended by its deadline ends as one that is released does: its writer may have committed since.
  local is_fresh = not is_current(key, stamp) or #left < #marks
  if at > tags then
    -- A guard says which tag columns this process knows of a table. One of another mind may have a commit under way, of
    -- which it marks other tags than we look at: nothing is stored for the life of a mark. So also where guards were
    -- forgotten that it may have relied on.
    local mine, mind = ARGV[5 + at - tags], kept[count + at - tags]
    if mind ~= mine then
      local until_when = mind and now + life or (tonumber(told[5]) or 0) + life
      redis.call('HSET', STATE, fields[count + at - tags], mine)
      is_fresh = is_fresh or mind
      if until_when > now then
        left = living(left, FOREIGNER) .. FOREIGNER .. written(until_when)
      end
    end
  end
  if left ~= marks then
    keep_marks(name_of(key), left)
  end
  if is_fresh then
    stamps[at] = give_stamp(key)
  end
  held[at] = left == '' and '0' or '1'
end

-- An entry is dead where it ended, where it was filled in another life, and where one of its stamps is not current.
local function is_dead(entry, positions)
  local filled, ends = tonumber(string.sub(entry, 1, 16)), tonumber(string.sub(entry, 17, 32))
  if not filled or not ends or filled < floor or ends <= now then
    return true
  end
  local from = 39
  for position in string.gmatch(positions, '%d+') do
    local at = tonumber(position)
    if at > 0 and (held[at] == '1' or string.sub(entry, from, from + 18) ~= stamps[at]) then
      return true
    end
    from = from + 19
  end
  return false
end

local entries, number = {}, #KEYS - 1 - count
for at = 1, number do
  local key, positions, held_there = KEYS[1 + count + at], ARGV[5 + guards + at], ARGV[5 + guards + number + at] or ''
  if held_there ~= '' and redis.call('GETRANGE', key, 0, #held_there - 1) == held_there then
    entries[at] = not is_dead(held_there, positions) and 1
  else
    local entry = redis.call('GET', key)
    entries[at] = entry and not is_dead(entry, positions) and entry
  end
end

return finish({ stamps, table.concat(held), entries })
