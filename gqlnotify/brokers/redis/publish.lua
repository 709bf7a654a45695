-- Append an event, trim the history, extend its lifetime, and send the event live. Return its
-- cursor.

local payload, id = ARGV[1], ARGV[2]
local length, age, lifetime = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local command = ARGV[6]

local now = here_and_now()
local known = history(now)
local epoch, seq = next_place(known, now)

-- The cursor of the event that was published with this id, if the history still contains it. Ids of
-- trimmed events are removed first.
local function earlier()
  local first = seq - known['length']
  redis.call('ZREMRANGEBYSCORE', ids, '-inf', '(' .. digits(first))
  local at = redis.call('ZSCORE', ids, id)
  if not at then
    return nil
  end
  local newer = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', seq - at)
  return newer[#newer][1]
end

if id ~= '' then
  local cursor = earlier()
  if cursor then
    return cursor
  end
end

local cursor = append(epoch, seq, id, payload, now)
if id ~= '' then
  redis.call('ZADD', ids, seq, id)
end
trim(known, length, age, lifetime, now)
send(command, cursor, id, payload, now)
return cursor
