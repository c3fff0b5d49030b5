// What the layout with one object per prediction cannot ask its objects: which exist. Also the home of the few facts
// about the whole store: the layout it was made with, and who owns it.
import { DurableObject } from "cloudflare:workers";
import { Alarms, earliestPurge, PURGE_BATCH } from "./alarms.js";
import { POSITIONS, positionsOf, rememberPositions } from "./positions.js";
import { keysOf, rememberTags, TAGS } from "./query.js";

// An entry is written before its record is, and the entries of older versions go after: at any moment, a crash
// between the two included, there is an entry for what stands. There may be more (of a writer that lost its race, or
// was repeated), even several of one version: what is true is told by loading the record.
const TABLES = `
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS entries (
  id TEXT NOT NULL, version INTEGER NOT NULL, status TEXT, created_at INTEGER, expires_at INTEGER, purge_at INTEGER,
  owner TEXT, model TEXT, tags TEXT);
CREATE INDEX IF NOT EXISTS entries_id ON entries (id, version);
CREATE INDEX IF NOT EXISTS entries_created ON entries (created_at, id) WHERE status IS NOT NULL;
CREATE INDEX IF NOT EXISTS entries_status ON entries (status, created_at, id) WHERE status IS NOT NULL;
CREATE INDEX IF NOT EXISTS entries_owner ON entries (owner, created_at, id) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS entries_purge ON entries (purge_at) WHERE purge_at IS NOT NULL;
${POSITIONS}
${TAGS}
`;

export class Directory extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    this.sql = ctx.storage.sql;
    this.sql.exec(TABLES);
    this.alarms = new Alarms(ctx.storage, env);
  }

  // The first one to say a fact decides it.
  establish(name, value) {
    this.sql.exec("INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO NOTHING", name, value);
    return this.sql.exec("SELECT value FROM facts WHERE name = ?", name).one().value;
  }

  async announce(ops) {
    this.ctx.storage.transactionSync(() => {
      for (const op of ops) {
        this.sql.exec("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", op.id, op.version,
          op.status ?? null, op.created_at ?? null, op.expires_at ?? null, op.purge_at ?? null, op.owner ?? null,
          op.model ?? null, op.tags?.length ? JSON.stringify(op.tags) : null);
        if (op.tags?.length) rememberTags(this.sql, op);
      }
    });
    await this.alarms.by(earliestPurge(ops));
  }

  settle(ops) {
    this.ctx.storage.transactionSync(() => {
      for (const op of ops) this.sql.exec("DELETE FROM entries WHERE id = ? AND version < ?", op.id, op.version);
      rememberPositions(this.sql, ops);
    });
  }

  keys(query, limit) {
    return keysOf(this.sql, "entries AS r", query, limit);
  }

  positions() {
    return positionsOf(this.sql);
  }

  due(now, limit) {
    return this.sql.exec("SELECT DISTINCT id FROM entries WHERE purge_at <= ? ORDER BY purge_at LIMIT ?", now, limit)
      .raw().toArray().flat();
  }

  drop(ids, now) {
    const list = JSON.stringify(ids);
    this.sql.exec("DELETE FROM entries WHERE purge_at <= ? AND id IN (SELECT value FROM json_each(?))", now, list);
    this.sql.exec(`DELETE FROM tags WHERE id IN (SELECT value FROM json_each(?))
      AND id NOT IN (SELECT id FROM entries)`, list);
  }

  async alarm() {
    const now = Date.now();
    const ids = this.due(now, PURGE_BATCH);
    this.drop(ids, now);
    await this.alarms.ran(this.sql.exec("SELECT min(purge_at) AS next FROM entries").one().next);
  }
}
