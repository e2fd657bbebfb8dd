/** What a person switched on or off, kept on this machine. */
import { byId } from "./dom.js";

/**
 * Ties a checkbox to a kept flag.
 * @param {string} id of the checkbox, and of what is kept
 * @param {boolean} otherwise
 * @param {(on: boolean) => void} changed
 * @returns {() => boolean}
 */
export function flag(id, otherwise, changed) {
  const box = /** @type {HTMLInputElement} */ (byId(id));
  const kept = recall(id);
  box.checked = kept === "" ? otherwise : kept === "on";
  box.addEventListener("change", () => {
    remember(id, box.checked ? "on" : "off");
    changed(box.checked);
  });
  return () => box.checked;
}

/** @param {string} name @returns {string} empty when nothing was kept */
export function recall(name) {
  try {
    return localStorage.getItem(`firmline.${name}`) ?? "";
  } catch {
    return "";
  }
}

/** @param {string} name @param {string} value */
export function remember(name, value) {
  try {
    localStorage.setItem(`firmline.${name}`, value);
  } catch {
    // A browser without storage: the choice lasts as long as the page.
  }
}
