-- Functions that append events to a history.

-- The epoch and the `seq` of the next entry.
local function next_place(known, now)
  local last = known['last-entry']
  local epoch, seq = string.match(last[1], '(%d+)-(%d+)')
  epoch, seq = tonumber(epoch), tonumber(seq)
  -- Another server appended the last entry, so entries after it may be lost: see history.lua.
  if field(last, 'r') ~= now.server then
    epoch = math.max(now.us, epoch + 1)
  end
  return epoch, seq + 1
end

local function send(command, cursor, id, payload, now)
  redis.call(command, stream, cursor .. ' ' .. #id .. ' ' .. digits(now.us) .. '\n' .. id .. payload)
end

-- Delete what is beyond the limits, and extend the lifetime.
local function trim(known, length, age, lifetime, now)
  redis.call('XTRIM', stream, 'MAXLEN', '~', length + 1)
  -- Only when the oldest entry is an eighth older than `age`, so that one publish deletes many
  -- entries and most delete none. `read` does not return entries older than `age`.
  if published(known['first-entry']) < now.ms - age * 9 / 8 then
    drop_older(now.ms - age)
  end
  extend(lifetime)
end
