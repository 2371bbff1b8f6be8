-- Say that a writer's commit is over, whether or not its marks are there.
--
-- KEYS  state, the stamps of ARGV[3] tags, then those of guards on which the writer relied when it marked.
-- ARGV  seen, salt, how many tags, writer (16 characters), for each guard the floor of that time.
-- Returns the clock.

local tags, writer = tonumber(ARGV[3]), ARGV[4]
change({ unpack(KEYS, 2, 1 + tags) }, writer)
-- The writer left a table's own tag alone, because the guard showed that every reader looks at the tags that it marked. If
-- the store was lost since, so was the guard, and a reader of another mind may have stored what was there before.
for at = 1, #KEYS - 1 - tags do
  if floor > tonumber(ARGV[4 + at]) then
    change({ KEYS[1 + tags + at] }, writer)
  end
end
return finish('')
