/** The filters, kept in the page's address. */

import { byId, element, setText, show } from "./dom.js";
import { prompt } from "./record.js";

const NAMES = ["status", "text", "owner", "model"];
const SUGGESTED = 200;

export class Filters {
  #form = byId("filters");
  #suggested = "";
  #soon;
  #changed;

  /** `changed()` is called when another selection is wanted. */
  constructor(changed) {
    this.#changed = changed;
    this.#fromAddress();
    addEventListener("popstate", () => {
      if (this.#fromAddress()) changed();
    });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#apply();
    });
    this.#form.addEventListener("input", () => {
      // At once, as what is shown follows at once: a reload in between would show something else.
      this.#toAddress();
      clearTimeout(this.#soon);
      this.#soon = setTimeout(() => this.#apply(), 250);
    });
    byId("clear").addEventListener("click", () => this.clear());
    this.#offerClear();
  }

  get values() {
    return Object.fromEntries(NAMES.map((name) => [name, this.#form.elements[name].value.trim()]));
  }

  /** Whether anything is narrowed. */
  get any() {
    return Object.values(this.values).some(Boolean);
  }

  set(name, value) {
    this.#form.elements[name].value = value;
    this.#apply();
  }

  clear() {
    for (const name of NAMES) this.#form.elements[name].value = "";
    this.#apply();
    this.#form.elements.text.focus();
  }

  focus() {
    this.#form.elements.text.focus();
    this.#form.elements.text.select();
  }

  /** Those that match. */
  apply(records) {
    const { status, text, owner, model } = this.values;
    const words = text.toLowerCase();
    this.#suggest(records);
    return records.filter(
      (record) =>
        (!status || record.status === status) &&
        (!owner || record.owner === owner) &&
        (!model || record.model === model) &&
        (!words || record.predictionId.toLowerCase().includes(words) || prompt(record).toLowerCase().includes(words)),
    );
  }

  /** Say how many there are by status: what the service counted, else those that are here, which may be some of them. */
  count(counts, here, more) {
    const byStatus = { ...(counts?.byStatus ?? {}) };
    if (!counts) for (const { status } of here) byStatus[status] = (byStatus[status] ?? 0) + 1;
    byStatus[""] = counts ? counts.total : here.length;
    const open = counts ? !counts.complete : more;
    for (const node of this.#form.querySelectorAll("[data-count]")) {
      const number = byStatus[node.dataset.count] ?? 0;
      setText(node, number ? number.toLocaleString() + (open ? "+" : "") : "");
    }
  }

  #fromAddress() {
    const before = JSON.stringify(this.values);
    const given = new URLSearchParams(location.search);
    for (const name of NAMES) this.#form.elements[name].value = given.get(name) ?? "";
    this.#offerClear();
    return JSON.stringify(this.values) !== before;
  }

  #apply() {
    clearTimeout(this.#soon);
    this.#toAddress();
    this.#changed();
  }

  #toAddress() {
    const query = new URLSearchParams(Object.entries(this.values).filter(([, value]) => value)).toString();
    history.replaceState(null, "", location.pathname + (query && `?${query}`) + location.hash);
    this.#offerClear();
  }

  #offerClear() {
    show(byId("clear"), this.any);
  }

  #suggest(records) {
    const names = (name) => [...new Set(records.map((record) => record[name]).filter(Boolean))].sort().slice(0, SUGGESTED);
    const [owners, models] = [names("owner"), names("model")];
    const text = JSON.stringify([owners, models]);
    if (text === this.#suggested) return;
    this.#suggested = text;
    byId("owners").replaceChildren(...owners.map((value) => element("option", { value })));
    byId("models").replaceChildren(...models.map((value) => element("option", { value })));
  }
}
