-- Append an event, trim the history, extend its lifetime, and send the event live. Return its
-- cursor.

local payload, id = ARGV[1], ARGV[2]
local length, age, lifetime = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local send = ARGV[6]

local now = here_and_now()
local known = history(now)
local last = known['last-entry']
local epoch, seq = string.match(last[1], '(%d+)-(%d+)')
epoch, seq = tonumber(epoch), tonumber(seq)

-- The cursor of the event that was published with this id, if the history still contains it. Ids of
-- trimmed events are removed first.
local function earlier()
  local first = seq - known['length'] + 1
  redis.call('ZREMRANGEBYSCORE', ids, '-inf', '(' .. digits(first))
  local at = redis.call('ZSCORE', ids, id)
  if not at then
    return nil
  end
  local newer = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', seq - at + 1)
  return newer[#newer][1]
end

if id ~= '' then
  local cursor = earlier()
  if cursor then
    return cursor
  end
end

-- Another server appended the last entry, so entries after it may be lost: see history.lua.
if field(last, 'r') ~= now.server then
  epoch = math.max(now.us, epoch + 1)
end
local cursor = append(epoch, seq + 1, id, payload, now)

if id ~= '' then
  redis.call('ZADD', ids, seq + 1, id)
end
redis.call('XTRIM', stream, 'MAXLEN', '~', length + 1)
-- Only when the oldest entry is an eighth older than `age`, so that one publish deletes many
-- entries and most delete none. `read` does not return entries older than `age`.
if published(known['first-entry']) < now.ms - age * 9 / 8 then
  drop_older(now.ms - age)
end
extend(lifetime)

redis.call(send, stream, cursor .. ' ' .. #id .. ' ' .. digits(now.us) .. '\n' .. id .. payload)
return cursor
