/**
 * The access token: taken from the address's fragment, which browsers send to nobody, or from the sign-in field; kept
 * for this tab only, and out of the address bar and the history.
 */
const KEPT = "firmline.token";

/** Take `#token=...` out of the address, if it is there. */
export function takeFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  keep(given);
  history.replaceState(history.state, "", location.pathname + location.search);
}

/** @returns {string} empty when there is none */
export function token() {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return held;
  }
}

let held = "";

/** @param {string} value empty forgets it */
export function keep(value) {
  held = value.trim();
  try {
    if (held) sessionStorage.setItem(KEPT, held);
    else sessionStorage.removeItem(KEPT);
  } catch {
    // A browser without storage: the token lasts as long as the page.
  }
}
