// The objects that hold records: a `Shard` holds many, a `Single` holds one.
import { DurableObject } from "cloudflare:workers";
import { Alarms, earliestPurge, PURGE_BATCH } from "./alarms.js";
import { POSITIONS, positionsOf, rememberPositions } from "./positions.js";
import { keysOf, rememberTags, TAGS } from "./query.js";

const TABLES = `
CREATE TABLE IF NOT EXISTS records (
  id TEXT PRIMARY KEY, version INTEGER NOT NULL, status TEXT, created_at INTEGER, expires_at INTEGER,
  purge_at INTEGER, owner TEXT, model TEXT, tags TEXT, doc TEXT NOT NULL);
${POSITIONS}
`;
const INDEXES = `
CREATE INDEX IF NOT EXISTS records_created ON records (created_at, id) WHERE status IS NOT NULL;
CREATE INDEX IF NOT EXISTS records_status ON records (status, created_at, id) WHERE status IS NOT NULL;
CREATE INDEX IF NOT EXISTS records_owner ON records (owner, created_at, id) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS records_model ON records (model, created_at, id) WHERE model IS NOT NULL;
CREATE INDEX IF NOT EXISTS records_purge ON records (purge_at) WHERE purge_at IS NOT NULL;
${TAGS}
`;
const INSERT = `INSERT INTO records (id, version, status, created_at, expires_at, purge_at, owner, model, tags, doc)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`;
const UPDATE = `UPDATE records SET version = ?, status = ?, created_at = ?, expires_at = ?, purge_at = ?, owner = ?,
model = ?, tags = ?, doc = ? WHERE id = ? AND version = ?`;
const LOAD = `SELECT r.id, CAST(r.version AS TEXT), r.status, r.created_at, r.expires_at, r.owner, r.model, r.tags,
r.doc FROM json_each(?) AS wanted JOIN records AS r ON r.id = wanted.value`;

const DOC = 8;

export class Shard extends DurableObject {
  static indexed = true;

  constructor(ctx, env) {
    super(ctx, env);
    this.sql = ctx.storage.sql;
    this.alarms = new Alarms(ctx.storage, env);
    this.prepare();
  }

  prepare() {
    this.sql.exec(TABLES + INDEXES);
  }

  // Per operation: null (it stands now), or the version that stands instead ("0": nothing is there).
  // `repeat`: the same operations were sent before, and their answer was lost.
  async write(ops, repeat) {
    const outcomes = this.ctx.storage.transactionSync(() => {
      const results = ops.map((op) => this.apply(op, repeat));
      rememberPositions(this.sql, ops.filter((op, index) => results[index] === null));
      return results;
    });
    await this.alarms.by(earliestPurge(ops));
    return outcomes;
  }

  apply(op, repeat) {
    const tags = op.tags?.length ? JSON.stringify(op.tags) : null;
    const rest = [op.version, op.status ?? null, op.created_at ?? null, op.expires_at ?? null, op.purge_at ?? null,
      op.owner ?? null, op.model ?? null, tags, op.doc];
    const { rowsWritten } = op.if_version === "0"
      ? this.sql.exec(INSERT, op.id, ...rest)
      : this.sql.exec(UPDATE, ...rest, op.id, op.if_version);
    if (rowsWritten === 0) return this.standing(op, repeat);
    if (tags !== null && this.constructor.indexed) rememberTags(this.sql, op);
    return null;
  }

  // A repeated write that finds its own bytes at its own version has succeeded before.
  standing(op, repeat) {
    const [row] = this.sql.exec("SELECT CAST(version AS TEXT) AS version, doc FROM records WHERE id = ?", op.id);
    if (row === undefined) return "0";
    return repeat && row.version === op.version && row.doc === op.doc ? null : row.version;
  }

  // Rows up to about `budget` characters, one at least; the ids that did not fit come back for another call.
  load(ids, budget) {
    const rows = [];
    const rest = [];
    for (const row of this.sql.exec(LOAD, JSON.stringify(ids)).raw()) {
      if (rows.length && row[DOC].length > budget) {
        rest.push(row[0]);
      } else {
        budget -= row[DOC].length;
        rows.push(row);
      }
    }
    return { rows, rest };
  }

  keys(query, limit) {
    return keysOf(this.sql, "records AS r", query, limit);
  }

  positions() {
    return positionsOf(this.sql);
  }

  due(now, limit) {
    return this.sql.exec("SELECT count(*) AS n FROM (SELECT 1 FROM records WHERE purge_at <= ? LIMIT ?)", now, limit)
      .one().n;
  }

  purge(now, limit) {
    return this.ctx.storage.transactionSync(() => {
      const ids = this.sql.exec("SELECT id FROM records WHERE purge_at <= ? ORDER BY purge_at LIMIT ?", now, limit)
        .raw().toArray().flat();
      for (const table of this.constructor.indexed ? ["records", "tags"] : ["records"]) {
        this.sql.exec(`DELETE FROM ${table} WHERE id IN (SELECT value FROM json_each(?))`, JSON.stringify(ids));
      }
      return ids.length;
    });
  }

  async alarm() {
    this.purge(Date.now(), PURGE_BATCH);
    await this.alarms.ran(this.sql.exec("SELECT min(purge_at) AS next FROM records").one().next);
  }
}

// An object without storage costs nothing, so there are tables only while there is a record: who asks for an id that
// nobody has used leaves nothing behind, nor does a record that was purged.
export class Single extends Shard {
  static indexed = false;

  prepare() {
    this.empty = !this.sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'records'").toArray().length;
  }

  async write(ops, repeat) {
    if (this.empty) {
      if (ops.every((op) => op.if_version !== "0")) return ops.map(() => "0");
      this.sql.exec(TABLES);
      this.empty = false;
    }
    return super.write(ops, repeat);
  }

  load(ids, budget) {
    return this.empty ? { rows: [], rest: [] } : super.load(ids, budget);
  }

  async sweep(now) {
    if (this.empty) return 0;
    const removed = this.purge(now, 1);
    if (removed) await this.forget();
    return removed;
  }

  async alarm() {
    if (this.empty) return;
    await super.alarm();
    const { left } = this.sql.exec("SELECT count(*) AS left FROM records").one();
    if (left === 0) await this.forget();
  }

  async forget() {
    await this.alarms.ran(null);
    this.empty = true;
    await this.ctx.storage.deleteAll();
  }
}
