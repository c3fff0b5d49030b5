/** The way of a prediction through the states: a bar in proportion, and each step with the time spent in it. */

import { element, setText } from "./dom.js";
import { duration, statusName, time } from "./format.js";
import { steps } from "./record.js";

export class Timeline {
  #bar = element("div", { class: "proportions", "aria-hidden": true });
  #list = element("ol", { class: "steps" });
  #shown = "";
  node = element("div", { class: "timeline" }, this.#bar, this.#list);

  update(record, now) {
    const way = steps(record, now);
    const key = JSON.stringify(record.transitions);
    if (key !== this.#shown) {
      this.#shown = key;
      this.#bar.replaceChildren(...way.map((step) => element("i", { "data-status": step.to })));
      this.#list.replaceChildren(...way.map(row));
    }
    way.forEach((step, number) => {
      const segment = this.#bar.children[number];
      segment.style.flexGrow = step.spent === null ? 0 : Math.max(1, step.spent);
      segment.classList.toggle("end", step.spent === null);
      segment.classList.toggle("running", step.running);
      const spent = this.#list.children[number].querySelector(".spent");
      setText(spent, step.running ? duration(step.spent) : lasted(step.spent));
    });
  }
}

function lasted(ms) {
  if (ms === null) return "";
  if (ms === 0) return "skipped";
  return ms < 1000 ? `${Math.round(ms)} ms` : duration(ms);
}

function row(step) {
  const from = [step.source, step.position && `at ${step.position}`, step.id].filter(Boolean).join(" · ");
  return element(
    "li",
    {},
    element("span", { class: "status", "data-status": step.to }, statusName(step.to)),
    element("time", { datetime: new Date(step.at).toISOString() }, time(step.at)),
    element("span", { class: "spent" }),
    element("span", { class: "from", title: from }, from),
  );
}
