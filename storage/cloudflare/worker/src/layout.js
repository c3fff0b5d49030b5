// Which object holds a prediction. `sharded` (default): one of SHARDS objects, by a hash of the id; a batch costs one
// call per object it touches. `one-per-prediction`: an object each, with directories for what must be listed.
import { Problem } from "./http.js";
import { stubOf } from "./placement.js";

// Characters of records that one answer carries; what does not fit is asked for again.
const ANSWER_BUDGET = 16 * 1024 * 1024;
// A row of a Durable Object's table has at most 2 MB.
const MAX_DOC_BYTES = 2_000_000 - 16_384;
const encoder = new TextEncoder();
const settledLayouts = new Set();
// Of the tables, raised when they change. Tables of another format are left alone.
const FORMAT = "1";

export function layoutOf(env, space, placement) {
  const shards = Number(env.SHARDS ?? 64);
  if (!Number.isInteger(shards) || shards < 1 || shards > 1000) {
    throw new Problem(503, "bad_layout", `SHARDS is 1 to 1000, not ${JSON.stringify(env.SHARDS)}`);
  }
  const name = env.LAYOUT ?? "sharded";
  if (name === "sharded") return new Sharded(env, shards, space, placement);
  if (name === "one-per-prediction") return new OnePerPrediction(env, shards, space, placement);
  throw new Problem(503, "bad_layout", `LAYOUT is sharded or one-per-prediction, not ${JSON.stringify(name)}`);
}

// FNV-1a, 32 bits, over UTF-16 units: it decides where a record lies, so it must never change.
export function hash(text) {
  let value = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) value = Math.imul(value ^ text.charCodeAt(index), 0x01000193);
  return value >>> 0;
}

class Layout {
  constructor(env, shards, space, placement) {
    this.env = env;
    this.shards = shards;
    this.space = space;
    this.placement = placement;
  }

  stub(namespace, name) {
    // The path of a URL has no blank, so no name of one space is a name of another.
    return stubOf(namespace, `${this.space} ${name}`, this.placement);
  }

  facts() {
    return this.stub(this.env.DIRECTORY, "facts");
  }

  // The layout of the first request holds for good: another one would look for records where they are not.
  async settle() {
    const mine = JSON.stringify({ layout: this.name, shards: this.shards });
    const standing = await this.facts().establish("layout", mine);
    if (standing !== mine) {
      throw new Problem(409, "other_layout", `the records here were laid out as ${standing}, not ${mine}: set LAYOUT `
        + "and SHARDS back, or rebuild into a Worker of another name");
    }
    const format = await this.facts().establish("format", FORMAT);
    if (format !== FORMAT) {
      throw new Problem(409, "other_format", `the records here have format ${format}, this Worker reads ${FORMAT}: `
        + "deploy the version that wrote them, or rebuild into a Worker of another name");
    }
    return JSON.parse(standing);
  }

  // Asked for each request, answered from memory but for the first one of an isolate.
  async settleOnce() {
    const key = `${this.space}${this.name}/${this.shards}/${this.placement.jurisdiction ?? ""}`;
    if (settledLayouts.has(key)) return;
    await this.settle();
    settledLayouts.add(key);
  }

  claim(ownership) {
    return this.facts().establish("claim", ownership);
  }

  // Operations whose record can never be stored are refused; the others go on.
  async write(ops, repeat = false) {
    const results = new Array(ops.length).fill(null);
    const fitting = [];
    for (const [index, op] of ops.entries()) {
      if (tooLarge(op.doc)) results[index] = { refused: `a record has at most ${MAX_DOC_BYTES} bytes here` };
      else fitting.push({ index, op });
    }
    await this.writeFitting(fitting, results, repeat);
    return results;
  }
}

class Sharded extends Layout {
  name = "sharded";
  // Each shard commits once for a batch, so larger ones cost less for each record.
  maxOperations = 2000;

  shard(number) {
    return this.stub(this.env.SHARD, `shard-${number}`);
  }

  sources() {
    return Array.from({ length: this.shards }, (_, number) => this.shard(number));
  }

  async writeFitting(entries, results, repeat) {
    await inGroups(entries, ({ op }) => hash(op.id) % this.shards, async (number, group) => {
      await settled(group, results, () => this.shard(number).write(group.map(({ op }) => op), repeat));
    });
  }

  async load(ids) {
    const groups = groupBy(ids, (id) => hash(id) % this.shards);
    const budget = ANSWER_BUDGET / Math.max(1, groups.size);
    return joined(await Promise.all([...groups].map(([number, group]) => this.shard(number).load(group, budget))));
  }

  async positions() {
    return highest(await Promise.all(this.sources().map((shard) => shard.positions())));
  }

  async sweep(now, limit) {
    const due = await Promise.all(this.sources().map((shard) => shard.due(now, limit)));
    let left = limit;
    const removed = await Promise.all(due.map((count, number) => {
      const share = Math.min(count, left);
      left -= share;
      return share ? this.shard(number).purge(now, share) : 0;
    }));
    return removed.reduce((sum, count) => sum + count, 0);
  }
}

class OnePerPrediction extends Layout {
  name = "one-per-prediction";
  // A Worker may make 1,000 calls for one request (one for each prediction, two for each directory), but making
  // an object takes milliseconds: smaller requests answer within everybody's time limits.
  maxOperations = 100;

  single(id) {
    return this.stub(this.env.SINGLE, `prediction-${id}`);
  }

  directory(number) {
    return this.stub(this.env.DIRECTORY, `directory-${number}`);
  }

  sources() {
    return Array.from({ length: this.shards }, (_, number) => this.directory(number));
  }

  // 1. announce each record to its directory · 2. write it · 3. forget the entries of what it replaced.
  async writeFitting(entries, results, repeat) {
    await inGroups(entries, ({ op }) => hash(op.id) % this.shards, async (number, group) => {
      await settled(group, results, async () => {
        const bare = group.map(({ op: { doc, ...rest } }) => rest);
        await this.directory(number).announce(bare);  // 1
        await Promise.all(group.map((entry) =>  // 2
          settled([entry], results, () => this.single(entry.op.id).write([entry.op], repeat))));
        const written = group.filter(({ index }) => results[index] === null)
          .map(({ op: { id, version, source } }) => ({ id, version, source }));
        if (written.length) await this.directory(number).settle(written);  // 3
        return group.map(({ index }) => results[index]);
      });
    });
  }

  async load(ids) {
    const budget = ANSWER_BUDGET / Math.max(1, ids.length);
    return joined(await Promise.all(ids.map((id) => this.single(id).load([id], budget))));
  }

  async positions() {
    return highest(await Promise.all(this.sources().map((directory) => directory.positions())));
  }

  async sweep(now, limit) {
    const due = (await Promise.all(this.sources().map((directory) => directory.due(now, limit)))).flat();
    const ids = due.slice(0, limit);
    const removed = await Promise.all(ids.map((id) => this.single(id).sweep(now)));
    await inGroups(ids, (id) => hash(id) % this.shards, (number, group) => this.directory(number).drop(group, now));
    return removed.reduce((sum, count) => sum + count, 0);
  }
}

function tooLarge(doc) {
  return doc.length * 3 > MAX_DOC_BYTES && encoder.encode(doc).length > MAX_DOC_BYTES;
}

function groupBy(items, keyOf) {
  const groups = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group) group.push(item);
    else groups.set(key, [item]);
  }
  return groups;
}

async function inGroups(items, keyOf, act) {
  await Promise.all([...groupBy(items, keyOf)].map(([key, group]) => act(key, group)));
}

// One object that fails must not hide what the others wrote: its operations alone are answered with its failure.
async function settled(group, results, act) {
  try {
    const outcomes = await act();
    for (const [place, { index }] of group.entries()) {
      const outcome = outcomes[place];
      results[index] = typeof outcome === "string" ? { conflict: outcome } : outcome;
    }
  } catch (error) {
    const failure = { unavailable: String(error.message ?? error), overloaded: error.overloaded === true };
    for (const { index } of group) results[index] = failure;
  }
}

function joined(parts) {
  return { rows: parts.flatMap(({ rows }) => rows), rest: parts.flatMap(({ rest }) => rest) };
}

function highest(parts) {
  const result = {};
  for (const [partition, offset] of parts.flat()) {
    if (!(partition in result) || BigInt(offset) > BigInt(result[partition])) result[partition] = offset;
  }
  return result;
}
