"""The keys and scripts of the store in Redis and Valkey.

Everything about a prediction lies in one of `shards` groups of keys that share a hash tag, and so a slot of a cluster:

```
{tidings:7}:prediction:ID   hash: v version, s status ('' a tombstone), x expiry ('' never), i facts, d the record
{tidings:7}:created         sorted set of ids by creation; and so :status:S, :owner:O, :model:M, :tag:T
{tidings:7}:purge           sorted set of ids by the time from which they may be removed
{tidings:7}:positions       hash: the highest offset per partition
{tidings:meta}              hash: format, shards, ownership
```
The facts are JSON: [owner, model, created_at, [tags]]. Versions and offsets are compared as text: a number in Lua is
exact to 2^53 only.
"""

FORMAT = 1
"""Raised when the keys change."""

FIELDS = 9
"""Arguments of a write: id, expected, version, status, expiry, purge, facts, created_at, record."""

GRACE = 86_400_000
"""ms that a key outlives its time of purging (or, if that is past, its last write) if nothing sweeps."""

WRITE = """
local prefix = KEYS[1]
local function move(facts, id, add)
  local f = cjson.decode(facts)
  local owner, model, created, tags = f[1], f[2], f[3], f[4]
  local function set(key)
    if add then redis.call('ZADD', key, created, id) else redis.call('ZREM', key, id) end
  end
  set(prefix .. ':created')
  if owner ~= cjson.null then set(prefix .. ':owner:' .. owner) end
  if model ~= cjson.null then set(prefix .. ':model:' .. model) end
  for _, tag in ipairs(tags) do set(prefix .. ':tag:' .. tag) end
end
local missed = {}
local applied = 0
local clock, grace, positions = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local first = 4 + 2 * positions
for at = first, #ARGV, 9 do
  local id, expected, version, status = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local purge, facts, created = ARGV[at + 5], ARGV[at + 6], ARGV[at + 7]
  local key = prefix .. ':prediction:' .. id
  local old = redis.call('HMGET', key, 'v', 's', 'i')
  local standing = old[1] or '0'
  if standing ~= expected then
    missed[#missed + 1] = id
    missed[#missed + 1] = standing
  else
    applied = applied + 1
    redis.call('HSET', key, 'v', version, 's', status, 'x', ARGV[at + 4], 'i', facts, 'd', ARGV[at + 8])
    local before, now = old[2] or '', status
    local changed = old[3] ~= facts
    if before ~= '' and (changed or now == '') then move(old[3], id, false) end
    if now ~= '' and (changed or before == '') then move(facts, id, true) end
    if before ~= now or changed then
      if before ~= '' and before ~= now then redis.call('ZREM', prefix .. ':status:' .. before, id) end
      if now ~= '' then redis.call('ZADD', prefix .. ':status:' .. now, created, id) end
    end
    if purge ~= '' then
      redis.call('ZADD', prefix .. ':purge', purge, id)
      redis.call('PEXPIREAT', key, string.format('%.0f', math.max(tonumber(purge), clock) + grace))
    elseif old[1] then
      redis.call('ZREM', prefix .. ':purge', id)
      redis.call('PERSIST', key)
    end
  end
end
if applied > 0 then
  for at = 4, first - 2, 2 do
    local partition, offset = ARGV[at], ARGV[at + 1]
    local kept = redis.call('HGET', prefix .. ':positions', partition)
    if not kept or #offset > #kept or (#offset == #kept and offset > kept) then
      redis.call('HSET', prefix .. ':positions', partition, offset)
    end
  end
end
return missed
"""
"""KEYS: the shard's prefix. ARGV: now, `GRACE`, how many positions; partition and offset of each; `FIELDS` of each write.
Returns id and standing version of each write that did not match."""

LOAD = """
local rows = {}
for at, id in ipairs(ARGV) do
  rows[at] = redis.call('HMGET', KEYS[1] .. ':prediction:' .. id, 'v', 's', 'x', 'i', 'd')
end
return rows
"""
"""KEYS: the shard's prefix. ARGV: ids. Returns the fields of each."""

LIST = """
local prefix, index = KEYS[1], KEYS[2]
local before, before_id, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local limit, most = tonumber(ARGV[4]), tonumber(ARGV[5])
local status, owner, model, tag = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local owners = ARGV[10] ~= '' and cjson.decode(ARGV[10]) or nil
local start = before == '' and '+inf' or before
local function below(a, b)  -- by bytes, as a sorted set does; Lua's own comparison follows the server's locale
  for n = 1, math.min(#a, #b) do
    local x, y = a:byte(n), b:byte(n)
    if x ~= y then return x < y end
  end
  return #a < #b
end
local function differs(value, filter)
  return filter ~= '' and (value == cjson.null or '=' .. value ~= filter)
end
local function wanted(key)
  local row = redis.call('HMGET', key, 's', 'x', 'i')
  if not row[1] then return nil end
  if row[1] == '' or (row[2] ~= '' and tonumber(row[2]) <= now) then return false end
  if status ~= '' and row[1] ~= status then return false end
  if owner == '' and model == '' and tag == '' and not owners then return true end
  local f = cjson.decode(row[3])
  if differs(f[1], owner) or differs(f[2], model) then return false end
  if owners then
    local among = false
    for _, one in ipairs(owners) do if one == f[1] then among = true end end
    if not among then return false end
  end
  if tag == '' then return true end
  for _, one in ipairs(f[4]) do if '=' .. one == tag then return true end end
  return false
end
local found, last_score, last_id = {}, '', ''
local offset, looked, ended = 0, 0, false
while #found < 2 * limit and looked < most do
  local some = redis.call('ZREVRANGEBYSCORE', index, start, '-inf', 'WITHSCORES', 'LIMIT', offset, 100)
  if #some == 0 then ended = true break end
  offset = offset + #some / 2
  for at = 1, #some, 2 do
    local id, score = some[at], some[at + 1]
    if score ~= before or below(id, before_id) then
      if #found >= 2 * limit then break end
      looked = looked + 1
      local good = wanted(prefix .. ':prediction:' .. id)
      if good then
        found[#found + 1] = id
        found[#found + 1] = score
      elseif good == nil then
        redis.call('ZREM', index, id)
        offset = offset - 1
      end
      last_score, last_id = score, id
    end
  end
end
return {ended and 1 or 0, last_score, last_id, found}
"""
"""KEYS: the shard's prefix, an index. ARGV: below which score and id ('' both: from the top), now, how many to find,
how many to look at, and the filters ('' or `=` and the value; status as it is; owners a JSON list or '').
Returns whether the index ended, the place reached, and ids with scores."""

SWEEP = """
local prefix = KEYS[1]
local due = redis.call('ZRANGEBYSCORE', prefix .. ':purge', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(due) do
  local key = prefix .. ':prediction:' .. id
  local row = redis.call('HMGET', key, 's', 'i')
  redis.call('ZREM', prefix .. ':purge', id)
  redis.call('ZREM', prefix .. ':created', id)
  if row[1] and row[1] ~= '' then
    redis.call('ZREM', prefix .. ':status:' .. row[1], id)
    local f = cjson.decode(row[2])
    if f[1] ~= cjson.null then redis.call('ZREM', prefix .. ':owner:' .. f[1], id) end
    if f[2] ~= cjson.null then redis.call('ZREM', prefix .. ':model:' .. f[2], id) end
    for _, tag in ipairs(f[4]) do redis.call('ZREM', prefix .. ':tag:' .. tag, id) end
  end
  redis.call('DEL', key)
end
return #due
"""
"""KEYS: the shard's prefix. ARGV: now, how many. Returns how many went."""
