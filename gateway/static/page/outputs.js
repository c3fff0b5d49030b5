/** What a prediction put out, each part as what it is: pictures whole, players, text with its rest, JSON, files to save. */

import { element, setText, show } from "./dom.js";
import { size } from "./format.js";
import { KINDS, outputs } from "./record.js";
import { request } from "./service.js";

const AT_ONCE = 1_048_576; // bytes of a text that are fetched without being asked for
const SHOWN = 2_000_000; // characters that are put on the page

export class Outputs {
  node = element("div", { class: "outputs" });
  #shown = new Map();

  clear() {
    this.node.replaceChildren();
    this.#shown.clear();
  }

  /** Show them; what has not changed stays as it is, so that a player goes on. */
  update(record, alt) {
    const wanted = outputs(record);
    const files = wanted.filter((item) => item.address);
    const keep = new Map();
    const nodes = wanted.map((item, number) => {
      const place = item.address ? `${item.kind} ${number}` : (item.of ?? item.kind);
      const part = this.#shown.get(place) ?? partOf(item, record.predictionId, alt);
      keep.set(place, part);
      part.update(item, files.length > 1 ? `${number + 1} of ${files.length}` : "");
      return part.node;
    });
    this.#shown = keep;
    const standing = [...this.node.children];
    if (standing.length !== nodes.length || standing.some((node, at) => node !== nodes[at])) this.node.replaceChildren(...nodes);
    this.node.classList.toggle("several", wanted.filter((item) => item.kind === "image").length > 1);
    show(this.node, wanted.length > 0);
    return wanted.length;
  }
}

function partOf(item, id, alt) {
  if (item.kind === "text") return new WholeText(id, item.of ? "Text" : "Output");
  if (item.kind === "json") return new Json();
  return new File(item.kind, alt);
}

/** A picture, a player, or a line; with its name, type and size, and a way to open or save it. */
class File {
  #kind;
  #address;

  constructor(kind, alt) {
    this.#kind = kind;
    this.media = media(kind, alt);
    this.number = element("span", { class: "number" });
    this.name = element("b", {});
    this.about = element("span", { class: "about" });
    this.open = element("a", { target: "_blank", rel: "noopener noreferrer" }, "Open");
    this.save = element("a", { download: "", rel: "noopener noreferrer" }, "Download");
    this.broken = element("p", { class: "problem", hidden: true });
    this.frame = kind === "image" ? element("a", { class: "picture", target: "_blank", rel: "noopener noreferrer", title: "Open the picture" }, this.media) : this.media;
    this.media?.addEventListener("error", () => this.#fail(), true);
    this.media?.addEventListener(kind === "image" ? "load" : "loadedmetadata", () => this.#fail(false));
    this.node = element(
      "figure",
      { class: `file ${kind}` },
      this.frame,
      this.broken,
      element("figcaption", {}, this.number, this.name, this.about, element("span", { class: "grow" }), this.open, this.save),
    );
  }

  update(item, number) {
    setText(this.number, number);
    setText(this.name, item.name);
    this.name.title = item.name;
    setText(this.about, [item.type || KINDS[this.#kind], item.size && size(item.size)].filter(Boolean).join(", "));
    for (const [link, verb] of [[this.open, "Open"], [this.save, "Download"]]) link.setAttribute("aria-label", `${verb} ${item.name}`);
    if (item.address === this.#address) return;
    this.#address = item.address;
    for (const link of [this.open, this.save]) link.href = item.address;
    if (this.media) this.media.src = item.address;
    if (this.#kind === "image") this.frame.href = item.address;
  }

  #fail(failed = true) {
    show(this.broken, failed);
    show(this.frame, !failed);
    if (failed) setText(this.broken, `This ${KINDS[this.#kind].toLowerCase()} cannot be shown: its address may have expired, or the browser does not know its format.`);
  }
}

function media(kind, alt) {
  if (kind === "image") return element("img", { referrerpolicy: "no-referrer", decoding: "async", alt });
  if (kind === "video") return element("video", { controls: true, preload: "metadata", playsinline: true, "aria-label": alt });
  if (kind === "audio") return element("audio", { controls: true, preload: "metadata", "aria-label": alt });
  return null;
}

/** A text, and if only a reference to it is in the record, the text that it stands for. */
export class WholeText {
  #id;
  #blob = null;
  #text = new Text("");
  #whole = "";

  constructor(id, name) {
    this.#id = id;
    this.pre = element("pre", { class: "output", tabindex: "0", role: "region", "aria-label": name }, this.#text);
    this.about = element("span", { class: "about" });
    this.copy = element("button", { type: "button", class: "quiet small" }, "Copy");
    this.all = element("button", { type: "button", class: "quiet small", hidden: true }, "Show all");
    this.save = element("a", { hidden: true, download: `${id}.txt` }, "Download");
    this.node = element("div", { class: "text" }, this.pre, element("p", { class: "tools" }, this.about, element("span", { class: "grow" }), this.save, this.all, this.copy));
    this.copy.addEventListener("click", () => this.#copy());
    this.all.addEventListener("click", () => this.#fetch());
  }

  update({ value, blob, growing = false }) {
    const atEnd = this.pre.scrollTop + this.pre.clientHeight > this.pre.scrollHeight - 24;
    this.pre.classList.toggle("growing", growing);
    this.pre.setAttribute("aria-busy", String(growing));
    if (growing && atEnd) requestAnimationFrame(() => (this.pre.scrollTop = this.pre.scrollHeight));
    if (!blob) {
      this.#blob = null;
      show(this.all, false);
      this.#show(value ?? "");
      return;
    }
    if (blob.hash === this.#blob?.hash) return;
    this.#blob = blob;
    if (blob.bytes <= AT_ONCE) this.#fetch();
    else {
      this.#show("");
      setText(this.about, `${blob.length.toLocaleString()} characters, ${size(blob.bytes)}`);
      show(this.all, true);
    }
  }

  async #fetch() {
    const blob = this.#blob;
    setText(this.about, "Loading the whole text …");
    try {
      const content = await request(`api/predictions/${encodeURIComponent(this.#id)}/blobs/${blob.hash}`);
      if (blob !== this.#blob) return;
      show(this.all, false);
      this.#show(textual(content));
    } catch (error) {
      if (blob !== this.#blob) return;
      setText(this.about, `The whole text cannot be read: ${error.status ? error.message : "the service cannot be reached."}`);
      setText(this.all, "Try again");
      show(this.all, true);
    }
  }

  #show(whole) {
    if (whole !== this.#whole) {
      const shown = whole.slice(0, SHOWN);
      if (this.#whole && shown.startsWith(this.#text.data)) this.#text.appendData(shown.slice(this.#text.data.length));
      else this.#text.data = shown;
      this.#whole = whole;
    }
    const cut = whole.length > SHOWN;
    setText(this.about, `${whole.length.toLocaleString()} characters${cut ? `, of which ${SHOWN.toLocaleString()} are shown` : ""}`);
    show(this.copy, Boolean(whole));
    show(this.pre, Boolean(whole));
    if (cut && this.save.hidden) this.save.href = URL.createObjectURL(new Blob([whole], { type: "text/plain" }));
    show(this.save, cut);
  }

  async #copy() {
    await copied(this.copy, this.#whole);
  }
}

const textual = (content) => (typeof content === "string" ? content : Array.isArray(content) && content.every((piece) => typeof piece === "string") ? content.join("") : JSON.stringify(content, null, 2));

class Json {
  constructor() {
    this.pre = element("pre", { class: "raw", tabindex: "0", role: "region", "aria-label": "Output as JSON" });
    this.copy = element("button", { type: "button", class: "quiet small" }, "Copy");
    this.node = element("div", { class: "text" }, this.pre, element("p", { class: "tools" }, element("span", { class: "about" }, "JSON"), element("span", { class: "grow" }), this.copy));
    this.copy.addEventListener("click", () => copied(this.copy, this.pre.textContent));
  }

  update({ value }) {
    setText(this.pre, JSON.stringify(value, null, 2));
  }
}

/** Copy a text, and say so on the button. */
export async function copied(button, text) {
  const words = button.dataset.words ?? (button.dataset.words = button.textContent);
  try {
    await navigator.clipboard.writeText(text);
    setText(button, "Copied");
  } catch {
    setText(button, "Not allowed");
  }
  setTimeout(() => setText(button, words), 1500);
}
