// A page of records over many objects: keys are merged, newest first, and only those of the page are loaded.
import { matches } from "./query.js";

const encoder = new TextEncoder();

export async function listPage(layout, query) {
  const rows = [];
  let after = query.after;
  let more = true;
  while (rows.length < query.limit && more) {
    const wanted = query.limit - rows.length;
    const keys = await newestKeys(layout.sources(), { ...query, after }, wanted);
    more = keys.length === wanted;
    if (keys.length === 0) break;
    const found = await layout.load(keys.map(([, id]) => id));
    const byId = new Map(found.rows.map((row) => [row[0], row]));
    const unread = new Set(found.rest);
    for (const key of keys) {
      if (unread.has(key[1])) return page(rows, after);  // The answer is full; the next page goes on here.
      after = key;
      const row = byId.get(key[1]);
      // Between its key and its load a record may have changed, gone, or begun another life.
      if (row !== undefined && row[3] === key[0] && matches(query, row)) rows.push(row);
    }
  }
  return page(rows, more ? after : null);
}

function page(rows, after) {
  return { rows, cursor: after };
}

// The newest `limit` keys of all sources. Each is first asked for little more than its share; only those whose last
// key still lies within the result are asked again.
async function newestKeys(sources, query, limit) {
  const share = Math.min(limit, 4 + 2 * Math.ceil(limit / sources.length));
  let asked = sources.map((source) => ({ source, keys: [], size: share }));
  const answers = asked;
  for (;;) {
    await Promise.all(asked.map(async (entry) => {
      entry.keys = await entry.source.keys(query, entry.size);
    }));
    const merged = answers.flatMap(({ keys }) => keys).sort(newestFirst);
    const distinct = merged.filter((key, index) => index === 0 || newestFirst(merged[index - 1], key) !== 0);
    const result = distinct.slice(0, limit);
    const last = result.length < limit ? null : result[limit - 1];
    asked = answers.filter(({ keys, size }) => keys.length === size
      && (last === null || newestFirst(keys[size - 1], last) < 0));
    if (asked.length === 0) return result;
    for (const entry of asked) entry.size *= 4;
  }
}

// By creation, ties by id as SQLite orders text: by its UTF-8 bytes, which JavaScript's own comparison does not.
function newestFirst([created, id], [otherCreated, otherId]) {
  if (created !== otherCreated) return otherCreated - created;
  if (id === otherId) return 0;
  const [bytes, others] = [encoder.encode(id), encoder.encode(otherId)];
  for (let index = 0; index < bytes.length && index < others.length; index++) {
    if (bytes[index] !== others[index]) return others[index] - bytes[index];
  }
  return others.length - bytes.length;
}
