/** The attempts at one prediction: one card stands for them all, and the panel leads from each to the others. */

import { element, setText, show } from "./dom.js";
import { statusName } from "./format.js";
import { request } from "./service.js";
import { words } from "./record.js";

const MOST = 50;
const FIELDS = "predictionId,status,error,retryOf,retriedAs,retryCount,retries";

/** "attempt 2 of 3"; empty of a first attempt that nothing has followed. */
export function attempt({ retryCount, retriedAs, retries }) {
  if (!retryCount && !retriedAs) return "";
  const number = (retryCount ?? 0) + 1;
  const most = 1 + (typeof retries === "number" ? retries : (retries?.max ?? 0));
  return most > 1 && number <= most ? `attempt ${number} of ${most}` : `attempt ${number}`;
}

/** The last one that is known of a chain; `known(id)` gives a record. */
export function newest(record, known) {
  for (let left = MOST; record?.retriedAs && left; left -= 1) {
    const next = known(record.retriedAs);
    if (!next) break;
    record = next;
  }
  return record;
}

/** These without the attempts that a later one stands for. */
export const folded = (records, known) => records.filter((record) => !record.retriedAs || !known(record.retriedAs));

export class Attempts {
  #list = element("ol", { class: "attempts" });
  #known;
  #fetched = new Map();
  #asking = new Set();
  #record = null;
  node = element("section", { hidden: true }, element("h3", {}, "Attempts"), this.#list);

  /** `known(id)` gives a record that the page has. */
  constructor(known) {
    this.#known = (id) => known(id) ?? this.#fetched.get(id);
  }

  update(record) {
    if (record.predictionId !== this.#record?.predictionId) this.#fetched.clear();
    this.#record = record;
    const chain = this.#chain(record);
    show(this.node, chain.length > 1);
    if (chain.length < 2) return;
    while (this.#list.children.length > chain.length) this.#list.lastChild.remove();
    while (this.#list.children.length < chain.length) this.#list.append(row());
    chain.forEach(({ id, one }, number) => this.#fill(this.#list.children[number], id, one));
  }

  /** `{id, one}` of each attempt, the first one first; `one` is what is known of it. */
  #chain(record) {
    const chain = [{ id: record.predictionId, one: record }];
    while (chain[0].one?.retryOf && chain.length < MOST) chain.unshift(this.#at(chain[0].one.retryOf));
    while (chain.at(-1).one?.retriedAs && chain.length < MOST) chain.push(this.#at(chain.at(-1).one.retriedAs));
    return chain;
  }

  #at(id) {
    const one = this.#known(id);
    if (!one) this.#ask(id);
    return { id, one };
  }

  async #ask(id) {
    if (this.#asking.has(id) || this.#fetched.has(id)) return;
    this.#asking.add(id);
    let found = null; // it is deleted, or has expired
    try {
      found = (await request(`api/predictions/${encodeURIComponent(id)}?fields=${FIELDS}`)).data;
    } catch (error) {
      if (error.status !== 404) return; // it is asked for again with the next change
    } finally {
      this.#asking.delete(id);
    }
    this.#fetched.set(id, found);
    if (this.#record) this.update(this.#record);
  }

  #fill(node, id, one) {
    const [link, status, reason] = node.children;
    const here = id === this.#record.predictionId;
    if (here) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    link.href = `#${encodeURIComponent(id)}`;
    link.title = id;
    const number = [...node.parentNode.children].indexOf(node) + 1;
    setText(link, one && one.retryCount !== undefined ? `Attempt ${one.retryCount + 1}` : `Attempt ${number}`);
    status.dataset.status = one?.status ?? "";
    setText(status, one ? statusName(one.status) : one === null ? "Not kept any more" : "");
    setText(reason, one ? words(one.error).slice(0, 200) : "");
  }
}

const row = () => element("li", {}, element("a", {}), element("span", { class: "status" }), element("span", { class: "reason" }));
