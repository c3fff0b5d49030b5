// Per partition of the log the highest offset that any record written here was built from.

export const POSITIONS = `
CREATE TABLE IF NOT EXISTS positions (partition INTEGER PRIMARY KEY, offset INTEGER NOT NULL);
`;

const RAISE = `INSERT INTO positions VALUES (?, ?)
ON CONFLICT (partition) DO UPDATE SET offset = excluded.offset WHERE excluded.offset > offset`;

export function rememberPositions(sql, { source }) {
  for (const partition in source) sql.exec(RAISE, Number(partition), source[partition]);
}

export function positionsOf(sql) {
  return sql.exec("SELECT partition, offset FROM positions").raw().toArray();
}
