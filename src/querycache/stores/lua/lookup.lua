-- Say the stamps of tags and whether these are marked, and which of the entries that a near cache holds are still there.
--
-- KEYS  state, the stamps of ARGV[3] tags, those of ARGV[4] guards, then entries that the caller holds.
-- ARGV  seen, salt, how many tags, how many guards, the life of a mark in microseconds, a fingerprint for each guard, the
--       fields of the state for the marks of each tag and guard, those for the fingerprints of guards, then the head of each
--       entry as it is held.
-- Returns the clock and the stamps, and where one is marked a digit for each ("1": marked). For who holds entries a list: this,
--       and for each 1 where it is the one that is held, else what there is.
--
-- Other entries are read by a plain command just before this (a payload need not pass through Lua): so they were there when
-- their stamps were looked at. An entry: when it was filled (16), when it ends (16), how many stamps (6), the stamps (19 each),
-- all that is its head; the payload. Whoever asks judges it: it counts where it was filled in this life, has not ended, and has
-- the stamps of now, none of them marked.

local tags, guards = tonumber(ARGV[3]), tonumber(ARGV[4])
local count = tags + guards

local stamps = get_many('MGET', nil, KEYS, 2, 1 + count)
local kept = get_many('HMGET', STATE, ARGV, 6 + guards, 5 + guards + count + guards)

local held, is_held = {}, false
for at = 1, count do
  local key, marks, left = KEYS[1 + at], kept[at] or '', ''
  local is_fresh = not is_current(key, stamps[at])
  if marks ~= '' then
    left = living(marks)
    -- A mark that ended by its deadline ends as one that is released does: its writer may have committed since.
    is_fresh = is_fresh or #left < #marks
  end
  if at > tags then
    -- A guard says which tag columns this process knows of a table. One of another mind may have a commit under way, of
    -- which it marks other tags than we look at: nothing is stored for the life of a mark. So also where guards were
    -- forgotten that it may have relied on.
    local mine, mind = ARGV[5 + at - tags], kept[count + at - tags]
    if mind ~= mine then
      local until_when = (mind and now or tonumber(told[5]) or 0) + tonumber(ARGV[5])
      redis.call('HSET', STATE, 'g' .. name_of(key), mine)
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
  is_held = is_held or left ~= ''
end

local answer = finish(table.concat(stamps) .. (is_held and table.concat(held) or ''))
if #KEYS == 1 + count then
  return answer
end
local found = { answer }
for at = 1, #KEYS - 1 - count do
  local key, head = KEYS[1 + count + at], ARGV[5 + guards + count + guards + at]
  found[1 + at] = redis.call('GETRANGE', key, 0, #head - 1) == head and 1 or redis.call('MGET', key)[1]
end
return found
