// One room as this tab knows it, and how names compare.
// Rule: nothing in this file may send anything or touch the document; chat.js changes a room, log.js draws it.

/** Return *name* as the server compares names. */
export const folded = (name) => name.normalize("NFKC").toLowerCase();

/** Whether two nicks are the same name to the server. */
export const sameNick = (a, b) => a != null && b != null && folded(a) === folded(b);

/** Whether *body* speaks to *nick*: as a word of its own, or anywhere if the script has no spaces. */
export function mentions(body, nick) {
  const name = folded(nick).replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const word = /^[\x20-\x7e]*$/.test(nick) ? `(?<![\\p{L}\\p{N}_])${name}(?![\\p{L}\\p{N}_])` : name;
  return new RegExp(word, "u").test(folded(body));
}

/** A room, or a direct conversation: `direct` is the other one's nick then, and `dm` its key once that is known. */
export class Room {
  joined = false; // on the present connection
  epoch = null;
  last = 0; // the seq up to which everything was taken
  more = false; // there are earlier messages than items has
  topic = "";
  role = "member";
  count = 0;
  members = new Map(); // nick -> {away}
  items = []; // what is shown, in order: {type: "msg", seq, ...}, {type: "note", ...}, {type: "ev", ...}
  pending = []; // own messages without a place, in the order they were written
  unread = 0;
  called = 0; // of the unread ones, those that speak to us
  read = 0; // the seq up to which everything was seen
  line = null; // the unread line stands behind this seq
  draft = "";
  typing = new Map(); // nick -> when it lapses
  held = []; // messages behind a gap
  filling = false;
  paging = false;

  constructor(name, direct = null) {
    this.name = name;
    this.direct = direct;
    this.dm = direct !== null && name.startsWith("@") ? name : null;
  }

  /** How a request names the room. */
  get target() {
    if (this.direct === null) return { room: this.name };
    return this.dm ? { room: this.dm } : { to: this.direct };
  }

  /** The seq of the earliest message that is shown, 0 without one. */
  get first() {
    return this.items.find((item) => item.type === "msg")?.seq ?? 0;
  }
}
