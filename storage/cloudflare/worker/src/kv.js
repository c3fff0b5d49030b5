// The KV namespace bound to this Worker, in the shapes of Cloudflare's REST API: a client speaks one language to
// both, and here it is not under that API's limit of 1,200 requests in five minutes.
import { answer, Problem, readJson } from "./http.js";

// A Worker may make 1,000 calls for one request; a bulk write costs one for each pair.
const MAX_PAIRS = 500;
const MAX_READ = 100;
// Calls under way at once: a Worker may have six connections open.
const AT_ONCE = 6;

export async function handleKv(request, env, url, path, body, space) {
  if (!env.KV) throw new Problem(503, "no_kv", "the Worker has no KV namespace: bind one as KV in wrangler.jsonc");
  const handler = ROUTES[`${request.method} ${path.join("/")}`];
  if (!handler) throw new Problem(404, "no_route", `there is no ${request.method} ${url.pathname}`);
  return answer({ success: true, errors: [], messages: [], ...(await handler(env.KV, url.searchParams, body, space)) });
}

const ROUTES = {
  "GET keys": async (kv, params, body, space) => {
    const { keys, list_complete: complete, cursor } = await kv.list({
      prefix: space + (params.get("prefix") ?? ""),
      cursor: params.get("cursor") || undefined,
      limit: Number(params.get("limit") ?? 1000),
    });
    for (const key of keys) key.name = key.name.slice(space.length);
    return { result: keys, result_info: { count: keys.length, cursor: complete ? "" : cursor } };
  },
  "POST bulk/get": async (kv, params, body, space) => {
    const { keys, withMetadata } = readJson(body);
    const names = limited(keys, MAX_READ).map((key) => space + key);
    const found = names.length === 0 ? new Map() : await (withMetadata ? kv.getWithMetadata(names) : kv.get(names));
    return { result: { values: Object.fromEntries(keys.map((key) => [key, found.get(space + key)])) } };
  },
  "PUT bulk": async (kv, params, body, space) => {
    const pairs = limited(readJson(body), MAX_PAIRS);
    return each(pairs, ({ key, value, expiration, expiration_ttl: expirationTtl, metadata }) =>
      kv.put(space + key, value, { expiration, expirationTtl, metadata }), ({ key }) => key);
  },
  "POST bulk/delete": async (kv, params, body, space) =>
    each(limited(readJson(body), MAX_PAIRS), (key) => kv.delete(space + key), (key) => key),
};

function limited(list, most) {
  if (!Array.isArray(list) || list.length > most) throw new Problem(400, "bad_bulk", `a list of at most ${most}`);
  return list;
}

// Each failure is named, so that the client repeats those alone; the reasons (429 above all) come along once.
async function each(items, act, keyOf) {
  const failed = [];
  const reasons = new Set();
  let next = 0;
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, items.length) }, async () => {
    while (next < items.length) {
      const item = items[next++];
      try {
        await act(item);
      } catch (error) {
        failed.push(keyOf(item));
        reasons.add(String(error.message ?? error));
      }
    }
  }));
  return {
    messages: [...reasons].map((message) => ({ message })),
    result: { successful_key_count: items.length - failed.length, unsuccessful_keys: failed },
  };
}
