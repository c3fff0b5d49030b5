/** Words and figures for people. */

const STATUS = {
  starting: "Starting",
  processing: "Processing",
  succeeded: "Succeeded",
  failed: "Failed",
  canceled: "Canceled",
};

export const statusName = (status) => STATUS[status] ?? status;

/** A length of time in ms: `0.4 s`, `12.3 s`, `2 m 05 s`, `3 h 20 m`, `2 d 4 h`. */
export function duration(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} m ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${String(minutes % 60).padStart(2, "0")} m`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
  hourCycle: "h23",
});
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export const time = (ms) => clock.format(ms);
export const dateAndTime = (ms) => day.format(ms);

/** A figure of at most four characters or so: `0`, `0.4`, `17`, `1.2k`, `34k`. */
export function figure(value) {
  if (value >= 999.5) return `${(value / 1000).toFixed(value < 9950 ? 1 : 0)}k`;
  return value === 0 || value >= 9.95 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1);
}

const exactly = (key, value, context) =>
  typeof value === "number" && context && String(value) !== context.source ? JSON.rawJSON(context.source) : value;

/** JSON text set out over lines, with every number as it came if the browser can tell. */
export function pretty(text) {
  return JSON.stringify(JSON.parse(text, "rawJSON" in JSON ? exactly : undefined), null, 2);
}

/** Bytes for people: `640 B`, `14 KB`, `2.3 MB`. */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const [value, unit] = bytes < 1e6 ? [bytes / 1e3, "KB"] : bytes < 1e9 ? [bytes / 1e6, "MB"] : [bytes / 1e9, "GB"];
  return `${value.toFixed(value < 9.95 ? 1 : 0)} ${unit}`;
}

const whole = new Intl.NumberFormat();

/** What a prediction has used: `0.0123 USD, 5.25 s, 1 picture, 36 tokens in, 87 out`. */
export function usage(said) {
  const { cost, currency, seconds, images, inputTokens, outputTokens } = said;
  const parts = [
    cost == null ? null : `${cost} ${currency}`,
    seconds == null ? null : `${Number(seconds.toFixed(2))} s`,
    images == null ? null : `${whole.format(images)} ${images === 1 ? "picture" : "pictures"}`,
    inputTokens == null ? null : `${whole.format(inputTokens)} tokens in`,
    outputTokens == null ? null : `${whole.format(outputTokens)} ${inputTokens == null ? "tokens " : ""}out`,
  ];
  return parts.filter(Boolean).join(", ");
}
