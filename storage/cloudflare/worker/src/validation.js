// What a request must look like before any object sees it.
import { Problem, readJson } from "./http.js";

// A prediction id has at most 256 bytes; here it is only kept within reason.
const MAX_ID_BYTES = 1024;
const MAX_LIMIT = 1000;
const STATUSES = new Set(["starting", "processing", "succeeded", "failed", "canceled"]);
// Versions and offsets have 64 bits, which numbers of JavaScript do not: they travel as text.
const DIGITS = /^(0|[1-9]\d{0,18})$/;
const encoder = new TextEncoder();

export function checkIds(ids) {
  if (!Array.isArray(ids)) throw new Problem(400, "bad_ids", "`ids` must be a list of prediction ids");
  for (const id of ids) {
    if (typeof id !== "string" || id === "" || (id.length > 64 && encoder.encode(id).length > MAX_ID_BYTES)) {
      throw new Problem(400, "bad_id", `a prediction id has 1 to ${MAX_ID_BYTES} bytes, not ${JSON.stringify(id)}`);
    }
  }
  return ids;
}

export function checkOperations(ops, most) {
  if (!Array.isArray(ops) || ops.length > most) {
    throw new Problem(400, "bad_batch", `\`ops\` must be a list of at most ${most} operations`);
  }
  checkIds(ops.map((op) => op?.id));
  if (new Set(ops.map((op) => op.id)).size !== ops.length) {
    throw new Problem(400, "bad_batch", "each prediction may be named once in a batch");
  }
  for (const op of ops) checkOperation(op);
  return ops;
}

function checkOperation(op) {
  const wrong = (what) => new Problem(400, "bad_operation", `the operation on ${JSON.stringify(op.id)} ${what}`);
  if (!DIGITS.test(op.if_version)) throw wrong("needs `if_version`, an integer from 0, as text");
  if (!DIGITS.test(op.version) || op.version === "0") throw wrong("needs `version`, an integer from 1, as text");
  if (!Object.values(op.source ?? {}).every((offset) => DIGITS.test(offset))) throw wrong("has a bad `source`");
  if (typeof op.doc !== "string") throw wrong("needs `doc`, the record's JSON as a string");
  if (op.status != null && !STATUSES.has(op.status)) throw wrong(`has an unknown status ${JSON.stringify(op.status)}`);
  if (op.status != null && !Number.isInteger(op.created_at)) throw wrong("needs `created_at` in ms");
  for (const name of ["expires_at", "purge_at"]) {
    if (op[name] != null && !Number.isInteger(op[name])) throw wrong(`needs \`${name}\` in ms`);
  }
  if (op.tags != null && !Array.isArray(op.tags)) throw wrong("needs `tags` as a list");
}

export function checkQuery(params) {
  const limit = Number(params.get("limit") ?? 50);
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIMIT) {
    throw new Problem(400, "bad_limit", `\`limit\` is 1 to ${MAX_LIMIT}`);
  }
  const after = params.has("after") ? readJson(params.get("after")) : null;
  if (after !== null && !(Number.isInteger(after[0]) && typeof after[1] === "string")) {
    throw new Problem(400, "bad_after", "`after` is the creation time and id of the last record: [ms, id]");
  }
  return {
    status: params.get("status"),
    owner: params.get("owner"),
    model: params.get("model"),
    tag: params.get("tag"),
    owners: params.has("owners") ? readJson(params.get("owners")) : null,
    now: Number(params.get("now")) || Date.now(),
    after,
    limit,
  };
}
