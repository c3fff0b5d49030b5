/** One prediction: what came out, its way through the states, its logs as they grow, its record. */

import { attempt, Attempts } from "./attempts.js";
import { Canceling } from "./canceling.js";
import { Deliveries } from "./deliveries.js";
import { byId, element, setText, show } from "./dom.js";
import { dateAndTime, pretty, statusName, usage } from "./format.js";
import { Logs } from "./logs.js";
import { copied, Outputs, WholeText } from "./outputs.js";
import { archiveTrouble, blobOf, counted, ended, progress, prompt, title, words } from "./record.js";
import { Question } from "./questions.js";
import { send } from "./service.js";
import { Timeline } from "./timeline.js";

const RAW_EVERY = 700;
const SHORT = 160; // characters of a prompt that the heading shows whole

export class Detail {
  #panel = byId("detail");
  #record = null;
  #id = null;
  #timeline = new Timeline();
  #attempts;
  #deliveries = new Deliveries();
  #logs = new Logs();
  #outputs = new Outputs();
  #raw;
  #rawTimer = null;
  #asked = null;
  #failed = null;

  /** `close()` is called when the visitor is done with it; `known(id)` gives a record that the page has. */
  constructor(close, known) {
    this.#attempts = new Attempts(known);
    this.canceling = new Canceling();
    this.question = new Question();
    this.title = element("h2", { id: "detail-title" });
    this.status = element("span", { class: "status" });
    this.share = element("span", { class: "share" });
    this.id = element("code", { class: "id" });
    this.copyId = element("button", { type: "button", class: "quiet small" }, "Copy id");
    this.copyId.addEventListener("click", () => copied(this.copyId, this.#id));
    this.error = element("div", { class: "wrong-whole" });
    this.errorText = element("p", { class: "error" });
    this.archive = element("p", { class: "archive" });
    this.prompt = element("div", {});
    this.facts = element("dl", { class: "facts" });
    this.raw = element("pre", { class: "raw", tabindex: "0", role: "region", "aria-label": "Raw record" });
    this.#raw = element("details", {}, element("summary", {}, "Raw record"), this.raw);
    const closing = element("button", { type: "button", class: "quiet close", "aria-label": "Close", title: "Close (Esc)" }, "✕");
    closing.addEventListener("click", close);
    this.#raw.addEventListener("toggle", () => this.#readRaw());
    this.promptSection = element("section", { class: "asked" }, element("h3", {}, "Prompt"), this.prompt);
    this.body = element(
      "div",
      { class: "body" },
      this.question.node,
      this.#outputs.node,
      this.archive,
      this.errorText,
      this.error,
      this.promptSection,
      this.#attempts.node,
      section("Timeline", this.#timeline.node),
      section("Logs", this.#logs.node),
      this.#deliveries.node,
      section("Facts", this.facts),
      element("section", {}, this.#raw),
    );
    this.missing = element("p", { class: "empty", hidden: true });
    this.#panel.append(
      element(
        "header",
        {},
        element("div", { class: "line" }, this.status, this.share, element("span", { class: "grow" }), this.canceling.button, closing),
        this.title,
        element("p", { class: "naming" }, this.id, this.copyId),
        this.canceling.problem,
      ),
      this.missing,
      this.body,
    );
  }

  /** Admins may read the bodies that a record was made from. */
  set admin(may) {
    this.#logs.admin = may;
  }

  /** Whether the service tells other servers, and this visitor may see what waits. */
  set notifies(may) {
    this.#deliveries.shown = may;
  }

  /** Show this prediction; a record of null: it is not there (`gone`: no more). */
  update(id, record, now, gone = false) {
    if (id !== this.#id) this.#begin(id);
    show(this.#panel, true);
    setText(this.id, id);
    this.#record = record;
    show(this.body, Boolean(record));
    show(this.missing, !record);
    this.canceling.update(record);
    this.question.update(record);
    if (!record) {
      setText(this.title, gone ? "Deleted" : "Not there yet");
      setText(this.missing, gone ? "This prediction was deleted, or has expired." : "There is no prediction with this id. It will show here as soon as there is one.");
      for (const node of [this.status, this.share]) show(node, false);
      return;
    }
    show(this.status, true);
    this.status.dataset.status = record.status;
    setText(this.title, title(record));
    setText(this.status, [statusName(record.status), record.waiting && "Waiting for an answer", counted(record), attempt(record)].filter(Boolean).join(" · "));
    const done = ended(record) ? null : progress(record);
    show(this.share, done !== null);
    setText(this.share, done === null ? "" : `${Math.round(done * 100)} %`);
    this.#outputs.update(record, title(record));
    this.#wrong(record);
    this.#showPrompt(record);
    this.#logs.update(record);
    this.#attempts.update(record);
    this.#deliveries.update(record);
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
    this.#deliveries.tick();
  }

  focus() {
    this.#panel.focus({ preventScroll: true });
  }

  #begin(id) {
    this.#id = id;
    this.#panel.scrollTop = 0;
    this.#logs.clear();
    this.#outputs.clear();
    this.#deliveries.clear();
    this.#asked = this.#failed = null;
    this.prompt.replaceChildren();
    this.error.replaceChildren();
    this.raw.textContent = "";
  }

  /** Why it failed, and why its files are not kept, beside what came out. */
  #wrong(record) {
    const trouble = archiveTrouble(record);
    show(this.archive, Boolean(trouble));
    setText(this.archive, trouble && `${trouble}. ${record.assets?.length ? "What is shown besides comes" : "What is shown comes"} from the provider, whose addresses end soon.`);
    const reason = blobOf(record.error) ? "" : words(record.error) || (record.status === "failed" ? "It failed without a reason." : "");
    show(this.errorText, Boolean(reason));
    setText(this.errorText, reason);
    show(this.error, Boolean(blobOf(record.error)));
    if (blobOf(record.error)) {
      this.#failed ??= this.#put(this.error, "Error");
      this.#failed.update({ blob: blobOf(record.error) });
    }
  }

  /** The whole prompt, if the heading cannot show all of it. */
  #showPrompt(record) {
    const blob = blobOf(record.prompt);
    const long = Boolean(blob) || prompt(record).length > SHORT || prompt(record).includes("\n");
    show(this.promptSection, long);
    if (!long) return;
    this.#asked ??= this.#put(this.prompt, "Prompt");
    this.#asked.update(blob ? { blob } : { value: prompt(record) });
  }

  #put(place, name) {
    const text = new WholeText(this.#id, name);
    place.replaceChildren(text.node);
    return text;
  }

  #facts(record) {
    const facts = {
      Model: record.model,
      Provider: record.provider,
      "Id at the provider": record.providerId,
      Owner: record.owner,
      Tags: record.tags?.join(", "),
      Created: dateAndTime(record.createdAt),
      "Generation time": record.generationTime == null ? null : `${(record.generationTime / 1000).toFixed(2)} s`,
      Usage: record.usage && usage(record.usage),
      Deadline: record.deadline == null ? null : dateAndTime(record.deadline),
      Group: record.group,
      Tells: record.webhook?.host,
      "Ended at the provider": record.lateStatus && statusName(record.lateStatus),
      Version: String(record.version),
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
