/** The chosen call on the wall: its ladder, its words as they come, and what a supervisor can do in it. */
import { attr, byId, clock, el, show, text } from "./dom.js";
import { icon } from "./icons.js";
import { Ladder } from "./ladder.js";
import { Transcript } from "./transcript.js";
import { RUNGS } from "./wording.js";

/** @typedef {import("./call-state.js").CallState} CallState */
/** @typedef {import("./contract.js").Key} Key */

/** @type {{key: Key, name: string, more: string, icon: import("./icons.js").IconName}[]} */
const ACTIONS = [
  { key: "transfer", name: "Take over", more: "", icon: "person" },
  { key: "pardon", name: "Pardon", more: "one step back", icon: "pardon" },
  { key: "disarm", name: "Endings off", more: "nothing automatic", icon: "shield" },
  { key: "arm", name: "Endings on", more: "automatic again", icon: "shield" },
];

export class Chosen {
  /** @param {(key: Key) => void} press */
  constructor(press) {
    this._ladder = new Ladder(byId("ladder"));
    this._transcript = new Transcript(byId("transcript"), { agent: "Agent" });
    this._drawn = "";
    /** @type {Map<Key, HTMLButtonElement>} */
    this._buttons = new Map();
    for (const { key, name, more, icon: sign } of ACTIONS) {
      const button = el("button", { type: "button", class: "action", "data-key": key }, icon(sign), el("span", {}, el("b", { text: name }), el("small", { text: more })));
      button.addEventListener("click", () => button.getAttribute("aria-disabled") !== "true" && press(key));
      this._buttons.set(key, button);
      byId("actions").append(button);
    }
    for (const [id, name] of /** @type {const} */ ([["caller-speaks", "Caller"], ["agent-speaks", "Agent"]])) {
      byId(id).append(el("span", { class: "bars", "aria-hidden": "true" }, el("i"), el("i"), el("i")), el("span", { text: name }));
    }
  }

  /** @param {CallState|null} call @param {boolean} live @param {string} myExt @param {number} now */
  draw(call, live, myExt, now) {
    show(byId("chosen-none"), !call);
    show(byId("chosen-some"), Boolean(call));
    attr(document.body, "data-chosen", call ? "yes" : null);
    if (!call) return;
    if (this._drawn !== call.id) this._transcript.clear();
    this._drawn = call.id;
    attr(byId("chosen"), "data-rung", call.rung);
    text(byId("chosen-title"), call.ext ? `Extension ${call.ext}` : "No extension");
    this.tick(call, now);
    this._ladder.draw(call.ended ? "ended" : call.rung);
    show(byId("ladder"), call.rung !== "disarmed");
    const note = call.ended ? "This call is over." : call.trouble || call.deaf || (call.playing ? "Firmline is speaking to the caller." : RUNGS[call.rung].says);
    text(byId("chosen-note"), note);
    attr(byId("caller-speaks"), "data-on", live && call.speaking.caller);
    attr(byId("agent-speaks"), "data-on", live && call.speaking.agent);
    this._transcript.draw(call.lines);
    this._actions(call, live, myExt);
  }

  /** @param {CallState} call @param {number} now */
  tick(call, now) {
    if (call.ended) return;
    const left = call.countdown && call.rung === "ending" ? Math.max(0, Math.ceil((call.countdown.until - now) / 1000)) : null;
    text(byId("chosen-timer"), left === null ? clock(now - call.began) : `ends in ${left} s`);
  }

  /** @param {CallState} call @param {boolean} live @param {string} myExt */
  _actions(call, live, myExt) {
    const acts = live && !call.ended && call.mode !== "shadow";
    const raised = call.rung !== "clear" || call.strikes > 0 || call.playing !== null;
    for (const [key, button] of this._buttons) {
      const useful = key !== "pardon" || (raised && call.rung !== "disarmed");
      attr(button, "aria-disabled", acts && useful ? null : "true");
      if (key === "disarm") show(button, call.rung !== "disarmed");
      if (key === "arm") show(button, call.rung === "disarmed");
      const more = button.querySelector("small");
      if (key === "transfer" && more) text(more, myExt ? `rings ${myExt}` : "rings the supervisor’s line");
    }
  }
}
