/** The connection's state: a word at the top, and a banner while what is shown may be old. */

import { byId, setText, show } from "./dom.js";
import { time } from "./format.js";

const SOON = 2500; // how long the first connection may take until it counts as lost

export class Connection {
  #tidings;
  #changed;
  #since = Date.now();
  #opened = false;

  /** `changed(live)` is called when the connection comes or goes. */
  constructor(tidings, changed) {
    this.#tidings = tidings;
    this.#changed = changed;
    tidings.addEventListener("state", () => this.update());
    byId("retry").addEventListener("click", () => tidings.connect());
  }

  /** The time that clocks show: while nothing is heard they stand still. */
  get now() {
    return this.live || !this.#opened ? Date.now() : this.#since;
  }

  get live() {
    return this.#tidings.state === "open";
  }

  update() {
    const { state, transport, retryAt } = this.#tidings;
    const left = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    const words = {
      idle: "Not connected",
      connecting: "Connecting",
      open: transport === "sse" ? "Live, by event stream" : "Live",
      waiting: `Disconnected, retrying in ${left} s`,
      paused: "Paused",
      closed: "Closed",
    };
    const live = state === "open";
    if (live !== this.was) {
      this.was = live;
      this.#since = Date.now();
      this.#changed(live);
    }
    this.#opened ||= live;
    byId("connection").dataset.state = state;
    setText(byId("connection-text"), words[state]);
    const lost = !live && (this.#opened || Date.now() - this.#since > SOON);
    document.documentElement.toggleAttribute("data-offline", lost);
    show(byId("offline"), lost);
    if (!lost) return;
    const next = { waiting: `retrying in ${left} s`, connecting: "connecting …" }[state] ?? "not retrying";
    setText(byId("offline-text"), `Disconnected, ${next}.`);
    setText(byId("offline-since"), this.#opened ? `What you see is as of ${time(this.#since).slice(0, 8)}.` : "The service does not answer.");
    show(byId("retry"), state !== "connecting");
  }
}
