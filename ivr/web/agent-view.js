/** The agent's page as elements: what to show for a state. Decides nothing, asks nobody. */
import { attr, byId, clock, el, show, text, timeOfDay } from "./dom.js";
import { icon } from "./icons.js";
import { Ladder, Ring } from "./ladder.js";
import { Transcript } from "./transcript.js";
import { CONDUCT, endingIn, MODES, prompt, RUNGS } from "./wording.js";
import { sentence } from "./call-state.js";

/** @typedef {import("./call-state.js").CallState} CallState */
/** @typedef {import("./feed.js").Link} Link */

/**
 * @typedef {object} Picture everything the page shows
 * @property {CallState|null} call
 * @property {Link} link
 * @property {Date} seenAt when what is shown was last known to be true
 * @property {number} retryIn seconds
 * @property {string[]} unheard why Firmline as a whole hears nothing just now
 * @property {boolean} unsure something is wrong with Firmline, and this reader is not told what
 * @property {string} refused the latest key that was refused, and why
 * @property {boolean} cues
 * @property {boolean} paused
 * @property {string} signIn why a token is needed; empty when it is not
 */

/** Later than this a person answers words that everybody has forgotten. */
const LATE_MS = 3_000;
/** So long what rose is what the page is about. */
const RISEN_MS = 45_000;
const MARK_OF = { live: "Live", connecting: "Connecting", lost: "Offline", signed_out: "Signed out", forbidden: "Not yours" };

export class AgentView {
  /** @param {{retry: () => void}} does */
  constructor(does) {
    this._does = does;
    this._ladder = new Ladder(byId("ladder"));
    this._ring = new Ring(byId("ring"));
    this.transcript = new Transcript(byId("transcript"));
    this._said = "";
    this._called = "";
    this._drawnCall = "";
    byId("idle-sign").append(icon("ear"));
    byId("after-sign").append(icon("check"));
    byId("spare").append(icon("heart"), el("span", { text: "Spare them" }), el("kbd", { text: "P", "aria-hidden": "true" }));
    for (const [id, name] of /** @type {const} */ ([["caller-speaks", "Caller"], ["agent-speaks", "You"]])) {
      const bars = el("span", { class: "bars", "aria-hidden": "true" }, el("i"), el("i"), el("i"));
      byId(id).append(bars, el("span", { text: name }));
    }
  }

  /** @param {Picture} picture @param {number} now */
  draw(picture, now) {
    const { call, link } = picture;
    const live = link === "live";
    const talking = call !== null && !call.ended && !picture.signIn;
    // A trial run handles nothing: no countdown is shown that nobody could stop, and no work is claimed afterwards.
    const acts = call?.mode !== "shadow";
    const after = call !== null && call.ended && acts && (call.rough || call.danger) && !picture.signIn;
    const ending = talking && acts && call.rung === "ending";
    attr(document.body, "data-link", link);
    attr(document.body, "data-rung", talking ? call.rung : "none");
    text(byId("link"), MARK_OF[link]);
    this._banners(picture);
    show(byId("sign-in"), picture.signIn !== "");
    text(byId("sign-in-why"), picture.signIn);
    show(byId("idle"), !talking && !after && !picture.signIn);
    this._idle(picture, live);
    show(byId("after"), after);
    const asked = talking && !ending ? call.suggestion : null;
    show(byId("now"), talking && !ending && !asked);
    show(byId("ladder"), talking && call.rung !== "disarmed");
    show(byId("countdown"), ending);
    show(byId("talk"), talking);
    show(byId("keys"), talking);
    this._after(picture);
    this._suggestion(asked, live);
    const risen = talking && now - call.roseAt < RISEN_MS;
    this._cue(risen && acts && !ending && !asked && picture.cues ? call : null);
    if (talking) this._call(call, now, live, picture.unheard.length > 0);
    this._speak(talking ? call : null, after, live);
  }

  /** @param {CallState} call @param {number} now @param {boolean} live @param {boolean} unheard */
  _call(call, now, live, unheard) {
    if (this._drawnCall !== call.id) this.transcript.clear();
    this._drawnCall = call.id;
    const rung = RUNGS[call.rung];
    const playing = call.playing !== null && call.rung !== "ending";
    const deaf = call.deaf !== "" || unheard;
    const [title, words] = playing ? ["Firmline is speaking", `The caller hears ${prompt(call.playing ?? "")}. Take a breath.`] : nowWords(call, deaf, now - call.roseAt < RISEN_MS);
    text(byId("now-title"), title);
    text(byId("now-text"), words);
    const sign = playing ? "speak" : deaf && call.rung === "clear" ? "ear" : rung.icon;
    if (byId("now-icon").dataset["of"] !== sign) {
      byId("now-icon").dataset["of"] = sign;
      byId("now-icon").replaceChildren(icon(sign));
    }
    attr(document.body, "data-deaf", deaf);
    if (live) text(byId("timer"), clock(now - call.began));
    this._ladder.draw(call.rung);
    this._countdown(call, now, live);
    attr(byId("caller-speaks"), "data-on", live && call.speaking.caller);
    attr(byId("agent-speaks"), "data-on", live && call.speaking.agent);
    this.transcript.draw(call.lines);
  }

  /** @param {CallState} call @param {number} now @param {boolean} live */
  _countdown(call, now, live) {
    if (call.rung !== "ending") return;
    const running = call.countdown;
    const left = running ? running.until - now : 0;
    attr(byId("spare"), "aria-disabled", live ? null : "true");
    if (!live) {
      this._ring.unknown();
      text(byId("countdown-title"), "An ending was under way");
      return text(byId("countdown-text"), "Firmline may have gone on with it.");
    }
    this._ring.draw(left, running?.total ?? 1);
    text(byId("countdown-title"), endingIn(running?.kind ?? ""));
    const why = running?.why ? sentence(running.why) : "";
    text(byId("countdown-text"), left > 0 ? why : "When the closing words are over. You can still spare them.");
  }

  /** @param {Picture} picture @param {boolean} live */
  _idle(picture, live) {
    if (!live) {
      text(byId("idle-title"), picture.link === "forbidden" ? "This page is not yours" : "Not connected");
      text(byId("idle-text"), picture.link === "connecting" ? "One moment." : "Nothing is shown, because nothing is known.");
    } else if (picture.unheard.length) {
      text(byId("idle-title"), "Not listening");
      text(byId("idle-text"), "Take calls as usual; Firmline cannot help just now.");
    } else {
      text(byId("idle-title"), picture.paused ? "You are paused" : "No call");
      text(byId("idle-text"), picture.paused ? "Your queue waits for you." : "Firmline listens when your next one begins.");
    }
  }

  /** @param {Picture} picture */
  _after({ paused, link }) {
    const button = byId("pause");
    const name = paused ? "I am ready again" : "Pause my queue";
    if (button.dataset["name"] !== name) {
      button.dataset["name"] = name;
      button.replaceChildren(icon(paused ? "check" : "minute"), el("span", { class: "key-name" }, el("b", { text: name })));
    }
    attr(button, "aria-disabled", link === "live" ? null : "true");
    text(byId("after-text"), paused ? "No new calls until you say so." : "Take the time you need.");
  }

  /** @param {import("./call-state.js").Suggestion|null} asked @param {boolean} live */
  _suggestion(asked, live) {
    show(byId("suggestion"), Boolean(asked));
    if (!asked) return;
    const what = { warn: "play the warning", end: "end the call", transfer: "hand the call to the supervisor" }[asked.key];
    text(byId("suggestion-title"), `Shall Firmline ${what}?`);
    text(byId("suggestion-text"), asked.why);
    text(byId("confirm"), asked.key === "warn" ? "Yes, play it" : "Yes");
    attr(byId("confirm"), "aria-disabled", live ? null : "true");
  }

  /** @param {CallState|null} call */
  _cue(call) {
    const box = byId("cue");
    const cues = (call?.rose && call.summary?.cues[call.rose]) || [];
    show(box, cues.length > 0);
    const drawn = JSON.stringify(cues);
    if (box.dataset["drawn"] === drawn) return;
    box.dataset["drawn"] = drawn;
    box.replaceChildren(icon("bulb"), el("ul", {}, ...cues.map((cue) => el("li", { text: cue }))));
  }

  /** @param {Picture} picture */
  _banners(picture) {
    const { call, link } = picture;
    /** @type {{kind: string, icon: import("./icons.js").IconName, words: string, retry?: boolean}[]} */
    const all = [];
    if (link === "lost") {
      const when = timeOfDay(picture.seenAt);
      const stale = call && !call.ended ? `This is from ${when}. ` : "";
      const next = picture.retryIn > 0 ? `Trying again in ${picture.retryIn} s.` : "Trying again.";
      all.push({ kind: "bad", icon: "offline", words: `Connection lost; your call goes on. ${stale}${next}`, retry: true });
    }
    if (link === "forbidden") all.push({ kind: "bad", icon: "shield", words: "Your token is for another extension: nothing is shown here." });
    if (link === "live" && (picture.unheard.length || (call && !call.ended && call.deaf))) {
      const why = call && !call.ended && call.deaf ? call.deaf : "Firmline does not hear calls just now.";
      all.push({ kind: "bad", icon: "ear", words: `${why} Handle the call as you would without it.` });
    }
    const late = link === "live" && call && !call.ended ? (call.summary?.lag_ms ?? 0) : 0;
    if (late > LATE_MS) all.push({ kind: "note", icon: "ear", words: `Words come ${Math.round(late / 1000)} s late just now, and so may a warning.` });
    if (link === "live" && picture.unsure) all.push({ kind: "note", icon: "ear", words: "Firmline has a fault just now: it may hear late, or not at all." });
    if (call && !call.ended && call.trouble) all.push({ kind: "bad", icon: "last", words: call.trouble });
    if (picture.refused) all.push({ kind: "bad", icon: "last", words: picture.refused });
    const mode = call && !call.ended && !call.suggestion ? MODES[call.mode] : "";
    if (mode) all.push({ kind: "note", icon: "shield", words: mode });
    this._put(all);
  }

  /** @param {{kind: string, icon: import("./icons.js").IconName, words: string, retry?: boolean}[]} all */
  _put(all) {
    const box = byId("banners");
    const shape = JSON.stringify(all.map(({ kind, icon, retry }) => [kind, icon, retry]));
    if (box.dataset["shape"] !== shape) {
      box.dataset["shape"] = shape;
      box.replaceChildren(...all.map((each) => {
        const again = each.retry && el("button", { type: "button", class: "quiet", text: "Try now", onclick: this._does.retry });
        return el("div", { class: `banner ${each.kind}` }, icon(each.icon), el("p"), again);
      }));
    }
    all.forEach((each, index) => {
      const words = box.children[index]?.querySelector("p");
      if (words) text(words, each.words);
    });
  }

  /**
   * For those who do not look: changes politely, the countdown at once and once.
   * @param {CallState|null} call @param {boolean} after @param {boolean} live
   */
  _speak(call, after, live) {
    const ending = live && call?.rung === "ending" ? `${call.id} ${call.countdown?.kind ?? ""}` : "";
    if (ending && ending !== this._called) {
      text(byId("say-now"), `${byId("countdown-title").textContent}. Press P to spare them.`);
    } else if (!ending && this._called) {
      text(byId("say-now"), "");
    }
    this._called = ending;
    const asked = call?.suggestion ? `${byId("suggestion-title").textContent} ${byId("suggestion-text").textContent}` : "";
    const said = asked ? asked : call ? `${byId("now-title").textContent}. ${byId("now-text").textContent}` : after ? "That call was handled and logged." : "";
    if (said !== this._said && !ending) text(byId("say-politely"), said);
    this._said = said;
  }
}

/**
 * The one thing to know now, and one line about it.
 * @param {CallState} call
 * @param {boolean} deaf
 * @param {boolean} risen whether something rose a short while ago
 * @returns {[string, string]}
 */
function nowWords(call, deaf, risen) {
  if (call.rung === "disarmed") {
    return call.danger
      ? ["Somebody may be in danger", "Firmline will not end this call. A supervisor is being called."]
      : ["Endings are off", RUNGS.disarmed.says];
  }
  if (call.mode === "shadow" && call.rung !== "clear") return [`Would be: ${RUNGS[call.rung].name}`, "Nothing was done: this is a trial run."];
  if (deaf) return [call.rung === "clear" ? "Not hearing the caller" : RUNGS[call.rung].name, "You are on your own for the moment."];
  const conduct = risen ? CONDUCT[call.rose] : "";
  if (call.rung === "clear") return conduct ? [conduct.slice(0, -1), "Nothing is counted for that."] : ["All calm", RUNGS.clear.says];
  const next = call.mode === "full" ? NEXT[call.rung] : "";
  return [RUNGS[call.rung].name, [RUNGS[call.rung].says, next].filter(Boolean).join(" ")];
}

/** @type {Record<string, string>} */
const NEXT = { warned: "If it goes on, the call ends.", final: "If it goes on, the call ends." };
