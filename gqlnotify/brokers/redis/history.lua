-- Functions that all scripts share, and how Redis stores a topic.
--
-- The history of a topic is one stream. The id of an entry is the cursor of its event. The first
-- entry is no event, only a position to read after. From then on `seq` increases by one with each
-- entry, so a stream has no gaps. The fields of an entry are t, when the event was published (ms
-- since 1970); r, the server that appended it; i, the event id, or nothing; p, the payload.
--
-- A server that was restarted or promoted may have lost its newest entries, and would give their
-- numbers to other events. So a server appends its first entry with a new epoch. A cursor of a lost
-- entry is then not found, and all other cursors stay valid.
--
-- A sorted set for each topic maps event ids to their seq. It always exists, with one member that
-- is not an id: while a cluster moves a slot, it refuses a script if one of the keys does not
-- exist.
--
-- A topic that does not exist has no entry to read after. Its cursor is a time, `<us>-0`, and Redis
-- stores nothing for it. The cursor is valid while these scripts can prove that the stream contains
-- everything that was published since that time. The proof is `begun`, one sorted set for all
-- topics with the time at which each stream began. A server that loses its data loses this set too.
-- The lowest time in the set says since when it is complete. A cluster has no such set, because a
-- script can only use keys of one slot. There, asking for a topic begins its history, with a short
-- lifetime.

local stream, ids, begun = KEYS[1], KEYS[2], KEYS[3]

-- About 16 MB, far less than the streams of as many topics need.
local REMEMBERED = 100000
local WEEK = 7 * 24 * 3600 * 1000

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function milliseconds(us)
  return math.floor(us / 1000)
end

-- `tostring` would return 1.76e+15 for a number of this size.
local function digits(number)
  return string.format('%.0f', number)
end

-- A server gets a new replication id each time it starts and each time it is promoted. So entries
-- with another id may have been followed by entries that are lost.
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

-- The latest time at which the stream may have begun, or nil if nothing is known. `begun` is
-- complete only since its lowest time: a stream that is not in it may have begun until then.
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

-- The same, but if nothing is known, note that the set is complete from now on. The member '' is
-- not a stream.
local function last_begun_for_certain(now)
  local last = last_begun()
  if not last then
    last = now.us - 1
    note('', last)
  end
  return last
end

-- The cursor of a topic that does not exist: the current time, or a later one if the clock was set
-- back.
local function place(now)
  local us = math.max(now.us, last_begun_for_certain(now) + 1)
  -- The proof must outlive the cursor, even if no topic begins for a week.
  if redis.call('PTTL', begun) < WEEK / 2 then
    redis.call('PEXPIRE', begun, WEEK)
  end
  return digits(us) .. '-0'
end

-- Begin the history of a topic that is new or has expired, with an entry to read after. The payload
-- of this entry says since when the topic had no history.
local function begin(now)
  -- The first command that writes must be one that a full server refuses (XADD or ZADD): after the
  -- first write of a script, Redis no longer checks `maxmemory`.
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

-- What XINFO says about the stream, or nil if it does not exist.
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

-- Until its first event, a history in a cluster lives only for `empty` ms: any client that may
-- subscribe can create it. NX and GT together never shorten the lifetime that a process which
-- listens to the topic has set.
local function extend_by_content(lifetime, empty)
  if not string.match(inspect()['last-entry'][1], '%-0$') then
    return extend(lifetime)
  end
  for _, key in ipairs({ stream, ids }) do
    redis.call('PEXPIRE', key, empty, 'NX')
    redis.call('PEXPIRE', key, empty, 'GT')
  end
end

-- Delete the entries that were published before `since`, except the last of them: it is the
-- position before the oldest event that is kept. Most calls find nothing to delete, so the first
-- page is small.
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

-- The cursor of the newest event, or a cursor for a topic that does not exist.
local function newest(now, age, lifetime, empty)
  if begun and not inspect() then
    return place(now)
  end
  local known = history(now)
  drop_older(now.ms - age)
  extend_by_content(lifetime, empty)
  return known['last-entry'][1]
end
