// The Worker's door: who may enter, and which route does what. The store in Python is its only intended client,
// but every route can be used with curl (docs/howto/cloudflare.md).
import { authorized } from "./authorization.js";
import { Problem, answer, problem, readJson } from "./http.js";
import { handleKv } from "./kv.js";
import { layoutOf } from "./layout.js";
import { listPage } from "./listing.js";
import { deleteOne, getOne, putOne } from "./prediction.js";
import { placementOf } from "./placement.js";
import { checkOperations, checkQuery, checkIds } from "./validation.js";

export { Directory } from "./directory.js";
export { Shard, Single } from "./records.js";

// The version of this contract. A store and a Worker that differ in it do not work together.
const PROTOCOL = 1;

export default {
  async fetch(request, env) {
    try {
      await admit(request, env);
      return await route(request, env, await request.text());
    } catch (error) {
      // A refusal that leaves the body unread can hang the connection; it is read, but not kept.
      if (request.body && !request.bodyUsed) await request.body.pipeTo(new WritableStream());
      return problem(error);
    }
  },
};

async function admit(request, env) {
  if (!env.TIDINGS_TOKEN) {
    throw new Problem(503, "no_token", "the Worker has no token: run `wrangler secret put TIDINGS_TOKEN`");
  }
  if (!(await authorized(request, env.TIDINGS_TOKEN))) {
    throw new Problem(401, "unauthorized", "the bearer token is missing or wrong");
  }
}

async function route(request, env, body) {
  const url = new URL(request.url);
  const segments = url.pathname.slice(1).split("/");
  // What comes before /v1/ names a space: stores under one Worker that know nothing of each other.
  const space = segments.slice(0, segments.indexOf("v1")).map((segment) => `${segment}/`).join("");
  const [version, collection, ...rest] = segments.slice(segments.indexOf("v1"));
  if (version !== "v1") throw new Problem(404, "no_route", `there is no ${url.pathname}; routes are under /v1/`);
  if (collection === "kv") return handleKv(request, env, url, rest, body, space);
  const layout = layoutOf(env, space, placementOf(request.headers));
  await layout.settleOnce();
  if (collection === "predictions" && rest.length === 1 && rest[0] !== "") {
    const id = checkIds([decoded(rest[0])])[0];
    if (request.method === "GET") return getOne(layout, id);
    if (request.method === "PUT") return putOne(layout, id, request.headers, body);
    if (request.method === "DELETE") return deleteOne(layout, id, request.headers);
  }
  const handler = ROUTES[`${request.method} ${[collection, ...rest].join("/")}`];
  if (!handler) throw new Problem(404, "no_route", `there is no ${request.method} ${url.pathname}`);
  return handler(layout, env, url, body);
}

function decoded(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    throw new Problem(400, "bad_id", `${segment} is not percent-encoded UTF-8`);
  }
}

function writeBatch(layout, { ops, repeat }) {
  return layout.write(checkOperations(ops, layout.maxOperations), repeat === true);
}

const ROUTES = {
  "GET health": async (layout, env) =>
    answer({
      service: "tidings", protocol: PROTOCOL, kv: env.KV !== undefined, max_operations: layout.maxOperations,
      ...layout.placement, ...(await layout.settle()),
    }),
  "GET predictions": async (layout, env, url) => answer(await listPage(layout, checkQuery(url.searchParams))),
  "POST batch": async (layout, env, url, body) =>
    answer({ results: await writeBatch(layout, readJson(body)) }),
  "POST load": async (layout, env, url, body) => answer(await layout.load(checkIds(readJson(body).ids))),
  "POST claim": async (layout, env, url, body) => answer({ claim: await layout.claim(body) }),
  "GET positions": async (layout) => answer({ positions: await layout.positions() }),
  "POST sweep": async (layout, env, url, body) => {
    const { now, limit } = readJson(body);
    if (!Number.isInteger(now) || !Number.isInteger(limit) || limit < 0) {
      throw new Problem(400, "bad_sweep", "a sweep needs `now` (ms) and `limit`, both integers");
    }
    return answer({ removed: await layout.sweep(now, limit) });
  },
};
