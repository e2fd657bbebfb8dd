/** The ladder as a few steps with the present one lit, and the ring that counts down to an ending. */
import { attr, el, svg, text } from "./dom.js";
import { icon } from "./icons.js";
import { LADDER, RUNGS, SHORT } from "./wording.js";

/** @typedef {import("./contract.js").Rung} Rung */

export class Ladder {
  /** @param {HTMLElement} box */
  constructor(box) {
    this._steps = LADDER.map((rung) =>
      el("li", { class: "step", "data-rung": rung }, icon(RUNGS[rung].icon), el("span", { text: SHORT[rung] ?? RUNGS[rung].name, "aria-label": RUNGS[rung].name })),
    );
    box.append(el("ol", { class: "ladder", "aria-label": "Where this call stands" }, ...this._steps));
  }

  /** @param {Rung} rung */
  draw(rung) {
    const at = LADDER.indexOf(rung);
    this._steps.forEach((step, index) => {
      attr(step, "data-at", at < 0 ? "off" : index < at ? "past" : index === at ? "now" : "ahead");
      attr(step, "aria-current", index === at ? "step" : null);
    });
  }
}

const R = 52;
const AROUND = 2 * Math.PI * R;

export class Ring {
  /** @param {HTMLElement} box */
  constructor(box) {
    const circle = { cx: 60, cy: 60, r: R, fill: "none" };
    this._arc = svg("circle", { class: "arc", ...circle, "stroke-dasharray": AROUND, transform: "rotate(-90 60 60)" });
    this._number = el("span", { class: "seconds" });
    const picture = svg("svg", { viewBox: "0 0 120 120", "aria-hidden": "true" }, svg("circle", { class: "track", ...circle }), this._arc);
    box.append(picture, this._number);
  }

  /** @param {number} leftMs @param {number} totalMs */
  draw(leftMs, totalMs) {
    const share = Math.max(0, Math.min(1, leftMs / totalMs));
    attr(this._arc, "stroke-dashoffset", (AROUND * (1 - share)).toFixed(1));
    text(this._number, leftMs > 0 ? String(Math.ceil(leftMs / 1000)) : "…");
  }

  /** Nobody knows any more how long. */
  unknown() {
    attr(this._arc, "stroke-dashoffset", AROUND);
    text(this._number, "?");
  }
}
