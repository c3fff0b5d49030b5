// Answers and refusals, all JSON.

export class Problem extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function answer(value, status = 200, headers = {}) {
  return new Response(JSON.stringify(value), { status, headers: { "content-type": "application/json", ...headers } });
}

export function problem(error) {
  if (error instanceof Problem) return answer({ error: error.message, code: error.code }, error.status);
  // Durable Objects say by two properties what their failures mean. An overloaded one must not be asked again at once.
  if (error.overloaded) return answer({ error: error.message, code: "overloaded" }, 429, { "retry-after": "1" });
  if (error.retryable) return answer({ error: error.message, code: "retry" }, 503);
  return answer({ error: String(error.message ?? error), code: "internal" }, 500);
}

export function readJson(body) {
  try {
    const value = JSON.parse(body);
    if (value !== null && typeof value === "object") return value;
  } catch {
    // Refused below, like JSON that is no object.
  }
  throw new Problem(400, "bad_json", "what is sent must be a JSON object or list");
}
