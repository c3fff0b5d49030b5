// Per partition of the log the highest offset that any record written here was built from.

export const POSITIONS = `
CREATE TABLE IF NOT EXISTS positions (partition INTEGER PRIMARY KEY, offset INTEGER NOT NULL);
`;

const RAISE = `INSERT INTO positions VALUES (?, ?)
ON CONFLICT (partition) DO UPDATE SET offset = excluded.offset WHERE excluded.offset > offset`;

export function rememberPositions(sql, ops) {
  const highest = {};
  for (const { source } of ops) {
    for (const partition in source) {
      if (!(highest[partition] >= source[partition])) highest[partition] = source[partition];
    }
  }
  for (const partition in highest) sql.exec(RAISE, Number(partition), highest[partition]);
}

export function positionsOf(sql) {
  return sql.exec("SELECT partition, offset FROM positions").raw().toArray();
}
