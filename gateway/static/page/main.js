/** The page: what is chosen, what is shown, and the connection that feeds it. */

import { Tidings } from "../tidings.js";
import { folded, newest } from "./attempts.js";
import { Connection } from "./connection.js";
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
  #detail = new Detail(() => this.choose(null), (id) => this.records.get(id));
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
    this.connection = new Connection(this.tidings, (live) => this.#connected(live));
    this.tidings.addEventListener("error", ({ detail }) => this.#refused(detail));
    addEventListener("hashchange", () => this.#fromAddress());
    addEventListener("keydown", (event) => this.#key(event));
    byId("gallery").addEventListener("click", (event) => this.#opened(event));
    byId("older").addEventListener("click", () => this.#older());
    byId("newest").addEventListener("click", () => this.#newest());
    byId("notice-close").addEventListener("click", () => this.#notice(""));
    byId("sign-out").addEventListener("click", () => {
      forgetToken();
      location.assign(location.pathname); // without the filters, which may be of what this visitor alone could see
    });
    show(byId("sign-out"), secured);
    setInterval(() => this.#tick(), TICK);
  }

  start(figures) {
    this.figures = figures;
    if (figures) this.#health.start(figures);
    this.#detail.admin = Boolean(figures);
    this.#detail.notifies = Boolean(figures?.notifies);
    this.#detail.canceling.submits = figures?.submits ?? [];
    if (figures?.submits?.length) offerForm(figures.submits, () => this.records.all(), (record) => this.choose(record.predictionId));
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
      this.#gallery.focus(this.#standing(before));
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

  /** A card was opened, by Enter as well: who reads with the keyboard goes on in its panel. */
  #opened(event) {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.choose(decodeURIComponent(new URL(link.href).hash.slice(1)));
    this.#drawn().then(() => this.#detail.focus());
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
      this.#drawNow();
    });
  }

  #drawn() {
    this.#draw();
    return new Promise((resolve) => (document.hidden ? setTimeout : requestAnimationFrame)(resolve));
  }

  #drawNow() {
    const { now } = this.connection;
    const all = folded(this.records.all(), (id) => this.records.get(id));
    const shown = this.#filters.apply(all);
    this.#gallery.render(shown, this.#dirty, this.#standing(this.#chosen), now);
    if (this.#chosen !== null) this.#detail.update(this.#chosen, this.records.get(this.#chosen) ?? null, now, this.#gone);
    this.#dirty.clear();
    this.#extent(shown.length, all);
    const running = all.filter((record) => !ended(record)).length;
    const words = running ? `${running} running · Tidings` : "Tidings";
    if (document.title !== words) document.title = words;
  }

  /** The id of the card that stands for this one: that of its last attempt. */
  #standing(id) {
    return newest(this.records.get(id), (other) => this.records.get(other))?.predictionId ?? id;
  }

  /** How much of it is here, and the way to the rest. */
  #extent(shown, all) {
    const { counts, more, cut, searched, unsearchable } = this.records;
    const { status, text } = this.#filters.values;
    const whole = !more && !cut && !status && !text;
    this.#filters.count(whole ? null : counts, all, more);
    const total = status ? (counts?.byStatus[status] ?? 0) : counts?.total;
    const words = [];
    if (this.synced && text) words.push(`${shown.toLocaleString()} found`, searched && more ? `in ${searched.toLocaleString()} looked through${counts ? ` of ${counts.total.toLocaleString()}${counts.complete ? "" : "+"}` : ""}` : "");
    else if (this.synced && (more || cut)) words.push(counts ? `${shown.toLocaleString()} of ${Math.max(total, shown).toLocaleString()}${counts.complete ? "" : "+"}` : `${shown.toLocaleString()} shown, there are more`);
    else if (this.synced && shown) words.push(shown === 1 ? "1 prediction" : `${shown.toLocaleString()} predictions`);
    if (this.synced && text && unsearchable) words.push(`(${unsearchable.toLocaleString()} with prompts too long to search)`);
    setText(byId("extent"), words.filter(Boolean).join(" "));
    const nothing = this.synced && !shown && !more;
    const empty = nothing && !this.#filters.any && !all.length;
    show(byId("empty"), Boolean(nothing && !empty));
    show(byId("welcome"), Boolean(empty));
    show(byId("older"), Boolean(this.synced && more));
    show(byId("newest"), cut);
    setText(byId("older"), text ? "Search further" : "Show older");
  }

  #connected(live) {
    this.#health.reachable = live;
    this.#letters.reachable = live;
    if (live) this.#letters.again();
    this.#draw();
  }

  #tick() {
    if (document.hidden) return;
    const { now } = this.connection;
    this.#gallery.tick(now);
    this.#detail.tick(now);
    if (!this.connection.live) this.connection.update();
    else this.#recount();
  }

  /** Counts are of the whole list: they are asked for if a part of it is here. */
  async #recount() {
    const { status, text } = this.#filters.values;
    if (!this.synced || !(this.records.more || this.records.cut || status || text)) return;
    if (await this.records.count()) this.#draw();
  }

  async #refilter() {
    this.#draw();
    await this.#busily(() => this.records.show(this.#filters.values));
  }

  async #older() {
    await this.#busily(() => this.records.older());
  }

  async #newest() {
    await this.#busily(() => this.records.newest(this.#filters.values));
    scrollTo({ top: 0 });
  }

  async #busily(fetch) {
    const gallery = byId("gallery");
    gallery.setAttribute("aria-busy", "true");
    byId("older").disabled = true;
    try {
      await fetch();
      this.synced = true;
    } catch (error) {
      // A store that cannot list by this still tells what changes.
      if (error instanceof RequestError && error.status === 400) this.synced = true;
      else this.#notice(error instanceof RequestError ? error.message : "The service cannot be reached. What you asked for is not shown; try again when it is back.");
    }
    gallery.removeAttribute("aria-busy");
    byId("older").disabled = false;
    this.#draw();
  }

  #notice(text) {
    setText(byId("notice-text"), text);
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
    const id = this.#gallery.beside(this.#standing(this.#chosen), by);
    if (id === undefined) return;
    this.choose(id);
    this.#gallery.focus(id);
  }
}

/** Whom a JWT speaks for; null if it does not say. */
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
