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

local stream, ids = KEYS[1], KEYS[2]

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

-- A topic that is new, or whose history has ended, begins one with nothing but a place to start at.
local function begin(now)
  -- First the command that a full server refuses: it no longer checks once a script has written.
  append(now.us, 0, '', '', now)
  redis.call('DEL', ids)
  redis.call('ZADD', ids, '+inf', '')
end

local function inspect()
  local reply = redis.pcall('XINFO', 'STREAM', stream)
  if reply.err then
    return nil, reply
  end
  local info = {}
  for at = 1, #reply, 2 do
    info[reply[at]] = reply[at + 1]
  end
  return info
end

local function history(now)
  local info, refusal = inspect()
  if info then
    return info
  end
  if not string.find(refusal.err, 'no such key', 1, true) then
    error(refusal)
  end
  begin(now)
  return inspect()
end

local function extend(lifetime)
  redis.call('PEXPIRE', stream, lifetime)
  redis.call('PEXPIRE', ids, lifetime)
end

-- Until its first event, a history lives for `empty` only, or for as long as a process that listens
-- has extended it.
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
