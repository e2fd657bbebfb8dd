/**
 * One call as a person sees it, built from the feed's rows and the API's summary; no page, no network, no clock of its
 * own: `now` is `performance.now()`, given.
 */
import { CONDUCT, prompt, reason, RUNGS, who } from "./wording.js";

/** @typedef {import("./contract.js").CallOut} CallOut */
/** @typedef {import("./contract.js").Row} Row */
/** @typedef {import("./contract.js").Rung} Rung */
/** @typedef {import("./contract.js").Side} Side */

/**
 * @typedef {object} Line one thing said, or one note of what Firmline did
 * @property {string} key
 * @property {Side|"firmline"} from
 * @property {string} text
 * @property {number} t_ms
 * @property {boolean} draft words that may still change
 * @property {"counted"|"seen"|"danger"|""} verdict
 * @property {string[]} marks the words that made it so; none: all of it
 * @property {string} why
 * @property {boolean} overPrompt
 */

/**
 * @typedef {object} Suggestion
 * @property {"warn"|"end"|"transfer"} key
 * @property {string} step
 * @property {string} why
 * @property {number} until on `now`'s clock: later the key does what it always does
 */

const MAX_LINES = 400;
export const NEEDED = "A supervisor is needed";
const PAGE_WORTHY = new Set(["threat", "safeguard"]);

export class CallState {
  /** @param {string} id @param {string|null} ext @param {string} [you] what the agent is called: "the agent" on the wall */
  constructor(id, ext, you = "you") {
    this.id = id;
    this.ext = ext;
    this.you = you;
    /** @type {Rung} */
    this.rung = "clear";
    this.armed = true;
    this.mode = "full";
    this.strikes = 0;
    /** @type {CallOut|null} */
    this.summary = null;
    /** @type {string|null} the prompt being played */
    this.playing = null;
    /** @type {{until: number, total: number, kind: string, why: string}|null} times on `now`'s clock */
    this.countdown = null;
    this.speaking = { caller: false, agent: false };
    /** @type {Line[]} */
    this.lines = [];
    /** Why the caller is not heard just now; empty when they are. */
    this.deaf = "";
    /** What a person must know and do: an ending that failed. */
    this.trouble = "";
    /** @type {Suggestion|null} */
    this.suggestion = null;
    /** Category or kind of conduct of the latest thing that rose. */
    this.rose = "";
    this.roseAt = -Infinity;
    this.rough = false;
    this.danger = false;
    this.ended = false;
    this.endedBy = "";
    /** `performance.now()` when the call began. */
    this.began = 0;
    /** `performance.now()` of the latest row that moved the call. */
    this.movedAt = -1;
    /** The same of any row. */
    this.heardAt = -1;
    /** Key of the note about the latest prompt. */
    this.told = "";
    /** @type {Set<string>} */
    this._seen = new Set();
    this._notes = 0;
  }

  /**
   * What the server said the call is. An answer can be overtaken by rows of the feed: then it is older than they are
   * and changes nothing that they moved.
   * @param {CallOut} out
   * @param {number} now
   * @param {number} askedAt when the server was asked
   * @returns {boolean} false when it was overtaken: ask again
   */
  sync(out, now, askedAt) {
    this.summary = out;
    this.ext = out.agent_ext;
    this.mode = out.mode;
    this.began = now - out.duration_ms;
    if (this.movedAt > askedAt) return false;
    this.ended = false;
    this.rung = out.rung;
    this.armed = out.armed;
    this.strikes = out.strikes;
    this.playing = out.playing;
    this.speaking = { caller: out.speaking.includes("caller"), agent: out.speaking.includes("agent") };
    const offered = out.suggestion;
    this.suggestion = offered && { ...offered, why: sentence(offered.why), until: now + offered.until_ms - out.duration_ms };
    this.rough ||= out.strikes > 0 || !["clear", "disarmed"].includes(out.rung);
    if (out.state === "live" && out.legs.includes("caller")) {
      if (this.deaf === NO_LEG) this.deaf = "";
    } else if (!this.deaf && out.state !== "ended") {
      this.deaf = NO_LEG;
    }
    if (out.countdown_ms === null) {
      this.countdown = null;
    } else {
      const left = out.countdown_ms;
      const known = this.countdown;
      this.countdown = {
        until: now + left,
        total: Math.max(known?.total ?? 0, left, 1),
        kind: out.countdown_kind ?? "",
        why: out.countdown_why ?? "",
      };
    }
    return true;
  }

  /**
   * One row.
   * @param {Row} row
   * @param {number} now
   * @returns {boolean} false for one that was known already
   */
  apply(row, now) {
    const { event, data, t_ms } = row;
    if (event !== "partial" && event !== "partial_signal" && event !== "speaking") {
      const key = `${event} ${t_ms} ${data["start_ms"] ?? ""} ${data["action"] ?? data["key"] ?? ""}`;
      if (this._seen.has(key)) return false;
      this._seen.add(key);
    }
    if (!this.began) this.began = now - t_ms;
    this.heardAt = now;
    if (MOVES.has(event)) this.movedAt = now;
    const handle = HANDLERS[event];
    if (handle) handle(this, row, now);
    if (this.lines.length > MAX_LINES) this.lines.splice(0, this.lines.length - MAX_LINES);
    return true;
  }

  /** @param {number} t_ms @param {string} words @returns {string} its key */
  note(t_ms, words) {
    /** @type {Line} */
    const line = { ...BLANK, key: `note ${++this._notes}`, from: "firmline", text: words, t_ms };
    // Words on their way stay last: they are what is being said now.
    const at = this.lines.findIndex((each) => each.draft);
    this.lines.splice(at < 0 ? this.lines.length : at, 0, line);
    return line.key;
  }

  /** @param {Side} side @returns {Line|undefined} */
  draft(side) {
    return this.lines.find((line) => line.draft && line.from === side);
  }
}

const MOVES = new Set(["rung", "strike", "signal", "action_requested", "action_failed", "leg_up", "call_ended", "suggestion", "suggestion_gone"]);
const NO_LEG = "Firmline has lost the caller’s side of this call.";
/** @type {Omit<Line, "key"|"from"|"text"|"t_ms">} */
const BLANK = { draft: false, verdict: "", marks: [], why: "", overPrompt: false };

/** @typedef {(call: CallState, row: Row, now: number) => void} Handler */
/** @type {Record<string, Handler>} */
const HANDLERS = {
  call_started(call, { data }) {
    call.ext = data["agent"] ?? call.ext;
  },
  leg_up(call, { data }) {
    if (data["side"] === "caller") call.deaf = "";
  },
  speaking(call, { data }) {
    call.speaking[/** @type {Side} */ (data["side"])] = Boolean(data["speaking"]);
  },
  partial(call, { data, t_ms }) {
    const side = /** @type {Side} */ (data["side"]);
    const words = String(data["words"] ?? "");
    const known = call.draft(side);
    if (known) {
      known.text = words;
      known.overPrompt = Boolean(data["over_prompt"]);
    } else if (words) {
      const key = `${side} ${data["start_ms"]}`;
      call.lines.push({ ...BLANK, key, from: side, text: words, t_ms, draft: true, overPrompt: Boolean(data["over_prompt"]) });
    }
  },
  partial_signal(call, { data }) {
    const line = call.draft("caller");
    if (line) Object.assign(line, { verdict: "seen", marks: data["words"] ?? [], why: "" });
  },
  utterance(call, { data, t_ms }) {
    const side = /** @type {Side} */ (data["side"]);
    const words = data["dropped"] ? "" : String(data["words"] ?? "");
    const at = call.lines.findIndex((line) => line.draft && line.from === side);
    const key = (at >= 0 && call.lines[at]?.key) || `${side} ${data["start_ms"]}`;
    if (at >= 0) call.lines.splice(at, 1);
    if (!words) return;
    const line = { ...BLANK, key, from: side, text: words, t_ms, start_ms: data["start_ms"], overPrompt: Boolean(data["over_prompt"]) };
    if (at >= 0) call.lines.splice(at, 0, line);
    else call.lines.push(line);
  },
  strike(call, { data }, now) {
    call.rough = true;
    call.strikes += 1;
    if (data["category"]) rise(call, String(data["category"]), now);
    mark(call, data, data["by"] ? "" : "counted");
  },
  signal(call, row, now) {
    const { data, t_ms } = row;
    const action = data["action"];
    if (action === "countdown") {
      const left = Number(data["deadline_ms"]) - t_ms;
      call.countdown = { until: now + left, total: Math.max(left, 1), kind: String(data["kind"]), why: String(data["why"]) };
    } else if (action === "countdown_stopped") {
      call.countdown = null;
    } else if (action === "resumed") {
      call.note(t_ms, "Firmline was restarted. This call stands where it stood.");
    } else if (action === "audio_back") {
      call.deaf = "";
    } else if (action === "no_audio" || action === "deaf" || action === "hearing_failed") {
      call.deaf = sentence(String(data["why"]));
    } else if (data["conduct"]) {
      rise(call, String(data["conduct"]), now);
      call.note(t_ms, CONDUCT[call.rose] ?? sentence(String(data["why"] ?? "")));
    } else if (data["category"]) {
      rise(call, String(data["category"]), now);
      const danger = call.rose === "safeguard";
      call.danger ||= danger;
      mark(call, data, danger ? "danger" : "seen");
    }
  },
  suggestion(call, { data, t_ms }, now) {
    const why = sentence(String(data["why"]));
    call.suggestion = { key: data["key"], step: String(data["step"]), why, until: now + Number(data["until_ms"]) - t_ms };
  },
  suggestion_gone(call) {
    call.suggestion = null;
  },
  rung(call, { data, t_ms }) {
    const [from, to] = [/** @type {Rung} */ (data["from"]), /** @type {Rung} */ (data["to"])];
    call.rung = to;
    call.armed = to !== "disarmed" && to !== "ended";
    if (to !== "ending") call.countdown = null;
    if (to !== "clear" && to !== "disarmed") call.rough = true;
    if (data["cause"] === "prompt_heard") call.playing = null;
    if (data["cause"] === "safeguard") call.danger = true;
    if (data["cause"] === "ending_failed") call.trouble = "The call could not be ended. Please end it on your phone.";
    else if (to === "ending") call.trouble = "";
    call.suggestion = null;
    const words = moved(call, from, to, data);
    if (!words) return;
    const telling = data["cause"] === "prompt_heard" && call.lines.findLast((line) => line.key === call.told);
    if (telling) telling.text = words;
    else call.note(t_ms, words);
  },
  hotkey(call, { data, t_ms }) {
    call.suggestion = null;
    const by = who(String(data["by"] ?? ""), call.ext);
    if (by !== "you") call.note(t_ms, `${sentence(by).slice(0, -1)} pressed ${data["key"]}.`);
  },
  action_requested(call, { data, t_ms }) {
    if (data["action"] !== "play") return;
    call.playing = String(data["prompt"]);
    call.told = call.note(t_ms, `Telling the caller ${prompt(call.playing)}.`);
  },
  action_done(call, { data, t_ms }) {
    if (data["action"] === "transfer") call.note(t_ms, "The supervisor has the call.");
    else if (data["action"] === "hangup") call.note(t_ms, "The call was ended.");
    else if (data["action"] === "pause_agent") call.note(t_ms, "Your queue is paused after this call.");
  },
  action_failed(call, { data, t_ms }) {
    const why = String(data["error"] ?? "no reason given");
    if (data["action"] === "play") {
      call.playing = null;
      call.note(t_ms, `The caller did not hear all of ${prompt(String(data["prompt"]))}.`);
    } else if (data["action"] === "pause_agent") {
      call.note(t_ms, `Your queue could not be paused: ${why}.`);
    } else {
      call.note(t_ms, `The phone system refused to ${data["action"] === "hangup" ? "end the call" : "transfer"}: ${why}.`);
    }
  },
  call_ended(call, { data }) {
    call.ended = true;
    call.endedBy = String(data["why"] ?? "");
    call.countdown = null;
    call.playing = null;
    call.speaking = { caller: false, agent: false };
    call.suggestion = null;
    for (const line of call.lines) line.draft = false;
  },
};

/** @param {CallState} call @param {string} what @param {number} now */
function rise(call, what, now) {
  call.rose = what;
  call.roseAt = now;
}

/**
 * The words that a judgement is about get underlined where they stand.
 * @param {CallState} call
 * @param {Record<string, any>} data
 * @param {Line["verdict"]} verdict
 */
function mark(call, data, verdict) {
  if (!verdict) return;
  const said = call.lines.filter((line) => line.from === "caller" && !line.draft);
  const line = said.find((each) => /** @type {any} */ (each).start_ms === data["start_ms"]) ?? said.at(-1);
  if (!line || (verdict === "seen" && line.verdict === "counted")) return;
  line.verdict = verdict;
  line.marks = (data["words"] ?? []).map(String);
  line.why = reason(data, call.you);
}

/**
 * @param {CallState} call
 * @param {Rung} from
 * @param {Rung} to
 * @param {Record<string, any>} data
 * @returns {string}
 */
function moved(call, from, to, data) {
  const by = who(String(data["by"] ?? ""), call.ext);
  if (data["mode"] === "shadow" && data["cause"] !== "safeguard") return `Would be: ${RUNGS[to].name}. Nothing was done.`;
  switch (data["cause"]) {
    case "prompt_heard":
      return RUNGS[to].says;
    case "decay":
      return "Civil for a while: one step back.";
    case "key_pardon":
      return from === "ending" ? `Spared by ${by}: the call goes on.` : `Pardoned by ${by}: one step back.`;
    case "safeguard":
      return "Somebody may be in danger. Firmline will not end this call; a supervisor is being called.";
    case "key_disarm":
      return `Automatic endings switched off by ${by}.`;
    case "key_arm":
      return `Automatic endings switched on again by ${by}.`;
    case "ending_failed":
      return "The call could not be ended and goes on.";
    default:
      return to === "ending" ? `Decided to end the call: ${String(data["why"]).replace(/\byou\b/, call.you)}.` : "";
  }
}

/** @param {string} words @returns {string} with a capital and a full stop */
export function sentence(words) {
  const tidy = words.trim();
  return tidy ? tidy[0]?.toUpperCase() + tidy.slice(1) + (/[.!?]$/.test(tidy) ? "" : ".") : "";
}

/**
 * Whether somebody should be called to the screen for this row.
 * @param {Row} row
 * @returns {string} what to say; empty when not
 */
export function pageWorthy({ event, data }) {
  const category = String(data["category"] ?? "");
  const unheld = !data["held"] || String(data["held"]).startsWith("mode ");
  if (event === "rung" && data["cause"] === "safeguard") return "Somebody may be in danger";
  if (event === "signal" && category === "safeguard" && unheld) return "Somebody may be in danger";
  if ((event === "strike" || event === "signal") && PAGE_WORTHY.has(category) && unheld) return "A threat to an agent";
  if (event === "rung" && data["cause"] === "ending_failed") return "An ending failed";
  return event === "told" && data["page"] ? NEEDED : "";
}
