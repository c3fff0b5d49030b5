/** The filters, kept in the page's address. */

import { byId, element, setText } from "./dom.js";
import { words as textOf } from "./record.js";

const NAMES = ["status", "text", "owner", "model"];
const SUGGESTED = 200;

export class Filters {
  #form = byId("filters");
  #suggested = "";
  #soon;

  /** `changed()` is called when another selection is wanted. */
  constructor(changed) {
    const given = new URLSearchParams(location.search);
    for (const name of NAMES) if (given.get(name)) this.#form.elements[name].value = given.get(name);
    const apply = () => {
      const query = new URLSearchParams(Object.entries(this.values).filter(([, value]) => value)).toString();
      history.replaceState(null, "", location.pathname + (query && `?${query}`) + location.hash);
      changed();
    };
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.#form.addEventListener("input", () => {
      clearTimeout(this.#soon);
      this.#soon = setTimeout(apply, 250);
    });
  }

  get values() {
    return Object.fromEntries(NAMES.map((name) => [name, this.#form.elements[name].value.trim()]));
  }

  set(name, value) {
    this.#form.elements[name].value = value;
    this.#form.dispatchEvent(new Event("input"));
  }

  focus() {
    this.#form.elements.text.focus();
    this.#form.elements.text.select();
  }

  /** Those that match; counts per status and suggestions come from the rest. */
  apply(records) {
    const { status, text, owner, model } = this.values;
    const words = text.toLowerCase();
    const matching = records.filter(
      (record) =>
        (!owner || record.owner === owner) &&
        (!model || record.model === model) &&
        (!words || record.predictionId.toLowerCase().includes(words) || textOf(record.prompt).toLowerCase().includes(words)),
    );
    const counts = { "": matching.length };
    for (const record of matching) counts[record.status] = (counts[record.status] ?? 0) + 1;
    for (const node of this.#form.querySelectorAll("[data-count]")) setText(node, String(counts[node.dataset.count] || ""));
    this.#suggest(records);
    return status ? matching.filter((record) => record.status === status) : matching;
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
