/** The agent's keys: big buttons, one letter each, and one place that knows which of them make sense now. */
import { attr, el, show } from "./dom.js";
import { icon } from "./icons.js";

/** @typedef {import("./contract.js").Key} Key */
/** @typedef {import("./call-state.js").CallState} CallState */
/** @typedef {{key: Key, letter: string, name: string, more: string, icon: import("./icons.js").IconName}} Spec */

/** @type {Spec[]} */
const SPECS = [
  { key: "warn", letter: "W", name: "Warn", more: "says it for you", icon: "warn" },
  { key: "transfer", letter: "S", name: "Supervisor", more: "takes over", icon: "person" },
  { key: "end", letter: "E", name: "End", more: "with follow-up", icon: "end" },
  { key: "pardon", letter: "P", name: "Pardon", more: "one step back", icon: "pardon" },
  { key: "minute", letter: "M", name: "I need a minute", more: "", icon: "minute" },
  { key: "arm", letter: "A", name: "Endings on again", more: "", icon: "shield" },
];

export class Keys {
  /**
   * @param {HTMLElement} box
   * @param {(key: Key) => void} press
   */
  constructor(box, press) {
    this._press = press;
    this.letters = true;
    /** @type {Map<Key, HTMLButtonElement>} */
    this._buttons = new Map();
    for (const spec of SPECS) {
      const button = el("button", { type: "button", class: "key", "data-key": spec.key, onclick: () => this._try(spec.key) },
        icon(spec.icon),
        el("span", { class: "key-name" }, el("b", { text: spec.name }), spec.more && el("small", { text: spec.more })),
        el("kbd", { text: spec.letter, "aria-hidden": "true" }),
      );
      this._buttons.set(spec.key, button);
      box.append(button);
    }
    addEventListener("keydown", (event) => this._letter(event));
  }

  /** @param {CallState|null} call @param {boolean} live whether a press would arrive */
  draw(call, live) {
    for (const spec of SPECS) {
      const button = /** @type {HTMLButtonElement} */ (this._buttons.get(spec.key));
      show(button, fits(spec.key, call));
      attr(button, "aria-disabled", live && call && useful(spec.key, call) ? null : "true");
      attr(button, "aria-keyshortcuts", this.letters ? spec.letter : null);
    }
    attr(document.body, "data-letters", this.letters ? "on" : "off");
  }

  /** @param {Key} key @param {boolean} on whether its press is on the way */
  busy(key, on) {
    attr(/** @type {HTMLButtonElement} */ (this._buttons.get(key)), "aria-busy", on ? "true" : null);
  }

  /** @param {Key} key */
  _try(key) {
    if (this._buttons.get(key)?.getAttribute("aria-disabled") !== "true") this._press(key);
  }

  /** @param {KeyboardEvent} event */
  _letter(event) {
    const typing = event.target instanceof HTMLInputElement && event.target.type !== "checkbox";
    if (!this.letters || typing || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    const spec = SPECS.find((each) => each.letter.toLowerCase() === event.key.toLowerCase());
    const button = spec && this._buttons.get(spec.key);
    if (!spec || !button || (button.hidden && spec.key !== "pardon")) return;
    event.preventDefault();
    this._try(spec.key);
  }
}

/** @param {Key} key @param {CallState|null} call */
function fits(key, call) {
  const ending = call?.rung === "ending";
  if (key === "arm") return call?.rung === "disarmed";
  // The huge button of the countdown is the pardon then; a disarmed call has nothing to take back.
  if (key === "pardon") return !ending && call?.rung !== "disarmed";
  return key !== "warn" || !ending;
}

/** @param {Key} key @param {CallState} call */
function useful(key, call) {
  if (call.mode === "shadow" || call.ended) return false;
  if (key === "pardon") return call.rung !== "clear" || call.strikes > 0 || call.playing !== null;
  return true;
}
