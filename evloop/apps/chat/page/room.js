// One room as this tab knows it, and how names compare.
// Rule: nothing in this file may send anything or touch the document; chat.js changes a room, log.js draws it.

const TYPING_LASTS = 6_000; // ms that a sign of somebody typing counts

/** Return *name* as the server compares names. */
export const folded = (name) => name.normalize("NFKC").toLowerCase();

/** Whether two nicks are the same name to the server. */
export const sameNick = (a, b) => a != null && b != null && folded(a) === folded(b);

/** Whether *body* speaks to *nick*: as a word of its own, or anywhere if the script has no spaces. */
export function mentions(body, nick) {
  const name = folded(nick).replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const word = /^[\x20-\x7e]*$/.test(nick) ? `(?:^|[^\\p{L}\\p{N}_])${name}(?![\\p{L}\\p{N}_])` : name;
  return new RegExp(word, "u").test(folded(body));
}

/** A room, or a direct conversation: `direct` is the other one's nick then, and `dm` its key once that is known. */
export class Room {
  joined = false; // on the present connection
  refused = false; // we are not let in
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
  place = null; // where the view stood in it, px; null: at the end
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

  /** Take who came, left, is away, has another name, or how many there are, from an event. */
  heard({ e, who, n, text }) {
    const known = this.members.get(who) ?? { away: false };
    const moved = e === "join" || e === "part" || e === "lost";
    if (moved || e === "nick") this.members.delete(who);
    if (e === "join") this.members.set(who, { away: false });
    if (e === "nick") this.members.set(text, known);
    if (e === "away" && this.members.has(who)) this.members.set(who, { away: Boolean(text) });
    if (n != null) this.count = n;
    else if (moved) this.count = Math.max(this.members.size, 1);
  }

  /** *nick* types, or no longer; *now* in ms. */
  types(nick, on, now) {
    if (on) this.typing.set(nick, now + TYPING_LASTS);
    else this.typing.delete(nick);
  }

  /** Forget who has typed too long ago; return whether there was somebody. */
  lapse(now) {
    const before = this.typing.size;
    for (const [nick, until] of this.typing) if (until < now) this.typing.delete(nick);
    return this.typing.size !== before;
  }
}
