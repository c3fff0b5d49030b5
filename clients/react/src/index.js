"use client";
/** React hooks of Tidings. index.d.ts says what each takes. */

import { Tidings } from "@tidings/client";
import { createContext, createElement, useCallback, useContext, useEffect, useMemo, useRef, useSyncExternalStore } from "react";

const LINGER = 1_000; // ms that a watch outlives its last component: the next page may want it
const FRAME = 16; // ms between two lists that components are shown
const LIMIT = 1_000;
const NOTHING = { loading: false };

/** The client of a provider. It is made with its first use, so what React renders twice makes one. */
class Connection {
  stores = new Map();
  #client;
  #users = 0;
  #closing;

  constructor(open, own) {
    this.open = open;
    this.own = own;
  }

  get client() {
    return (this.#client ??= this.open());
  }

  /** Until the function that it returns is called, and a moment longer. */
  hold() {
    this.#users++;
    clearTimeout(this.#closing);
    return () => {
      if (--this.#users || !this.own) return;
      this.#closing = setTimeout(() => {
        this.#client?.close();
        this.#client = undefined;
      }, LINGER);
    };
  }

  store(key, make) {
    if (!this.stores.has(key)) this.stores.set(key, make(this, key));
    return this.stores.get(key);
  }
}

/** What a component sees: it changes by being replaced, and only after a change. */
class Store {
  #listeners = new Set();
  #release;
  #closing;

  constructor(connection, key, state) {
    this.connection = connection;
    this.key = key;
    this.state = state;
    this.#linger(); // a render that React throws away never subscribes
  }

  subscribe(listener) {
    this.#listeners.add(listener);
    clearTimeout(this.#closing);
    this.connection.stores.set(this.key, this);
    if (!this.#release) this.#open();
    return () => {
      this.#listeners.delete(listener);
      if (!this.#listeners.size) this.#linger();
    };
  }

  #open() {
    const letGo = this.connection.hold();
    let watch;
    this.#release = () => {
      watch?.close();
      letGo();
    };
    try {
      watch = this.watch(this.connection.client);
      watch.synced?.then(() => this.become({ loading: false }));
      watch.closed.catch((error) => this.become({ error, loading: false }));
    } catch (error) {
      queueMicrotask(() => this.become({ error, loading: false }));
    }
  }

  #linger() {
    clearTimeout(this.#closing);
    this.#closing = setTimeout(() => {
      if (this.#listeners.size) return;
      if (this.connection.stores.get(this.key) === this) this.connection.stores.delete(this.key);
      this.#release?.();
      this.#release = undefined;
    }, LINGER);
  }

  become(changes) {
    if (Object.entries(changes).every(([name, value]) => this.state[name] === value)) return;
    this.state = { ...this.state, ...changes };
    for (const listener of this.#listeners) listener();
  }
}

class OnePrediction extends Store {
  constructor(connection, key, id, state) {
    super(connection, key, state);
    this.id = id;
  }

  watch(client) {
    const { prediction } = this.state;
    const known = prediction && { [this.id]: prediction.version };
    return client.watch({ predictions: [this.id], known }, (record) => {
      if (record.deleted) this.become({ prediction: undefined, deleted: true, loading: false });
      else this.become({ prediction: record, deleted: false, loading: false });
    });
  }
}

class OneText extends Store {
  constructor(connection, key, id, state) {
    super(connection, key, state);
    this.id = id;
  }

  watch(client) {
    const over = new AbortController();
    const pieces = client.text(this.id, { signal: over.signal });
    const read = async () => {
      let text = "";
      for await (const piece of pieces) {
        text = pieces.replaced ? piece : text + piece;
        this.become({ text, loading: false });
      }
      this.become({ done: true, loading: false });
    };
    const closed = read().catch((error) => {
      if (!over.signal.aborted) throw error;
    });
    return { closed, close: () => over.abort() };
  }
}

class ManyPredictions extends Store {
  #records;
  #due;

  constructor(connection, key, selection, state) {
    super(connection, key, state);
    this.selection = selection;
    this.#records = byId(state.predictions);
  }

  watch(client) {
    const known = Object.fromEntries([...this.#records].map(([id, { version }]) => [id, version]));
    const watch = client.watch({ ...this.selection, known }, (record) => {
      if (record.deleted) this.#records.delete(record.predictionId);
      else this.#records.set(record.predictionId, record);
      if (!this.state.loading) this.#due ??= setTimeout(() => this.#show(), FRAME);
    });
    watch.synced.then(() => this.#show());
    return watch;
  }

  #show() {
    clearTimeout(this.#due);
    this.#due = undefined;
    const predictions = newestFirst([...this.#records.values()], this.selection.limit);
    if (this.#records.size > predictions.length) this.#records = byId(predictions);
    this.become({ predictions, loading: false });
  }
}

function byId(records) {
  return new Map(records.map((record) => [record.predictionId, record]));
}

function newestFirst(records, limit = LIMIT) {
  records.sort((a, b) => b.createdAt - a.createdAt || (a.predictionId < b.predictionId ? -1 : 1));
  return records.slice(0, limit);
}

// ---- the provider ----

// The service that the page came from. A server renders handlers too, and calls none of them.
const page = new Connection(() => open(), false);
const Context = createContext({ connection: page, snapshot: [] });

function open(url = globalThis.location?.origin ?? "http://localhost", options) {
  return new Tidings(url, options);
}

export function TidingsProvider({ client, url, token, pauseAfter, transport, snapshot, children }) {
  const newest = useRef(token);
  useEffect(() => {
    newest.current = token;
  });
  const connection = useMemo(() => {
    if (client) return new Connection(() => client, false);
    const bring = () => (typeof newest.current === "function" ? newest.current() : newest.current);
    const options = { token: token == null ? undefined : bring, pauseAfter, transport };
    return new Connection(() => open(url, options), true);
  }, [client, url, token == null, pauseAfter, transport]);
  useEffect(() => connection.hold(), [connection]);
  const value = useMemo(() => ({ connection, snapshot: snapshot ?? [] }), [connection, snapshot]);
  return createElement(Context.Provider, { value }, children);
}

export function useTidings() {
  return useContext(Context).connection.client;
}

// ---- the hooks ----

function useStore(key, first, make) {
  const { connection } = useContext(Context);
  const store = useCallback(() => key && connection.store(key, make), [connection, key]);
  return useSyncExternalStore(
    useCallback((listener) => store()?.subscribe(listener) ?? (() => {}), [store]),
    () => store()?.state ?? NOTHING,
    () => (key ? first : NOTHING),
  );
}

export function usePrediction(id, { initial } = {}) {
  const { snapshot } = useContext(Context);
  const first = useMemo(() => {
    const prediction = initial ?? snapshot.find(({ predictionId }) => predictionId === id);
    return { prediction, deleted: false, loading: !prediction, error: undefined };
  }, [id]);
  return useStore(id && `prediction:${id}`, first, (connection, key) => new OnePrediction(connection, key, id, first));
}

export function useText(id, { initial = "" } = {}) {
  const first = useMemo(() => ({ text: initial, done: false, loading: true, error: undefined }), [id]);
  const state = useStore(id && `text:${id}`, first, (connection, key) => new OneText(connection, key, id, first));
  return state === NOTHING ? NO_TEXT : state;
}

export function usePredictions(selection, { initial } = {}) {
  const { snapshot } = useContext(Context);
  const { limit, ...named } = selection ?? {};
  if (named.predictions) named.predictions = [...named.predictions];
  const key = selection && JSON.stringify({ ...named, limit });
  const first = useMemo(() => {
    const predictions = newestFirst(initial ? [...initial] : snapshot.filter((record) => covers(named, record)), limit);
    return { predictions, loading: !predictions.length, error: undefined };
  }, [key]);
  const state = useStore(key && `many:${key}`, first, (connection, key) => new ManyPredictions(connection, key, { ...named, limit }, first));
  return state === NOTHING ? NONE : state;
}

const NONE = { predictions: [], loading: false };
const NO_TEXT = { text: "", done: false, loading: false };

function covers({ predictions, owner, tag, model, all }, record) {
  return all || predictions?.includes(record.predictionId) || record.owner === (owner ?? NaN) || record.model === (model ?? NaN) || Boolean(tag && record.tags?.includes(tag));
}
