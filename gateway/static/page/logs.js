/** Logs that grow in place: what is selected or scrolled to stays, and whoever is at the end stays at the end. */

import { element, setText, show } from "./dom.js";

const NEAR = 24;

export class Logs {
  #text = new Text("");
  #pre = element("pre", { class: "lines", role: "log", tabindex: "0", "aria-label": "Logs", "aria-live": "off" }, this.#text);
  #cut = element("p", { class: "cut", hidden: true });
  node = element("div", {}, this.#cut, this.#pre);

  clear() {
    this.#text.data = "";
  }

  update({ logs, logsLength }) {
    const whole = typeof logs === "string" ? overwritten(logs) : "";
    const atEnd = this.#pre.scrollHeight - this.#pre.scrollTop - this.#pre.clientHeight < NEAR;
    const old = this.#text.data;
    if (whole !== old) {
      if (old && whole.startsWith(old)) this.#text.appendData(whole.slice(old.length));
      else this.#text.data = whole;
      if (atEnd) this.#pre.scrollTop = this.#pre.scrollHeight;
    }
    const missing = (logsLength ?? 0) - (typeof logs === "string" ? logs.length : 0);
    show(this.#cut, missing > 0);
    setText(this.#cut, missing > 0 ? `The first ${missing.toLocaleString()} characters are left out.` : "");
    this.#pre.classList.toggle("none", !whole);
  }
}

/** What a terminal would show: a carriage return begins its line again. */
function overwritten(text) {
  return text.includes("\r") ? text.replace(/\r+\n/g, "\n").replace(/[^\n]*\r/g, "") : text;
}
