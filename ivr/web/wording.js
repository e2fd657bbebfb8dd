/** The words of the pages, in one place: what each rung, key, category and prompt is called. */

/** @typedef {import("./contract.js").Rung} Rung */
/** @typedef {import("./icons.js").IconName} IconName */

/** @type {Record<Rung, {name: string, says: string, icon: IconName}>} */
export const RUNGS = {
  clear: { name: "Calm", says: "Nothing to do. Firmline is listening.", icon: "check" },
  cautioned: { name: "Asked", says: "The caller was asked to mind their language.", icon: "speak" },
  warned: { name: "Warned", says: "The caller heard the warning.", icon: "warn" },
  final: { name: "Last warning", says: "The caller heard the last warning.", icon: "last" },
  ending: { name: "Ending", says: "The call is about to end.", icon: "end" },
  ended: { name: "Over", says: "The call is over.", icon: "end" },
  disarmed: { name: "You lead", says: "Firmline will not end this call.", icon: "heart" },
};

/** The same on a narrow step. @type {Partial<Record<Rung, string>>} */
export const SHORT = { final: "Last" };

/** The ladder as it is climbed. @type {Rung[]} */
export const LADDER = ["clear", "cautioned", "warned", "final", "ending"];

/** @type {Record<string, string>} */
export const CATEGORIES = {
  civil: "civil",
  venting: "upset",
  obscenity: "swearing",
  insult: "insult",
  threat: "threat",
  slur: "slur",
  sexual: "sexual remark",
  safeguard: "somebody may be in danger",
};

/** @type {Record<string, string>} */
export const CONDUCT = {
  shouting: "The caller is shouting.",
  talking_over: "The caller talks over you.",
  interrupting: "The caller keeps interrupting.",
};

/** @type {Record<string, string>} */
const PROMPTS = {
  gentle_request: "the gentle request",
  warning: "the warning",
  final_warning: "the last warning",
  closing_transfer: "what happens next: a supervisor",
  closing_hangup: "what happens next: the call ends",
  closing_menu: "what happens next: a choice of ways on",
  hold_a_minute: "“please hold for a minute”",
  crisis_reassurance: "that help is being called",
  calming: "the calming words",
  notice: "the notice",
};

/** @param {string} name @returns {string} */
export const prompt = (name) => PROMPTS[name] ?? `“${name.replaceAll("_", " ")}”`;

/** @type {Record<string, string>} */
export const MODES = {
  full: "",
  warn: "Warnings are automatic. Ending a call is yours.",
  suggest: "Firmline suggests, you decide.",
  shadow: "Trial run: Firmline only records. The keys do nothing.",
};

/** @param {string} kind what an ending is @returns {string} */
export function endingIn(kind) {
  if (kind === "transfer") return "Going to the supervisor";
  if (kind === "menu") return "Going to the menu";
  return "Ending the call";
}

/** @param {string} by such as `agent:201` @param {string|null} ext of the reader @returns {string} */
export function who(by, ext) {
  if (by === `agent:${ext}`) return "you";
  if (by.startsWith("agent:")) return `agent ${by.slice(6)}`;
  if (by.startsWith("supervisor")) return "a supervisor";
  return by === "ops" ? "an operator" : by;
}

/**
 * Why words counted or did not, as one short line under them.
 * @param {Record<string, any>} data of a strike or a signal
 * @param {string} you who hears the caller: "you", or "the agent" on the wall
 * @returns {string}
 */
export function reason(data, you) {
  const category = String(data["category"] ?? "");
  if (category === "safeguard") return "Somebody may be in danger.";
  const name = CATEGORIES[category] ?? "";
  const aimed = data["directed"] ? `aimed at ${you}` : "aimed at nobody here";
  const what = name ? `${name}, ${aimed}` : String(data["why"] ?? "");
  const held = String(data["held"] ?? "");
  if (held.startsWith("mode ") || data["mode"] === "shadow") return `Would count: ${what}.`;
  return held ? `Not counted (${held}): ${what}.` : `Counts: ${what}.`;
}
