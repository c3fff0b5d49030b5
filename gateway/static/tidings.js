/**
 * The browser client of Tidings: an ES module without dependencies. tidings.d.ts says what each part takes.
 *
 *     const tidings = new Tidings("https://tidings.example", { token: () => fetchToken() });
 *     tidings.watch("p1", (record) => show(record));
 *     for await (const record of tidings.watch({ owner: "ada" })) show(record);
 *     const record = await tidings.finished("p1");
 *     for await (const piece of tidings.text("p1")) show(piece);
 *     const record = await tidings.create({ provider: "replicate", model: "acme/draw", prompt: "a cat" });
 */

const TERMINAL = ["succeeded", "failed", "canceled"];
const KINDS = ["predictions", "owner", "tag", "model", "all"];
const FIRST_DELAY = 500;
const LONGEST_DELAY = 20_000;
const ANSWER_WITHIN = 15_000;
const SILENT_STREAM = 40_000; // a stream has a comment every 15 s
const SOCKET_AGAIN = 300_000; // how long a stream stands in before the WebSocket is tried again
const LINGER = 5_000; // how long an unused connection waits for the next watch
const RENEW_EARLY = 30_000;
const REMEMBERED = 5_000;
const PIECE = 300; // ids per message: the longest ones stay below the 256 KiB that one may have

export class TidingsError extends Error {
  constructor(message, code) {
    super(message);
    this.name = "TidingsError";
    this.code = code;
  }
}

class Watch {
  #waiting = new Map();
  #wake;
  #over;
  #error;
  #close;
  synced = new Promise((resolve) => (this.settle = resolve));
  closed = new Promise((resolve, reject) => (this.#close = (error) => (error ? reject(error) : resolve())));

  constructor(keys, callback, leave) {
    this.keys = keys;
    this.callback = callback;
    this.leave = leave;
    this.closed.catch(() => {}); // whoever does not ask need not hear of it
  }

  close(error) {
    if (this.#over) return;
    this.#over = true;
    this.#error = error;
    this.leave(this);
    this.#close(error);
    this.settle();
    this.#wake?.();
  }

  push(record) {
    if (this.#over) return;
    if (this.callback) {
      try {
        this.callback(record);
      } catch (error) {
        (globalThis.reportError ?? console.error)(error); // Node has no reportError
      }
    } else {
      this.#waiting.set(record.predictionId, record);
      this.#wake?.();
    }
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        for (const [id, record] of this.#waiting) {
          this.#waiting.delete(id);
          yield record;
        }
        if (this.#error) throw this.#error;
        if (this.#over) return;
        await new Promise((resolve) => (this.#wake = resolve));
      }
    } finally {
      this.close();
    }
  }
}

const triesAgain = ({ status, retries = 0, retryCount = 0, error, errorCode }) =>
  status === "failed" && retryCount < (retries.max ?? retries) &&
  (!retries.on?.length || retries.on.some((one) => `${errorCode}\n${error}`.toLowerCase().includes(one.toLowerCase())));

export class Tidings extends EventTarget {
  #base;
  #public;
  #token;
  #current; // the token in use
  #renewAt = Infinity;
  #renewal;
  #pauseAfter;
  #transport;
  #records = new Map(); // the newest of each prediction, the longest unchanged first
  #remembered = REMEMBERED;
  #topics = new Map(); // what is watched, by key
  #fresh = new Set(); // topics that are not subscribed yet
  #asked = new Map(); // topics by the ref of their subscription
  #ref = 0;
  #attempt;
  #timer;
  #hiding;
  #lost = Infinity; // when the trouble began
  #refusals = 0;
  #blocked = 0; // attempts in a row that did not get through although the service was there
  #doubt; // the last one did not get through
  #worked; // a WebSocket did
  #warned;
  #listening = new AbortController();

  state = "idle";
  transport;
  retryAt;

  constructor(url = globalThis.location?.origin, { token, pauseAfter = 30_000, transport } = {}) {
    super();
    this.#base = addressOf(url);
    const sockets = typeof WebSocket === "function";
    if (transport === "websocket" && !sockets) {
      throw new TypeError("there is no WebSocket here (Node has one from 22 on); leave transport out, and Server-Sent Events are used");
    }
    this.#token = token;
    this.#pauseAfter = pauseAfter;
    this.#transport = transport ?? (sockets ? undefined : "sse");
    const { signal } = this.#listening;
    globalThis.document?.addEventListener("visibilitychange", () => this.#look(), { signal });
    globalThis.addEventListener?.("online", () => this.#look(), { signal });
  }

  watch(what, callback) {
    const { limit = 1000, known = {}, latest = false, ...named } = typeof what === "string" ? { predictions: [what] } : what;
    const [[kind, name] = [], ...more] = Object.entries(named).filter(([, name]) => name);
    if (!KINDS.includes(kind) || more.length) {
      throw new TypeError(`watch takes an id or exactly one of ${KINDS.join(", ")}`);
    }
    if (this.state === "closed") throw new TidingsError("this client is closed; make a new one", "closed");
    const names = kind === "predictions" ? [...new Set(name)] : [name];
    const watch = new Watch([], callback, (watch) => this.#leave(watch));
    watch.latest = latest;
    this.#remembered = Math.max(this.#remembered, 2 * limit);
    for (const [predictionId, version] of Object.entries(known)) {
      if (!(this.#records.get(predictionId)?.version >= version)) this.#records.set(predictionId, { predictionId, version, bare: true });
    }
    for (const name of names) this.#follow(watch, kind, name, limit);
    queueMicrotask(() => this.#begin(watch));
    return watch;
  }

  #follow(watch, kind, name, limit) {
    const key = `${kind}:${name}`;
    if (!this.#topics.has(key)) {
      const topic = { key, kind, name, limit, watches: new Set() };
      this.#topics.set(key, topic);
      this.#fresh.add(topic);
    }
    this.#topics.get(key).watches.add(watch);
    watch.keys.push(key);
  }

  async finished(id, { signal, latest = false } = {}) {
    signal?.throwIfAborted();
    const watch = this.watch({ predictions: [id], latest });
    signal?.addEventListener("abort", () => watch.close(signal.reason));
    for await (const record of watch) {
      if (record.deleted) throw new TidingsError(`${id} was deleted`, "deleted");
      if (TERMINAL.includes(record.status) && !(latest && (record.retriedAs || triesAgain(record)))) return record;
    }
    throw new TidingsError("the client was closed", "closed");
  }

  async get(id, options) {
    return (await this.#call("GET", `/${encodeURIComponent(id)}`, options)).data;
  }

  async list({ signal, ...filters } = {}) {
    const named = Object.entries(filters).filter(([, value]) => value != null);
    const { data, cursor } = await this.#call("GET", `?${new URLSearchParams(named)}`, { signal });
    return { data, cursor };
  }

  async usage({ groupBy = [], signal, ...filters } = {}) {
    const named = Object.entries({ ...filters, groupBy: groupBy.join(",") || null }).filter(([, value]) => value != null);
    return JSON.parse(await this.#request("GET", `/api/usage?${new URLSearchParams(named)}`, undefined, undefined, signal, 1)).data;
  }

  async create(order, { idempotencyKey, signal } = {}) {
    const headers = { "Content-Type": "application/json", ...(idempotencyKey && { "Idempotency-Key": idempotencyKey }) };
    return (await this.#call("POST", "", { signal }, headers, JSON.stringify(order))).data;
  }

  async cancel(id, options) {
    const { data } = await this.#call("POST", `/${encodeURIComponent(id)}/cancel`, options);
    return data ?? this.get(id, options); // taken, and not applied in time
  }

  async retry(id, { provider, model, signal } = {}) {
    const headers = { "Content-Type": "application/json" };
    return (await this.#call("POST", `/${encodeURIComponent(id)}/retry`, { signal }, headers, JSON.stringify({ provider, model }))).data;
  }

  async answer(id, answer, { questionNumber, signal } = {}) {
    const headers = { "Content-Type": "application/json" };
    return (await this.#call("POST", `/${encodeURIComponent(id)}/answer`, { signal }, headers, JSON.stringify({ answer, questionNumber }))).data;
  }

  text(id, { signal } = {}) {
    const records = this.watch(id);
    signal?.addEventListener("abort", () => records.close(signal.reason));
    return {
      replaced: false,
      async *[Symbol.asyncIterator]() {
        let given = "";
        for await (const { deleted, status, text = "", error } of records) {
          if (deleted) throw new TidingsError(`${id} was deleted`, "deleted");
          this.replaced = !text.startsWith(given);
          const piece = this.replaced ? text : text.slice(given.length);
          given = text;
          if (piece || this.replaced) yield piece;
          if (status === "succeeded") return;
          if (TERMINAL.includes(status)) throw new TidingsError(error ?? `${id} ended ${status}`, status);
        }
      },
    };
  }

  /** Pieces are joined while a request is under way; each has a number, so a repeat is taken once. */
  writer(id) {
    const name = `${Date.now()}${Math.random()}`;
    const url = `/api/predictions/${encodeURIComponent(id)}`;
    let seq = 0, waiting = "", running = Promise.resolve(), failed;
    const send = async (end) => {
      if (failed) throw failed;
      const half = end ? undefined : /[\uD800-\uDBFF]$/.exec(waiting)?.[0];
      const body = half ? waiting.slice(0, -1) : waiting;
      if (!body && !end) return;
      waiting = half ?? "";
      const headers = { "Content-Type": "text/plain", "Producer-Id": name, "Producer-Epoch": 0, "Producer-Seq": seq++ };
      if (end) headers["Stream-Closed"] = "true";
      const post = () => this.#request("POST", `${url}/text`, headers, body);
      await post()
        .catch((error) => {
          if (error.code !== "not-found" || seq > 1) throw error;
          return this.#request("PUT", `${url}/text`, { "Content-Type": "text/plain" }).then(post);
        })
        .catch((error) => {
          throw (failed = error);
        });
    };
    const next = (work) => {
      const done = running.then(work);
      running = done.catch(() => {});
      return done;
    };
    return {
      write: (piece) => ((waiting += piece), next(() => send())),
      close: () => next(() => send(true)),
      fail: (error) => next(() => send().then(() => this.#request("PATCH", url, { "Content-Type": "application/json" }, JSON.stringify({ status: "failed", error: `${error?.message ?? error}` })))),
    };
  }

  /** From a Response, a stream of bytes, or anything that yields strings or an OpenAI-compatible API's chunks. */
  async pipe(id, source) {
    const text = this.writer(id);
    try {
      for await (const chunk of piecesOf(source.body ?? source)) await text.write(chunk);
    } catch (error) {
      await text.fail(error);
      throw error;
    }
    return text.close();
  }

  async #request(method, path, headers, body, signal, attempts = 10) {
    for (let attempt = 1; ; attempt++) {
      await this.#authorize();
      const signed = this.#current ? { ...headers, Authorization: `Bearer ${this.#current}` } : headers;
      const response = await fetch(this.#base + path, { method, headers: signed, body, signal, cache: "no-store" }).catch((error) => {
        if (attempts === 1) throw error;
      });
      if (response?.ok) {
        this.#public = response.headers.get("Tidings-Public-Url");
        return response.text();
      }
      const { status = 503 } = response ?? {};
      if (status === 401 && attempt < 3 && typeof this.#token === "function") this.#current = undefined;
      else if ((status < 500 && status !== 429) || attempt >= attempts) {
        const { detail, code } = (await response?.json().catch(() => {})) ?? {};
        throw new TidingsError(detail ?? `HTTP ${status}`, code ?? status);
      }
      await new Promise((resolve) => setTimeout(resolve, Math.min(5000, 2 ** attempt * 100)));
    }
  }

  connect() {
    if (!this.#attempt) this.#open();
  }

  close() {
    this.#listening.abort();
    clearTimeout(this.#hiding);
    for (const watch of this.#watches()) watch.close();
    this.#drop("closed");
  }

  /** Once: whether a repeat is harmless is for the caller to know. */
  async #call(method, path, { signal } = {}, headers, body) {
    const answer = JSON.parse(await this.#request(method, `/api/predictions${path}`, headers, body, signal, 1));
    for (const record of [answer.data].flat()) this.#whole(record);
    return answer;
  }

  /** A record names its archived files as the service's own. A browser reaches them as it reaches the service; on a server the address may be an inner one. */
  #whole(record) {
    for (const one of [record, record?.assets].flat()) {
      for (const name of ["imageUrl", "url"]) if (/^\/assets\//.test(one?.[name])) one[name] = ((globalThis.document ? null : this.#public) ?? this.#base) + one[name];
    }
    return record;
  }

  async #authorize() {
    if (typeof this.#token !== "function") this.#current = this.#token;
    else if (!this.#current || Date.now() >= this.#renewAt) this.#current = await this.#token();
  }

  // Watches and what they are told

  #watches(topics = [...this.#topics.values()]) {
    return new Set(topics.flatMap((topic) => [...topic.watches]));
  }

  #begin(watch) {
    for (const record of [...this.#records.values()]) {
      if (record.status && keysOf(record).some((key) => watch.keys.includes(key))) watch.push(record);
    }
    this.#settle();
    if (this.#attempt) this.#subscribe();
    else if (this.state === "idle") this.connect();
  }

  #leave(watch) {
    const left = [];
    for (const key of watch.keys) {
      const topic = this.#topics.get(key);
      topic.watches.delete(watch);
      if (topic.watches.size) continue;
      this.#topics.delete(key);
      if (!this.#fresh.delete(topic)) left.push(topic);
    }
    this.#say("unsubscribe", left);
    if (this.#topics.size || this.state === "waiting") return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#topics.size || this.#drop("idle"), LINGER);
  }

  #settle() {
    for (const watch of this.#watches()) {
      if (watch.keys.every((key) => this.#topics.get(key)?.synced)) watch.settle();
    }
  }

  #take(record) {
    const last = this.#records.get(record.predictionId);
    if (last?.version >= record.version) return;
    if (last?.text && !TERMINAL.includes(record.status) && last.textEpoch === record.textEpoch && last.textLength >= (record.textLength ?? 0)) {
      // Pieces were ahead of the record: what is there is not shortened.
      if (record.textParts || last.text.startsWith(record.text)) Object.assign(record, { text: last.text, textLength: last.textLength });
    }
    if (record.textParts && record.text === undefined) this.#fetch(record);
    else this.#tell(record, keysOf(record));
  }

  /** A long text lies beside its record. */
  async #fetch(record) {
    const text = await this.#request("GET", `/api/predictions/${encodeURIComponent(record.predictionId)}/text`, {}).catch(() => record.textTail);
    const last = this.#records.get(record.predictionId);
    if (!(last?.version >= record.version)) this.#tell({ ...record, text, textLength: bytes(text).length }, keysOf(record));
  }

  #append({ predictionId, offset, text, ...told }) {
    const last = this.#records.get(predictionId);
    const there = last?.textLength ?? 0;
    if (last?.bare) {
      // The caller said to know this version, and nobody gave us its text.
      this.#records.delete(predictionId);
      return this.#again(this.#topics.values());
    }
    if (!last?.status || offset > there) return; // the next record closes the gap
    const more = bytes(text).subarray(there - offset);
    if (more.length) this.#tell({ ...last, ...told, type: undefined, text: (last.text ?? "") + new TextDecoder().decode(more), textLength: there + more.length }, keysOf(last));
  }

  #gone(predictionId, version, reason) {
    const last = this.#records.get(predictionId);
    if (last?.deleted || last?.version > version) return;
    const keys = last?.status ? keysOf(last) : [`predictions:${predictionId}`, ...this.#topics.keys()].filter((key) => !key.startsWith("predictions:") || key.slice(12) === predictionId);
    this.#tell({ predictionId, version, deleted: true, reason }, keys);
  }

  #tell(record, keys) {
    const id = record.predictionId;
    this.#records.delete(id);
    this.#records.set(id, this.#whole(record));
    for (const oldest of this.#records.keys()) {
      if (this.#records.size <= this.#remembered) break;
      if (!this.#topics.has(`predictions:${oldest}`)) this.#records.delete(oldest);
    }
    for (const watch of this.#watches(keys.flatMap((key) => this.#topics.get(key) ?? []))) {
      watch.push(record);
      // What is tried again goes on under the id of its next attempt.
      const next = watch.latest && record.retriedAs;
      if (!next || watch.keys.includes(`predictions:${next}`)) continue;
      this.#follow(watch, "predictions", next, 1);
      queueMicrotask(() => {
        const known = this.#records.get(next);
        if (known?.status) watch.push(known);
        if (this.#attempt) this.#subscribe();
      });
    }
  }

  // The connection

  async #open() {
    clearTimeout(this.#timer);
    if (!this.#topics.size) return this.#become("idle");
    const attempt = (this.#attempt = { say() {}, close() {} });
    this.#become("connecting");
    try {
      await this.#authorize();
      if (attempt !== this.#attempt) return;
      this.#fresh = new Set(this.#topics.values());
      this.#asked.clear();
      this.#heard(attempt, ANSWER_WITHIN, true);
      // Few networks block WebSockets, and many services restart: a WebSocket counts as blocked only if plain HTTP
      // has just come through. Then the two ways are tried in turn.
      if (this.#doubt && !this.#transport) {
        attempt.through = await fetch(`${this.#base}/healthz`, { cache: "no-store" }).then(({ status }) => status < 500, () => false);
        if (attempt !== this.#attempt) return;
      }
      const streams = this.#blocked % 2 && this.#blocked > (this.#worked ? 2 : 0);
      attempt.kind = this.#transport ?? (streams ? "sse" : "websocket");
      if (attempt.kind === "sse") this.#stream(attempt);
      else this.#socket(attempt);
    } catch (error) {
      this.#ended(attempt, 1006, error.message);
    }
  }

  #socket(attempt) {
    const socket = new WebSocket(`${this.#base.replace("http", "ws")}/api/ws`, "tidings.v1");
    attempt.say = (message) => socket.readyState === 1 && socket.send(JSON.stringify(message));
    attempt.close = () => socket.close(1000);
    socket.onopen = () => this.#current && attempt.say({ type: "auth", token: this.#current });
    socket.onmessage = ({ data }) => {
      if (attempt !== this.#attempt) return;
      const message = JSON.parse(data);
      this.#receive(attempt, message);
      this.#heard(attempt, attempt.heartbeat);
    };
    socket.onclose = ({ code, reason }) => this.#ended(attempt, code, reason);
  }

  /** Whatever is watched comes on one stream: a browser has six connections to a host, and the page needs some. */
  async #stream(attempt) {
    const abort = new AbortController();
    const asked = [];
    attempt.close = () => abort.abort();
    attempt.say = (message) => asked.push(message);
    this.#fresh.clear();
    this.#say("subscribe", [...this.#topics.values()]);
    attempt.say = () => {};
    try {
      await this.#read(attempt, abort.signal, JSON.stringify(asked));
      this.#ended(attempt, 1006, "the stream ended");
    } catch (error) {
      this.#ended(attempt, error.code, error.message, error.after);
    }
  }

  async #read(attempt, signal, body) {
    const headers = { "Content-Type": "application/json" };
    if (this.#current) headers.Authorization = `Bearer ${this.#current}`;
    const response = await fetch(`${this.#base}/api/events`, { method: "POST", headers, body, signal, cache: "no-store" });
    if (!response.ok) {
      const { status } = response;
      const problem = await response.json().catch(() => ({}));
      const error = new TidingsError(problem.detail ?? `HTTP ${status}`, status === 401 ? 4102 : 1006);
      if (status === 429 || status > 499) throw Object.assign(error, { after: response.headers.get("Retry-After") * 1000 || undefined });
      if (status === 401) throw error;
      return this.#refuse(problem.code, error.message, this.#topics.values());
    }
    this.#public = response.headers.get("Tidings-Public-Url");
    this.#welcome(attempt);
    attempt.again ??= setTimeout(() => {
      if (this.#transport) return;
      this.#worked = false;
      this.#blocked++;
      this.#drop();
      this.#open();
    }, this.#worked ? LINGER : SOCKET_AGAIN);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ; ) {
      this.#heard(attempt, SILENT_STREAM, true);
      const { done, value } = await reader.read();
      if (done || attempt !== this.#attempt) return;
      const events = (text + value).split("\n\n");
      text = events.pop();
      for (const event of events) {
        const data = event.replace(/^(?!data:).*$/gm, "").replace(/^data:/gm, "");
        attempt.after = /^retry: *(\d+)/m.exec(event)?.[1];
        if (data.trim()) this.#receive(attempt, JSON.parse(data));
      }
    }
  }

  #receive(attempt, message) {
    const record = message.prediction;
    const topics = this.#asked.get(message.ref) ?? [];
    switch (message.type) {
      case "welcome":
        attempt.heartbeat = message.heartbeat;
        this.#public = message.publicUrl;
        if (message.anonymous && this.#current && !this.#warned) {
          this.#warned = true;
          console.warn(`${this.#base} has no authentication: everybody may do everything there, and the token is not looked at`);
        }
        this.#worked = true;
        this.#blocked = 0;
        this.#doubt = false;
        this.#welcome(attempt);
        return this.#subscribe();
      case "append":
        return this.#append(message);
      case "deleted":
        return this.#gone(message.predictionId, message.version, message.reason);
      case "unknown": {
        const { predictionId } = message; // on a WebSocket it may come behind the first change
        const last = attempt.kind === "sse" && this.#records.get(predictionId);
        return last && this.#gone(predictionId, last.version);
      }
      case "synced":
        this.#lost = Infinity;
        return this.#synced(topics);
      case "bye":
        return (attempt.after = message.retryAfter);
      case "error":
        return message.ref == null ? this.#again(this.#topics.values()) : this.#refuse(message.code, message.message, topics);
    }
    if (record) this.#take(record);
  }

  #welcome(attempt) {
    attempt.welcomed = true;
    this.#refusals = 0;
    this.#renew();
    this.#become("open", attempt.kind);
  }

  #synced(topics) {
    for (const topic of topics) topic.synced = true;
    this.#settle();
  }

  #refuse(code, message, topics) {
    if (code === "unsupported") this.#synced(topics); // it stands, without what there was before
    else if (code === "unavailable") setTimeout(() => this.#again(topics), LINGER * Math.random());
    else this.#fail(new TidingsError(message, code), topics);
  }

  #again(topics) {
    for (const topic of topics) if (this.#topics.get(topic.key) === topic) this.#fresh.add(topic);
    this.#subscribe();
  }

  #subscribe() {
    if (!this.#attempt?.welcomed || !this.#fresh.size) return;
    const topics = [...this.#fresh];
    this.#fresh.clear();
    if (this.#attempt.kind === "websocket") return this.#say("subscribe", topics);
    this.#drop(); // a stream cannot be added to
    this.#open();
  }

  #say(type, topics) {
    const named = topics.filter(({ kind }) => kind === "predictions");
    for (let at = 0; at < named.length; at += PIECE) {
      const some = named.slice(at, at + PIECE);
      const names = some.map(({ name }) => name);
      this.#ask(type, some, { predictions: names }, names.map((name) => this.#records.get(name)));
    }
    for (const topic of topics) {
      if (named.includes(topic)) continue;
      const known = [...this.#records.values()].filter((record) => record.bare || keysOf(record).includes(topic.key));
      if (type !== "subscribe") known.length = 0;
      // The last message asks for what is new besides.
      while (known.length > PIECE) this.#ask(type, [], { [topic.kind]: topic.name, limit: 0 }, known.splice(0, PIECE));
      this.#ask(type, [topic], { [topic.kind]: topic.name, limit: topic.limit }, known);
    }
  }

  #ask(type, topics, request, records) {
    const known = {};
    for (const record of records) if (record && !record.deleted) known[record.predictionId] = record.version;
    this.#asked.set(++this.#ref, topics);
    this.#attempt?.say({ type, ref: this.#ref, ...request, known, ...(type === "subscribe" && { text: "append" }) });
  }

  // Silence, ends and returns

  #heard(attempt, wait, last) {
    clearTimeout(attempt.watchdog);
    if (attempt !== this.#attempt) return;
    attempt.watchdog = setTimeout(() => {
      if (last) return this.#ended(attempt, 1006, "nothing was heard");
      attempt.say({ type: "ping" });
      this.#heard(attempt, ANSWER_WITHIN, true);
    }, wait);
  }

  #drop(state) {
    const attempt = this.#attempt;
    this.#attempt = undefined;
    for (const timer of [this.#timer, this.#renewal, attempt?.watchdog, attempt?.again]) clearTimeout(timer);
    attempt?.close();
    for (const topic of this.#topics.values()) topic.synced = false;
    if (state) this.#become(state);
  }

  #ended(attempt, code = 1006, reason = "", after = attempt.after) {
    if (attempt !== this.#attempt) return;
    this.#drop();
    let wait = after ?? Math.random() * Math.min(LONGEST_DELAY, Math.max(FIRST_DELAY, Date.now() - this.#lost));
    if (code === 4101 || code === 4102) {
      this.#current = undefined;
      if (typeof this.#token !== "function" || ++this.#refusals > 3) {
        return this.#fail(new TidingsError(reason || "the service asks for a token", "unauthorized"));
      }
      if (this.#refusals < 2) wait = 0;
    } else if (code === 1009 || (code > 4099 && code < 4200)) {
      return this.#fail(new TidingsError(reason || `closed with ${code}`, code));
    } else this.#lost = Math.min(this.#lost, Date.now());
    if (!attempt.welcomed && code === 1006) {
      this.#doubt = true;
      if (attempt.through) this.#blocked++;
    }
    if (!this.#topics.size) return this.#become("idle");
    this.#become("waiting", undefined, Date.now() + +wait);
    this.#timer = setTimeout(() => this.#open(), wait);
  }

  #fail(error, topics = [...this.#topics.values()]) {
    for (const watch of this.#watches(topics)) watch.close(error);
    if (!this.#attempt) this.#become("idle");
    this.dispatchEvent(new CustomEvent("error", { detail: error }));
  }

  #renew() {
    clearTimeout(this.#renewal);
    const expiry = expiryOf(this.#current);
    const left = expiry - Date.now();
    this.#renewAt = expiry - Math.min(RENEW_EARLY, left / 10);
    // If it seems to be over, although the service has just taken it, the clock here is wrong.
    if (typeof this.#token !== "function" || left === Infinity || left < 0) return;
    this.#renewal = setTimeout(async () => {
      const attempt = this.#attempt;
      let token;
      try {
        if (Date.now() >= this.#renewAt) token = await this.#token();
      } catch {
        return; // the service says when it is too late
      }
      if (attempt !== this.#attempt || token === this.#current) return;
      if (token) attempt.say({ type: "auth", token: (this.#current = token) });
      this.#renew();
    }, Math.min(2e9, this.#renewAt - Date.now()));
  }

  /** The page was hidden or shown, or the network is back. */
  #look() {
    clearTimeout(this.#hiding);
    if (globalThis.document?.hidden) {
      this.#hiding = setTimeout(() => this.#topics.size && this.#drop("paused"), Math.min(2e9, this.#pauseAfter));
    } else if (!this.#attempt) this.connect();
    else if (this.#attempt.heartbeat) this.#heard(this.#attempt, 0); // does it still stand?
  }

  #become(state, transport, retryAt) {
    if (this.state === "closed") return;
    Object.assign(this, { state, transport, retryAt });
    this.dispatchEvent(new CustomEvent("state", { detail: { state, transport, retryAt } }));
  }
}

const bytes = (text) => new TextEncoder().encode(text);

async function* piecesOf(source) {
  const decoder = new TextDecoder();
  const reader = source.getReader?.();
  const chunks = reader ? { [Symbol.asyncIterator]: () => ({ next: () => reader.read(), return: () => reader.cancel() }) } : source;
  for await (const chunk of chunks) {
    const piece = chunk instanceof Uint8Array ? decoder.decode(chunk, { stream: true }) : typeof chunk === "string" ? chunk : chunk.choices ? chunk.choices[0]?.delta?.content : chunk.delta;
    if (typeof piece === "string" && piece) yield piece;
  }
}

function addressOf(url) {
  try {
    const { href, protocol } = new URL(url ?? "", globalThis.location?.href);
    if (/^https?:$/.test(protocol)) return href.replace(/\/+$/, "");
  } catch {
    // Outside of a page there is nothing that a path could be relative to.
  }
  throw new TypeError(`new Tidings takes the address of a service, such as https://tidings.example, not ${url}`);
}

function keysOf({ predictionId, owner, model, tags = [] }) {
  const keys = ["all:true", `predictions:${predictionId}`, ...tags.map((tag) => `tag:${tag}`)];
  if (owner) keys.push(`owner:${owner}`);
  if (model) keys.push(`model:${model}`);
  return keys;
}

/** When a JWT ends, in ms; Infinity if it does not say. */
function expiryOf(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))).exp * 1000 || Infinity;
  } catch {
    return Infinity;
  }
}
