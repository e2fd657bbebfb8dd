/**
 * The list of live calls: one element a call, kept by id, touched only where something changed, moved only when its
 * place did. What two hundred calls cost a frame is measured (docs/benchmarks.md).
 */
import { attr, clock, el, show, text } from "./dom.js";
import { icon } from "./icons.js";
import { RUNGS } from "./wording.js";

/** @typedef {import("./call-state.js").CallState} CallState */
/** @typedef {import("./contract.js").Rung} Rung */
/** @typedef {{item: HTMLLIElement, button: HTMLButtonElement, chip: HTMLElement, name: HTMLElement, ext: HTMLElement, about: HTMLElement, last: HTMLElement, timer: HTMLElement, rung: string}} Row */

/** What needs a person first. @type {Record<Rung, number>} */
const URGENCY = { ending: 0, disarmed: 1, final: 2, warned: 3, cautioned: 4, clear: 5, ended: 6 };

/** @type {Record<string, {name: string, has: (call: CallState) => boolean}>} */
export const FILTERS = {
  all: { name: "All", has: () => true },
  raised: { name: "Raised", has: (call) => call.rung !== "clear" },
  warned: { name: "Warned", has: (call) => ["warned", "final"].includes(call.rung) },
  ending: { name: "Ending", has: (call) => call.rung === "ending" },
  disarmed: { name: "Endings off", has: (call) => call.rung === "disarmed" },
};

/** @type {Record<string, (a: CallState, b: CallState) => number>} */
const ORDERS = {
  rung: (a, b) => URGENCY[a.rung] - URGENCY[b.rung] || a.began - b.began,
  ext: (a, b) => (a.ext ?? "").localeCompare(b.ext ?? "", undefined, { numeric: true }),
  length: (a, b) => a.began - b.began,
};

export class WallList {
  /**
   * @param {HTMLElement} box
   * @param {(id: string) => void} choose
   */
  constructor(box, choose) {
    this._box = box;
    this._choose = choose;
    this.filter = "all";
    this.order = "rung";
    this.find = "";
    /** @type {Map<string, Row>} */
    this._rows = new Map();
  }

  /**
   * @param {Map<string, CallState>} calls
   * @param {Set<string>} changed ids whose row may look different; all others are left alone
   * @param {string} chosen
   * @param {number} now
   * @returns {number} how many are shown
   */
  draw(calls, changed, chosen, now) {
    const wanted = [...calls.values()].filter((call) => this._wants(call)).sort(ORDERS[this.order] ?? ORDERS["rung"]);
    const keep = new Set(wanted.map((call) => call.id));
    for (const [id, row] of this._rows) {
      if (keep.has(id)) continue;
      row.item.remove();
      this._rows.delete(id);
    }
    /** @type {Element|null} */
    let place = this._box.firstElementChild;
    for (const call of wanted) {
      const known = this._rows.get(call.id);
      const row = known ?? this._make(call);
      if (!known || changed.has(call.id)) this._fill(row, call, now);
      attr(row.button, "aria-pressed", call.id === chosen ? "true" : "false");
      if (row.item === place) place = place.nextElementSibling;
      else this._box.insertBefore(row.item, place);
    }
    return wanted.length;
  }

  /** Only what time changes. @param {Map<string, CallState>} calls @param {number} now */
  tick(calls, now) {
    for (const [id, row] of this._rows) {
      const call = calls.get(id);
      if (call) text(row.timer, time(call, now));
    }
  }

  /** @param {CallState} call */
  _wants(call) {
    if (call.ended || !(FILTERS[this.filter] ?? FILTERS["all"])?.has(call)) return false;
    const sought = this.find.trim().toLowerCase();
    return !sought || `${call.ext ?? ""} ${call.summary?.queue ?? ""} ${call.summary?.caller_number ?? ""}`.toLowerCase().includes(sought);
  }

  /** @param {CallState} call @returns {Row} */
  _make(call) {
    const name = el("span", {});
    const chip = el("span", { class: "chip" }, icon("check"), name);
    const [ext, about, last, timer] = ["row-ext", "row-about", "row-last", "row-timer"].map((c) => el("span", { class: c }));
    const button = el("button", { type: "button", class: "row", onclick: () => this._choose(call.id) }, chip, ext, about, last, timer);
    const item = el("li", {}, button);
    // The keys of `map` above are four; the checker cannot count them.
    const row = /** @type {Row} */ ({ item, button, chip, name, ext, about, last, timer, rung: "" });
    this._rows.set(call.id, row);
    return row;
  }

  /** @param {Row} row @param {CallState} call @param {number} now */
  _fill(row, call, now) {
    const name = call.rung === "disarmed" ? (call.danger ? "Safeguard" : "Endings off") : RUNGS[call.rung].name;
    if (row.rung !== name) {
      row.rung = name;
      attr(row.item, "data-rung", call.rung);
      text(row.name, name);
      row.chip.firstElementChild?.replaceWith(icon(RUNGS[call.rung].icon));
    }
    text(row.ext, call.ext ?? "no extension");
    const about = [call.summary?.queue, call.summary?.caller_number].filter(Boolean).join(" · ");
    text(row.about, about);
    show(row.about, about !== "");
    const said = call.lines.findLast((line) => line.from === "caller");
    text(row.last, call.deaf ? "not heard just now" : said?.text ?? "");
    attr(row.last, "data-verdict", said?.verdict || null);
    attr(row.item, "data-deaf", call.deaf !== "");
    text(row.timer, time(call, now));
  }
}

/** @param {CallState} call @param {number} now @returns {string} */
function time(call, now) {
  if (call.rung === "ending" && call.countdown) return `ends in ${Math.max(0, Math.ceil((call.countdown.until - now) / 1000))} s`;
  return clock(now - call.began);
}
