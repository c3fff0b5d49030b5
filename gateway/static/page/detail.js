/** One prediction: its output, its way through the states, its logs as they grow, its record. */

import { byId, element, setText, show } from "./dom.js";
import { dateAndTime, pretty, statusName } from "./format.js";
import { image } from "./gallery.js";
import { Logs } from "./logs.js";
import { ended, files, outputText, pictures, progress, title, words } from "./record.js";
import { RequestError, request, send } from "./service.js";
import { Timeline } from "./timeline.js";

const RAW_EVERY = 700;

export class Detail {
  #panel = byId("detail");
  #record = null;
  #id = null;
  #timeline = new Timeline();
  #logs = new Logs();
  #raw;
  #rawTimer = null;
  #pictured = "";

  /** `close()` is called when the visitor is done with it. */
  constructor(close) {
    this.title = element("h2", { id: "detail-title" });
    this.status = element("span", { class: "status" });
    this.share = element("span", { class: "share" });
    this.id = element("code", { class: "id" });
    this.pictures = element("div", { class: "pictures" });
    this.files = element("ul", { class: "files" });
    this.text = element("pre", { class: "output", tabindex: "0", "aria-label": "Output" });
    this.error = element("p", { class: "error" });
    this.facts = element("dl", { class: "facts" });
    this.raw = element("pre", { class: "raw", tabindex: "0", "aria-label": "Raw record" });
    this.#raw = element("details", {}, element("summary", {}, "Raw record"), this.raw);
    this.cancel = element("button", { type: "button", class: "quiet danger" }, "Cancel");
    this.problem = element("p", { class: "problem", role: "alert", hidden: true });
    const closing = element("button", { type: "button", class: "quiet close", "aria-label": "Close", title: "Close (Esc)" }, "✕");
    closing.addEventListener("click", close);
    this.cancel.addEventListener("click", () => this.#cancel());
    this.#raw.addEventListener("toggle", () => this.#readRaw());
    this.body = element(
      "div",
      { class: "body" },
      this.pictures,
      this.text,
      this.files,
      this.error,
      section("Timeline", this.#timeline.node),
      section("Logs", this.#logs.node),
      section("Facts", this.facts),
      element("section", {}, this.#raw),
    );
    this.missing = element("p", { class: "empty", hidden: true });
    this.#panel.append(
      element(
        "header",
        {},
        element("div", { class: "line" }, this.status, this.share, element("span", { class: "grow" }), this.cancel, closing),
        this.title,
        this.id,
        this.problem,
      ),
      this.missing,
      this.body,
    );
  }

  /** Show this prediction; a record of null: it is not there (`gone`: no more). */
  update(id, record, now, gone = false) {
    const other = id !== this.#id;
    if (other) {
      this.#id = id;
      this.#pictured = "";
      this.#panel.scrollTop = 0;
      this.#logs.clear();
      this.raw.textContent = "";
      show(this.problem, false);
    }
    show(this.#panel, true);
    setText(this.id, id);
    this.#record = record;
    show(this.body, Boolean(record));
    show(this.missing, !record);
    if (!record) {
      setText(this.title, gone ? "Deleted" : "Not there yet");
      setText(this.missing, gone ? "This prediction was deleted, or has expired." : "There is no prediction with this id. It will show here as soon as there is one.");
      for (const node of [this.cancel, this.status, this.share]) show(node, false);
      return;
    }
    show(this.status, true);
    this.status.dataset.status = record.status;
    setText(this.title, title(record));
    setText(this.status, statusName(record.status));
    const done = ended(record) ? null : progress(record);
    show(this.share, done !== null);
    setText(this.share, done === null ? "" : `${Math.round(done * 100)} %`);
    this.#offerCancel(record);
    this.#output(record);
    show(this.error, Boolean(record.error));
    setText(this.error, words(record.error));
    this.#logs.update(record);
    this.#facts(record);
    this.tick(now);
    this.#readRaw();
  }

  hide() {
    this.#id = this.#record = null;
    show(this.#panel, false);
  }

  tick(now) {
    if (this.#record) this.#timeline.update(this.#record, now);
  }

  focus() {
    this.#panel.focus({ preventScroll: true });
  }

  #offerCancel(record) {
    show(this.cancel, !ended(record));
    this.cancel.disabled = Boolean(record.cancelRequestedAt);
    setText(this.cancel, record.cancelRequestedAt ? "Cancel requested" : "Cancel");
  }

  async #cancel() {
    const id = this.#id;
    this.cancel.disabled = true;
    show(this.problem, false);
    try {
      await request(`api/predictions/${encodeURIComponent(id)}/cancel`, { method: "POST" });
    } catch (error) {
      if (id !== this.#id) return;
      this.cancel.disabled = false;
      setText(this.problem, error instanceof RequestError ? error.message : "The service cannot be reached.");
      show(this.problem, true);
    }
  }

  #output(record) {
    const addresses = pictures(record);
    const key = addresses.join("\n");
    if (key !== this.#pictured) {
      const present = this.pictures.querySelectorAll("img");
      if (present.length === addresses.length && this.#pictured) {
        present.forEach((node, number) => {
          node.src = node.parentNode.href = addresses[number];
        });
      } else this.pictures.replaceChildren(...addresses.map((address) => linked(address, record)));
      this.#pictured = key;
    }
    show(this.pictures, addresses.length > 0);
    const others = files(record).filter((file) => !file.picture);
    const named = JSON.stringify(others);
    if (this.files.dataset.shown !== named) {
      this.files.dataset.shown = named;
      this.files.replaceChildren(...others.map((file) => element("li", {}, opening(file.address, `Archived file (${file.kind})`))));
    }
    show(this.files, others.length > 0);
    const text = addresses.length ? "" : outputText(record);
    show(this.text, Boolean(text));
    setText(this.text, text);
  }

  #facts(record) {
    const facts = {
      Model: record.model,
      Provider: record.provider,
      Owner: record.owner,
      Tags: record.tags?.join(", "),
      Created: dateAndTime(record.createdAt),
      "Generation time": record.generationTime == null ? null : `${(record.generationTime / 1000).toFixed(2)} s`,
      Version: String(record.version),
      "Not archived": record.assetsError,
    };
    const wanted = Object.entries(facts).filter(([, value]) => value);
    const text = JSON.stringify(wanted);
    if (this.facts.dataset.shown === text) return;
    this.facts.dataset.shown = text;
    this.facts.replaceChildren(
      ...wanted.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
    );
  }

  /** The record as it came, read while its part is open, and at most every so often. */
  #readRaw() {
    if (!this.#raw.open || this.#rawTimer !== null || !this.#record) return;
    this.#rawTimer = setTimeout(async () => {
      this.#rawTimer = null;
      const record = this.#record;
      if (!record) return;
      try {
        const response = await send(`api/predictions/${encodeURIComponent(record.predictionId)}`);
        const text = await response.text();
        if (response.ok && this.#record?.predictionId === record.predictionId) {
          setText(this.raw, pretty(text.slice(text.indexOf('"data":') + 7, text.lastIndexOf("}"))));
        }
      } catch {
        setText(this.raw, JSON.stringify(record, null, 2));
      }
    }, this.raw.textContent ? RAW_EVERY : 0);
  }
}

function section(name, ...children) {
  return element("section", { class: name.toLowerCase() }, element("h3", {}, name), ...children);
}

function opening(address, ...children) {
  return element("a", { href: address, target: "_blank", rel: "noopener noreferrer", title: "Open the file" }, ...children);
}

function linked(address, record) {
  const link = opening(address);
  link.append(image(address, link, title(record)));
  return link;
}
