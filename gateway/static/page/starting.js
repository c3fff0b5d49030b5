/** The form that starts a prediction. */

import { byId, element, setText, show } from "./dom.js";
import { RequestError, request } from "./service.js";

const IDEAS = [
  "a lighthouse in a storm, oil on canvas",
  "two herons and a bicycle, woodcut",
  "the last tram of the night, in the rain",
  "an orchard on the far side of the moon",
  "a library that grew out of a hill",
];

/** Offer the form for these providers; `started(record)` is called with what was begun. */
export function offerForm(providers, started) {
  const dialog = byId("start-dialog");
  const form = byId("start-form");
  const fields = form.elements;
  const problem = form.querySelector(".problem");
  fields.provider.append(...preferred(providers).map((name) => element("option", { value: name }, name)));
  show(byId("start"), true);
  byId("start").addEventListener("click", () => {
    fields.prompt.value = IDEAS[Math.floor(Math.random() * IDEAS.length)];
    show(problem, false);
    dialog.showModal();
    fields.prompt.select();
  });
  form.querySelector("[value=cancel]").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("[type=submit]");
    button.disabled = true;
    show(problem, false);
    try {
      const answer = await request("api/predictions", { method: "POST", body: JSON.stringify(wish(fields)) });
      dialog.close();
      started(answer.data);
    } catch (error) {
      setText(problem, error instanceof RequestError ? error.message : "The service cannot be reached.");
      show(problem, true);
    } finally {
      button.disabled = false;
    }
  });
}

function preferred(providers) {
  return providers.includes("replicate") ? ["replicate", ...providers.filter((name) => name !== "replicate")] : providers;
}

function wish(fields) {
  const prompt = fields.prompt.value.trim();
  const payload = { prompt };
  if (fields.duration.value) payload.duration = Number(fields.duration.value);
  const owner = fields.owner.value.trim();
  return { provider: fields.provider.value, model: fields.model.value.trim(), prompt, payload, ...(owner && { owner }) };
}
