/** What a prediction asks a person: the question with a form, then the answer that counted. */

import { element, setText, show } from "./dom.js";
import { dateAndTime } from "./format.js";
import { blobOf } from "./record.js";
import { RequestError, request } from "./service.js";

const LOST = "The service cannot be reached. Try again when it is back.";

export class Question {
  #record = null;
  #shown = "";
  #question = null;
  text = element("p", { class: "question" });
  choices = element("div", { class: "choices", role: "group", "aria-label": "Answers" });
  field = element("textarea", { rows: "3", "aria-label": "Your answer", required: true });
  send = element("button", { type: "submit", class: "primary" }, "Answer");
  form = element("form", {}, this.field, this.send);
  said = element("p", { class: "said" });
  problem = element("p", { class: "problem", role: "alert", hidden: true });
  node = element("section", { class: "asks", hidden: true }, element("h3", {}, "Question"), this.text, this.choices, this.form, this.said, this.problem);

  constructor() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#answer(this.#typed());
    });
  }

  update(record) {
    const asked = record?.question !== undefined;
    show(this.node, asked);
    const before = this.#record;
    this.#record = record;
    if (!asked) return;
    const key = `${record.predictionId} ${record.questionNumber}`;
    if (key !== this.#shown) {
      this.#shown = key;
      this.#begin(record);
    }
    const waits = Boolean(record.waiting);
    if (waits !== Boolean(before?.waiting)) this.#busy(false);
    if (!waits) show(this.problem, false);
    show(this.choices, waits && Boolean(this.#question?.choices));
    show(this.form, waits && Boolean(this.#question) && !this.#question.choices);
    show(this.said, !waits);
    setText(this.said, waits ? "" : outcome(record));
  }

  async #begin(record) {
    this.field.value = "";
    show(this.problem, false);
    const blob = blobOf(record.question);
    this.#question = null;
    if (!blob) return this.#show(record.question);
    setText(this.text, "…");
    try {
      const path = `api/predictions/${encodeURIComponent(record.predictionId)}/blobs/${blob.hash}`;
      const question = await request(path);
      if (this.#record?.questionNumber !== record.questionNumber || this.#record.predictionId !== record.predictionId) return;
      this.#show(question);
      this.update(this.#record);
    } catch (error) {
      this.#wrong(error);
    }
  }

  #show(question) {
    this.#question = typeof question === "string" ? { text: question } : question;
    const { text, choices, refused, calls } = this.#question;
    setText(this.text, [refused && `Your last answer was refused: ${refused}`, text, calls && JSON.stringify(calls, null, 2)].filter(Boolean).join("\n\n"));
    this.choices.replaceChildren(
      ...(choices ?? []).map((choice) => {
        const button = element("button", { type: "button" }, typeof choice === "string" ? choice : JSON.stringify(choice));
        button.addEventListener("click", () => this.#answer(choice));
        return button;
      }),
    );
  }

  /** The result of a call is JSON if it can be read so; any other answer is a text. */
  #typed() {
    const text = this.field.value;
    if (!this.#question?.calls) return text;
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }

  async #answer(answer) {
    const { predictionId, questionNumber } = this.#record;
    const shown = this.#shown;
    this.#busy(true);
    show(this.problem, false);
    try {
      await request(`api/predictions/${encodeURIComponent(predictionId)}/answer`, { method: "POST", body: JSON.stringify({ answer, questionNumber }) });
    } catch (error) {
      if (shown === this.#shown && this.#record?.waiting) this.#wrong(error);
    }
  }

  #wrong(error) {
    this.#busy(false);
    setText(this.problem, error instanceof RequestError ? error.message : LOST);
    show(this.problem, true);
  }

  #busy(busy) {
    for (const one of [this.send, this.field, ...this.choices.children]) one.disabled = busy;
  }
}

/** What became of a question that waits no more. */
function outcome({ answer, answeredAt, answeredBy }) {
  if (answeredAt === undefined) return "Nobody answered, and no answer is needed any more.";
  const said = blobOf(answer) ? "a long text" : typeof answer === "string" ? answer : JSON.stringify(answer);
  return `${answeredBy ? `${answeredBy} answered` : "Answered"} on ${dateAndTime(answeredAt)}: ${said}`;
}
