/** Requests to the service, and the token that it may ask for. */

const KEY = "tidings.token";
let waiting = null;

export const token = () => sessionStorage.getItem(KEY);

export function forgetToken() {
  sessionStorage.removeItem(KEY);
}

/** Ask the visitor for a token; the same question for all who ask at once. */
export function askForToken(reason = "") {
  waiting ??= new Promise((resolve) => {
    const dialog = document.getElementById("token-dialog");
    const form = document.getElementById("token-form");
    const problem = form.querySelector(".problem");
    problem.textContent = reason;
    problem.hidden = !reason;
    dialog.oncancel = (event) => event.preventDefault();
    form.onsubmit = (event) => {
      event.preventDefault();
      const given = form.elements.token.value.trim();
      sessionStorage.setItem(KEY, given);
      form.reset();
      dialog.close();
      waiting = null;
      resolve(given);
    };
    dialog.showModal();
  });
  return waiting;
}

export class RequestError extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.error ?? `The service answered ${status}.`);
    this.status = status;
  }
}

/** The `Response` of a request with the token. */
export async function send(path, options = {}) {
  const headers = { ...options.headers };
  const given = token();
  if (given) headers.Authorization = `Bearer ${given}`;
  if (options.body) headers["Content-Type"] = "application/json";
  return fetch(path, { ...options, headers, cache: "no-store" });
}

/** The JSON that the service answers; raises `RequestError` with what it says instead. */
export async function request(path, options) {
  const response = await send(path, options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new RequestError(response.status, answer);
  return answer;
}
