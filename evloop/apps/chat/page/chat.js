// What is known of the chat: rooms, their order, what is unsent; and the rules by which a reconnect loses nothing.
// Rule: nothing in this file may touch the document; `view` is told what has changed, and draws it.

import { Link, LOST } from "./link.js";
import { Outbox, RETRY } from "./outbox.js";
import { Room, folded, mentions, sameNick } from "./room.js";
import { text } from "./texts.js";

const PAGE = 50; // messages of a page of history
const FILL = 200; // of one that fills a gap: the protocol's most
const KEPT = 500; // messages of a room in this tab, ten screens; the older ones come back by scrolling up
const TYPING_EVERY = 3_000; // ms between two signs that we type
const REMARKED = ["join", "part", "lost", "nick"]; // events that are worth a line

/**
 * The chat of this tab.  *view* has: state(), gate(error), rooms(), opened(room), reset(room), added(room, item),
 * moved(room, item), dropped(room, item), older(room, items), trimmed(room, items), members(room), typing(room),
 * called(room, item), and watching(room), which says whether the user sees the end of it now.
 */
export class Chat {
  nick = "";
  user = "";
  rooms = [];
  active = null;
  limits = { body: 8192 };
  #view;
  #outbox;
  #wanted = null;
  #password = null;
  #resume = null;
  #language;
  #typing = false; // what the others were told last
  #typed = -Infinity; // when we last told them that we type
  #read = new Map(); // name -> {epoch, seq} of a tab that was reloaded
  #closed = new Map(); // key of a conversation that was put away -> its last seq by then

  constructor(view, url, language) {
    this.#view = view;
    this.#language = language;
    this.link = new Link(url, {
      hello: () => this.#hello(),
      welcomed: (welcome) => this.#welcomed(welcome),
      refused: (error) => this.#refused(error),
      message: (message) => this.#received(message),
      state: () => this.#stateChanged(),
    });
    this.#outbox = new Outbox({
      request: (message) => this.link.request(message),
      placed: (room, item, ok) => this.#placed(room, item, ok),
      changed: (room, item) => view.moved(room, item),
      count: () => view.state(),
    });
    setInterval(() => this.#lapse(), 1_000);
  }

  // --- coming and going ------------------------------------------------------------------------------------------

  /** Connect as *nick*; empty: as a guest. */
  enter(nick, password = null) {
    this.#wanted = nick || null;
    this.#password = password;
    this.link.open();
  }

  /** What a reloaded tab needs to be the same member again: a plain value, or null. */
  keep() {
    if (!this.#resume) return null;
    const rooms = this.rooms.map(({ name, direct, epoch, read, draft, pending }) => {
      const unsent = pending.map(({ cid, body, kind, ts }) => ({ cid, body, kind, ts }));
      return { name, direct, epoch, read, draft, unsent };
    });
    const active = this.rooms.indexOf(this.active);
    return { nick: this.nick, resume: this.#resume, active, rooms, closed: [...this.#closed] };
  }

  /** Take up what keep() has given, before enter(). */
  restore(kept) {
    this.#resume = kept.resume;
    this.nick = kept.nick;
    this.#closed = new Map(kept.closed);
    for (const old of kept.rooms) {
      const room = new Room(old.name, old.direct);
      room.draft = old.draft;
      this.#read.set(old.name, { epoch: old.epoch, seq: old.read });
      for (const unsent of old.unsent) this.#outbox.add(room, { ...unsent, from: kept.nick });
      this.rooms.push(room);
    }
    this.active = this.rooms[kept.active] ?? this.rooms[0] ?? null;
  }

  get unsent() {
    return this.rooms.reduce((n, room) => n + room.pending.length, 0);
  }

  #hello() {
    const hello = { t: "hello", v: 1, client: "evloop-page/1", lang: this.#language() };
    if (this.#wanted) hello.nick = this.#wanted;
    if (this.#password) hello.password = this.#password;
    if (this.#resume) hello.resume = this.#resume;
    return hello;
  }

  #welcomed(welcome) {
    this.nick = this.#wanted = welcome.nick;
    this.user = welcome.user;
    this.limits = welcome.limits;
    this.#resume = { sid: welcome.sid, key: welcome.resume_key };
    for (const { dm, who, top } of welcome.dms ?? []) {
      if (top > (this.#closed.get(dm) ?? -1)) this.#directRoom(dm, who);
    }
    for (const name of welcome.rooms ?? []) {
      // Left while there was no connection to say so.
      if (!this.rooms.some((room) => room.name === name)) this.#part(name);
    }
    const rooms = [...this.rooms];
    this.#view.welcomed(); // which joins the first room, if there is none
    for (const room of rooms) this.#enterRoom(room);
  }

  #refused(error) {
    this.#view.gate(error); // the key stays: with another name we are the same user, whose conversations go on
  }

  #stateChanged() {
    if (!this.link.connected) {
      for (const room of this.rooms) {
        room.joined = false;
        room.filling = room.paging = false;
        room.typing.clear();
      }
    }
    this.#view.state();
  }

  // --- rooms -----------------------------------------------------------------------------------------------------

  /** Join *name*, or go there if we are in it; return a promise of whether that worked. */
  async join(name) {
    let room = this.rooms.find((other) => other.direct === null && folded(other.name) === folded(name));
    if (!room) {
      room = new Room(name);
      this.rooms.push(room);
      this.open(room);
      if (this.link.connected) return this.#enterRoom(room);
    }
    this.open(room);
    return true;
  }

  /** Open the conversation with *nick*. */
  direct(nick) {
    let room = this.rooms.find((other) => sameNick(other.direct, nick));
    if (!room) {
      room = new Room(`to ${nick}`, nick);
      this.rooms.push(room);
      if (this.link.connected) this.#enterRoom(room);
    }
    this.open(room);
    return room;
  }

  /** Show *room*. */
  open(room) {
    const before = this.active;
    if (before && before !== room && before.unread === 0) before.line = null;
    this.active = room;
    this.#view.opened(room);
  }

  /** Leave *room*; a direct conversation is merely put away. */
  leave(room) {
    if (room.direct === null) this.#part(room.name);
    else if (room.dm) this.#closed.set(room.dm, room.last);
    this.#forget(room);
  }

  #part(name) {
    this.link.request({ t: "part", room: name }).catch(() => {}); // without a connection: when we are welcome again
  }

  /** The user has seen all of *room*. */
  seen(room) {
    if (room.read === room.last && !room.unread) return;
    room.read = room.last;
    room.unread = room.called = 0;
    this.#view.rooms();
  }

  #forget(room) {
    const index = this.rooms.indexOf(room);
    if (index < 0) return;
    this.rooms.splice(index, 1);
    if (this.active === room) {
      this.active = null;
      this.open(this.rooms[Math.max(index - 1, 0)] ?? null);
    }
    this.#view.rooms();
  }

  #directRoom(dm, who) {
    this.#closed.delete(dm);
    let room = this.rooms.find((other) => other.dm === dm);
    room ??= this.rooms.find((other) => other.direct !== null && !other.dm && sameNick(other.direct, who));
    if (!room) {
      room = new Room(dm, who);
      this.rooms.push(room);
    }
    room.name = room.dm = dm;
    room.direct = who ?? room.direct;
    return room;
  }

  /** Become a member of *room* on this connection, with what was missed, or with its last messages. */
  async #enterRoom(room) {
    if (room.direct !== null && !room.dm) return this.#enterDirect(room);
    const since = room.epoch === null ? undefined : { epoch: room.epoch, seq: room.last };
    try {
      this.#joined(room, await this.link.request({ t: "join", room: room.name, since, limit: PAGE }), since);
      return true;
    } catch (error) {
      if (error.code === LOST) return false;
      if (error.temp) setTimeout(() => this.rooms.includes(room) && this.#enterRoom(room), error.retry_ms ?? RETRY);
      else this.#refusedRoom(room, error);
      return false;
    }
  }

  /** A conversation that nobody has told us the key of: its history does, if it has begun. */
  async #enterDirect(room) {
    try {
      const page = await this.link.request({ t: "history", to: room.direct, limit: PAGE });
      if (page.dm) room.name = room.dm = page.dm;
      room.more = Boolean(page.more_before);
      this.#begin(room, page.epoch, page.items, page.items.at(-1)?.seq ?? 0);
      return true;
    } catch (error) {
      if (error.code !== LOST) this.#refusedRoom(room, error);
      return false;
    }
  }

  /** We are not let into *room*: say so, and let what was written there be tried again by hand. */
  #refusedRoom(room, error) {
    room.refused = true;
    room.joined = room.direct !== null; // a person may come; a say tells then
    if (room.epoch === null && room.direct === null && !room.pending.length && this.rooms.length > 1) {
      this.#forget(room);
      this.note(this.active, "bad", error);
      return;
    }
    this.note(room, "bad", error);
    this.#view.reset(room);
    this.#outbox.refuse(room, error);
  }

  #joined(room, joined, since) {
    room.name = joined.room;
    room.topic = joined.topic ?? "";
    room.role = joined.you.role;
    room.count = joined.n;
    room.members = new Map(joined.members.map((nick) => [nick, { away: false }]));
    if (since && joined.epoch === room.epoch) {
      // Recovered: all that was missed.  Not: the end of it, and the gap before it is asked for page by page.
      room.joined = true;
      for (const msg of joined.history) this.#accept(room, msg);
      this.#outbox.flush(room);
    } else {
      room.more = Boolean(joined.more);
      this.#begin(room, joined.epoch, joined.history, joined.top, Boolean(since));
    }
    this.#view.members(room);
    this.#view.rooms();
  }

  /** Show *room* from *history* on, which ends at *top*; *gap*: what was shown before is of another order. */
  #begin(room, epoch, history, top, gap = false) {
    const held = room.held;
    const from = Math.min(top + 1, ...held.map((msg) => msg.seq));
    const kept = this.#read.get(room.name);
    this.#read.delete(room.name);
    room.held = [];
    room.epoch = epoch;
    room.joined = true;
    room.refused = false;
    room.unread = room.called = 0;
    room.line = null;
    // What a reloaded tab had not seen yet is new; so is what made us open a conversation.
    const seen = kept?.epoch === epoch ? Math.max(kept.seq, (history[0]?.seq ?? 1) - 1) : top;
    room.last = room.read = Math.min(from - 1, seen);
    room.items = gap ? [{ type: "note", kind: "gap", key: "gap" }] : [];
    const old = history.filter((msg) => msg.seq <= room.last);
    for (const msg of old) this.#outbox.settle(room, msg.cid);
    room.items.push(...old.map((msg) => this.#item(msg)));
    this.#view.reset(room);
    for (const msg of [...history, ...held]) this.#accept(room, msg);
    room.last = Math.max(room.last, top);
    this.#outbox.flush(room);
  }

  // --- messages, in order ----------------------------------------------------------------------------------------

  #item(msg) {
    const mine = msg.mine ?? (msg.user ? msg.user === this.user : sameNick(msg.from, this.nick));
    const called = !mine && msg.kind !== "mod" && mentions(msg.body ?? "", this.nick);
    return { ...msg, type: "msg", kind: msg.kind ?? "text", body: msg.body ?? "", mine, called };
  }

  /** The whole algorithm: the next one is shown, an old one dropped, one behind a gap held until that is filled. */
  #accept(room, msg) {
    if (msg.seq <= room.last) {
      this.#outbox.settle(room, msg.cid);
      return;
    }
    if (msg.seq > room.last + 1) {
      room.held.push(msg);
      this.#fill(room);
      return;
    }
    this.#outbox.settle(room, msg.cid);
    const item = this.#item(msg);
    room.last = msg.seq;
    room.items.push(item);
    if (room.typing.delete(msg.from)) this.#view.typing(room);
    this.#count(room, item);
    this.#view.added(room, item);
    if (msg.kind === "mod") this.#moderated(room, msg);
    this.#trim(room);
  }

  #count(room, item) {
    if (item.mine || this.#view.watching(room)) {
      if (room.unread === 0) room.read = room.last;
      return;
    }
    if (room.unread === 0) room.line = room.read;
    room.unread += 1;
    if (item.called || room.direct !== null) {
      room.called += 1;
      this.#view.called(room, item);
    }
    this.#view.rooms();
  }

  /** Drop the oldest messages of a long room, unless the user is up there reading them. */
  #trim(room) {
    if (room.items.length <= KEPT + PAGE || (room === this.active && !this.#view.watching(room))) return;
    const dropped = room.items.splice(0, room.items.length - KEPT);
    room.more = true;
    this.#view.trimmed(room, dropped);
  }

  async #fill(room) {
    if (room.filling) return;
    room.filling = true;
    try {
      while (room.held.length) {
        const before = room.last;
        const page = await this.link.request({ t: "history", ...room.target, after: room.last, limit: FILL });
        const held = room.held;
        room.held = [];
        for (const msg of page.items) this.#accept(room, msg);
        for (const msg of held.sort((a, b) => a.seq - b.seq)) this.#accept(room, msg);
        if (room.last === before) throw { code: "gone" };
      }
      room.filling = false;
    } catch (error) {
      room.filling = false;
      if (error.code !== LOST) this.#restart(room);
    }
  }

  /** The hole cannot be filled: show the room anew, and say so. */
  async #restart(room) {
    room.held = [];
    try {
      const joined = await this.link.request({ t: "join", room: room.name, limit: PAGE });
      room.more = Boolean(joined.more);
      this.#begin(room, joined.epoch, joined.history, joined.top, true);
    } catch (error) {
      if (error.code !== LOST) this.note(room, "bad", error);
    }
  }

  /** Fetch the page before the first message. */
  async older(room) {
    if (!room.more || room.paging || !room.joined || !room.first) return;
    room.paging = true;
    try {
      const page = await this.link.request({ t: "history", ...room.target, before: room.first, limit: PAGE });
      const items = page.items.map((msg) => this.#item(msg));
      room.items.splice(room.items[0]?.kind === "gap" ? 1 : 0, 0, ...items);
      room.more = Boolean(page.more_before) && items.length > 0;
      room.paging = false;
      this.#view.older(room, items);
    } catch (error) {
      room.paging = false;
      if (error.code === LOST || error.temp) return;
      room.more = false; // it is no longer kept
      this.#view.older(room, []);
    }
  }

  // --- what is written -------------------------------------------------------------------------------------------

  /** Say *body* in *room*: shown at once, sent once there is a connection, known by its cid until it has a place. */
  say(room, body, kind = "text") {
    const item = this.#outbox.add(room, { from: this.nick, body, kind });
    room.line = room.unread ? room.line : null;
    this.#view.added(room, item);
    this.#typing = false;
    this.#outbox.flush(room);
  }

  /** Send a message again that was refused. */
  retry(room, item) {
    this.#outbox.retry(room, item);
  }

  /** Give up a message that was refused. */
  discard(room, item) {
    this.#outbox.settle(room, item.cid);
    this.#view.dropped(room, item);
  }

  /** The server has given our message its place. */
  #placed(room, { cid, body, kind }, ok) {
    if (ok.dm) this.#directRoom(ok.dm, room.direct);
    if (!room.pending.some((item) => item.cid === cid)) return; // it was in what we had missed
    if (room.epoch !== null && ok.epoch !== room.epoch) {
      // The room has begun anew, and what we know of it is of another order.
      room.joined = false;
      this.#outbox.again(room);
      this.#enterRoom(room);
      return;
    }
    room.epoch ??= ok.epoch;
    this.#accept(room, { seq: ok.seq, ts: ok.ts, from: this.nick, body, kind, cid, mine: true });
  }

  // --- what the server pushes ------------------------------------------------------------------------------------

  #received(message) {
    if (message.t === "msg") this.#message(message);
    else if (message.t === "ev") this.#event(message);
    else if (message.t === "err" && this.active) this.note(this.active, "bad", message);
    else if (message.t === "note" && this.active) this.note(this.active, "info", { text: message.text });
    else if (message.t === "joined") this.#rejoined(message);
  }

  #rejoined(joined) {
    const room = this.rooms.find((other) => other.name === joined.room);
    if (room) this.#joined(room, joined, room.epoch === null ? undefined : { epoch: room.epoch, seq: room.last });
  }

  #message(msg) {
    let room = this.rooms.find((other) => other.name === (msg.dm ?? msg.room));
    if (!room && msg.dm) {
      room = this.#directRoom(msg.dm, msg.user === this.user ? msg.to : msg.from);
      if (room.epoch === null) this.#enterRoom(room);
      this.#view.rooms();
    }
    if (!room) return;
    if (room.epoch === null) room.held.push(msg);
    else this.#accept(room, msg);
  }

  #event(ev) {
    if (ev.e === "nick") this.#renamed(ev);
    const name = ev.dm ?? ev.room;
    for (const room of this.rooms) {
      if (name ? room.name === name : room.members.has(ev.who)) this.#roomEvent(room, ev);
    }
  }

  #roomEvent(room, ev) {
    if (ev.e === "typing") {
      room.types(ev.who, ev.on !== false, performance.now());
      this.#view.typing(room);
      return;
    }
    if (ev.e === "nick" && !room.members.has(ev.who)) return; // we were told twice: by the answer, and as a member
    room.heard(ev);
    this.#remark(room, ev);
    this.#view.members(room);
  }

  /** Who came and went is a quiet line; several of a kind in a row are one. */
  #remark(room, { e, who, text: to }) {
    if (!REMARKED.includes(e) || (sameNick(who, this.nick) && e !== "nick")) return;
    const before = room.items.at(-1);
    if (before?.type === "ev" && before.e === e && e !== "nick") {
      if (!before.who.includes(who)) before.who.push(who);
      this.#view.moved(room, before);
      return;
    }
    const item = { type: "ev", e, who: [who], text: to };
    room.items.push(item);
    this.#view.added(room, item);
  }

  #renamed({ who, text: to }) {
    if (sameNick(who, this.nick)) {
      this.nick = this.#wanted = to;
      this.#view.welcomed();
    }
    for (const room of this.rooms) {
      if (sameNick(room.direct, who)) room.direct = to;
    }
    this.#view.rooms();
  }

  #moderated(room, { op, who, body }) {
    if (op === "topic") room.topic = body ?? "";
    if ((op === "op" || op === "deop") && sameNick(who, this.nick)) room.role = op === "op" ? "op" : "member";
    if (op === "kick" || op === "ban") {
      if (sameNick(who, this.nick)) {
        this.#forget(room);
        if (this.active) this.note(this.active, "bad", { text: text("kicked", { room: room.name }) });
        return;
      }
      room.members.delete(who);
      room.count = Math.max(room.count - 1, 1);
    }
    this.#view.members(room);
  }

  // --- what is not kept ------------------------------------------------------------------------------------------

  /** Add a line of our own to *room*; *kind*: "info", "bad" or "gap"; *what*: an error, or {text}. */
  note(room, kind, what) {
    const item = { type: "note", kind, what };
    room.items.push(item);
    this.#view.added(room, item);
  }

  /** We type in *room*, or no longer; told at most every 3 s, or the server would not pass it on. */
  typing(room, on) {
    const now = performance.now();
    if (!this.link.connected || (on ? now - this.#typed < TYPING_EVERY : !this.#typing)) return;
    this.#typing = on;
    if (on) this.#typed = now;
    this.link.send({ t: "typing", ...room.target, on });
  }

  /** Take another name. */
  async rename(nick) {
    const before = this.nick;
    const ok = await this.link.request({ t: "nick", nick });
    this.#event({ t: "ev", e: "nick", who: before, text: ok.nick ?? nick });
  }

  /** Leave for good; enter() comes back as somebody new. */
  quit() {
    this.#resume = null;
    this.link.quit();
  }

  #lapse() {
    for (const room of this.rooms) {
      if (room.lapse(performance.now())) this.#view.typing(room);
    }
    if (this.link.state === "waiting") this.#view.state();
  }
}
