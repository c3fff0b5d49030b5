/** The health of the service: figures from /api/stats as small charts, and the parts with what is in the way of each. */

import { byId, drawing, element, setText, show } from "./dom.js";
import { figure } from "./format.js";
import { send } from "./service.js";

const EVERY = 2000;
const SAMPLES = 90;
const FIRST = 30; // samples that a chart is wide at first, so that a new one says something soon
const WIDTH = 90;
const HEIGHT = 22;
const LATE = 10; // seconds behind from which it shows

const sum = (counts) => Object.values(counts ?? {}).reduce((total, count) => total + count, 0);
const rate = (now, before, seconds) => (now === undefined ? undefined : Math.max(0, now - before) / seconds);

const letters = (now) => now.processor && sum(now.processor.deadLetters);

/** What is shown: a name, its unit, what it means, its figure out of two readings `s` seconds apart, and whether it is alarming. */
const TILES = [
  ["Events", "/s", "read from the log", (now, last, s) => rate(now.processor?.records, last.processor?.records, s)],
  ["Changes", "/s", "announced to clients", (now, last, s) => rate(now.gateway.changes, last.gateway.changes, s)],
  ["Lag", "", "events that wait in the log", (now) => now.lag?.events?.records, (now) => now.lag.events.seconds > LATE],
  ["Unread", "", "changes that this gateway has still to read", (now) => (now.processor ? undefined : now.lag?.changes?.records), (now) => now.lag.changes.seconds > LATE],
  ["Batch", "ms", "from fetched to announced", (now, last) => batchTime(now.processor, last.processor)],
  ["Sessions", "", "open connections of clients", (now) => now.gateway.sessions],
  ["Conflated", "/s", "replaced by newer ones for slow clients", (now, last, s) => rate(now.gateway.conflated, last.gateway.conflated, s)],
  ["Dead letters", "", "since the start, those too that were seen to", letters],
];

function batchTime(now, last) {
  const batches = now?.batches - last?.batches;
  return batches > 0 ? ((sum(now.seconds) - sum(last.seconds)) / batches) * 1000 : undefined;
}

class Tile {
  #values = [];
  #line = drawing("path", { class: "line", "vector-effect": "non-scaling-stroke" });
  #area = drawing("path", { class: "area" });

  constructor([name, unit, meaning, read, alarming = () => false]) {
    this.name = name;
    this.unit = unit;
    this.meaning = meaning;
    this.read = read;
    this.alarming = alarming;
    this.value = element("b", {}, "–");
    this.chart = drawing("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }, this.#area, this.#line);
    this.node = element("div", { title: `${name}: ${meaning}`, hidden: true }, element("dt", {}, name), element("dd", {}, this.value, element("small", {}, unit)), element("dd", { class: "chart" }, this.chart));
  }

  /** One more value; undefined: none was read, so that it is the same as before, if there was one. */
  add(figures, value = this.#values.at(-1)) {
    show(this.node, value !== undefined);
    if (value === undefined) return;
    this.#values.push(value);
    if (this.#values.length > SAMPLES) this.#values.shift();
    const newest = this.#values.at(-1);
    setText(this.value, figure(newest));
    this.#draw(Math.max(...this.#values, 1));
    this.chart.setAttribute("aria-label", `${this.name} ${this.meaning}: now ${figure(newest)} ${this.unit}, at most ${figure(Math.max(...this.#values))} in the last ${Math.round((this.#values.length * EVERY) / 1000)} s`);
    this.node.classList.toggle("wrong", this.alarming(figures));
  }

  #draw(top) {
    const step = WIDTH / (Math.max(FIRST, this.#values.length) - 1);
    const start = WIDTH - (this.#values.length - 1) * step;
    const points = this.#values.map((value, at) => `${(start + at * step).toFixed(1)} ${(HEIGHT - 1.5 - (value / top) * (HEIGHT - 3)).toFixed(2)}`);
    if (points.length < 2) return;
    this.#line.setAttribute("d", `M${points.join("L")}`);
    this.#area.setAttribute("d", `M${start.toFixed(1)} ${HEIGHT}L${points.join("L")}L${WIDTH} ${HEIGHT}Z`);
  }
}

export class Health {
  #tiles = TILES.map((tile) => new Tile(tile));
  #last = null;
  #at = 0;
  #on = false;

  /** `offer(count)` is told how many dead letters there were since the start; null: that is not known here. */
  constructor(offer) {
    this.offer = offer;
    byId("tiles").append(...this.#tiles.map((tile) => tile.node));
  }

  /** Take the first reading, and go on from there. */
  start(figures) {
    show(byId("health"), true);
    this.#read(figures);
    this.#on = true;
    setInterval(() => this.#poll(), EVERY);
  }

  /** Stop asking while the service is away, so that nothing is asked in vain. */
  set reachable(reachable) {
    this.#on = reachable;
    byId("health").classList.toggle("stale", !reachable);
  }

  async #poll() {
    if (!this.#on || document.hidden) return;
    try {
      const response = await send("api/stats");
      if (response.ok) this.#read((await response.json()).data);
    } catch {
      // The connection's own state says that the service is away.
    }
  }

  #read(figures) {
    const now = performance.now();
    const last = this.#last ?? figures;
    const seconds = Math.max(0.1, (now - this.#at) / 1000);
    const restarted = figures.gateway.changes < last.gateway.changes || figures.processor?.records < last.processor?.records;
    const base = restarted ? figures : last;
    for (const tile of this.#tiles) tile.add(figures, tile.read(figures, base, seconds));
    show(byId("elsewhere"), !figures.processor);
    this.offer(letters(figures) ?? null);
    this.#last = figures;
    this.#at = now;
    this.#showParts(figures.parts);
  }

  #showParts(parts) {
    const said = JSON.stringify(parts);
    if (said === byId("parts").dataset.shown) return;
    byId("parts").dataset.shown = said;
    byId("parts").replaceChildren(
      ...Object.entries(parts).map(([name, obstacle]) => element("li", { class: obstacle ? "wrong" : "right", title: obstacle ?? "ready" }, name, obstacle && element("span", { class: "unseen" }, `: ${obstacle}`))),
    );
  }
}
