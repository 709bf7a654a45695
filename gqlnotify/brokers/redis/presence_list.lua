-- Return the cursor of the presence topic, the number of members, and the first of them: subject,
-- time of joining, connections and state.

local limit, empty = tonumber(ARGV[9]), ARGV[10]

local first = redis.call('ZRANGE', since, 0, limit - 1, 'WITHSCORES')
local reply = { newest(now, age, lifetime, empty), redis.call('ZCARD', since) }
for at = 1, #first, 2 do
  local connections, state = member(first[at])
  if connections then
    reply[#reply + 1] = { first[at], first[at + 1], connections, state }
  end
end
return reply
