/** Line icons, 24 by 24, drawn for these pages. Decoration: what they mean stands beside them in words. */
import { svg } from "./dom.js";

const PATHS = {
  check: ["M5 12.5l4.5 4.5L19 7.5"],
  speak: ["M4 5h16v11H11l-4.5 3.6V16H4z"],
  warn: ["M4 10v4h3l6 4.5v-13L7 10z", "M16.5 9a4.2 4.2 0 010 6", "M18.9 6.6a7.6 7.6 0 010 10.8"],
  last: ["M12 4.5L20.5 19h-17z", "M12 10.5v4", "M12 16.9v.1"],
  end: ["M3.6 14.2c4.9-4.6 11.9-4.6 16.8 0l-2.1 2.6-3.4-1.5v-2.4a9.6 9.6 0 00-5.8 0v2.4l-3.4 1.5z"],
  person: ["M12 12a3.8 3.8 0 100-7.6 3.8 3.8 0 000 7.6z", "M4.8 20c.8-3.6 3.7-5.4 7.2-5.4s6.4 1.8 7.2 5.4"],
  pardon: ["M9 6L4.5 10.5 9 15", "M5 10.5h9.2a5 5 0 010 10H11"],
  minute: ["M8.5 5.5v13", "M15.5 5.5v13"],
  shield: ["M12 3.8l7 2.6v5.2c0 4.2-2.8 7.2-7 8.8-4.2-1.6-7-4.6-7-8.8V6.4z"],
  heart: ["M12 19.6C7 16.2 4.2 13 4.2 9.6A4.1 4.1 0 0112 7.8a4.1 4.1 0 017.8 1.8c0 3.4-2.8 6.6-7.8 10z"],
  bulb: ["M9.4 17h5.2", "M10.2 20h3.6", "M12 4a5.8 5.8 0 00-3.4 10.4V17h6.8v-2.6A5.8 5.8 0 0012 4z"],
  offline: ["M3.5 3.5l17 17", "M5 11.2a10.4 10.4 0 013-2", "M16.2 9.3A10.4 10.4 0 0119 11.2", "M8.4 14.6a5.4 5.4 0 017.2 0", "M12 18.6v.1"],
  ear: ["M7.5 9.5a4.6 4.6 0 019.2 0c0 3.6-3.6 4-3.6 7a2.9 2.9 0 01-5.3 1.7", "M10.2 9.8a2 2 0 013.8-.5"],
  bell: ["M6 16.5V11a6 6 0 0112 0v5.5l1.6 1.7H4.4z", "M10.2 20.6h3.6"],
  sound: ["M4 10v4h3l6 4.5v-13L7 10z", "M16.5 9a4.2 4.2 0 010 6"],
};

/**
 * @param {keyof typeof PATHS} name
 * @returns {SVGElement}
 */
export function icon(name) {
  const paths = PATHS[name].map((d) => svg("path", { d }));
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" }, ...paths);
}

/** @typedef {keyof typeof PATHS} IconName */
