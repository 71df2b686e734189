// What was written and has no place yet: sent, sent again by the same cid, refused, tried again by hand.
// Rule: nothing in this file may know the order of a room; chat.js gives a message its place.

import { LOST } from "./link.js";

/** ms until what was refused for now is asked for again, if the server does not say when. */
export const RETRY = 2_000;

/** Return a fresh cid.  crypto.randomUUID is missing on pages that came over plain HTTP from another machine. */
function freshId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The unsent messages of all rooms; each room holds its own, in `pending`, in the order they were written.
 *
 * hooks: request(message); placed(room, item, ok), the server has it; changed(room, item), it was refused or is tried
 * again; count(), there are more or fewer.
 */
export class Outbox {
  #hooks;

  constructor(hooks) {
    this.#hooks = hooks;
  }

  /** Add a message of *from* to *room*; return it.  Without a *cid* it is new, else one of a tab that was reloaded. */
  add(room, { from, body, kind, cid = freshId(), ts = Date.now() }) {
    const item = { type: "msg", from, body, kind, cid, ts, mine: true, pending: true, sent: false, error: null };
    room.pending.push(item);
    this.#hooks.count();
    return item;
  }

  /** Send what *room* has and the server was not asked for on this connection. */
  flush(room) {
    if (!room.joined) return;
    for (const item of room.pending) {
      if (!item.sent && !item.error) this.#send(room, item);
    }
  }

  /** Ask for all of *room* again: the answers to come are of no use. */
  again(room) {
    for (const item of room.pending) item.sent = false;
  }

  /** Send a message again that was refused. */
  retry(room, item) {
    item.error = null;
    this.#hooks.changed(room, item);
    this.flush(room);
  }

  /** Refuse all of *room*, for *error*. */
  refuse(room, error) {
    for (const item of room.pending) {
      item.error = error;
      this.#hooks.changed(room, item);
    }
  }

  /** A message of *room* is unsent no more: that with the *cid*, if there is one. */
  settle(room, cid) {
    const left = room.pending.filter((item) => item.cid !== cid);
    if (left.length === room.pending.length) return;
    room.pending = left;
    this.#hooks.count();
  }

  async #send(room, item) {
    const { cid, body, kind } = item;
    const message = { t: "say", ...room.target, cid, body };
    if (kind !== "text") message.kind = kind;
    item.sent = true;
    let ok;
    try {
      ok = await this.#hooks.request(message);
    } catch (error) {
      item.sent = false;
      this.#failed(room, item, error);
      return;
    }
    this.#hooks.placed(room, item, ok);
  }

  #failed(room, item, error) {
    if (error.code === LOST) return; // the next connection asks again
    if (error.temp) {
      setTimeout(() => this.flush(room), error.retry_ms ?? RETRY);
    } else {
      item.error = error;
      this.#hooks.changed(room, item);
    }
  }
}
