-- Note that a process runs, and announce subjects whose grace is over. Return whether the server has
-- the changes of the process, whether more is due, and the processes that were silent for too long.

local has_all = has_saved(tonumber(ARGV[9]))
-- If this process was silent itself, it could not reach the server. The others could not either if
-- the server was away, so they get the time until the next beat.
local may_judge = not is_silent()
if process ~= '' and has_all then
  renew()
end

local reply = { has_all and 1 or 0, 0 }
if may_judge then
  local page = redis.call('ZRANGEBYSCORE', due, '-inf', digits(now.ms), 'LIMIT', 0, PAGE)
  reply[2] = #page == PAGE and 1 or 0
  for _, each in ipairs(page) do
    local name = string.sub(each, 2)
    if string.sub(each, 1, 1) == 's' then
      leave(name)
    else
      reply[#reply + 1] = name
    end
  end
end
conclude()
return reply
