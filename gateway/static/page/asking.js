/** Questions before something is done that cannot be taken back. */

import { byId, setText } from "./dom.js";

let answer = null;

/** Ask; true: it is wanted. Closing the question, by Escape too, means no. */
export function ask(title, text, action) {
  const dialog = byId("ask-dialog");
  setText(byId("ask-title"), title);
  setText(byId("ask-text"), text);
  setText(byId("ask-yes"), action);
  answer?.(false);
  return new Promise((resolve) => {
    answer = resolve;
    dialog.showModal();
    byId("ask-no").focus();
  });
}

function close(wanted) {
  const resolve = answer;
  answer = null;
  byId("ask-dialog").close();
  resolve?.(wanted);
}

byId("ask-yes").addEventListener("click", () => close(true));
byId("ask-no").addEventListener("click", () => close(false));
byId("ask-dialog").addEventListener("close", () => byId("ask-dialog").open || close(false));
