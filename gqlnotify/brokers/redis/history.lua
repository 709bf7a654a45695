-- What the scripts share.
--
-- A topic's history is one stream, and an entry's id is its event's cursor. Behind the first entry,
-- which is only a place to read after, each entry is the event right behind the one before it:
-- `seq` counts on by one. An entry holds t, when it was published (ms since 1970); r, the server
-- that took it; i, the event id, or nothing; p, the payload.
--
-- A server that was restarted or promoted may have forgotten its newest entries, and would give
-- their numbers to other events. So what it appends is of a new epoch: a cursor from the forgotten
-- part is found nowhere, and every other one goes on as ever.
--
-- The set beside the stream knows the seq of each event id. It always exists, with one member that
-- is no id: while a cluster moves a slot, it refuses a script one of whose keys is nowhere.
--
-- A topic that does not exist has no entry to read after. The cursor of such a topic is a time,
-- `<us>-0`, and nothing is written for it. It is good for as long as these scripts can prove that
-- the stream holds all that was published since. The proof is `begun`: one sorted set for all topics
-- that knows when each stream began, and that is lost when the server loses its data. The lowest
-- time in it tells how far back it is complete. A cluster has no such set, because a script reaches
-- the keys of one slot only: there a topic that is asked for begins at once, and ends soon.

local stream, ids, begun = KEYS[1], KEYS[2], KEYS[3]

-- Some 16 MB at most, far less than the streams of as many topics take.
local REMEMBERED = 100000
local WEEK = 7 * 24 * 3600 * 1000

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function milliseconds(us)
  return math.floor(us / 1000)
end

-- Lua would write a number of this size as 1.76e+15.
local function digits(number)
  return string.format('%.0f', number)
end

-- Every start and every promotion of a server gives it another replication id.
local function server()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x%x%x%x%x%x%x%x)')
end

local function here_and_now()
  local us = clock()
  return { us = us, ms = milliseconds(us), server = server() }
end

local function field(entry, name)
  local fields = entry[2]
  for at = 1, #fields, 2 do
    if fields[at] == name then
      return fields[at + 1]
    end
  end
end

local function published(entry)
  return tonumber(field(entry, 't'))
end

local function append(epoch, seq, id, payload, now)
  local cursor = digits(epoch) .. '-' .. digits(seq)
  redis.call('XADD', stream, cursor, 't', digits(now.ms), 'r', now.server, 'i', id, 'p', payload)
  return cursor
end

-- The last time at which the stream may have begun, or nil if nothing is known about that.
local function last_begun()
  local oldest = redis.call('ZRANGE', begun, 0, 0, 'WITHSCORES')[2]
  if oldest then
    local own = redis.call('ZSCORE', begun, stream)
    return math.max(tonumber(oldest), tonumber(own or 0))
  end
end

local function note(member, us)
  redis.call('ZADD', begun, digits(us), member)
  redis.call('ZREMRANGEBYRANK', begun, 0, -REMEMBERED - 1)
  redis.call('PEXPIRE', begun, WEEK)
end

-- The same, but from now on something is known. The member '' stands for no stream.
local function last_begun_for_certain(now)
  local last = last_begun()
  if not last then
    last = now.us - 1
    note('', last)
  end
  return last
end

-- The cursor of a topic that does not exist: now, or later if the clock was set back.
local function place(now)
  local us = math.max(now.us, last_begun_for_certain(now) + 1)
  -- The proof has to outlive the cursor, also where no topic begins for a week.
  if redis.call('PTTL', begun) < WEEK / 2 then
    redis.call('PEXPIRE', begun, WEEK)
  end
  return digits(us) .. '-0'
end

-- A topic that is new, or whose history has ended, begins one with nothing but a place to start at.
-- This entry's payload tells since when there was none.
local function begin(now)
  -- First a command that a full server refuses: it no longer checks once a script has written.
  local epoch, since = now.us, ''
  if begun then
    local last = last_begun_for_certain(now)
    epoch, since = math.max(now.us, last + 1), digits(last)
    note(stream, epoch)
  end
  append(epoch, 0, '', since, now)
  redis.call('DEL', ids)
  redis.call('ZADD', ids, '+inf', '')
end

-- What Redis tells of the stream, or nil if it does not exist.
local function inspect()
  local reply = redis.pcall('XINFO', 'STREAM', stream)
  if reply.err then
    if not string.find(reply.err, 'no such key', 1, true) then
      error(reply)
    end
    return nil
  end
  local info = {}
  for at = 1, #reply, 2 do
    info[reply[at]] = reply[at + 1]
  end
  return info
end

local function history(now)
  local info = inspect()
  if not info then
    begin(now)
    info = inspect()
  end
  return info
end

local function extend(lifetime)
  redis.call('PEXPIRE', stream, lifetime)
  redis.call('PEXPIRE', ids, lifetime)
end

-- Until its first event, a history that began in a cluster lives for `empty` only, or for as long as
-- a process that listens has extended it.
local function extend_by_content(lifetime, empty)
  if not string.match(inspect()['last-entry'][1], '%-0$') then
    return extend(lifetime)
  end
  for _, key in ipairs({ stream, ids }) do
    redis.call('PEXPIRE', key, empty, 'NX')
    redis.call('PEXPIRE', key, empty, 'GT')
  end
end

-- Drop what was published before `since`, but for the last of it: someone may read after that.
local function drop_older(since)
  local anchor = nil
  local from, count = '-', 2
  local page
  repeat
    page = redis.call('XRANGE', stream, from, '+', 'COUNT', count)
    for _, entry in ipairs(page) do
      if published(entry) >= since then
        page = {}
        break
      end
      anchor = entry[1]
    end
    from, count = '(' .. (anchor or ''), 100
  until #page == 0
  if anchor then
    redis.call('XTRIM', stream, 'MINID', anchor)
  end
end
