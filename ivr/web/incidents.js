/** Today's incidents: what the journal holds of them, and what has happened since the page was opened. */
import { attr, byId, el, show } from "./dom.js";
import { icon } from "./icons.js";
import { CATEGORIES } from "./wording.js";

/** @typedef {import("./contract.js").Row} Row */
/** @typedef {{id: string, call_id: string, at: string, ext: string, what: string, rung: string}} Incident */

const MAX_SHOWN = 100;

/** @type {Record<string, import("./icons.js").IconName>} */
const SIGNS = { warned: "warn", final: "last", ending: "end", ended: "end", disarmed: "heart", failed: "last" };

/**
 * A row of the journal as an incident; most rows are none.
 * @param {Row} row
 * @param {string} ext
 * @returns {Incident|null}
 */
export function incidentOf(row, ext) {
  const { event, data } = row;
  const found = event === "rung" ? ofRung(data) : event === "action_failed" ? ofFailure(data) : null;
  return found && { id: `${row.call_id} ${row.t_ms} ${found.rung}`, call_id: row.call_id, at: row.at, ext, ...found };
}

/** @param {Record<string, any>} data */
function ofRung(data) {
  const why = String(data["why"] ?? "");
  switch (data["cause"]) {
    case "safeguard":
      return { rung: "disarmed", what: `Called for help: ${CATEGORIES["safeguard"]}` };
    case "key_pardon":
      return data["from"] === "ending" ? { rung: "warned", what: "Spared in the countdown" } : null;
    case "ending_failed":
      return { rung: "failed", what: "Ending failed; the call went on" };
    case "prompt_heard":
      if (data["to"] === "warned") return { rung: "warned", what: "Warned" };
      return data["to"] === "final" ? { rung: "final", what: "Last warning" } : null;
    default:
      return data["to"] === "ended" ? { rung: "ended", what: `Ended: ${why}` } : null;
  }
}

/** @param {Record<string, any>} data */
function ofFailure(data) {
  return ["transfer", "hangup", "menu"].includes(data["action"]) ? { rung: "failed", what: `Phone system: ${data["error"]}` } : null;
}

export class IncidentList {
  /** @param {(id: string) => void} choose */
  constructor(choose) {
    this._choose = choose;
    /** @type {Map<string, Incident>} */
    this._known = new Map();
    /** @type {Map<string, HTMLElement>} */
    this._drawn = new Map();
  }

  /** @param {Incident|null} incident */
  add(incident) {
    if (incident) this._known.set(incident.id, incident);
  }

  /** @param {Set<string>} live ids of calls that can still be opened */
  draw(live) {
    const list = byId("incidents");
    const all = [...this._known.values()].sort((a, b) => b.at.localeCompare(a.at));
    for (const old of all.splice(MAX_SHOWN)) this._known.delete(old.id);
    show(byId("no-incidents"), all.length === 0);
    /** @type {Element|null} */
    let place = list.firstElementChild;
    for (const incident of all) {
      const item = this._drawn.get(incident.id) ?? this._make(incident);
      const button = item.firstElementChild;
      if (button) attr(button, "aria-disabled", live.has(incident.call_id) ? null : "true");
      if (item === place) place = place.nextElementSibling;
      else list.insertBefore(item, place);
    }
    while (place) {
      const next = place.nextElementSibling;
      place.remove();
      place = next;
    }
  }

  /** @param {Incident} incident */
  _make(incident) {
    const when = new Date(incident.at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const choose = () => this._choose(incident.call_id);
    const item = el("li", { "data-rung": incident.rung },
      el("button", { type: "button", class: "incident", onclick: choose },
        el("span", { class: "chip" }, icon(SIGNS[incident.rung] ?? "speak")),
        el("span", { class: "incident-words" }, el("b", { text: incident.what }), el("small", { text: `${when} · ${incident.ext || "no extension"}` })),
      ),
    );
    this._drawn.set(incident.id, item);
    return item;
  }
}
