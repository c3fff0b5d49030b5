/** Logs that grow in place: what is selected or scrolled to stays, and whoever is at the end stays at the end. */

import { element, setText, show } from "./dom.js";
import { ended } from "./record.js";
import { request } from "./service.js";

const NEAR = 24;

export class Logs {
  #text = new Text("");
  #pre = element("pre", { class: "lines", role: "log", tabindex: "0", "aria-label": "Logs", "aria-live": "off" }, this.#text);
  #words = element("span", {});
  #whole = element("button", { type: "button", class: "quiet small" }, "Show the whole log");
  #cut = element("p", { class: "cut", hidden: true }, this.#words, this.#whole);
  #record = null;
  #found = null;
  node = element("div", {}, this.#cut, this.#pre);

  constructor() {
    this.admin = false;
    this.#whole.addEventListener("click", () => this.#fetch());
  }

  clear() {
    this.#text.data = "";
    this.#found = null;
  }

  update(record) {
    this.#record = record;
    const { logs, logsLength } = record;
    const tail = typeof logs === "string" ? logs : "";
    if (this.#found && this.#found.length < (logsLength ?? 0)) this.#found = null;
    this.#pre.dataset.none = ended(record) ? "No logs." : "Nothing yet.";
    this.#show(overwritten(this.#found ?? tail));
    const missing = this.#found ? 0 : (logsLength ?? 0) - tail.length;
    show(this.#cut, missing > 0);
    show(this.#whole, missing > 0 && this.admin);
    setText(this.#words, missing > 0 ? `The first ${missing.toLocaleString()} characters are not part of the record. ` : "");
  }

  #show(whole) {
    const atEnd = this.#pre.scrollHeight - this.#pre.scrollTop - this.#pre.clientHeight < NEAR;
    const old = this.#text.data;
    if (whole !== old) {
      if (old && whole.startsWith(old)) this.#text.appendData(whole.slice(old.length));
      else this.#text.data = whole;
      if (atEnd) this.#pre.scrollTop = this.#pre.scrollHeight;
    }
    this.#pre.classList.toggle("none", !whole);
  }

  /** The longest log among the reports that the record was made from. */
  async #fetch() {
    const record = this.#record;
    this.#whole.disabled = true;
    try {
      const { data } = await request(`api/predictions/${encodeURIComponent(record.predictionId)}/report`);
      if (record.predictionId !== this.#record.predictionId) return;
      const logs = data.map(({ body }) => logIn(body)).sort((one, other) => other.length - one.length);
      if (logs[0]?.length >= record.logsLength) {
        this.#found = logs[0];
        this.update(this.#record);
      } else setText(this.#words, "The reports that had the whole log are not kept any more. ");
    } catch (error) {
      setText(this.#words, `The whole log cannot be read: ${error.status ? error.message : "the service cannot be reached."} `);
    } finally {
      this.#whole.disabled = false;
    }
  }
}

function logIn(body) {
  try {
    const report = JSON.parse(body);
    const logs = report?.logs ?? report?.data?.logs ?? report?.payload?.logs;
    return typeof logs === "string" ? logs : Array.isArray(logs) ? logs.map((line) => line?.message ?? String(line)).join("\n") : "";
  } catch {
    return "";
  }
}

/** What a terminal would show: a carriage return begins its line again. */
function overwritten(text) {
  return text.includes("\r") ? text.replace(/\r+\n/g, "\n").replace(/[^\n]*\r/g, "") : text;
}
