/** Ending a prediction: asking its provider to stop, or if nobody can be asked, noting it as canceled. */

import { ask } from "./asking.js";
import { element, setText, show } from "./dom.js";
import { ended } from "./record.js";
import { RequestError, request } from "./service.js";

export class Canceling {
  #record = null;
  #submits = new Set();
  button = element("button", { type: "button", class: "quiet danger" }, "Cancel");
  problem = element("p", { class: "problem", role: "alert", hidden: true });

  constructor() {
    this.button.addEventListener("click", () => this.#cancel());
  }

  /** The providers that this service calls. */
  set submits(names) {
    this.#submits = new Set(names);
  }

  update(record) {
    if (record?.predictionId !== this.#record?.predictionId) show(this.problem, false);
    this.#record = record;
    show(this.button, Boolean(record) && !ended(record));
    if (!record) return;
    const asked = Boolean(record.cancelRequestedAt);
    const waits = asked && this.#asksProvider(record);
    this.button.disabled = waits;
    setText(this.button, waits ? "Cancel requested" : this.#asksProvider(record) ? "Cancel" : "Mark canceled");
  }

  /** Whether its provider is called from here: then it can be asked to stop. */
  #asksProvider({ provider, providerId, attempt }) {
    return this.#submits.has(provider) ? Boolean(providerId || attempt) : Boolean(attempt);
  }

  async #cancel() {
    const record = this.#record;
    const { predictionId, provider, providerId } = record;
    const path = `api/predictions/${encodeURIComponent(predictionId)}`;
    const calls = this.#asksProvider(record);
    const wanted = calls
      ? await ask("Cancel this prediction?", `${provider} is asked to stop it. It is canceled when ${provider} says so, and what was made until then may be charged.`, "Cancel it")
      : await ask("Mark this prediction as canceled?", "No provider can be asked from here: whatever works on it goes on. A success that is reported later changes nothing, and goes to the dead letters.", "Mark canceled");
    if (!wanted || record.predictionId !== this.#record?.predictionId) return;
    this.button.disabled = true;
    show(this.problem, false);
    try {
      // With an id at the provider a cancel would wait for an answer that nobody fetches.
      if (calls || !providerId) await request(`${path}/cancel`, { method: "POST" });
      else await request(path, { method: "PATCH", body: JSON.stringify({ status: "canceled" }) });
    } catch (error) {
      if (predictionId !== this.#record?.predictionId) return;
      this.button.disabled = false;
      setText(this.problem, error instanceof RequestError ? error.message : "The service cannot be reached. Try again when it is back.");
      show(this.problem, true);
    }
  }
}
