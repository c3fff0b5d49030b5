/** The page: what is chosen, what is shown, and the connection that feeds it. */

import { Tidings } from "../tidings.js";
import { Detail } from "./detail.js";
import { byId, setText, show } from "./dom.js";
import { Filters } from "./filters.js";
import { statusName } from "./format.js";
import { Gallery } from "./gallery.js";
import { Health } from "./health.js";
import { Letters } from "./letters.js";
import { Records } from "./records.js";
import { ended, title } from "./record.js";
import { askForToken, forgetToken, request, RequestError, token } from "./service.js";
import { offerForm } from "./starting.js";

const TICK = 200;
const PAUSE_AFTER = 600_000;

class Page {
  #gallery = new Gallery();
  #detail = new Detail(() => this.choose(null));
  #letters = new Letters((id) => this.choose(id));
  #health = new Health((count) => this.#letters.offer(count));
  #filters = new Filters(() => this.#refilter());
  #dirty = new Set();
  #drawing = false;
  #chosen = null;
  #gone = false;

  constructor(secured) {
    const bring = () => token() ?? askForToken();
    this.tidings = new Tidings(new URL(".", location.href).href, { token: secured ? bring : undefined, pauseAfter: PAUSE_AFTER });
    this.records = new Records(this.tidings, (record) => this.#changed(record));
    this.tidings.addEventListener("state", () => this.#connection());
    this.tidings.addEventListener("error", ({ detail }) => this.#refused(detail));
    addEventListener("hashchange", () => this.#fromAddress());
    addEventListener("keydown", (event) => this.#key(event));
    byId("older").addEventListener("click", () => this.#older());
    byId("sign-out").addEventListener("click", () => {
      forgetToken();
      location.assign(location.pathname); // without the filters, which may be of what this visitor alone could see
    });
    show(byId("sign-out"), secured);
    setInterval(() => this.#tick(), TICK);
  }

  start(figures) {
    if (figures) this.#health.start(figures);
    if (figures?.submits?.length) offerForm(figures.submits, (record) => this.choose(record.predictionId));
    this.#refilter();
    this.#fromAddress();
  }

  /** Show one prediction beside the others; null: none. */
  choose(id) {
    const before = this.#chosen;
    if (id === before) return;
    const hash = id === null ? "" : `#${encodeURIComponent(id)}`;
    if (location.hash !== hash) history.pushState(null, "", location.pathname + location.search + hash);
    this.#chosen = id;
    this.#gone = false;
    byId("panes").classList.toggle("split", id !== null);
    this.records.single(id).then(() => this.#draw());
    if (id === null) {
      this.#detail.hide();
      this.#gallery.focus(before);
    }
    this.#draw();
  }

  #fromAddress() {
    let id = null;
    try {
      id = decodeURIComponent(location.hash.slice(1)) || null;
    } catch {
      // not an id of ours
    }
    const others = this.#chosen === null;
    this.choose(id === "gallery" ? null : id);
    if (id !== null && others) this.#detail.focus();
  }

  #changed(record) {
    const id = record.predictionId;
    if (id === this.#chosen) {
      this.#gone = Boolean(record.deleted);
      if (ended(record)) setText(byId("announcer"), `${title(record)}: ${statusName(record.status)}`);
    }
    this.#dirty.add(id);
    this.#draw();
  }

  /** Once per frame, however much has changed. */
  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    (document.hidden ? setTimeout : requestAnimationFrame)(() => {
      this.#drawing = false;
      const now = Date.now();
      const all = this.records.all();
      const shown = this.#filters.apply(all);
      this.#gallery.render(shown, this.#dirty, this.#chosen, now);
      if (this.#chosen !== null) this.#detail.update(this.#chosen, this.records.get(this.#chosen) ?? null, now, this.#gone);
      this.#dirty.clear();
      this.#nothing(shown.length, all.length);
      const running = all.filter((record) => !ended(record)).length;
      const words = running ? `${running} running · Tidings` : "Tidings";
      if (document.title !== words) document.title = words;
    });
  }

  #nothing(shown, all) {
    const text = all ? "Nothing matches these filters." : "No predictions yet. They show here the moment the first report arrives.";
    const synced = this.synced && !shown;
    show(byId("empty"), Boolean(synced));
    setText(byId("empty"), text);
    show(byId("older"), Boolean(this.synced && this.records.more && all >= 50));
  }

  #tick() {
    if (document.hidden) return;
    const now = Date.now();
    this.#gallery.tick(now);
    this.#detail.tick(now);
    if (this.tidings.retryAt) this.#connection();
  }

  async #refilter() {
    this.#draw();
    try {
      const watch = await this.records.show(this.#filters.values);
      await watch?.synced;
      this.synced = true;
    } catch (error) {
      this.#notice(error instanceof RequestError && error.status !== 400 ? error.message : "");
    }
    this.#draw();
  }

  async #older() {
    try {
      await this.records.older(this.#filters.values);
    } catch (error) {
      this.#notice(error instanceof RequestError ? error.message : "The service cannot be reached.");
    }
    this.#draw();
  }

  #notice(text) {
    setText(byId("notice"), text);
    show(byId("notice"), Boolean(text));
  }

  #refused(error) {
    const subject = subjectOf(token());
    if (error.code === "unauthorized") {
      forgetToken();
      askForToken(error.message).then(() => location.reload());
    } else if (error.code === "forbidden" && subject && !this.#filters.values.owner) {
      this.#notice(`This token covers the predictions of ${subject}.`);
      this.#filters.set("owner", subject);
    } else this.#notice(error.message);
  }

  #connection() {
    const { state, transport, retryAt } = this.tidings;
    const words = {
      idle: "Not connected",
      connecting: "Connecting",
      open: transport === "sse" ? "Live, by event stream" : "Live",
      waiting: `Back in ${Math.max(0, Math.ceil((retryAt - Date.now()) / 1000))} s`,
      paused: "Paused",
      closed: "Closed",
    };
    byId("connection").dataset.state = state;
    setText(byId("connection-text"), words[state]);
    this.#health.reachable = state === "open";
  }

  #key(event) {
    const typing = event.target.closest?.("input, textarea, select, dialog");
    if (event.key === "Escape" && !typing) this.choose(null);
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") this.#filters.focus();
    else if (event.key === "d" && !byId("letters").hidden) byId("letters").click();
    else if (event.key === "n" && !byId("start").hidden) byId("start").click();
    else if (event.key === "j" || event.key === "k") this.#step(event.key === "j" ? 1 : -1);
    else return;
    event.preventDefault();
  }

  #step(by) {
    const id = this.#gallery.beside(this.#chosen, by);
    if (id === undefined) return;
    this.choose(id);
    this.#gallery.focus(id);
  }
}

/** Whom a JWT speaks for; null where it does not say. */
function subjectOf(jwt) {
  try {
    return JSON.parse(atob(jwt.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).sub ?? null;
  } catch {
    return null;
  }
}

/** The service's figures: an object; null: this visitor is no admin. Asks for a token until one is taken. */
async function figures() {
  for (;;) {
    try {
      return [(await request("api/stats")).data, Boolean(token())];
    } catch (error) {
      if (error instanceof RequestError && error.status === 403) return [null, true];
      if (!(error instanceof RequestError) || error.status !== 401) return [null, Boolean(token())];
      const refused = token() !== null;
      forgetToken();
      await askForToken(refused ? error.message : "");
    }
  }
}

const [found, secured] = await figures();
new Page(secured).start(found);
