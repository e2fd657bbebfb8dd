/** Today's incidents, a call each, as the journal tells them: newest first. */
import { attr, byId, el, show, text } from "./dom.js";
import { icon } from "./icons.js";

/** @typedef {import("./contract.js").Incident} Incident */
/** @typedef {{rung: string, sign: import("./icons.js").IconName, what: string}} Reading */

const MAX_SHOWN = 100;

/** @type {Record<string, Reading>} */
const OUTCOMES = {
  transfer: { rung: "ending", sign: "person", what: "Handed to a supervisor" },
  hangup: { rung: "ending", sign: "end", what: "Call ended" },
  menu: { rung: "ending", sign: "end", what: "Sent to the menu" },
};
/** @type {Record<string, Reading>} */
const RUNGS = {
  cautioned: { rung: "cautioned", sign: "speak", what: "Asked" },
  warned: { rung: "warned", sign: "warn", what: "Warned" },
  final: { rung: "final", sign: "last", what: "Last warning" },
  ending: { rung: "ending", sign: "end", what: "Ending begun" },
};

/** @param {Incident} incident @returns {Reading} */
function read(incident) {
  if (incident.safeguard) return { rung: "disarmed", sign: "heart", what: "Somebody may be in danger" };
  const ended = OUTCOMES[incident.outcome];
  if (ended) return ended;
  const reached = RUNGS[incident.highest_rung] ?? { rung: "clear", sign: "speak", what: "Noted" };
  if (incident.failed_actions) return { rung: "failed", sign: "last", what: `${reached.what}; an action failed` };
  return incident.pardons ? { ...reached, what: `${reached.what}; pardoned` } : reached;
}

export class IncidentList {
  /** @param {(id: string) => void} choose */
  constructor(choose) {
    this._choose = choose;
    /** @type {Map<string, {item: HTMLLIElement, drawn: string}>} */
    this._known = new Map();
  }

  /** @param {Incident[]} all newest first @param {Set<string>} open ids of calls that can be looked at here */
  draw(all, open) {
    const list = byId("incidents");
    const shown = all.slice(0, MAX_SHOWN);
    show(byId("no-incidents"), shown.length === 0);
    const keep = new Set(shown.map((incident) => incident.call_id));
    for (const [id, { item }] of this._known) {
      if (keep.has(id)) continue;
      item.remove();
      this._known.delete(id);
    }
    /** @type {Element|null} */
    let place = list.firstElementChild;
    for (const incident of shown) {
      const { item } = this._item(incident);
      attr(/** @type {Element} */ (item.firstElementChild), "aria-disabled", open.has(incident.call_id) ? null : "true");
      if (item === place) place = place.nextElementSibling;
      else list.insertBefore(item, place);
    }
  }

  /** @param {Incident} incident */
  _item(incident) {
    const { rung, sign, what } = read(incident);
    const when = incident.started_at ? new Date(incident.started_at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : "";
    const meta = [when, incident.agent_ext ?? "no extension"].filter(Boolean).join(" · ");
    const drawn = JSON.stringify([rung, sign, what, meta]);
    const known = this._known.get(incident.call_id) ?? { item: this._make(incident.call_id), drawn: "" };
    this._known.set(incident.call_id, known);
    if (known.drawn === drawn) return known;
    known.drawn = drawn;
    attr(known.item, "data-rung", rung);
    known.item.querySelector(".chip")?.replaceChildren(icon(sign));
    text(/** @type {Element} */ (known.item.querySelector("b")), what);
    text(/** @type {Element} */ (known.item.querySelector("small")), meta);
    return known;
  }

  /** @param {string} id */
  _make(id) {
    const words = el("span", { class: "incident-words" }, el("b"), el("small"));
    const open = (/** @type {Event} */ event) => {
      const button = /** @type {Element} */ (event.currentTarget);
      if (button.getAttribute("aria-disabled") !== "true") this._choose(id);
    };
    return el("li", {}, el("button", { type: "button", class: "incident", onclick: open }, el("span", { class: "chip" }), words));
  }
}
