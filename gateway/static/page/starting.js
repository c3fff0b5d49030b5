/** The form that starts a prediction. */

import { byId, element, setText, show } from "./dom.js";
import { RequestError, request } from "./service.js";

const DEMO = "tidings-demo/";
/** The demo's writer gives the same answer to every prompt, so its pictures are offered before it. */
const WRITER = `${DEMO}writer`;
const IDEAS = [
  "a lighthouse in a storm, oil on canvas",
  "two herons and a bicycle, woodcut",
  "the last tram of the night, in the rain",
  "an orchard on the far side of the moon",
  "a library that grew out of a hill",
];

/**
 * Offer the form for these providers.
 *
 * `recent()` gives the records on the page: the model used last is offered again, and the stand-in of `tidings demo`,
 * which is known by its model, gets sample values. `started(record)` is called with what was begun.
 */
export function offerForm(providers, recent, started) {
  const dialog = byId("start-dialog");
  const form = byId("start-form");
  const fields = form.elements;
  const problem = form.querySelector(".problem");
  fields.provider.append(...preferred(providers).map((name) => element("option", { value: name }, name)));
  const suggest = () => {
    const models = recent().filter((record) => record.provider === fields.provider.value && record.model).map((record) => record.model);
    fields.model.value = models.find((model) => model !== WRITER) ?? models[0] ?? "";
    const demo = fields.model.value.startsWith(DEMO);
    show(byId("start-duration"), demo);
    show(byId("start-input"), !demo);
    return demo;
  };
  show(byId("start"), true);
  byId("start").addEventListener("click", () => {
    if (suggest()) fields.prompt.value = IDEAS[Math.floor(Math.random() * IDEAS.length)];
    show(problem, false);
    dialog.showModal();
    fields.prompt.select();
  });
  fields.provider.addEventListener("change", suggest);
  form.querySelector("[value=cancel]").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("[type=submit]");
    button.disabled = true;
    show(problem, false);
    try {
      const answer = await request("api/predictions", { method: "POST", body: JSON.stringify(order(fields)) });
      dialog.close();
      fields.prompt.value = "";
      started(answer.data);
    } catch (error) {
      setText(problem, error instanceof RequestError || error instanceof InputError ? error.message : "The service cannot be reached.");
      show(problem, true);
    } finally {
      button.disabled = false;
    }
  });
}

class InputError extends Error {}

function preferred(providers) {
  return providers.includes("replicate") ? ["replicate", ...providers.filter((name) => name !== "replicate")] : providers;
}

function order(fields) {
  const prompt = fields.prompt.value.trim();
  const payload = { prompt, ...input(byId("start-input").hidden ? "" : fields.input.value) };
  if (!byId("start-duration").hidden && fields.duration.value) payload.duration = Number(fields.duration.value);
  const owner = fields.owner.value.trim();
  return { provider: fields.provider.value, model: fields.model.value.trim(), prompt, payload, ...(owner && { owner }) };
}

function input(text) {
  if (!text.trim()) return {};
  try {
    const value = JSON.parse(text);
    if (value && typeof value === "object" && !Array.isArray(value)) return value;
  } catch {
    // said below
  }
  throw new InputError('More input must be a JSON object, such as {"seed": 7}.');
}
