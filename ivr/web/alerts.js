/** Calls a person to the screen: a sound made here (no file) and a desktop notification, each only if wanted. */
import { flag } from "./settings.js";

/** Two rising notes, twice: heard across a room, frightens nobody. [start s, Hz] @type {[number, number][]} */
const NOTES = [[0, 523], [0.18, 784], [0.6, 523], [0.78, 784]];
const NOTE_S = 0.16;
const LOUDNESS = 0.25;
const SAME_AGAIN_MS = 10_000;

export class Alerts {
  /** @param {() => void} changed */
  constructor(changed) {
    this._changed = changed;
    this._sound = flag("use-sound", true, changed);
    this._notices = flag("use-notices", false, (on) => on && void this._ask());
    /** @type {AudioContext|null} */
    this._audio = null;
    /** @type {Map<string, number>} */
    this._last = new Map();
    addEventListener("pointerdown", () => void this._wake());
    addEventListener("keydown", () => void this._wake());
  }

  /** Browsers keep a page silent until somebody has touched it. */
  get muted() {
    return this._sound() && this._audio?.state !== "running";
  }

  /**
   * @param {string} what
   * @param {string} about the call
   * @param {() => void} chosen what a click on the notification does
   */
  call(what, about, chosen) {
    const now = performance.now();
    const key = `${what} ${about}`;
    if (now - (this._last.get(key) ?? -Infinity) < SAME_AGAIN_MS) return;
    this._last.set(key, now);
    if (this._sound()) this.play();
    if (!this._notices() || typeof Notification === "undefined" || Notification.permission !== "granted") return;
    const notice = new Notification(what, { body: about, tag: key, requireInteraction: true });
    notice.onclick = () => {
      focus();
      chosen();
      notice.close();
    };
  }

  /** The sound, now. */
  play() {
    const audio = this._audio;
    if (!audio || audio.state !== "running") return;
    for (const [at, hz] of NOTES) {
      const tone = new OscillatorNode(audio, { type: "triangle", frequency: hz });
      const gain = new GainNode(audio, { gain: 0 });
      const from = audio.currentTime + at;
      gain.gain.setValueAtTime(0, from);
      gain.gain.linearRampToValueAtTime(LOUDNESS, from + 0.02);
      gain.gain.exponentialRampToValueAtTime(0.001, from + NOTE_S);
      tone.connect(gain).connect(audio.destination);
      tone.start(from);
      tone.stop(from + NOTE_S);
    }
  }

  async _wake() {
    this._audio ??= new AudioContext();
    if (this._audio.state === "running") return;
    await this._audio.resume().catch(() => undefined);
    this._changed();
  }

  async _ask() {
    if (typeof Notification !== "undefined" && Notification.permission === "default") await Notification.requestPermission();
    this._changed();
  }
}
