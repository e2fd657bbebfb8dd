/** The supervisor's wall: joins the feed, the list of live calls, the chosen call, today's incidents and the alerts. */
import { keep, takeFromAddress, token } from "./access.js";
import { Alerts } from "./alerts.js";
import { ApiError, get, getOr, post } from "./api.js";
import { CallState, NEEDED, pageWorthy } from "./call-state.js";
import { Chosen } from "./chosen.js";
import { attr, batched, byId, el, show, text, timeOfDay } from "./dom.js";
import { Feed } from "./feed.js";
import { icon } from "./icons.js";
import { IncidentList } from "./incidents.js";
import { recall, remember } from "./settings.js";
import { FILTERS, WallList } from "./wall-list.js";

/** @typedef {import("./contract.js").CallOut} CallOut */
/** @typedef {import("./contract.js").Key} Key */
/** @typedef {import("./contract.js").Row} Row */

const POLL_MS = 5_000;
const INCIDENTS_AFTER_MS = 800;
const INCIDENTS_EVERY_MS = 60_000;
const AGENT = "the agent";
const REFUSED_FOR_MS = 12_000;
/** A call that ended stays for its panel and its incidents; more than these are forgotten, oldest first. */
const MAX_ENDED = 50;

takeFromAddress();
/** @type {Map<string, CallState>} */
const calls = new Map();
/** @type {Set<string>} */
const changed = new Set();
/** @type {import("./contract.js").Check[]} */
let failing = [];
let configError = "";
let chosen = "";
let refused = "";
let refusedUntil = 0;
let page = { words: "", id: "", at: 0 };
let signIn = "";
let myExt = recall("my-ext");

const alerts = new Alerts(() => redraw());
const list = new WallList(byId("rows"), choose);
const panel = new Chosen((key) => void press(key));
const incidents = new IncidentList(choose);
const redraw = batched(draw);
const feed = new Feed({ catchUp, row, link, checks });

function draw() {
  const now = performance.now();
  const live = feed.link === "live";
  if (now > refusedUntil) refused = "";
  attr(document.body, "data-link", feed.link);
  text(byId("link"), { live: "Live", connecting: "Connecting", lost: "Offline", signed_out: "Signed out", forbidden: "Not yours" }[feed.link]);
  show(byId("sign-in"), signIn !== "");
  text(byId("sign-in-why"), signIn);
  for (const id of ["calls", "chosen", "today"]) show(byId(id), signIn === "" && feed.link !== "forbidden");
  const shown = list.draw(calls, changed, chosen, now);
  const all = [...calls.values()].filter((call) => !call.ended);
  show(byId("none"), shown === 0);
  text(byId("none"), all.length ? "No call like that just now." : live ? "No live call just now." : "Nothing is known just now.");
  text(byId("counts"), counts(all));
  for (const [name, button] of filters) {
    attr(button, "aria-pressed", name === list.filter ? "true" : "false");
    text(/** @type {Element} */ (button.lastElementChild), String(all.filter((call) => FILTERS[name]?.has(call)).length));
  }
  if (changed.has(chosen) || changed.has("all")) panel.draw(calls.get(chosen) ?? null, live, myExt, now);
  changed.clear();
  banners(now);
}

/** @param {CallState[]} all @returns {string} */
function counts(all) {
  const parts = [`${all.length} live`];
  for (const name of ["warned", "ending", "disarmed"]) {
    const filter = FILTERS[name];
    const count = filter ? all.filter((call) => filter.has(call)).length : 0;
    if (count) parts.push(`${count} ${filter?.name.toLowerCase()}`);
  }
  return parts.join(" · ");
}

/** @param {number} now */
function banners(now) {
  /** @type {{icon: import("./icons.js").IconName, kind: string, words: string, act?: [string, () => void]}[]} */
  const all = [];
  if (page.words) all.push({ icon: "bell", kind: "page", words: page.words, act: ["Open the call", () => choose(page.id)] });
  if (feed.link === "lost") {
    const wait = Math.max(0, Math.ceil((feed.retryAt - now) / 1000));
    const words = `Connection to Firmline lost; the calls go on. What you see is from ${timeOfDay(feed.seenAt)}. Trying again${wait ? ` in ${wait} s` : ""}.`;
    all.push({ icon: "offline", kind: "bad", words, act: ["Try now", () => feed.connect()] });
  }
  if (feed.link === "forbidden") all.push({ icon: "shield", kind: "bad", words: "This page needs a supervisor’s token; yours is another’s." });
  if (configError) all.push({ icon: "last", kind: "bad", words: `The new settings were refused; the old ones stay in force. ${configError}` });
  if (feed.link === "live") for (const check of failing) all.push({ icon: "ear", kind: "bad", words: `${check.name}: ${check.detail}` });
  if (refused) all.push({ icon: "last", kind: "bad", words: refused });
  if (alerts.muted) all.push({ icon: "sound", kind: "note", words: "Click anywhere to let this page sound when somebody is needed." });
  const box = byId("banners");
  const shape = JSON.stringify(all.map(({ kind, icon: sign, act }) => [kind, sign, act?.[0]]));
  if (box.dataset["shape"] !== shape) {
    box.dataset["shape"] = shape;
    box.replaceChildren(...all.map(({ kind, icon: sign, act }) =>
      el("div", { class: `banner ${kind}` }, icon(sign), el("p"), act && el("button", { type: "button", class: "quiet", text: act[0], onclick: act[1] }))));
  }
  all.forEach((each, index) => {
    const words = box.children[index]?.querySelector("p");
    if (words) text(words, each.words);
  });
}

/** @param {Row} row */
function row(row) {
  const now = performance.now();
  let call = calls.get(row.call_id);
  if (!call) {
    call = new CallState(row.call_id, null, AGENT);
    calls.set(row.call_id, call);
    syncSoon();
  }
  if (!call.apply(row, now)) return;
  changed.add(row.call_id);
  if (INCIDENTS.has(row.event)) incidentsSoon();
  const worthy = pageWorthy(row);
  if (worthy) alarm(worthy, call);
  if (row.event === "call_ended") forget();
  redraw();
}

/** What can make a call an incident, or change how it reads. */
const INCIDENTS = new Set(["rung", "action_failed", "call_ended"]);
let incidentsTimer = 0;

/** The journal writes behind the call: it is read a moment later, and once for many rows. */
function incidentsSoon() {
  if (!incidentsTimer) incidentsTimer = setTimeout(() => {
    incidentsTimer = 0;
    void readIncidents();
  }, INCIDENTS_AFTER_MS);
}

async function readIncidents() {
  const told = await getOr("/api/incidents", { incidents: [] }).catch(() => null);
  if (told) incidents.draw(told.incidents, new Set(calls.keys()));
}

/** @param {string} worthy @param {CallState} call */
function alarm(worthy, call) {
  // The general call follows the particular one: it has nothing to add then.
  if (worthy === NEEDED && page.id === call.id && performance.now() - page.at < 2_000) return;
  const about = call.ext ? `Extension ${call.ext}` : "A call without extension";
  page = { words: `${worthy}. ${about}.`, id: call.id, at: performance.now() };
  text(byId("say-now"), page.words);
  alerts.call(worthy, about, () => choose(call.id));
}

function forget() {
  const over = [...calls.values()].filter((call) => call.ended && call.id !== chosen);
  for (const call of over.slice(0, Math.max(0, over.length - MAX_ENDED))) calls.delete(call.id);
}

/** @param {import("./feed.js").Link} now @param {string} detail */
function link(now, detail) {
  signIn = now === "signed_out" ? detail || "This page needs a supervisor’s access token." : "";
  show(byId("sign-out"), token() !== "");
  changed.add("all");
  redraw();
}

/** @param {import("./contract.js").Check[]} checks */
function checks(checks) {
  failing = checks.filter((check) => !check.ok);
  redraw();
}

async function catchUp() {
  const me = await getOr("/api/me", { role: "open" });
  if (me.role === "agent") throw new ApiError(403, "This page needs a supervisor’s token.");
  if (!myExt && me.ext) myExt = me.ext;
  await sync();
  void readIncidents();
  for (const id of chosen ? [chosen] : []) await history(id);
}

async function sync() {
  const askedAt = performance.now();
  const outs = /** @type {CallOut[]} */ (await get("/api/calls"));
  const now = performance.now();
  const seen = new Set(outs.map((out) => out.id));
  for (const out of outs) {
    const call = calls.get(out.id) ?? new CallState(out.id, out.agent_ext, AGENT);
    calls.set(out.id, call);
    if (!call.sync(out, now, askedAt)) syncSoon();
    changed.add(out.id);
  }
  for (const call of calls.values()) {
    if (!seen.has(call.id) && !call.ended && call.heardAt < askedAt) {
      call.ended = true;
      changed.add(call.id);
    }
  }
  const status = await getOr("/api/status", {});
  configError = String(status.config_error ?? "");
  redraw();
}

let soon = 0;
function syncSoon() {
  if (!soon) soon = setTimeout(() => {
    soon = 0;
    if (feed.link === "live") void sync().catch(() => undefined);
  }, 250);
}

/** What was said before the page looked. @param {string} id */
async function history(id) {
  const told = await getOr(`/api/calls/${encodeURIComponent(id)}/transcript`, null).catch(() => null);
  const call = calls.get(id);
  if (!told || !call) return;
  const now = performance.now();
  const fresh = new CallState(id, call.ext, AGENT);
  for (const each of told.events) fresh.apply(each, now);
  fresh.lines.push(...call.lines.filter((line) => line.draft));
  const { summary, began, countdown, rung, armed, mode, strikes, playing, ended, speaking, movedAt, heardAt } = call;
  Object.assign(fresh, { summary, began, countdown, rung, armed, mode, strikes, playing, ended, speaking, movedAt, heardAt });
  calls.set(id, fresh);
  changed.add(id);
  redraw();
}

/** @param {string} id */
function choose(id) {
  if (!calls.has(id)) return;
  if (page.id === id) page = { words: "", id: "", at: 0 };
  chosen = chosen === id ? "" : id;
  changed.add("all");
  if (chosen) void history(chosen);
  redraw();
}

/** @param {Key} key */
async function press(key) {
  const id = chosen;
  const askedAt = performance.now();
  try {
    const body = key === "transfer" && myExt ? { to: myExt } : undefined;
    const out = /** @type {CallOut} */ (await post(`/api/calls/${encodeURIComponent(id)}/${key}`, body));
    if (calls.get(id)?.sync(out, performance.now(), askedAt) === false) syncSoon();
    refused = "";
  } catch (error) {
    refused = `That did not work: ${error instanceof Error ? error.message : String(error)}`;
    refusedUntil = performance.now() + REFUSED_FOR_MS;
  }
  changed.add(id);
  redraw();
}

/** @type {Map<string, HTMLButtonElement>} */
const filters = new Map(Object.entries(FILTERS).map(([name, { name: words }]) => {
  const choose = () => {
    list.filter = name;
    redraw();
  };
  return [name, el("button", { type: "button", class: "filter", onclick: choose }, el("span", { text: words }), el("span", { class: "number", text: "0" }))];
}));
byId("filters").append(...filters.values());
byId("find").addEventListener("input", (event) => {
  list.find = /** @type {HTMLInputElement} */ (event.target).value;
  redraw();
});
byId("sort").addEventListener("change", (event) => {
  list.order = /** @type {HTMLSelectElement} */ (event.target).value;
  redraw();
});
const mine = /** @type {HTMLInputElement} */ (byId("my-ext"));
mine.value = myExt;
mine.addEventListener("change", () => {
  myExt = mine.value.trim();
  remember("my-ext", myExt);
  changed.add("all");
  redraw();
});
byId("try-sound").addEventListener("click", () => alerts.play());
byId("let-go").addEventListener("click", () => choose(chosen));
byId("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = /** @type {HTMLInputElement} */ (byId("token"));
  keep(field.value);
  field.value = "";
  feed.connect();
});
byId("sign-out").addEventListener("click", () => {
  keep("");
  location.reload();
});
setInterval(() => feed.link === "live" && void readIncidents(), INCIDENTS_EVERY_MS);
setInterval(() => feed.link === "live" && void sync().catch(() => undefined), POLL_MS);
setInterval(() => {
  const now = performance.now();
  if (feed.link === "live") list.tick(calls, now);
  const call = calls.get(chosen);
  if (call && feed.link === "live") panel.tick(call, now);
  if (feed.link === "lost" || refused) redraw();
}, 1_000);
changed.add("all");
feed.connect();
draw();
