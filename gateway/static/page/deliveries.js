/** For admins: which servers are told of a prediction, what they have not taken yet, and when it is tried again. */

import { element, setText, show } from "./dom.js";
import { duration, time } from "./format.js";
import { request } from "./service.js";

const EVERY = 2000;

export class Deliveries {
  #list = element("ul", { class: "deliveries" });
  #said = element("p", { class: "said" });
  #record = null;
  #asked = "";
  #again = 0;
  #pending = [];
  /** Whether the service tells other servers, and this visitor may know. */
  shown = false;
  node = element("section", { hidden: true }, element("h3", {}, "Webhooks"), this.#said, this.#list);

  update(record) {
    if (!this.shown) return;
    const key = `${record.predictionId} ${record.version}`;
    if (record.predictionId !== this.#record?.predictionId) {
      this.#pending = [];
      this.#draw(record, []);
    }
    this.#record = record;
    if (key === this.#asked) return;
    this.#asked = key;
    this.#ask(); // a step of it may have to be told
  }

  clear() {
    this.#record = null;
    this.#asked = "";
    show(this.node, false);
  }

  /** While something waits, see what becomes of it. */
  tick() {
    if (this.#record && this.#pending.length && performance.now() > this.#again) this.#ask();
    for (const [number, one] of this.#pending.entries()) setText(this.#list.children[number].querySelector(".due"), next(one));
  }

  async #ask() {
    const record = this.#record;
    this.#again = performance.now() + EVERY;
    try {
      const answer = await request(`api/deliveries?prediction=${encodeURIComponent(record.predictionId)}`);
      if (record.predictionId === this.#record?.predictionId) this.#draw(record, answer.data, answer.switchedOff);
    } catch {
      this.#asked = ""; // with the next change
    }
  }

  #draw(record, pending, off = []) {
    this.#pending = pending.toReversed();
    const host = record.webhook?.host;
    const dead = off.find((one) => one.host === host);
    show(this.node, Boolean(host || pending.length));
    setText(this.#said, [host && `${host} is told.`, dead ? `An address there is switched off: ${dead.reason}.` : "", pending.length ? "" : "Nothing waits."].filter(Boolean).join(" "));
    this.#list.replaceChildren(...this.#pending.map(row));
  }
}

function row(one) {
  const tries = one.attempts ? `${one.attempts} ${one.attempts === 1 ? "try" : "tries"}` : "";
  return element(
    "li",
    {},
    element("b", {}, one.type),
    element("span", { class: "due", title: one.due ? time(one.due) : null }, next(one)),
    element("span", { class: "from" }, [one.host, tries, one.error].filter(Boolean).join(" · ")),
  );
}

function next({ due }) {
  const wait = due - Date.now();
  return wait > 0 ? `again in ${duration(wait)}` : "under way";
}
