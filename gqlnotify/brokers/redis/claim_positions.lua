-- Give each new holder the position of the holder that has got least far, or its own start. Return the
-- server and its memory, and for each key that position and that holder, or false.

-- Lua's numbers are exact for cursors: an epoch is in microseconds, below 2^53.
local function is_before(one, other)
  local epoch, seq = string.match(one, '^(%d+)-(%d+)')
  local other_epoch, other_seq = string.match(other, '^(%d+)-(%d+)')
  if epoch ~= other_epoch then
    return tonumber(epoch) < tonumber(other_epoch)
  end
  return tonumber(seq) < tonumber(other_seq)
end

-- Return the holder that has got least far, its position, and the cursor in it that is acknowledged.
local function least(key)
  local pairs_of_key = redis.call('HGETALL', key)
  local holder, position
  for at = 1, #pairs_of_key, 2 do
    if not position or is_before(pairs_of_key[at + 1], position) then
      holder, position = pairs_of_key[at], pairs_of_key[at + 1]
    end
  end
  if not position then
    return nil
  end
  local acknowledged, sent, by = string.match(position, '^(%S+) ?(%S*) ?(%S*)')
  if #pairs_of_key > 2 or by ~= server then
    return holder, acknowledged, acknowledged
  end
  return holder, acknowledged .. ' ' .. sent, acknowledged
end

-- A full Redis refuses the first write. The client still resumes, and its next claim finds
-- the same position.
local function save(key, holder, position)
  local saved = redis.pcall('HSET', key, holder, position)
  if type(saved) == 'table' and saved.err then
    return false
  end
  redis.call('PEXPIRE', key, life)
  return true
end

local reply = { memory() }
for at, key in ipairs(keys) do
  local new_holder, start = ARGV[at * 2 + 1], ARGV[at * 2 + 2]
  local holder, position, acknowledged = least(key)
  local saved = save(key, new_holder, acknowledged or start)
  -- A claim that is made again, because its reply was lost, finds its own holder.
  if holder and saved and holder ~= new_holder then
    redis.call('HDEL', key, holder)
  end
  reply[at + 1] = holder and { position, holder } or false
end
return reply
