/**
 * The stream of events, and whether it can be believed.
 *
 *     CONNECTING --open, caught up--> LIVE --closed or no answer--> LOST --back-off over--> CONNECTING
 *     CONNECTING --refused: 401--> SIGNED_OUT     CONNECTING --refused: 403--> FORBIDDEN
 *
 * A socket can be dead without being closed (a laptop that slept, a proxy that forgot), and browsers show no pings to
 * pages: so `/readyz` is asked every few seconds, which also tells whether Firmline hears calls at all.
 */
import { token } from "./access.js";
import { ApiError, get } from "./api.js";

/** @typedef {import("./contract.js").Row} Row */
/** @typedef {import("./contract.js").Check} Check */
/** @typedef {"connecting"|"live"|"lost"|"signed_out"|"forbidden"} Link */
/**
 * @typedef {object} Listener
 * @property {() => Promise<void>} catchUp reads what happened before the stream; rows that come meanwhile wait for it
 * @property {(row: Row) => void} row
 * @property {(link: Link, detail: string) => void} link
 * @property {(checks: Check[], ready: boolean) => void} checks which are told to those who mend, and none to others
 */

const BACK_OFF_MS = [500, 1_000, 2_000, 4_000, 8_000, 15_000];
const ALIVE_EVERY_MS = 4_000;
const ALIVE_MISSES = 2;
const LOST = "The connection to Firmline was lost.";

export class Feed {
  /** @param {Listener} listener */
  constructor(listener) {
    this._listener = listener;
    /** @type {Link} */
    this.link = "connecting";
    /** When the stream was last known to be whole. */
    this.seenAt = new Date();
    /** `performance.now()` of the next try while the link is lost. */
    this.retryAt = 0;
    /** @type {WebSocket|null} */
    this._socket = null;
    /** @type {Row[]|null} */
    this._early = null;
    this._failures = 0;
    this._misses = 0;
    this._timer = 0;
    this._round = 0;
    setInterval(() => void this._alive(), ALIVE_EVERY_MS);
    addEventListener("online", () => this.link === "lost" && this.connect());
    addEventListener("offline", () => this._lose());
  }

  /** Connect now, whatever was planned. */
  connect() {
    clearTimeout(this._timer);
    this._drop();
    const round = ++this._round;
    this._say("connecting", "");
    void this._open(round).catch((error) => {
      if (round === this._round) this._failed(error);
    });
  }

  /** @param {number} round */
  async _open(round) {
    await get("/api/me").catch((error) => {
      // A server of before the tokens has no such page.
      if (!(error instanceof ApiError && error.status === 404)) throw error;
    });
    const socket = await this._handshake();
    if (round !== this._round) return socket.close();
    this._socket = socket;
    this._early = [];
    socket.onmessage = (message) => this._take(message);
    socket.onclose = () => socket === this._socket && this._failed(new ApiError(0, LOST));
    await this._listener.catchUp();
    if (round !== this._round || this._socket !== socket) return;
    const early = this._early ?? [];
    this._early = null;
    for (const row of early) this._listener.row(row);
    this._failures = this._misses = 0;
    this.seenAt = new Date();
    this._say("live", "");
    void this._alive();
  }

  /** @returns {Promise<WebSocket>} */
  _handshake() {
    const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/events?words=1`;
    const socket = token() ? new WebSocket(url, ["firmline", `bearer.${token()}`]) : new WebSocket(url);
    return new Promise((resolve, reject) => {
      const limit = setTimeout(() => socket.close(), 5_000);
      socket.onopen = () => {
        clearTimeout(limit);
        resolve(socket);
      };
      socket.onclose = (event) => {
        clearTimeout(limit);
        reject(new ApiError(0, event.reason || "The stream of events could not be opened."));
      };
    });
  }

  /** @param {MessageEvent} message */
  _take(message) {
    /** @type {Row} */
    let row;
    try {
      row = JSON.parse(message.data);
    } catch {
      return;
    }
    this.seenAt = new Date();
    if (this._early) this._early.push(row);
    else this._listener.row(row);
  }

  async _alive() {
    if (this.link !== "live") return;
    const round = this._round;
    try {
      const ready = await get("/readyz");
      if (round !== this._round) return;
      this._misses = 0;
      this.seenAt = new Date();
      this._listener.checks(ready.checks, ready.ready);
    } catch (error) {
      if (round !== this._round || (error instanceof ApiError && error.status !== 0)) return;
      this._misses += 1;
      if (this._misses >= ALIVE_MISSES) this._lose();
    }
  }

  _lose() {
    if (this.link === "live") this._failed(new ApiError(0, LOST));
  }

  /** @param {unknown} error */
  _failed(error) {
    this._round += 1;
    this._drop();
    const status = error instanceof ApiError ? error.status : 0;
    const detail = error instanceof Error ? error.message : "";
    if (status === 401) return this._say("signed_out", detail);
    if (status === 403) return this._say("forbidden", detail);
    const wait = BACK_OFF_MS[Math.min(this._failures, BACK_OFF_MS.length - 1)] ?? 15_000;
    const jittered = wait * (0.8 + 0.4 * Math.random());
    this._failures += 1;
    this.retryAt = performance.now() + jittered;
    this._timer = setTimeout(() => this.connect(), jittered);
    this._say("lost", detail);
  }

  _drop() {
    const socket = this._socket;
    this._socket = this._early = null;
    socket?.close();
  }

  /** @param {Link} link @param {string} detail */
  _say(link, detail) {
    // While tries go on a lost link stays lost: flicker between the two would tell a reader nothing.
    if (link === "connecting" && this.link === "lost") return;
    this.link = link;
    this._listener.link(link, detail);
  }
}
