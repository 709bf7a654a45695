-- The entries right behind a cursor, oldest first; nothing at all if that can't be told.

local after, limit, age = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local page = redis.call('XRANGE', stream, after, '+', 'COUNT', limit + 1)
if #page == 0 or page[1][1] ~= after then
  return false
end
table.remove(page, 1)
if page[1] and published(page[1]) < milliseconds(clock()) - age then
  return false
end
return page
