/** The gallery: one card per prediction, kept in place while it changes. */

import { attempt } from "./attempts.js";
import { byId, element, setText, show } from "./dom.js";
import { duration, statusName } from "./format.js";
import { archiveTrouble, blobOf, counted, ended, excerpt, KINDS, outputs, progress, title, until, words } from "./record.js";

const EXCERPT = 420;

class Card {
  constructor(id) {
    this.frame = element("div", { class: "frame" });
    this.bar = element("i");
    this.track = element("div", { class: "track", role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0", "aria-valuemax": "100", hidden: true }, this.bar);
    this.several = element("span", { class: "howmany", hidden: true });
    this.title = element("span", { class: "prompt" });
    this.status = element("span", { class: "status" });
    this.spent = element("span", { class: "spent" });
    this.by = element("span", { class: "by" });
    this.reason = element("span", { class: "reason", hidden: true });
    this.link = element(
      "a",
      { href: `#${encodeURIComponent(id)}` },
      this.frame,
      this.several,
      this.track,
      this.title,
      element("span", { class: "meta" }, this.status, this.spent, this.by),
      this.reason,
    );
    this.node = element("li", { class: "card" }, this.link);
    this.shown = "";
  }

  update(record, now) {
    this.record = record;
    this.node.dataset.status = record.status;
    this.#show(record);
    const share = ended(record) ? null : progress(record);
    show(this.track, !ended(record));
    this.track.classList.toggle("unknown", share === null);
    if (share === null) this.track.removeAttribute("aria-valuenow");
    else this.track.setAttribute("aria-valuenow", Math.round(share * 100));
    this.bar.style.width = share === null ? "" : `${share * 100}%`;
    setText(this.title, title(record));
    this.status.dataset.status = record.status;
    const status = record.cancelRequestedAt && !ended(record) ? "Canceling" : record.waiting ? "Waiting for an answer" : statusName(record.status);
    setText(this.status, [status, counted(record)].filter(Boolean).join(" · "));
    setText(this.by, [record.owner, record.model?.split("/").at(-1)].filter(Boolean).join(" · "));
    this.by.title = [record.owner, record.model].filter(Boolean).join(" · ");
    const inFrame = this.frame.querySelector(".wrong") !== null;
    const reason = (!inFrame && words(record.error)) || archiveTrouble(record);
    show(this.reason, Boolean(reason));
    setText(this.reason, reason);
    this.reason.title = reason;
    this.tick(now);
  }

  tick(now) {
    setText(this.spent, duration(until(this.record, now) - this.record.createdAt));
  }

  /** Its picture, else its text, else what went wrong, else what it is. A picture stays until the next one has come. */
  #show(record) {
    const all = outputs(record);
    const files = all.filter((item) => item.address);
    const picture = files.find((item) => item.kind === "image")?.address;
    const several = [attempt(record), files.length > 1 ? `${files.length} files` : ""].filter(Boolean).join(" · ");
    show(this.several, Boolean(several));
    setText(this.several, several);
    const text = picture ? "" : words(record.error) ? words(record.error).slice(0, EXCERPT) : excerpt(record, EXCERPT);
    const kind = all[0]?.kind;
    const key = picture ?? `${record.status}:${kind}:${text}`;
    if (key === this.shown) return;
    this.shown = key;
    if (!picture) {
      this.frame.replaceChildren(record.error && text ? element("p", { class: "wrong" }, text) : this.#instead(record, all, text));
      return;
    }
    const present = this.frame.querySelector("img");
    if (present) present.src = picture;
    else this.frame.replaceChildren(image(picture, this.frame));
  }

  #instead(record, all, text) {
    const [first] = all;
    if (first?.address && !(text && first.kind === "file")) return element("p", { class: `kind ${first.kind}` }, element("b", {}, KINDS[first.kind]), element("span", {}, first.name));
    if (text && !blobOf(record.output)) return element("p", { class: `excerpt${all.at(-1).kind === "json" ? " code" : ""}${all.some((item) => item.growing) ? " growing" : ""}` }, text);
    if (text) return element("p", { class: "kind text" }, element("b", {}, "Text"), element("span", {}, `${blobOf(record.output).length.toLocaleString()} characters`));
    const ends = { succeeded: "No output", failed: "Failed, without a reason", canceled: "Canceled" };
    if (ended(record)) return element("p", { class: "kind ended" }, element("b", { class: "mark", "aria-hidden": true }), element("span", {}, ends[record.status]));
    return element("p", { class: "nothing", "aria-hidden": true });
  }
}

/** A picture from elsewhere: no referrer, and its address as text if it cannot be shown. */
function image(address, frame) {
  const node = element("img", { referrerpolicy: "no-referrer", decoding: "async", loading: "lazy", alt: "" });
  node.addEventListener("error", () => frame.contains(node) && frame.replaceChildren(element("p", { class: "excerpt" }, node.src)));
  node.src = address;
  return node;
}

export class Gallery {
  #list = byId("gallery");
  #cards = new Map();
  #order = [];

  /** Show these records in this order; only the `dirty` ones and the new ones are looked at. */
  render(records, dirty, selected, now) {
    const wanted = new Set(records.map((record) => record.predictionId));
    for (const [id, card] of this.#cards) {
      if (wanted.has(id)) continue;
      card.node.remove();
      this.#cards.delete(id);
    }
    let place = this.#list.firstElementChild;
    for (const record of records) {
      const id = record.predictionId;
      let card = this.#cards.get(id);
      if (!card) this.#cards.set(id, (card = new Card(id)));
      if (!card.record || dirty.has(id)) card.update(record, now);
      if (card.node === place) place = place.nextElementSibling;
      else this.#list.insertBefore(card.node, place);
      if (id === selected) card.link.setAttribute("aria-current", "true");
      else card.link.removeAttribute("aria-current");
    }
    this.#order = records.map((record) => record.predictionId);
  }

  /** Let the times of those that run go on. */
  tick(now) {
    for (const card of this.#cards.values()) if (!ended(card.record)) card.tick(now);
  }

  /** The id beside this one, `step` places on; the first one if it is not shown. */
  beside(id, step) {
    const at = this.#order.indexOf(id);
    return at < 0 ? this.#order[0] : this.#order[Math.min(this.#order.length - 1, Math.max(0, at + step))];
  }

  focus(id) {
    const link = this.#cards.get(id)?.link;
    link?.focus({ preventScroll: true });
    link?.scrollIntoView({ block: "nearest" });
  }
}
