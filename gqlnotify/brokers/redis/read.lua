-- Return the entries right after a cursor, oldest first, or false if events may be missing.

local after, limit, age = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

-- Whether the stream contains everything published since `after`, the cursor of a topic that did
-- not exist. This is so if the stream has begun at most once since then and still has its first
-- entry.
local function holds_all()
  local time, seq = string.match(after, '(%d+)-(%d+)')
  if not begun or seq ~= '0' then
    return false
  end
  time = tonumber(time)
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not first then
    local since = last_begun()
    return since and since < time and time <= clock()
  end
  local epoch, number = string.match(first[1], '(%d+)-(%d+)')
  local since = tonumber(field(first, 'p'))
  return number == '0' and since and since < time and time < tonumber(epoch)
end

local page = redis.call('XRANGE', stream, after, '+', 'COUNT', limit + 1)
if #page == 0 or page[1][1] ~= after then
  if not holds_all() then
    return false
  end
  page = redis.call('XRANGE', stream, '-', '+', 'COUNT', limit + 1)
end
table.remove(page, 1)
if page[1] and published(page[1]) < milliseconds(clock()) - age then
  return false
end
return page
