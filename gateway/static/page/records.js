/** The predictions that the page knows: watched live, with older ones fetched when they are asked for. */

import { request } from "./service.js";

const WATCHED = 200;
const PAGE = 100;
const KEPT = 1000;

export class Records {
  #tidings;
  #changed;
  #byId = new Map();
  #watch;
  #watched;
  #single;
  #cursor;
  #wanted = "";

  /** `changed(record)` is called with each new record; a deleted one carries `deleted`. */
  constructor(tidings, changed) {
    this.#tidings = tidings;
    this.#changed = changed;
  }

  get(id) {
    return this.#byId.get(id);
  }

  /** All of them, newest first by creation. */
  all() {
    return [...this.#byId.values()].sort(
      (one, other) => other.createdAt - one.createdAt || (one.predictionId < other.predictionId ? 1 : -1),
    );
  }

  /** Whether there may be older ones than are shown. */
  get more() {
    return this.#cursor !== null;
  }

  /** Watch what these filters cover; `nobody` is the owner to fall back to where not everything may be watched. */
  async show(filters) {
    const what = filters.owner ? { owner: filters.owner } : filters.model ? { model: filters.model } : { all: true };
    const key = JSON.stringify(what);
    if (key !== this.#watched) {
      this.#watched = key;
      this.#watch?.close();
      this.#watch = this.#tidings.watch({ ...what, limit: WATCHED }, (record) => this.#take(record));
    }
    const wanted = JSON.stringify([filters.status, filters.owner, filters.model]);
    if (wanted === this.#wanted) return this.#watch;
    this.#wanted = wanted;
    this.#cursor = undefined;
    if (filters.status) await this.older(filters);
    return this.#watch;
  }

  /** Fetch the next page of what these filters cover. */
  async older(filters) {
    const wanted = this.#wanted;
    const query = new URLSearchParams({ limit: PAGE });
    for (const name of ["status", "owner", "model"]) if (filters[name]) query.set(name, filters[name]);
    if (this.#cursor) query.set("cursor", this.#cursor);
    const page = await request(`api/predictions?${query}`);
    if (wanted !== this.#wanted) return;
    this.#cursor = page.cursor;
    for (const record of page.data) this.#take(record);
  }

  /** Watch one prediction besides; resolves when it is known whether it exists. */
  async single(id) {
    if (this.#single?.id === id) return;
    this.#single?.watch.close();
    this.#single = id ? { id, watch: this.#tidings.watch(id, (record) => this.#take(record)) } : undefined;
    await this.#single?.watch.synced;
  }

  #take(record) {
    const id = record.predictionId;
    const last = this.#byId.get(id);
    if (last && last.version >= record.version && !record.deleted) return;
    if (record.deleted) this.#byId.delete(id);
    else this.#byId.set(id, record);
    if (this.#byId.size > KEPT) this.#forget();
    this.#changed(record);
  }

  #forget() {
    for (const record of this.all().slice(KEPT - PAGE)) {
      if (record.predictionId === this.#single?.id) continue;
      this.#byId.delete(record.predictionId);
      this.#changed({ predictionId: record.predictionId, deleted: true });
    }
  }
}
