/** The agent's page: joins the feed, the keys and the picture for the one extension in the address. */
import { keep, takeFromAddress, token } from "./access.js";
import { AgentView } from "./agent-view.js";
import { ApiError, get, getOr, post } from "./api.js";
import { CallState } from "./call-state.js";
import { batched, byId, show, text } from "./dom.js";
import { Feed } from "./feed.js";
import { Keys } from "./keys.js";
import { flag } from "./settings.js";

/** @typedef {import("./contract.js").CallOut} CallOut */
/** @typedef {import("./contract.js").Check} Check */
/** @typedef {import("./contract.js").Key} Key */
/** @typedef {import("./contract.js").Row} Row */

const CALM_POLL_MS = 5_000;
const BUSY_POLL_MS = 1_000;
const REFUSED_FOR_MS = 12_000;
const NOT_HEARING = new Set(["ears", "line"]);

takeFromAddress();
const ext = decodeURIComponent(location.pathname.split("/")[2] ?? "");
const mine = `/api/agents/${encodeURIComponent(ext)}`;

/** @type {CallState|null} */
let call = null;
/** @type {string[]} */
let unheard = [];
let unsure = false;
let refused = "";
let refusedUntil = 0;
let paused = false;
let signIn = "";
let polled = 0;
let hadFocus = /** @type {Element|null} */ (null);

const useCues = flag("use-cues", true, () => redraw());
const useShortcuts = flag("use-shortcuts", true, () => redraw());
const view = new AgentView({ retry: () => feed.connect() });
const keys = new Keys(byId("keys"), press);
const redraw = batched(draw);
const feed = new Feed({ catchUp, row, link, checks });

function draw() {
  const now = performance.now();
  const retryIn = feed.link === "lost" ? Math.max(0, Math.ceil((feed.retryAt - now) / 1000)) : 0;
  if (now > refusedUntil) refused = "";
  if (call?.suggestion && now > call.suggestion.until) call.suggestion = null;
  keys.letters = useShortcuts();
  keys.draw(call, feed.link === "live");
  view.draw({ call, link: feed.link, seenAt: feed.seenAt, retryIn, unheard, unsure, refused, cues: useCues(), paused, signIn }, now);
  focusOnSparing();
}

/** The countdown takes the focus, so that Space or Enter spares; afterwards it goes back to where it was. */
function focusOnSparing() {
  const ending = !byId("countdown").hidden;
  if (ending && !hadFocus) {
    hadFocus = document.activeElement ?? document.body;
    byId("spare").focus({ preventScroll: false });
  } else if (!ending && hadFocus) {
    if (hadFocus instanceof HTMLElement && hadFocus.isConnected && !hadFocus.hidden) hadFocus.focus();
    hadFocus = null;
  }
}

/** @param {Row} row */
function row(row) {
  if (row.event === "call_started" && row.data["agent"] === ext) {
    call = new CallState(row.call_id, ext);
    void poll();
  } else if (!call || row.call_id !== call.id) {
    if (!call || call.ended) void pollSoon();
    return;
  }
  call.apply(row, performance.now());
  if (SUMMARY_CHANGES.has(row.event)) void pollSoon();
  redraw();
}

const SUMMARY_CHANGES = new Set(["leg_up", "rung", "strike", "call_ended", "action_failed"]);

/** @param {import("./feed.js").Link} now @param {string} detail */
function link(now, detail) {
  signIn = now === "signed_out" ? detail || "This page needs your access token." : "";
  show(byId("sign-out"), token() !== "");
  redraw();
}

/** @param {Check[]} checks @param {boolean} ready */
function checks(checks, ready) {
  unsure = !ready && !checks.length;
  unheard = checks.filter((check) => !check.ok && NOT_HEARING.has(check.name)).map((check) => check.detail);
  redraw();
}

async function catchUp() {
  const out = await current();
  if (!out) {
    if (call && !call.ended) call = null;
    return redraw();
  }
  const fresh = new CallState(out.id, ext);
  const told = await getOr(`/api/calls/${encodeURIComponent(out.id)}/transcript`, { events: [] });
  const now = performance.now();
  fresh.began = now - out.duration_ms;
  for (const each of told.events) fresh.apply(each, now);
  fresh.sync(out, now, now);
  view.transcript.clear();
  call = fresh;
  redraw();
}

/** @returns {Promise<CallOut|null>} */
async function current() {
  try {
    return await get(`${mine}/call`);
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

async function poll() {
  if (feed.link !== "live") return;
  const askedAt = (polled = performance.now());
  const out = await current().catch(() => undefined);
  if (out === undefined) return;
  if (out && (!call || (call.ended && call.id !== out.id))) return void (await catchUp().catch(() => undefined));
  if (out && call && out.id === call.id && !call.sync(out, performance.now(), askedAt)) pollSoon();
  redraw();
}

let soon = 0;
function pollSoon() {
  clearTimeout(soon);
  soon = setTimeout(() => void poll(), 60);
}

/** @param {Key} key */
async function press(key) {
  const askedAt = performance.now();
  keys.busy(key, true);
  try {
    const out = /** @type {CallOut} */ (await post(`${mine}/${key}`));
    if (call && out.id === call.id && !call.sync(out, performance.now(), askedAt)) pollSoon();
    refused = "";
  } catch (error) {
    refuse(error);
  }
  keys.busy(key, false);
  redraw();
}

/** @param {unknown} error */
function refuse(error) {
  refused = `That key did not work: ${error instanceof Error ? error.message : String(error)}`;
  refusedUntil = performance.now() + REFUSED_FOR_MS;
  if (error instanceof ApiError && error.status === 401) feed.connect();
}

async function pause() {
  if (feed.link !== "live") return;
  try {
    await post(`${mine}/${paused ? "unpause" : "pause"}`);
    paused = !paused;
  } catch (error) {
    refuse(error);
  }
  redraw();
}

function tick() {
  const now = performance.now();
  const busy = call && !call.ended && (call.rung === "ending" || call.playing !== null);
  if (now - polled >= (busy ? BUSY_POLL_MS : CALM_POLL_MS)) void poll();
  redraw();
}

/** The countdown moves smoothly; all else once a second is enough. */
function smooth() {
  if (call?.countdown) redraw();
  requestAnimationFrame(smooth);
}

text(byId("ext"), ext);
document.title = `Firmline ${ext}`;
byId("spare").addEventListener("click", () => feed.link === "live" && void press("pardon"));
byId("confirm").addEventListener("click", () => call?.suggestion && void press(call.suggestion.key));
byId("not-now").addEventListener("click", () => {
  if (call) call.suggestion = null;
  redraw();
});
byId("pause").addEventListener("click", () => void pause());
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
setInterval(tick, 1_000);
requestAnimationFrame(smooth);
feed.connect();
draw();
