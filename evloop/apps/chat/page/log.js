// The messages of the room that is shown: how they are drawn, where the view stands among them, what is new.
// Rule: what others have written enters the document as text alone; nothing in this file may make HTML of a string.

import { clock, dayName, dayNumber, errorText, moment, text } from "./texts.js";
import { element, face, hueOf } from "./elements.js";

const GROUP = 5 * 60_000; // ms; messages of one person closer than this stand together
const AT_BOTTOM = 48; // px from the end that still count as being there
const NEAR_TOP = 400; // px from the beginning at which the page before is fetched
const ABOVE_LINE = 96; // px that stay visible above the unread line
// What turns the direction of text ends a link: U+202E lets "gpj.exe" look like "exe.jpg".
const LINK = /https?:\/\/[^\s\p{Cc}\p{Cf}<>"'`，。；：！？、（）【】《》“”]+/gu;
const TRAILING = /[.,;:!?)\]}]+$/; // belongs to the sentence, not to the link

/** Put *body* into *parent*: text, and links that are links. */
function fill(parent, body) {
  let from = 0;
  for (const match of body.matchAll(LINK)) {
    const url = match[0].replace(TRAILING, "");
    const link = element("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, url);
    parent.append(body.slice(from, match.index), link);
    from = match.index + url.length;
  }
  parent.append(body.slice(from));
}

/** Return the name of who said *item*, in its colour. */
function nameOf(item) {
  const name = element("span", { className: "name" }, item.from);
  name.style.setProperty("--hue", hueOf(item.from));
  return name;
}

const isMessage = (item) => item?.type === "msg" && item.kind !== "mod";

/** Whether *item* continues what *before* began: the same person, soon after, on the same day. */
function continues(item, before) {
  if (!isMessage(item) || !isMessage(before) || item.kind === "action" || before.kind === "action") return false;
  if (item.mine !== before.mine || item.from !== before.from) return false;
  return item.ts - before.ts < GROUP && dayNumber(item.ts) === dayNumber(before.ts);
}

/** hooks: older(room), seen(room), retry(room, item), discard(room, item). */
export class Log {
  room = null;
  stuck = true; // the view is at the end, and stays there
  #at = 0; // where the view stood last, px
  #scroll;
  #list;
  #top;
  #jump;
  #hooks;
  #nodes = new Map(); // item -> its li
  #line; // the seq behind which the unread line is drawn

  constructor({ scroll, list, top, jump }, hooks) {
    this.#scroll = scroll;
    this.#list = list;
    this.#top = top;
    this.#jump = jump;
    this.#hooks = hooks;
    scroll.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    jump.addEventListener("click", () => this.toEnd());
    const resized = new ResizeObserver(() => this.stuck && this.#toEnd());
    resized.observe(scroll);
    resized.observe(list);
  }

  /** Whether the user sees the end of *room* at this moment. */
  watching(room) {
    return room === this.room && this.stuck && !document.hidden && document.hasFocus();
  }

  /** Draw *room*, and stand where the user left it, or at the unread line. */
  show(room) {
    const here = this.stuck ? null : this.#scroll.scrollTop;
    const place = this.room === room ? here : room?.place;
    if (this.room && this.room !== room) this.room.place = here;
    this.room = room;
    this.#silently(() => {
      this.#nodes.clear();
      this.#list.replaceChildren();
      this.#line = undefined;
      for (const item of room ? [...room.items, ...room.pending] : []) this.#append(item);
      this.#drawLine();
      this.#drawTop();
    });
    if (room?.unread) this.#toLine();
    else if (place == null) this.#toEnd();
    else this.#goto(place);
    this.stuck = this.#atEnd();
    this.#drawJump();
    this.check();
  }

  /** *item* is new in *room*. */
  added(room, item) {
    if (room !== this.room) return;
    const known = item.cid && item.mine ? this.#pendingNode(item.cid) : null;
    if (known) this.#adopt(known, item);
    else this.#append(item, item.pending ? null : this.#firstPending());
    this.#drawLine();
    // Who is at the end stays there by the observer of the list's size, once a frame: to ask for the height here would
    // lay a thousand messages out for each one.  A page that nobody sees is not taken past the unread line.
    if (item.pending) this.toEnd();
    else if (this.stuck && document.hidden && room.unread) this.#toLine();
    this.#drawJump();
  }

  /** Draw *item* again. */
  moved(room, item) {
    if (room !== this.room) return;
    const old = this.#nodes.get(item);
    if (!old) return;
    const node = this.#build(item);
    old.replaceWith(node);
    this.#decorateAround(node);
    if (this.stuck) this.#toEnd();
  }

  /** Take *item* away. */
  dropped(room, item) {
    if (room !== this.room) return;
    const node = this.#nodes.get(item);
    const next = node?.nextElementSibling;
    node?.remove();
    this.#nodes.delete(item);
    if (next) this.#decorate(next);
  }

  /** *items* came in front; what the user looks at stays where it is. */
  older(room, items) {
    if (room !== this.room) return;
    const fromEnd = this.#scroll.scrollHeight - this.#scroll.scrollTop;
    const top = this.#list.firstElementChild;
    const first = top?.item.kind === "gap" ? top.nextElementSibling : top; // what is gone was before all of them
    this.#silently(() => {
      for (const item of items) this.#append(item, first);
      if (first) this.#decorate(first);
      this.#drawTop();
    });
    this.#goto(this.#scroll.scrollHeight - fromEnd);
    this.check();
  }

  /** *items*, the oldest, are not shown any more. */
  trimmed(room, items) {
    if (room !== this.room) return;
    for (const item of items) {
      this.#nodes.get(item)?.remove();
      this.#nodes.delete(item);
    }
    if (this.#list.firstElementChild) this.#decorate(this.#list.firstElementChild);
    this.#drawTop();
  }

  /** Draw *room* again, if it is shown: much of it has changed, or the language has. */
  redraw(room = this.room) {
    if (room === this.room) this.show(room);
  }

  /** Go to the end, and stay there. */
  toEnd() {
    this.stuck = true;
    this.#toEnd();
    this.#drawJump();
    this.check();
  }

  /** Remember what the user sees: called when the view, the focus or the window has changed. */
  check() {
    if (this.room && this.watching(this.room)) this.#hooks.seen(this.room);
    if (this.room?.more && this.#scroll.scrollTop < NEAR_TOP) this.#hooks.older(this.room);
  }

  // --- where the view stands -------------------------------------------------------------------------------------

  #goto(top) {
    this.#scroll.scrollTop = top;
    this.#at = this.#scroll.scrollTop;
  }

  #toEnd() {
    this.#goto(this.#scroll.scrollHeight);
  }

  #toLine() {
    const line = this.#list.querySelector(".fresh");
    if (!line) return this.#toEnd();
    const top = line.getBoundingClientRect().top - this.#scroll.getBoundingClientRect().top;
    this.#goto(this.#scroll.scrollTop + top - ABOVE_LINE);
    this.stuck = this.#atEnd();
    return undefined;
  }

  #atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroll;
    return scrollHeight - scrollTop - clientHeight < AT_BOTTOM;
  }

  /** Only going up leaves the end: the event of our own scrolling comes late, and more may have been said by then. */
  #scrolled() {
    const before = this.stuck;
    const top = this.#scroll.scrollTop;
    this.stuck = (before && top >= this.#at) || this.#atEnd();
    this.#at = top;
    if (before !== this.stuck) this.#drawJump();
    this.check();
  }

  #drawJump() {
    this.#jump.hidden = this.stuck;
    const n = this.room?.unread ?? 0;
    this.#jump.classList.toggle("fresh-below", n > 0);
    this.#jump.textContent = n ? text("jumpNew", { n }) : text("jump");
  }

  // --- how a message is drawn ------------------------------------------------------------------------------------

  /** Change the list without a screen reader reading it out: only what is said now is news. */
  #silently(change) {
    this.#list.setAttribute("aria-busy", "true");
    change();
    this.#list.setAttribute("aria-busy", "false");
  }

  #firstPending() {
    return this.#list.querySelector(".pending, .failed");
  }

  #pendingNode(cid) {
    return [...this.#list.querySelectorAll(".pending, .failed")].find((node) => node.item.cid === cid);
  }

  #append(item, before = null) {
    const node = this.#build(item);
    this.#list.insertBefore(node, before);
    this.#decorateAround(node);
  }

  /** The message of *node* has a place now: the same bubble, solid, moves there. */
  #adopt(node, item) {
    this.#nodes.delete(node.item);
    this.#nodes.set(item, node);
    const next = node.nextElementSibling;
    node.item = item;
    node.className = `msg mine ${item.kind}`;
    node.querySelector(".fate")?.remove();
    node.querySelector(".doing")?.remove();
    node.querySelector(".bubble").title = moment(item.ts);
    node.querySelector("time").textContent = clock(item.ts);
    const place = this.#firstPending();
    if (place && place.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING) {
      this.#list.insertBefore(node, place);
    }
    this.#decorateAround(node);
    if (next) this.#decorate(next);
  }

  #build(item) {
    const node = item.type === "msg" && item.kind !== "mod" ? this.#message(item) : this.#remark(item);
    node.item = item;
    this.#nodes.set(item, node);
    return node;
  }

  #message(item) {
    const bubble = element("div", { className: "bubble", title: moment(item.ts) });
    if (item.kind === "action") bubble.append(nameOf(item), " ");
    fill(bubble, item.file ? `${item.body} (${item.file.name})` : item.body);
    const head = element("div", { className: "head" }, nameOf(item), element("time", {}, clock(item.ts)));
    const node = element("li", { className: `msg ${item.kind}` }, face(item.from), head, bubble);
    node.classList.toggle("mine", item.mine);
    node.classList.toggle("called", Boolean(item.called));
    if (item.error) {
      node.classList.add("failed");
      node.append(this.#fate(item));
    } else if (item.pending) {
      node.classList.add("pending");
      bubble.append(element("span", { className: "unseen doing" }, ` (${text("sending")})`));
    }
    return node;
  }

  #fate(item) {
    const retry = element("button", { type: "button", className: "retry" }, text("retry"));
    const discard = element("button", { type: "button", className: "discard" }, text("discard"));
    retry.onclick = () => this.#hooks.retry(this.room, item);
    discard.onclick = () => this.#hooks.discard(this.room, item);
    const why = element("span", {}, text("unsent", { why: errorText(item.error) }));
    return element("div", { className: "fate", role: "alert" }, why, retry, discard);
  }

  /** A line that nobody has said: what an op did, who came and went, what went wrong. */
  #remark(item) {
    const node = element("li", { className: `note ${item.kind ?? ""}` });
    if (item.type === "ev") {
      node.textContent = text(`ev${item.e[0].toUpperCase()}${item.e.slice(1)}`, {
        who: item.who.join(text("comma")),
        text: item.text,
      });
    } else if (item.kind === "mod") {
      const key = `mod${item.op[0].toUpperCase()}${item.op.slice(1)}`;
      node.textContent = text(key, { from: item.from, who: item.who, text: item.body });
    } else if (item.kind === "gap") {
      node.textContent = text("gap");
    } else {
      node.textContent = item.what.code ? errorText(item.what) : item.what.text;
      node.classList.toggle("lines", node.textContent.includes("\n"));
    }
    return node;
  }

  #decorateAround(node) {
    this.#decorate(node);
    if (node.nextElementSibling) this.#decorate(node.nextElementSibling);
  }

  /** What depends on the one before: whether it is one person's next, and whether a day has begun. */
  #decorate(node) {
    const before = node.previousElementSibling;
    const line = node.querySelector(":scope > .fresh");
    node.classList.toggle("grouped", !line && continues(node.item, before?.item));
    let earlier = before;
    while (earlier && earlier.item.ts === undefined) earlier = earlier.previousElementSibling;
    const ts = node.item.ts;
    const begins = ts !== undefined && (!earlier || dayNumber(earlier.item.ts) !== dayNumber(ts));
    const day = node.querySelector(":scope > .day");
    if (!begins) day?.remove();
    else if (!day) node.prepend(element("div", { className: "day" }, element("span", {}, dayName(ts))));
  }

  #drawLine() {
    const line = this.room?.line ?? null;
    if (line === this.#line) return;
    this.#line = line;
    const old = this.#list.querySelector(".fresh");
    const holder = old?.parentElement;
    old?.remove();
    if (holder) this.#decorate(holder);
    const node = line === null ? null : [...this.#list.children].find(({ item }) => item.seq > line && !item.pending);
    if (!node) return;
    const fresh = element("div", { className: "fresh", role: "separator" }, element("span", {}, text("newLine")));
    const day = node.querySelector(":scope > .day");
    if (day) day.after(fresh);
    else node.prepend(fresh);
    this.#decorate(node);
  }

  #drawTop() {
    const room = this.room;
    if (!room) this.#top.textContent = text("notInRoom");
    else if (room.refused) this.#top.textContent = "";
    else if (room.epoch === null) this.#top.textContent = text("loading");
    else if (room.items[0]?.kind === "gap") this.#top.textContent = "";
    else if (room.more) this.#top.textContent = text("older");
    else if (room.first > 1) this.#top.textContent = text("forgotten");
    else if (room.direct !== null) this.#top.textContent = text("beginningDirect", { who: room.direct });
    else this.#top.textContent = text("beginning", { room: room.name });
  }
}
