/** The dead letters, for admins: what could not be applied and why, by reason, and trying it again. */

import { byId, element, setText, show } from "./dom.js";
import { dateAndTime, pretty } from "./format.js";
import { RequestError, request } from "./service.js";

const EXAMPLES = 20;
const MOST = 1000;
const SURE = 6000;
const COUNT_EVERY = 20_000; // until the open ones are counted again
const JUDGED = 2500; // how long the processor may take until what comes back is counted

/** What the reasons mean, and what to do about them. */
const MEANINGS = {
  "not-json": "The body is no JSON. Fix what sends it; trying again helps only after a release that reads it.",
  encoding: "A text is not UTF-8. Fix what sends it.",
  "too-deep": "The JSON is nested more deeply than any record may be.",
  "wrong-type": "A field has another type than it should. Fix the producer, or its table of fields.",
  "missing-field": "A field is missing without which the report means nothing.",
  "no-id": "Nothing says which prediction is meant: no key, no id.",
  "bad-id": "The prediction's id has spaces, commas or control characters, or is too long.",
  "id-mismatch": "The record's key and the id in its body are of different predictions.",
  "bad-time": "The time is none in milliseconds since 1970.",
  "bad-cloudevent": "It calls itself a CloudEvent, and is none.",
  "unknown-status": "Unknown status. A provider may have a new one.",
  "unknown-type": "Unknown type of event.",
  "unknown-provider": "No provider of this name is known to this release.",
  "translation-failed": "The provider's report could not be translated. A fixed release can try it again.",
  "text-mismatch": "The piece differs from the text that stands at its offset.",
  "text-gap": "Something is missing between the text and this piece; later pieces were set aside too.",
  "text-late": "The piece came after the end.",
  "text-too-long": "The text would be longer than 1 MiB.",
  "record-too-large": "The record would grow beyond TIDINGS_RECORD_MAX.",
  crash: "The processor ended again and again while nothing but this record was under way. Try it with more memory, or a fixed release.",
  refused: "The store will never take this record.",
  contradiction: "It says another end than the one that stands: two reports disagree.",
  owner: "It names another owner than the record has.",
  "provider-id": "It names another id at the provider than the record has.",
  strict: "It skips a status, which strict mode refuses.",
};

export class Letters {
  #dialog = byId("letters-dialog");
  #groups = byId("letters-groups");
  #all = byId("letters-all");
  #total = 0;
  #openReasons = {};
  #seen;
  #asked = -Infinity;

  /** `choose(id)` shows a prediction. */
  constructor(choose) {
    this.choose = choose;
    byId("letters").addEventListener("click", () => this.#open());
    byId("letters-close").addEventListener("click", () => this.#dialog.close());
    sure(this.#all, () => `Append all ${this.#total.toLocaleString()} again?`, () => this.#redrive({ all: true }));
    byId("letters-done").addEventListener("change", () => this.#list());
    byId("letters-retry").addEventListener("click", () => this.#list());
  }

  /** Offer them, with how many are open; `count` of letters since the start says when to ask again. */
  offer(count) {
    show(byId("letters"), true);
    if (count === this.#seen && performance.now() - this.#asked < COUNT_EVERY) return;
    this.#seen = count;
    this.#asked = performance.now();
    this.#count();
  }

  async #count() {
    try {
      const { open } = await request("api/dead-letters?count=true");
      this.#badge(open);
    } catch {
      // the connection's own state says that the service is away
    }
  }

  #badge(open) {
    setText(byId("letters-count"), open ? open.toLocaleString() : "");
    byId("letters").setAttribute("aria-label", open ? `Dead letters, ${open.toLocaleString()} open` : "Dead letters");
  }

  /** Whether the service answers. */
  set reachable(reachable) {
    this.#dialog.classList.toggle("stale", !reachable);
  }

  /** List them again if they are shown: the service is back. */
  again() {
    if (this.#dialog.open) this.#list();
  }

  #open() {
    this.#say("");
    this.#dialog.showModal();
    this.#list();
  }

  async #list() {
    try {
      const { count, reasons: everything, open, openReasons } = await request("api/dead-letters?limit=1");
      const done = byId("letters-done").checked;
      const reasons = done ? everything : openReasons;
      this.#openReasons = openReasons;
      this.#total = open;
      this.#badge(open);
      show(this.#all, open > 0);
      show(byId("letters-lost"), false);
      const standing = new Map([...this.#groups.children].map((node) => [node.dataset.reason, node]));
      this.#groups.replaceChildren(...Object.entries(reasons).map(([reason, number]) => this.#group(reason, number, standing.get(reason))));
      const others = count - open;
      setText(byId("letters-total"), count ? `${open.toLocaleString()} open${others > 0 ? `, ${others.toLocaleString()} redriven or dismissed` : ""}. They are kept for two weeks.` : "No dead letters.");
      show(byId("letters-done-label"), others > 0);
    } catch (error) {
      setText(byId("letters-trouble"), wordsOf(error));
      show(byId("letters-lost"), true);
    }
  }

  #group(reason, number, standing) {
    const node = standing ?? this.#newGroup(reason);
    setText(node.querySelector(".number"), number.toLocaleString());
    node.dataset.number = number;
    const open = this.#openReasons[reason] ?? 0;
    node.dataset.open = open;
    for (const button of node.querySelectorAll(":scope > details > .buttons [data-each]")) show(button, open > 0);
    if (node.querySelector("details").open) this.#examples(node);
    return node;
  }

  #newGroup(reason) {
    const again = element("button", { type: "button", class: "quiet", "data-each": true }, "Redrive these");
    const dismiss = element("button", { type: "button", class: "quiet", "data-each": true }, "Dismiss these");
    const more = element("button", { type: "button", class: "quiet more-letters", hidden: true }, "Show more");
    const details = element(
      "details",
      {},
      element("summary", {}, element("b", { class: "number" }), element("span", { class: "name" }, reason)),
      element("p", { class: "meaning" }, MEANINGS[reason] ?? "See what each of them says."),
      element("ul", { class: "letters", "aria-label": `Dead letters: ${reason}` }),
      element("p", { class: "buttons" }, more, dismiss, again),
    );
    const node = element("li", { "data-reason": reason, "data-limit": EXAMPLES }, details);
    details.addEventListener("toggle", () => details.open && this.#examples(node));
    more.addEventListener("click", () => {
      node.dataset.limit = Math.min(MOST, 4 * node.dataset.limit);
      this.#examples(node);
    });
    const number = () => Number(node.dataset.open).toLocaleString();
    sure(again, () => `Append these ${number()} again?`, () => this.#redrive({ reason }));
    sure(dismiss, () => `Dismiss these ${number()}?`, () => this.#dismiss({ reason }));
    return node;
  }

  async #examples(node) {
    try {
      const { reason, limit } = node.dataset;
      const state = byId("letters-done").checked ? {} : { state: "open" };
      const { data } = await request(`api/dead-letters?${new URLSearchParams({ reason, limit, ...state })}`);
      const list = node.querySelector(".letters");
      const standing = new Map([...list.children].map((item) => [item.dataset.key, item]));
      list.replaceChildren(...data.map((letter) => this.#mark(standing.get(keyOf(letter)) ?? this.#letter(letter), letter)));
      show(node.querySelector(".more-letters"), data.length >= limit && limit < MOST && data.length < node.dataset.number);
    } catch (error) {
      this.#say(wordsOf(error));
    }
  }

  #letter(letter) {
    const again = element("button", { type: "button", class: "quiet" }, "Redrive this one");
    const dismiss = element("button", { type: "button", class: "quiet dismiss" }, "Dismiss");
    const watch = letter.predictionId && element("button", { type: "button", class: "quiet" }, "Show the prediction");
    const cut = letter.bytes > new TextEncoder().encode(letter.value).length;
    const item = element(
      "li",
      { "data-key": keyOf(letter) },
      element(
        "details",
        {},
        element(
          "summary",
          {},
          element("code", {}, letter.position),
          element("span", { class: "whose" }, letter.predictionId ?? "no prediction"),
          letter.attempt > 1 ? element("span", { class: "attempt" }, `${ordinal(letter.attempt)} time`) : null,
          element("time", { datetime: new Date(letter.at).toISOString() }, dateAndTime(letter.at)),
          element("span", { class: "again", hidden: true }),
        ),
        element("p", { class: "why" }, letter.message),
        facts({
          Event: `${letter.position} of ${letter.topic}`,
          Appended: letter.timestamp ? dateAndTime(letter.timestamp) : null,
          "Set aside": `${dateAndTime(letter.at)}${letter.attempt > 1 ? `, for the ${ordinal(letter.attempt)} time` : ""}`,
          Size: `${letter.bytes.toLocaleString()} bytes${cut ? ", of which the beginning is shown" : ""}`,
        }),
        letter.headers.length ? element("h3", {}, "Headers") : null,
        letter.headers.length ? facts(letter.headers) : null,
        element("h3", {}, "Body"),
        element("pre", { tabindex: "0", "aria-label": `Body of ${letter.position}` }, readable(letter.value)),
        element("p", { class: "buttons" }, watch, dismiss, again),
      ),
    );
    again.addEventListener("click", () => this.#redrive({ positions: [letter.position] }));
    dismiss.addEventListener("click", () => this.#dismiss({ positions: [letter.position] }));
    watch?.addEventListener("click", () => {
      this.#dialog.close();
      this.choose(letter.predictionId);
    });
    return item;
  }

  /** What became of it. */
  #mark(item, { done }) {
    const words = item.querySelector(".again");
    show(words, Boolean(done));
    if (done) setText(words, BECAME[done.outcome ?? done.what]);
    if (done?.position) words.title = `appended again at ${done.position}, ${dateAndTime(done.at)}`;
    show(item.querySelector(".dismiss"), !done);
    return item;
  }

  async #dismiss(choice) {
    try {
      const { data } = await request("api/dead-letters/dismiss", { method: "POST", body: JSON.stringify(choice) });
      this.#say(`${data.dismissed.toLocaleString()} dismissed.`);
      await this.#list();
    } catch (error) {
      this.#say(wordsOf(error));
    }
  }

  async #redrive(choice) {
    const before = this.#total;
    this.#say("Appending …");
    try {
      const { data } = await request("api/dead-letters/redrive", { method: "POST", body: JSON.stringify(choice) });
      const cut = choice.positions ? data.skipped : 0;
      const left = cut ? ` ${cut} of which only the beginning was kept were left out.` : "";
      const done = `${data.redriven.toLocaleString()} appended again.${left}`;
      this.#say(`${done} The same rules judge them now.`);
      await new Promise((resolve) => setTimeout(resolve, JUDGED));
      await this.#list();
      const back = this.#total - before + data.redriven;
      this.#say(`${done} ${back > 0 ? `${back.toLocaleString()} came back.` : "None of them has come back."}`);
    } catch (error) {
      this.#say(wordsOf(error));
    }
  }

  #say(text) {
    setText(byId("letters-said"), text);
  }
}

/** What became of a letter that is not open any more. */
const BECAME = {
  dismissed: "dismissed",
  waiting: "appended again",
  taken: "redriven, and taken",
  returned: "redriven, and came back",
};

const keyOf = ({ topic, position, attempt }) => `${topic} ${position} ${attempt}`;
const wordsOf = (error) => (error instanceof RequestError ? error.message : "The service cannot be reached.");
const ordinal = (number) => ({ 2: "second", 3: "third" })[number] ?? `${number}th`;

function facts(entries) {
  const pairs = (Array.isArray(entries) ? entries : Object.entries(entries)).filter(([, value]) => value !== null);
  return element("dl", { class: "facts" }, ...pairs.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

function readable(text) {
  try {
    return pretty(text);
  } catch {
    return text || "(empty)";
  }
}

/** A button that asks once before it acts. */
function sure(button, question, act) {
  const words = button.textContent;
  let timer;
  const calm = () => {
    clearTimeout(timer);
    delete button.dataset.sure;
    setText(button, words);
  };
  button.addEventListener("blur", calm);
  button.addEventListener("click", () => {
    if (button.dataset.sure) {
      calm();
      act();
      return;
    }
    button.dataset.sure = "asked";
    setText(button, question());
    timer = setTimeout(calm, SURE);
  });
}
