/** The predictions that the page knows: a page of a list at a time, kept up to date by a watch. */

import { request } from "./service.js";

const WATCHED = 200;
const PAGE = 200;
const LARGEST = 1000; // of a page: each "show older" fetches more than the one before
const KEPT = 3000; // cards at once: beyond it the newest make way
const FRESH = 3000; // until counts are asked for again, at least

const FILTERS = ["status", "owner", "model", "text"];

export class Records {
  #tidings;
  #changed;
  #byId = new Map();
  #sorted = null;
  #watch;
  #watched;
  #single;
  #list = { wanted: null, cursor: undefined };
  #counting;
  #countAfter = 0;

  /** `changed(record)` is called with each new record; a deleted one carries `deleted`. */
  constructor(tidings, changed) {
    this.#tidings = tidings;
    this.#changed = changed;
  }

  get(id) {
    return this.#byId.get(id);
  }

  /** Those within what was fetched of the list, newest first by creation. */
  all() {
    const { floor, ceiling } = this.#list;
    this.#sorted ??= [...this.#byId.values()].sort(newestFirst).map((record) => record.predictionId);
    const records = this.#sorted.map((id) => this.#byId.get(id));
    if (!floor && !ceiling) return records;
    return records.filter((record) => !(ceiling && newestFirst(record, ceiling) < 0) && !(floor && newestFirst(record, floor) > 0));
  }

  /** Whether there are older ones; whether newer ones made way; how many were looked through for the words. */
  get more() {
    return Boolean(this.#list.cursor);
  }

  get cut() {
    return Boolean(this.#list.ceiling);
  }

  get searched() {
    return this.#list.searched;
  }

  /** How many have a prompt that no words are found in. */
  get unsearchable() {
    return this.#list.unsearchable ?? 0;
  }

  /** `{total, complete, byStatus}` of these filters but the status; null: the service cannot count them. */
  get counts() {
    return this.#list.counts ?? null;
  }

  /** List and watch what these filters cover. */
  async show(filters) {
    const wanted = JSON.stringify(FILTERS.map((name) => filters[name]));
    if (wanted === this.#list.wanted) return;
    await this.newest(filters);
  }

  /** The list from its beginning. */
  async newest(filters) {
    const wanted = JSON.stringify(FILTERS.map((name) => filters[name]));
    const list = (this.#list = { wanted, filters, cursor: undefined, size: PAGE, counts: this.#list.counts });
    this.#sorted = null;
    try {
      await this.#page(list, true);
    } finally {
      if (list === this.#list) this.#watchFor(filters);
    }
    await this.#watch?.synced;
  }

  /** Fetch more of the list; words are searched for until some are found. */
  async older() {
    const list = this.#list;
    do await this.#page(list, false);
    while (list === this.#list && list.cursor && list.filters.text && !list.found);
    if (list !== this.#list) return;
    list.size = Math.min(LARGEST, 2 * list.size);
    const shown = this.all();
    if (shown.length > KEPT) {
      list.ceiling = placeOf(shown[shown.length - KEPT]);
      this.#forget();
    }
  }

  /** Ask how many there are; `true`: they have come. */
  async count() {
    if (this.#counting || Date.now() < this.#countAfter) return false;
    const list = this.#list;
    const start = performance.now();
    this.#counting = true;
    try {
      const answer = await request(`api/predictions?${this.#query(list, { limit: 1, count: true, status: "", text: "" })}`);
      list.counts = answer.counts;
      return list === this.#list;
    } catch {
      list.counts = null;
      return false;
    } finally {
      this.#counting = false;
      // A count of many records takes a while: it may have a twentieth of the time.
      this.#countAfter = Date.now() + Math.max(FRESH, 20 * (performance.now() - start));
    }
  }

  /** Watch one prediction besides; resolves when it is known whether it exists. */
  async single(id) {
    if (this.#single?.id === id) return;
    this.#single?.watch.close();
    this.#single = id ? { id, watch: this.#tidings.watch(id, (record) => this.#take(record)) } : undefined;
    await this.#single?.watch.synced;
  }

  async #page(list, first) {
    const cursor = first ? "" : list.cursor;
    const page = await request(`api/predictions?${this.#query(list, { limit: list.size, cursor })}`);
    if (list !== this.#list) return;
    list.found = page.data.length;
    list.cursor = page.cursor;
    if (page.searched !== undefined) list.searched = (list.searched ?? 0) + page.searched;
    list.unsearchable = Math.max(list.unsearchable ?? 0, page.unsearchable ?? 0);
    // What the watch tells of beyond the last one fetched waits for its page. Words have no such place: their page may be empty.
    if (!list.filters.text) list.floor = page.cursor ? (page.data.length ? placeOf(page.data.at(-1)) : list.floor) : undefined;
    for (const record of page.data) this.#take(record);
  }

  #query(list, more) {
    return new URLSearchParams(Object.entries({ ...list.filters, ...more }).filter(([, value]) => value));
  }

  #watchFor({ owner, model }) {
    const what = owner ? { owner } : model ? { model } : { all: true };
    const key = JSON.stringify(what);
    if (key === this.#watched) return;
    this.#watched = key;
    this.#watch?.close();
    // Lists leave texts out: of what has one the watch brings it.
    const known = Object.fromEntries(this.all().filter(({ textLength }) => !textLength).map(({ predictionId, version }) => [predictionId, version]));
    this.#watch = this.#tidings.watch({ ...what, limit: WATCHED, known }, (record) => this.#take(record));
  }

  #take(record) {
    const id = record.predictionId;
    const last = this.#byId.get(id);
    if (last && last.version >= record.version && !record.deleted && !(last.version === record.version && record.text?.length > (last.text ?? "").length)) return;
    if (record.text === undefined && last?.textLength === record.textLength && last?.text) record.text = last.text;
    if (record.deleted) this.#byId.delete(id);
    else this.#byId.set(id, record);
    if (!last || record.deleted || last.createdAt !== record.createdAt) this.#sorted = null;
    if (this.#byId.size > 2 * KEPT) this.#forget();
    this.#changed(record);
  }

  /** Let go of what is not shown. */
  #forget() {
    const shown = new Set(this.all().map((record) => record.predictionId));
    for (const id of [...this.#byId.keys()]) if (!shown.has(id) && id !== this.#single?.id) this.#byId.delete(id);
    this.#sorted = null;
  }
}

const placeOf = ({ createdAt, predictionId }) => ({ createdAt, predictionId });

function newestFirst(one, other) {
  return other.createdAt - one.createdAt || (one.predictionId < other.predictionId ? 1 : one.predictionId > other.predictionId ? -1 : 0);
}
