/**
 * What the API says, as types only; the server's side of it is `ivr/api/models.py` and `ivr/types.py`.
 *
 * @typedef {"clear"|"cautioned"|"warned"|"final"|"ending"|"ended"|"disarmed"} Rung
 * @typedef {"caller"|"agent"} Side
 * @typedef {"agent"|"supervisor"|"ops"|"open"} Role
 * @typedef {"warn"|"pardon"|"end"|"transfer"|"disarm"|"arm"|"minute"} Key
 *
 * @typedef {object} CallOut one live call; holds nobody's words
 * @property {string} id
 * @property {string} call_ref
 * @property {string|null} agent_ext
 * @property {string} state
 * @property {Rung} rung
 * @property {boolean} armed
 * @property {number} strikes
 * @property {string} started_at
 * @property {number} duration_ms
 * @property {Side[]} legs
 * @property {string|null} playing
 * @property {number|null} countdown_ms
 * @property {string} mode
 * @property {string|null} queue
 * @property {string|null} caller_number
 * @property {string|null} countdown_kind
 * @property {string|null} countdown_why
 * @property {{step: string, key: "warn"|"end"|"transfer", why: string, until_ms: number}|null} suggestion
 * @property {Side[]} speaking
 * @property {number|null} lag_ms from the end of the latest words to their transcript
 * @property {Record<string, string[]>} cues by category or conduct; empty in the list of all calls
 *
 * @typedef {object} Row one row of the feed or of a transcript; times in ms since the start of the call
 * @property {string} call_id
 * @property {string} event
 * @property {string} at UTC, ISO 8601
 * @property {number} t_ms
 * @property {Record<string, any>} data
 *
 * @typedef {object} Me
 * @property {Role} role
 * @property {string|null} [ext]
 * @property {string|null} [name]
 *
 * @typedef {object} Incident one call in which a step was taken, or somebody may have been in danger
 * @property {string} call_id
 * @property {string|null} agent_ext
 * @property {string|null} started_at
 * @property {string} highest_rung
 * @property {boolean} safeguard
 * @property {number} pardons
 * @property {number} failed_actions
 * @property {string} outcome transfer, menu, hangup, went on, live
 * @property {string[]} words
 *
 * @typedef {object} Check
 * @property {string} name
 * @property {boolean} ok
 * @property {string} detail
 */
export {};
