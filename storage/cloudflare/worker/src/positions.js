// Per partition of the log the highest offset that any record written here was built from. Offsets, like versions,
// have 64 bits, which numbers of JavaScript do not: they travel as text.

export const POSITIONS = `
CREATE TABLE IF NOT EXISTS positions (partition INTEGER PRIMARY KEY, offset INTEGER NOT NULL);
`;

const RAISE = `INSERT INTO positions VALUES (?, CAST(? AS INTEGER))
ON CONFLICT (partition) DO UPDATE SET offset = excluded.offset WHERE excluded.offset > offset`;

export function rememberPositions(sql, ops) {
  const highest = {};
  for (const { source } of ops) {
    for (const partition in source) {
      const offset = BigInt(source[partition]);
      if (!(highest[partition] >= offset)) highest[partition] = offset;
    }
  }
  for (const partition in highest) sql.exec(RAISE, Number(partition), String(highest[partition]));
}

export function positionsOf(sql) {
  return sql.exec("SELECT partition, CAST(offset AS TEXT) FROM positions").raw().toArray();
}
