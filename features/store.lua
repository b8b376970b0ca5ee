-- The folds of the live store, run by the server as one step: nobody sees half of a batch.
-- Everything is read and worked out first and written last, so an error leaves nothing behind.
--
-- A user's history   one byte 1, then entries in the order of (time, event id), each
--                    <d time> <B H H lengths> action item_id event_id; little-endian
-- What a user sent   the 8-byte digests of the newest event ids, oldest first
-- A user who left    the time up to which events are refused
-- An item's counters 4 bytes that name the layout, then for each half-life s <d q> and a <d> for
--                    each action: the sum of 2^(t/s - q), with q the newest event's whole t/s

local DIGEST = 8

local function parsed(value)
  local entries, at = {}, 2
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
  local raw = {'\1'}
  for i = math.max(#entries - limit, 0) + 1, #entries do
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
  local values = redis.call('MGET', KEYS[key], KEYS[key + 1], KEYS[key + 2])
  return {key = key, entries = parsed(values[1] or '\1'), seen = values[2] or '', fresh = {},
          added = {}, gone = values[3] and tonumber(values[3]), changed = false}
end

local function item_at(key, header, size)
  local value = redis.call('GET', key)
  if value and #value == #header + 8 * size and string.sub(value, 1, #header) == header then
    local cells = {struct.unpack('<' .. string.rep('d', size), value, #header + 1)}
    cells[size + 1] = nil  -- where unpack stopped
    return cells
  end
  return {}
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

-- KEYS log, then three of each user (history, digests, gone), then one of each item
-- ARGV limit, memory, seconds to keep, log length, layout, actions counted, half-lives, each in
--      ms, users, then for each event: user, item, digest, event id, time, its history entry or
--      '', which counter (0: none), its record
local function track()
  local limit, memory, keep = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
  local header, counted, halves = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
  local spans = {}
  for h = 1, halves do spans[h] = tonumber(ARGV[8 + h]) end
  local people, size = tonumber(ARGV[9 + halves]), halves * (counted + 1)
  local users, items, said, records = {}, {}, {}, {}
  for at = 10 + halves, #ARGV, 8 do
    local u, i, digest, id = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
    local time, raw, group = tonumber(ARGV[at + 4]), ARGV[at + 5], tonumber(ARGV[at + 6])
    users[u] = users[u] or user_at(3 * u - 1)
    local user = users[u]
    local here = place(user.entries, time, id)
    if user.gone and time <= user.gone then
      said[#said + 1] = 'g'
    elseif not here or user.fresh[digest] or has(user.seen, digest) then
      said[#said + 1] = 'd'
    else
      said[#said + 1] = 'a'
      user.fresh[digest] = true
      user.added[#user.added + 1] = digest
      if raw ~= '' then
        table.insert(user.entries, here, {time, id, raw})
        user.changed = true
      end
      if group > 0 then
        local key = KEYS[1 + 3 * people + i]
        items[key] = items[key] or item_at(key, header, size)
        count(items[key], time, group, spans, counted)
      end
      records[#records + 1] = ARGV[at + 7]
    end
  end
  for _, user in pairs(users) do
    if user.changed then
      redis.call('SET', KEYS[user.key], packed(user.entries, limit), 'EX', keep)
    end
    if #user.added > 0 then
      local seen = user.seen .. table.concat(user.added)
      redis.call('SET', KEYS[user.key + 1], string.sub(seen, -memory * DIGEST), 'EX', keep)
    end
  end
  for key, cells in pairs(items) do
    local value = header .. struct.pack('<' .. string.rep('d', size), unpack(cells))
    redis.call('SET', key, value, 'EX', keep)
  end
  for _, record in ipairs(records) do
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[5], '*', 'event', record)
  end
  return table.concat(said)
end

-- KEYS history and gone of each user
-- ARGV limit, seconds to keep, then each user's packed history. It only adds what is older than
--      all that the user has, and newer than the user's leaving.
local function seed()
  local limit = tonumber(ARGV[2])
  local written = 0
  for u = 1, #ARGV - 3 do
    local key = KEYS[2 * u - 1]
    local values, value = redis.call('MGET', key, KEYS[2 * u]), ARGV[3 + u]
    if values[1] or values[2] then
      local there, merged = parsed(values[1] or '\1'), {}
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
    if value then
      redis.call('SET', key, value, 'EX', ARGV[3])
      written = written + 1
    end
  end
  return written
end

-- KEYS history, digests and gone of one user; ARGV now
local function delete()
  local user = user_at(1)
  local newest = user.entries[#user.entries]
  local gone = math.max(tonumber(ARGV[2]), newest and newest[1] or 0, user.gone or 0)
  local existed = redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('SET', KEYS[3], string.format('%.0f', gone))
  return existed
end

return ({track = track, seed = seed, delete = delete})[ARGV[1]]()
