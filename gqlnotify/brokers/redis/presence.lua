-- How Redis stores the members of a topic, and what the scripts for it share.
--
-- The presence topic is a reserved topic. Its events say who joined, left or changed. In addition
-- it has these keys. Subjects are JSON strings, so that they can be copied into an event.
--
-- since: a sorted set of the subjects who are there, by the time at which they joined.
-- members: a hash from the same subjects to `<connections in all processes> <state>`.
-- own: a sorted set for each process, of its subjects by their number of connections there.
-- revisions: a hash from processes to the number of the last change that they have saved. A process
--   whose number is too low, or missing, has lost changes, and must register again.
-- due: a sorted set of deadlines. `s<subject>` has no connection, and leaves at that time. A
--   process that is silent until `p<process>` counts as dead.

local histories = tonumber(ARGV[1])
if histories == 2 then
  begun = nil
end
local since, members, due = KEYS[histories + 1], KEYS[histories + 2], KEYS[histories + 3]
local revisions, own = KEYS[histories + 4], KEYS[histories + 5]

local length, age, lifetime = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local command, process = ARGV[5], ARGV[6]
local silence, grace = tonumber(ARGV[7]), tonumber(ARGV[8])

-- A longer script would delay publishers.
local PAGE = 500

local now = here_and_now()
local known, epoch, seq

local function announce(what, subject, connections, state, joined)
  if not known then
    known = history(now)
    epoch, seq = next_place(known, now)
  end
  local payload = '{"' .. what .. '":{"subject":' .. subject .. ',"state":' .. state
    .. ',"connections":' .. digits(connections) .. ',"since":' .. digits(joined) .. '}}'
  local cursor = append(epoch, seq, '', payload, now)
  send(command, cursor, '', payload, now)
  seq = seq + 1
end

-- Each script that changes something ends with this.
local function conclude()
  if known then
    trim(known, length, age, lifetime, now)
  end
  for _, key in ipairs({ since, members, due, revisions, own }) do
    redis.call('PEXPIRE', key, lifetime)
  end
end

local function member(subject)
  local record = redis.call('HGET', members, subject)
  if record then
    local connections, state = string.match(record, '^(%d+) (.*)$')
    return tonumber(connections), state
  end
end

local function keep(subject, connections, state)
  redis.call('HSET', members, subject, digits(connections) .. ' ' .. state)
end

local function joined(subject)
  return tonumber(redis.call('ZSCORE', since, subject) or now.ms)
end

local function join(subject, connections)
  redis.call('ZADD', since, digits(now.ms), subject)
  keep(subject, connections, 'null')
  announce('joined', subject, connections, 'null', now.ms)
end

local function leave(subject)
  local _, state = member(subject)
  redis.call('ZREM', due, 's' .. subject)
  if state then
    local time = joined(subject)
    redis.call('ZREM', since, subject)
    redis.call('HDEL', members, subject)
    announce('left', subject, 0, state, time)
  end
end

-- Note how many connections the subject has at this process.
local function set_connections(subject, connections)
  local before = tonumber(redis.call('ZSCORE', own, subject) or 0)
  if connections > 0 then
    redis.call('ZADD', own, digits(connections), subject)
  else
    redis.call('ZREM', own, subject)
  end
  local all, state = member(subject)
  if not all then
    return connections > 0 and join(subject, connections)
  end
  all = math.max(all + connections - before, connections)
  keep(subject, all, state)
  if all > 0 then
    redis.call('ZREM', due, 's' .. subject)
  elseif grace > 0 then
    redis.call('ZADD', due, digits(now.ms + grace), 's' .. subject)
  else
    leave(subject)
  end
end

local function set_state(subject, state)
  local connections, before = member(subject)
  if connections and state ~= before then
    keep(subject, connections, state)
    announce('changed', subject, connections, state, joined(subject))
  end
end

-- Whether the server has every change that the process knows to be saved.
local function has_saved(confirmed)
  return tonumber(redis.call('HGET', revisions, process) or 0) >= confirmed
end

local function is_silent()
  local deadline = redis.call('ZSCORE', due, 'p' .. process)
  return deadline and tonumber(deadline) <= now.ms
end

local function renew()
  redis.call('ZADD', due, digits(now.ms + silence), 'p' .. process)
end
