/** What a record says, as the page shows it. A record is a stranger's text: nothing in it is trusted. */

const TERMINAL = new Set(["succeeded", "failed", "canceled"]);
const PICTURE = /\.(png|jpe?g|webp|gif|avif|svg|bmp)$/i;
const PERCENT = /(\d{1,3})%\|/g;

export const ended = (record) => TERMINAL.has(record.status);

/** The address, where it is http(s); else null. */
export function webAddress(text) {
  if (typeof text !== "string" || !/^(https?:\/\/|\/(?!\/))/i.test(text.trim())) return null;
  try {
    const address = new URL(text, location.href);
    return /^https?:$/.test(address.protocol) ? address.href : null;
  } catch {
    return null;
  }
}

/** Addresses of its pictures, the archived ones first. */
export function pictures(record) {
  const archived = files(record);
  if (archived.length) return archived.filter((file) => file.picture).map((file) => file.address);
  const addresses = [record.imageUrl, record.output].flat().map(webAddress).filter(Boolean);
  return [...new Set(addresses.filter((address) => looksLikePicture(address) || address === webAddress(record.imageUrl)))];
}

/** Its archived files: address, kind of content, whether that is a picture. */
export function files({ assets }) {
  const listed = Array.isArray(assets) ? assets : [];
  return listed
    .map((file) => ({
      address: webAddress(file?.url),
      kind: String(file?.contentType ?? "file"),
      picture: /^image\//i.test(file?.contentType ?? "image/"),
    }))
    .filter((file) => file.address);
}

function looksLikePicture(address) {
  return PICTURE.test(new URL(address).pathname);
}

/** Its output as text: a string, the joined pieces of a streamed one, or JSON; empty where there is none. */
export function outputText({ output }) {
  if (output == null) return "";
  if (typeof output === "string") return output;
  if (Array.isArray(output) && output.every((piece) => typeof piece === "string")) {
    return output.some(webAddress) ? output.join("\n") : output.join("");
  }
  return JSON.stringify(output, null, 2);
}

/** From 0 to 1: what was reported, else what the bar at the end of the logs says; null where nothing does. */
export function progress(record) {
  if (typeof record.progress === "number") return record.progress;
  const bars = [...(record.logs ?? "").slice(-400).matchAll(PERCENT)];
  return bars.length ? Math.min(1, Number(bars.at(-1)[1]) / 100) : null;
}

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
  return text?.$blob ? `(${text.length} characters, kept apart)` : "";
}

export const title = (record) => words(record.prompt) || (typeof record.payload?.prompt === "string" && record.payload.prompt) || record.predictionId;
