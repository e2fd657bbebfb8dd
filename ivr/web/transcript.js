/**
 * The transcript: one element a line, kept by key, so that a screen reader hears each finished line once and nothing
 * flickers. Words are split at what counted; each piece is text, never markup.
 */
import { attr, clock, el, text } from "./dom.js";

/** @typedef {import("./call-state.js").Line} Line */

const NEAR_END_PX = 60;

/** @type {Record<string, string>} */
const NAMES = { caller: "Caller", agent: "You", firmline: "Firmline" };

export class Transcript {
  /**
   * @param {HTMLElement} box scrolls
   * @param {Record<string, string>} [names] other names for the sides
   */
  constructor(box, names = {}) {
    this._box = box;
    this._names = { ...NAMES, ...names };
    /** @type {Map<string, HTMLElement>} */
    this._known = new Map();
    /** Finished lines only: what is half said would be read out again at each change. */
    this._list = el("ol", { class: "lines" });
    const log = el("div", { role: "log", "aria-live": "polite", "aria-label": "What was said" }, this._list);
    this._drafts = el("ol", { class: "lines drafts", "aria-hidden": "true" });
    box.append(log, this._drafts);
  }

  /** @param {Line[]} lines */
  draw(lines) {
    const follow = this._box.scrollHeight - this._box.scrollTop - this._box.clientHeight < NEAR_END_PX;
    const keep = new Set();
    for (const line of lines) {
      const name = `${line.draft ? "draft " : ""}${line.key}`;
      keep.add(name);
      const known = this._known.get(name);
      const item = known ?? this._make(line);
      this._fill(item, line);
      if (!known) {
        this._known.set(name, item);
        (line.draft ? this._drafts : this._list).append(item);
      }
    }
    for (const [name, item] of this._known) {
      if (keep.has(name)) continue;
      item.remove();
      this._known.delete(name);
    }
    if (follow) this._box.scrollTop = this._box.scrollHeight;
  }

  clear() {
    this._known.clear();
    this._list.replaceChildren();
    this._drafts.replaceChildren();
  }

  /** @param {Line} line @returns {HTMLElement} */
  _make(line) {
    const item = el("li", { class: `line from-${line.from}` });
    if (line.from !== "firmline") item.append(el("span", { class: "who", text: this._names[line.from] ?? line.from }));
    item.append(el("time", { class: "at", text: clock(line.t_ms) }));
    item.append(el("p", { class: "words" }), el("p", { class: "why", hidden: true }));
    return item;
  }

  /** @param {HTMLElement} item @param {Line} line */
  _fill(item, line) {
    const words = /** @type {HTMLElement} */ (item.querySelector(".words"));
    const why = /** @type {HTMLElement} */ (item.querySelector(".why"));
    attr(item, "data-verdict", line.verdict || null);
    attr(item, "data-over-prompt", line.overPrompt);
    const now = JSON.stringify([line.text, line.verdict, line.marks]);
    if (item.dataset["drawn"] !== now) {
      item.dataset["drawn"] = now;
      words.replaceChildren(...(line.verdict ? marked(line.text, line.marks) : [line.text]));
    }
    text(why, line.why);
    why.hidden = !line.why;
  }
}

/**
 * @param {string} said
 * @param {string[]} marks none: the whole of it
 * @returns {(Node|string)[]}
 */
export function marked(said, marks) {
  const spans = marks.length ? find(said, marks) : [{ from: 0, to: said.length }];
  /** @type {(Node|string)[]} */
  const out = [];
  let at = 0;
  for (const { from, to } of spans.length ? spans : [{ from: 0, to: said.length }]) {
    if (from > at) out.push(said.slice(at, from));
    out.push(el("mark", { text: said.slice(from, to) }));
    at = to;
  }
  if (at < said.length) out.push(said.slice(at));
  return out;
}

/**
 * @param {string} said
 * @param {string[]} marks
 * @returns {{from: number, to: number}[]} in order, never one over another
 */
function find(said, marks) {
  const low = said.toLowerCase();
  const found = marks
    .map((mark) => ({ from: low.indexOf(mark.toLowerCase()), to: mark.length }))
    .filter((each) => each.from >= 0 && each.to > 0)
    .map(({ from, to }) => ({ from, to: from + to }))
    .sort((a, b) => a.from - b.from || b.to - a.to);
  /** @type {{from: number, to: number}[]} */
  const out = [];
  for (const each of found) if (each.from >= (out.at(-1)?.to ?? 0)) out.push(each);
  return out;
}
