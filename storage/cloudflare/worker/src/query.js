// Which records match, newest first: the same question to a table of records and to a directory of them.

export const TAGS = `
CREATE TABLE IF NOT EXISTS tags (tag TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (tag, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tags_id ON tags (id);
`;

// The table of tags may say more than the record (a tag of a former life): `keysOf` asks the record again.
export function rememberTags(sql, { id, tags }) {
  for (const tag of tags) sql.exec("INSERT OR IGNORE INTO tags VALUES (?, ?)", tag, id);
}

// At most `limit` pairs of creation time and id. `table` is called r.
export function keysOf(sql, table, query, limit) {
  const where = ["r.status IS NOT NULL", "(r.expires_at IS NULL OR r.expires_at > ?)"];
  const values = [query.now];
  let from = table;
  for (const name of ["status", "owner", "model"]) {
    if (query[name] == null) continue;
    where.push(`r.${name} = ?`);
    values.push(query[name]);
  }
  if (query.owners != null) {
    where.push("r.owner IN (SELECT value FROM json_each(?))");
    values.push(JSON.stringify(query.owners));
  }
  if (query.tag != null) {
    from = `tags AS t JOIN ${table} ON r.id = t.id`;
    where.push("t.tag = ? AND EXISTS (SELECT 1 FROM json_each(r.tags) WHERE value = t.tag)");
    values.push(query.tag);
  }
  if (query.after != null) {
    where.push("(r.created_at, r.id) < (?, ?)");
    values.push(...query.after);
  }
  const text = `SELECT r.created_at, r.id FROM ${from} WHERE ${where.join(" AND ")}
    ORDER BY r.created_at DESC, r.id DESC LIMIT ?`;
  return sql.exec(text, ...values, limit).raw().toArray();
}

// The same filters on a loaded row, for what changed since its key was found.
export function matches(query, [, , status, , expires, owner, model, tags]) {
  return status !== null
    && (expires === null || expires > query.now)
    && (query.status == null || status === query.status)
    && (query.owner == null || owner === query.owner)
    && (query.owners == null || query.owners.includes(owner))
    && (query.model == null || model === query.model)
    && (query.tag == null || (tags !== null && JSON.parse(tags).includes(query.tag)));
}
