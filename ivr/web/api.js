/** Requests to the API: one place that knows the token, the time limit and what errors look like. */
import { token } from "./access.js";

const WITHIN_MS = 5_000;

/** A request that was refused (`status` is HTTP's) or never answered (`status` 0); the message is for people. */
export class ApiError extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * @param {"GET"|"POST"} method
 * @param {string} path
 * @param {object} [body]
 * @returns {Promise<any>}
 */
async function ask(method, path, body) {
  /** @type {Record<string, string>} */
  const headers = { Accept: "application/json" };
  if (token()) headers["Authorization"] = `Bearer ${token()}`;
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers,
      body: body ? JSON.stringify(body) : null,
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(WITHIN_MS),
    });
  } catch {
    throw new ApiError(0, "Firmline does not answer.");
  }
  const data = await answer.json().catch(() => null);
  if (!answer.ok && !(answer.status === 503 && data?.checks)) {
    throw new ApiError(answer.status, typeof data?.error === "string" ? data.error : `Firmline says ${answer.status}.`);
  }
  return data;
}

/** @param {string} path @returns {Promise<any>} */
export const get = (path) => ask("GET", path);

/** @param {string} path @param {object} [body] @returns {Promise<any>} */
export const post = (path, body) => ask("POST", path, body);

/**
 * `get`, or `otherwise` when there is no such thing on this server or for this token.
 * @template T
 * @param {string} path
 * @param {T} otherwise
 * @returns {Promise<any|T>}
 */
export async function getOr(path, otherwise) {
  try {
    return await get(path);
  } catch (error) {
    if (error instanceof ApiError && [403, 404].includes(error.status)) return otherwise;
    throw error;
  }
}
