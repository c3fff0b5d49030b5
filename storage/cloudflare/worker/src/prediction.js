// One prediction over plain HTTP, for people with curl. The record's version is its ETag.
import { answer, Problem, readJson } from "./http.js";
import { matches } from "./query.js";
import { checkOperations } from "./validation.js";

export async function getOne(layout, id) {
  const { rows: [row] } = await layout.load([id]);
  if (row === undefined || !matches({ now: Date.now() }, row)) throw missing();
  return new Response(row[8], { headers: { "content-type": "application/json", etag: `"${row[1]}"` } });
}

export async function putOne(layout, id, headers, body) {
  const record = readJson(body);
  const offsets = Object.entries(record.source?.offsets ?? {});
  if (record.predictionId !== id) throw new Problem(400, "other_id", "`predictionId` and the address differ");
  const op = {
    id, if_version: expectedVersion(headers), version: String(record.version), status: record.status, doc: body,
    created_at: record.createdAt, owner: record.owner, model: record.model, tags: record.tags,
    source: Object.fromEntries(offsets.map(([partition, offset]) => [partition, String(offset)])),
  };
  return written(layout, op);
}

// A deletion leaves a tombstone at the next version, so that late reports do not bring the prediction back.
export async function deleteOne(layout, id, headers) {
  const { rows: [row] } = await layout.load([id]);
  if (row === undefined || row[2] === null) throw missing();
  const { owner, model, tags, source } = JSON.parse(row[8]);
  const version = BigInt(row[1]) + 1n;
  const doc = JSON.stringify({
    predictionId: id, deleted: true, version: Number(version), updatedAt: Date.now(), owner, model, tags, source,
  });
  const expected = headers.has("if-match") ? expectedVersion(headers) : row[1];
  return written(layout, { id, if_version: expected, version: String(version), doc, owner, model, tags });
}

function missing() {
  return new Problem(404, "not_found", "no such prediction");
}

function expectedVersion(headers) {
  if (headers.get("if-none-match") === "*") return "0";
  const match = /^"(\d+)"$/.exec(headers.get("if-match") ?? "");
  if (match === null) throw new Problem(428, "no_condition", 'say `If-None-Match: *` or `If-Match: "version"`');
  return match[1];
}

async function written(layout, op) {
  const [result] = await layout.write(checkOperations([op], 1));
  if (result === null) return answer({ version: Number(op.version) }, 200, { etag: `"${op.version}"` });
  if (result.refused) throw new Problem(413, "refused", result.refused);
  if (result.unavailable) {
    throw new Problem(result.overloaded ? 429 : 503, result.overloaded ? "overloaded" : "retry", result.unavailable);
  }
  const { rows: [row] } = await layout.load([op.id]);
  return answer({ version: Number(result.conflict), current: row?.[8] ?? null }, 412);
}
