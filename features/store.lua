-- The folds of the live store, run by the server as one step: nobody sees half of a batch.
-- Everything is read and worked out first and written last, so an error leaves nothing behind.
--
-- A user's history   <B 2> <H entries> <d newest time>, then entries in the order of (time, event
--                    id), each <d time> <B H H lengths> action item_id event_id; little-endian. Now
--                    and then a few more than the limit: the oldest ones leave in handfuls.
-- What a user sent   the 8-byte digests of the newest event ids, oldest first; a few more too
-- A user who left    the time up to which events are refused
-- Counters           of an item or a user: 4 bytes that name the layout, then for each half-life
--                    s <d q> and a <d> for each action: the sum of 2^(t/s - q), with q the newest
--                    event's whole t/s

local DIGEST, HEAD, FORMAT = 8, 11, 2
local SLACK = 4  -- a value may be longer than its limit by this part of it before it is cut

local function header(count, newest)
  return struct.pack('<BHd', FORMAT, count, newest)
end

local function size(value, at)
  local _, action, item, id, body = struct.unpack('<dBHH', value, at)
  return body + action + item + id - at
end

local function parsed(value)
  local entries, at = {}, HEAD + 1
  while at <= #value do
    local time, action, item, id, body = struct.unpack('<dBHH', value, at)
    local stop = body + action + item + id
    entries[#entries + 1] = {time, string.sub(value, stop - id, stop - 1),
                             string.sub(value, at, stop - 1)}
    at = stop
  end
  return entries
end

local function packed(entries, limit)
  local first = math.max(#entries - limit, 0) + 1
  local raw = {header(#entries - first + 1, entries[#entries] and entries[#entries][1] or 0)}
  for i = first, #entries do
    raw[#raw + 1] = entries[i][3]
  end
  return table.concat(raw)
end

-- a > b byte by byte: the operator goes by the server's locale.
local function after(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return #a > #b
end

-- Where (time, id) belongs, or nil if it is there already.
local function place(entries, time, id)
  local i = #entries
  while i > 0 and (entries[i][1] > time or (entries[i][1] == time and after(entries[i][2], id))) do
    i = i - 1
  end
  if i > 0 and entries[i][1] == time and entries[i][2] == id then
    return nil
  end
  return i + 1
end

local function has(digests, digest)
  local at = 1
  while true do
    local found = string.find(digests, digest, at, true)
    if not found then return false end
    if (found - 1) % DIGEST == 0 then return true end
    at = found + 1
  end
end

local function user_at(key)
  local head = redis.call('GETRANGE', KEYS[key], 0, HEAD - 1)
  local values = redis.call('MGET', KEYS[key + 1], KEYS[key + 2])
  local format, count, newest = FORMAT, 0, -math.huge
  if head ~= '' then format, count, newest = struct.unpack('<BHd', head) end
  if format ~= FORMAT then
    error({err = 'ERR histories of format ' .. format .. ', this version has ' .. FORMAT ..
                 ': empty the store and seed it again'})
  end
  return {key = key, count = count, newest = newest, tail = {}, seen = values[1] or '',
          fresh = {}, added = {}, gone = values[2] and tonumber(values[2])}
end

-- All entries of a user's history, as a table that a late event can be put into.
local function opened(user)
  if not user.entries then
    user.entries = parsed(redis.call('GET', KEYS[user.key]) or '')
    for _, entry in ipairs(user.tail) do user.entries[#user.entries + 1] = entry end
  end
  return user.entries
end

-- Puts an action where it belongs; false if it is there already.
local function remembered(user, time, id, raw)
  if not user.entries and time > user.newest then
    user.tail[#user.tail + 1] = {time, id, raw}
  else
    local entries = opened(user)
    local here = place(entries, time, id)
    if not here then return false end
    table.insert(entries, here, {time, id, raw})
    user.changed = true
  end
  user.newest = math.max(user.newest, time)
  return true
end

local function kept(user, limit, keep)
  local key, added = KEYS[user.key], #user.tail
  if user.entries then
    if user.changed then redis.call('SET', key, packed(user.entries, limit), 'EX', keep) end
    return
  end
  if added == 0 then return end
  local raw, count = {}, user.count + added
  for i = math.max(added - limit, 0) + 1, added do raw[#raw + 1] = user.tail[i][3] end
  local tail = table.concat(raw)
  if user.count > 0 and count <= limit + math.floor(limit / SLACK) then
    redis.call('APPEND', key, tail)
    redis.call('SETRANGE', key, 0, header(count, user.newest))
    redis.call('EXPIRE', key, keep)
    return
  end
  local before = ''
  if user.count > 0 and added < limit then
    before = redis.call('GET', key)
    local at = HEAD + 1
    for _ = 1, count - limit do at = at + size(before, at) end
    before = string.sub(before, at)
  end
  redis.call('SET', key, header(math.min(count, limit), user.newest) .. before .. tail, 'EX', keep)
end

local function witnessed(user, memory, keep)
  if #user.added == 0 then return end
  local key, added = KEYS[user.key + 1], table.concat(user.added)
  local all = #user.seen + #added
  if user.seen ~= '' and all <= DIGEST * (memory + math.floor(memory / SLACK)) then
    redis.call('APPEND', key, added)
    redis.call('EXPIRE', key, keep)
  else
    redis.call('SET', key, string.sub(user.seen .. added, -DIGEST * memory), 'EX', keep)
  end
end

local function counters_at(key, layout, cells)
  local value = redis.call('GET', key)
  if value and #value == #layout + 8 * cells and string.sub(value, 1, #layout) == layout then
    local found = {struct.unpack('<' .. string.rep('d', cells), value, #layout + 1)}
    found[cells + 1] = nil  -- where unpack stopped
    return found
  end
  return {}
end

local function counters_kept(key, layout, cells, keep)
  local value = layout .. struct.pack('<' .. string.rep('d', #cells), unpack(cells))
  redis.call('SET', key, value, 'EX', keep)
end

local function count(cells, time, group, spans, counted)
  for h = 1, #spans do
    local first = (h - 1) * (counted + 1) + 1
    local whole = math.floor(time / spans[h])
    if not cells[first] then
      cells[first] = whole
      for a = 1, counted do cells[first + a] = 0 end
    elseif whole > cells[first] then
      local scale = 2 ^ (cells[first] - whole)
      for a = 1, counted do cells[first + a] = cells[first + a] * scale end
      cells[first] = whole
    end
    local rest = (time - whole * spans[h]) / spans[h]
    cells[first + group] = cells[first + group] + 2 ^ rest * 2 ^ (whole - cells[first])
  end
end

-- KEYS log, then four of each user (history, digests, gone, counters), then one of each item
-- ARGV limit, memory, seconds to keep, log length, actions counted, layout of items, half-lives,
--      each in ms, layout of users, their half-life in ms (0: users are not counted), users, then
--      each event: <I user> <I item> <d time> <B which counter, 0: none> <H H I lengths> digest
--      event_id history-entry record
local function track()
  local limit, memory, keep = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
  local counted, layout, halves = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
  local spans = {}
  for h = 1, halves do spans[h] = tonumber(ARGV[8 + h]) end
  local own, span = ARGV[9 + halves], {tonumber(ARGV[10 + halves])}
  local people = tonumber(ARGV[11 + halves])
  local cells = halves * (counted + 1)
  local users, items, persons, said, records = {}, {}, {}, {}, {}
  for at = 12 + halves, #ARGV do
    local event = ARGV[at]
    local u, i, time, group, a, b, c, body = struct.unpack('<IIdBHHI', event)
    local digest = string.sub(event, body, body + DIGEST - 1)
    body = body + DIGEST
    local id, raw = string.sub(event, body, body + a - 1), string.sub(event, body + a, body + a + b - 1)
    users[u] = users[u] or user_at(4 * u - 2)
    local user = users[u]
    if user.gone and time <= user.gone then
      said[#said + 1] = 'g'
    elseif user.fresh[digest] or has(user.seen, digest)
        or (raw ~= '' and not remembered(user, time, id, raw)) then
      said[#said + 1] = 'd'
    else
      said[#said + 1] = 'a'
      user.fresh[digest] = true
      user.added[#user.added + 1] = digest
      if group > 0 then
        local key = KEYS[1 + 4 * people + i]
        if key then  -- on a cluster items have slots of their own, and are counted apart
          items[key] = items[key] or counters_at(key, layout, cells)
          count(items[key], time, group, spans, counted)
        end
        if span[1] > 0 then
          key = KEYS[user.key + 3]
          persons[key] = persons[key] or counters_at(key, own, counted + 1)
          count(persons[key], time, group, span, counted)
        end
      end
      records[#records + 1] = string.sub(event, body + a + b)
    end
  end
  for _, user in pairs(users) do
    kept(user, limit, keep)
    witnessed(user, memory, keep)
  end
  for key, found in pairs(items) do counters_kept(key, layout, found, keep) end
  for key, found in pairs(persons) do counters_kept(key, own, found, keep) end
  for _, record in ipairs(records) do
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[5], '*', 'event', record)
  end
  return table.concat(said)
end

-- KEYS history, gone and counters of each user
-- ARGV limit, seconds to keep, then each user's packed history and counters. It only adds what is
--      older than all that the user has, and newer than the user's leaving; counters, where there
--      are some, only to users who have none and did not leave.
local function seed()
  local limit = tonumber(ARGV[2])
  local written = 0
  for u = 1, (#ARGV - 3) / 2 do
    local key, counts = KEYS[3 * u - 2], ARGV[3 + 2 * u]
    local values, value = redis.call('MGET', key, KEYS[3 * u - 1]), ARGV[2 + 2 * u]
    if values[1] or values[2] then
      local there, merged = parsed(values[1] or ''), {}
      for _, entry in ipairs(parsed(value)) do
        local older = not there[1] or entry[1] < there[1][1]
        if older and not (values[2] and entry[1] <= tonumber(values[2])) then
          merged[#merged + 1] = entry
        end
      end
      value = #merged > 0 and merged
      if value then
        for _, entry in ipairs(there) do merged[#merged + 1] = entry end
        value = packed(merged, limit)
      end
    end
    if value and #value > HEAD then
      redis.call('SET', key, value, 'EX', ARGV[3])
      written = written + 1
    end
    if counts ~= '' and not values[2] then
      redis.call('SET', KEYS[3 * u], counts, 'EX', ARGV[3], 'NX')
    end
  end
  return written
end

-- KEYS counters of one item
-- ARGV seconds to keep, actions counted, layout, half-lives, each in ms, then time and counter of
--      each event
local function tally()
  local counted, layout, halves = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
  local spans, cells = {}, halves * (counted + 1)
  for h = 1, halves do spans[h] = tonumber(ARGV[5 + h]) end
  local found = counters_at(KEYS[1], layout, cells)
  for at = 6 + halves, #ARGV, 2 do
    count(found, tonumber(ARGV[at]), tonumber(ARGV[at + 1]), spans, counted)
  end
  counters_kept(KEYS[1], layout, found, ARGV[2])
end

-- KEYS history, digests, gone and counters of one user; ARGV now
local function delete()
  local user = user_at(1)
  local gone = math.max(tonumber(ARGV[2]), user.newest, user.gone or 0)
  local existed = redis.call('DEL', KEYS[1], KEYS[2], KEYS[4])
  redis.call('SET', KEYS[3], string.format('%.0f', gone))
  return existed
end

return ({track = track, seed = seed, tally = tally, delete = delete})[ARGV[1]]()
