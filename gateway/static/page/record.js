/** What a record says, as the page shows it. A record is a stranger's text: nothing in it is trusted. */

const TERMINAL = new Set(["succeeded", "failed", "canceled"]);
const PERCENT = /(\d{1,3})%\|/g;
const DEEP = 5; // how far into JSON files are looked for
const MOST = 100;
const TEXT_MAX = 20_000; // characters that are searched for addresses

/** Kinds of files by the ending of their name, and what the page does with them. */
const ENDINGS = {
  image: /\.(png|jpe?g|webp|gif|avif|svg|bmp|ico)$/i,
  video: /\.(mp4|m4v|webm|mov|ogv|mkv)$/i,
  audio: /\.(mp3|wav|ogg|oga|opus|flac|m4a|aac)$/i,
  model: /\.(glb|gltf|obj|ply|stl|usdz?|fbx|3mf|splat)$/i,
};

const INLINE = /^data:(image|video|audio)\/[-+.\w]+[;,]/i;

export const KINDS = { image: "Picture", video: "Video", audio: "Audio", model: "3D model", file: "File", text: "Text", json: "JSON" };

export const ended = (record) => TERMINAL.has(record.status);

/** The address, if it is http(s); else null. */
export function webAddress(text) {
  if (typeof text !== "string" || !/^(https?:\/\/|\/(?!\/))\S*$/i.test(text.trim())) return null;
  try {
    const address = new URL(text.trim().replace(/^\/assets\//, "assets/"), location.href);
    return /^https?:$/.test(address.protocol) ? address.href : null;
  } catch {
    return null;
  }
}

/**
 * What came out of it, in order: `{kind, address, name, type, size}` of a file, `{kind: "text" | "json", value}`, or
 * `{kind: "text", blob}` of what lies apart.
 */
export function outputs(record) {
  const archived = (Array.isArray(record.assets) ? record.assets : []).map(fileOf).filter(Boolean);
  const found = [...archived];
  const seen = new Set(found.map((file) => file.address));
  const add = (file) => {
    if (!file || seen.has(file.address) || found.length >= MOST) return;
    seen.add(file.address);
    found.push(file);
  };
  // The provider's own addresses end soon: if a file was archived, the archived one stands for them.
  const { output } = record;
  const sources = new Set((record.assets ?? []).map((asset) => bare(webAddress(asset?.source))));
  const files = filesIn(output).filter((file) => !sources.has(bare(file.address)) && !(archived.length && INLINE.test(file.address)));
  const first = webAddress(record.imageUrl);
  if (!archived.length && first && !files.some((file) => file.address === first)) add(fileOf({ url: first }, "image"));
  if (!archived.length || sources.size) files.forEach(add);
  if (record.text) found.push({ kind: "text", of: "answer", value: record.text, growing: !ended(record) });
  const text = textOf(output);
  if (blobOf(output)) found.push({ kind: "text", blob: blobOf(output) });
  else if (text) found.push({ kind: "text", value: text });
  else if (isJson(output)) found.push({ kind: "json", value: output });
  return found;
}

/** The files that JSON names, by their addresses, or by objects with a `url`. */
function filesIn(value, depth = 0) {
  if (typeof value === "string") return (value.length < TEXT_MAX && webAddress(value)) || INLINE.test(value) ? [fileOf({ url: value })] : [];
  if (value === null || typeof value !== "object" || depth > DEEP || blobOf(value)) return [];
  const one = !Array.isArray(value) && fileOf(value);
  if (one) return [one];
  const found = [];
  for (const part of Object.values(value)) {
    if (found.length >= MOST) break;
    found.push(...filesIn(part, depth + 1));
  }
  return found;
}

function fileOf(file, unknown = "file") {
  const [, inline] = INLINE.exec(file?.url) ?? [];
  if (inline) return { kind: inline.toLowerCase(), address: file.url, name: "part of the record", type: "", size: null };
  const address = webAddress(file?.url);
  if (!address) return null;
  const path = new URL(address).pathname;
  const type = String(file.contentType ?? file.content_type ?? "");
  const byType = /^(image|video|audio|model)\//i.exec(type)?.[1].toLowerCase();
  const byName = Object.keys(ENDINGS).find((kind) => ENDINGS[kind].test(path));
  const kind = byType ?? byName ?? (type ? "file" : unknown);
  const size = Number(file.bytes ?? file.file_size);
  return { kind, address, name: String(file.file_name ?? "") || nameIn(path), type, size: size > 0 ? size : null };
}

const bare = (address) => address?.replace(/[?#].*$/, "");

function nameIn(path) {
  try {
    return decodeURIComponent(path.split("/").at(-1)) || path;
  } catch {
    return path;
  }
}

/** A reference to what was too large for the record: `{hash, bytes, length}`; null: it is none. */
export function blobOf(value) {
  return typeof value?.$blob === "string" ? { hash: value.$blob, bytes: value.bytes ?? 0, length: value.length ?? 0 } : null;
}

/** Text: a string that is no address, or the joined pieces of a streamed one. */
function textOf(output) {
  if (typeof output === "string") return isFile(output) ? "" : output;
  if (!Array.isArray(output) || !output.every((piece) => typeof piece === "string")) return "";
  const texts = output.filter((piece) => !isFile(piece));
  return texts.length === output.length ? texts.join("") : texts.join("\n");
}

const isFile = (text) => Boolean(webAddress(text)) || INLINE.test(text);

/** Whether there is more in it than texts and the addresses of files. */
function isJson(output) {
  if (output === null || output === undefined || typeof output === "string") return false;
  if (Array.isArray(output)) return output.length > 0 && !output.every((piece) => typeof piece === "string");
  return typeof output !== "object" || Object.keys(output).length > 0;
}

/** The beginning of what it put out, as text: for a card. */
export function excerpt(record, most) {
  for (const item of outputs(record)) {
    if (item.growing) return item.value.slice(-150); // what is being written
    if (item.kind === "text") return item.blob ? `Text of ${item.blob.length.toLocaleString()} characters` : item.value.slice(0, most);
    if (item.kind === "json") return JSON.stringify(item.value, null, 1)?.slice(0, most) ?? "";
  }
  return "";
}

/** From 0 to 1: what was reported, else what the bar at the end of the logs says; null if nothing does. */
export function progress(record) {
  if (typeof record.progress === "number") return record.progress;
  if (record.kind === "group") return endedMembers(record) / record.memberStatus.length;
  const bars = [...words(record.logs).slice(-400).matchAll(PERCENT)];
  return bars.length ? Math.min(1, Number(bars.at(-1)[1]) / 100) : null;
}

const endedMembers = ({ memberStatus }) => memberStatus.replace(/[qp]/g, "").length;

/** Of a group how many of its members have ended: "7 of 10"; else empty. */
export const counted = (record) => (record.kind === "group" && record.memberStatus ? `${endedMembers(record)} of ${record.memberStatus.length}` : "");

/** When it ended, or now. */
export function until(record, now) {
  return ended(record) ? record.transitions?.at(-1)?.at ?? record.updatedAt : Math.max(now, record.createdAt);
}

/** The steps it went through: status, when it began, how long it lasted (null: it lasts). */
export function steps(record, now) {
  const transitions = record.transitions ?? [];
  return transitions.map((step, number) => {
    const next = transitions[number + 1];
    const last = !next && ended(record);
    return { ...step, spent: last ? null : (next?.at ?? Math.max(now, step.at)) - step.at, running: !next && !last };
  });
}

/** A text of the record; one that is too large for it lies elsewhere, and is only named. */
export function words(text) {
  if (typeof text === "string") return text;
  const blob = blobOf(text);
  return blob ? `(${blob.length.toLocaleString()} characters)` : "";
}

/** What was asked for, as far as the record has it. */
export function prompt(record) {
  return words(record.prompt) || (typeof record.payload?.prompt === "string" && record.payload.prompt) || "";
}

export const title = (record) => prompt(record) || record.predictionId;

/** Why its files are not archived; empty if nothing is wrong. */
export function archiveTrouble(record) {
  return record.assetsError ? `Not archived: ${words(record.assetsError)}` : "";
}
