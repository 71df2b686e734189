// What stands around the messages: the rooms, the members, the state of the connection, the title of the tab.
// Rule: this file draws what chat.js knows and decides nothing; what the user does is app.js.

import { drawFace, element, face, hueOf } from "./elements.js";
import { byeText, currentLanguage, text } from "./texts.js";
import { sameNick } from "./room.js";

const SHOWN_MEMBERS = 200; // as many as the server names on joining

const byId = (id) => document.getElementById(id);

/** Put the texts of the language into everything that is marked with data-text, data-label or data-placeholder. */
export function translate() {
  document.documentElement.lang = currentLanguage() === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = text(node.dataset.placeholder);
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", text(node.dataset.label));
    if (node.matches("button")) node.title = text(node.dataset.label);
  }
  byId("language").textContent = text("otherShort");
  byId("language").title = byId("gate-language").textContent = text("other");
  byId("language").setAttribute("aria-label", text("other"));
}

/** Say who we are. */
export function drawMe(chat) {
  drawFace(byId("me-avatar"), chat.nick);
  byId("me-nick").textContent = chat.nick;
  byId("me").title = text("changeName", { who: chat.nick });
  byId("me").setAttribute("aria-label", byId("me").title);
}

/** Return how the name of *room* is written where it stands alone. */
export const roomTitle = (room) => (room.direct === null ? room.name : room.direct);

/** Draw the lists of rooms and conversations, with what is unread; *open* is called with the one that is chosen. */
export function drawRooms(chat, open) {
  const rows = { rooms: [], direct: [] };
  for (const room of chat.rooms) {
    const sign = room.direct === null ? element("span", { className: "sign" }, "#") : face(room.direct);
    sign.setAttribute("aria-hidden", "true");
    const row = element("button", { type: "button" }, sign, element("span", { className: "label" }, roomTitle(room)));
    if (room.unread) {
      row.classList.add("unread");
      row.append(element("span", { className: room.called ? "badge called" : "badge" }, countText(room.unread)));
      row.setAttribute("aria-label", text("unreadIn", { room: roomTitle(room), n: room.unread }));
    }
    if (room === chat.active) row.setAttribute("aria-current", "true");
    row.onclick = () => open(room);
    rows[room.direct === null ? "rooms" : "direct"].push(element("li", {}, row));
  }
  keepFocus(byId("room-list"), rows.rooms);
  keepFocus(byId("direct-list"), rows.direct);
  byId("direct-title").hidden = rows.direct.length === 0;
  drawTitle(chat);
}

const countText = (n) => (n > 99 ? "99+" : String(n));

/** Replace the rows of *list*; the keyboard stays on the row that it was on. */
function keepFocus(list, rows) {
  const index = [...list.children].findIndex((row) => row.contains(document.activeElement));
  list.replaceChildren(...rows);
  rows[index]?.querySelector("button").focus();
}

/** What is unread anywhere is in the title of the tab, and whether it is elsewhere beside the menu's button. */
function drawTitle(chat) {
  const unread = chat.rooms.reduce((n, room) => n + room.unread, 0);
  const place = chat.active ? `${roomTitle(chat.active)} · evloop` : "evloop";
  document.title = unread ? `(${countText(unread)}) ${place}` : place;
  byId("elsewhere").hidden = !chat.rooms.some((room) => room.unread && room !== chat.active);
}

/** Draw the name, the topic and the number of members of the room that is shown. */
export function drawBar(chat) {
  const room = chat.active;
  byId("room-name").textContent = room ? roomTitle(room) : "evloop";
  byId("room-topic").textContent = room?.topic ?? "";
  byId("room-topic").title = room?.topic ?? "";
  byId("member-count").textContent = room && room.direct === null && room.count ? room.count : "";
  const input = byId("input");
  const label = room ? text("write", { room: roomTitle(room) }) : text("notInRoom");
  input.placeholder = label;
  input.setAttribute("aria-label", label);
  drawTitle(chat);
}

/** Draw the members of the room that is shown; *direct* is called with the nick that is chosen, *leave* to leave. */
export function drawMembers(chat, direct, leave) {
  const room = chat.active;
  drawBar(chat);
  const list = byId("member-list");
  if (!room) return list.replaceChildren();
  const names = room.direct === null ? [...room.members.keys()] : [room.direct, chat.nick];
  names.sort((a, b) => a.localeCompare(b, currentLanguage()));
  const rows = names.slice(0, SHOWN_MEMBERS).map((nick) => memberRow(chat, room, nick, direct));
  const more = room.count - rows.length;
  if (room.direct === null && more > 0) {
    rows.push(element("li", { className: "more" }, text("moreMembers", { n: more })));
  }
  rows.push(leaveRow(room, leave));
  return keepFocus(list, rows);
}

function memberRow(chat, room, nick, direct) {
  const me = sameNick(nick, chat.nick);
  const away = room.members.get(nick)?.away;
  const label = element("span", { className: "label" }, nick);
  label.style.setProperty("--hue", hueOf(nick));
  const row = element("button", { type: "button", className: away ? "away" : "" }, face(nick), label);
  const roles = [me && text("you"), me && room.role === "op" && text("op"), away && text("away")].filter(Boolean);
  if (roles.length) row.append(element("span", { className: "role" }, roles.join(" · ")));
  row.disabled = me;
  if (!me) row.title = text("messageTo", { who: nick });
  row.onclick = () => direct(nick);
  return element("li", {}, row);
}

function leaveRow(room, leave) {
  const row = element("button", { type: "button", className: "leave" }, text("leave", { room: roomTitle(room) }));
  row.onclick = () => leave(room);
  return element("li", { className: "leave-row" }, row);
}

/** Draw the state of the connection, and what waits for it. */
export function drawState(chat) {
  const { link, unsent } = chat;
  const { state } = link;
  const seconds = Math.max(Math.ceil((link.until - performance.now()) / 1000), 0);
  let said = text(state, { s: seconds });
  if (state === "ended") said = `${link.bye ? byeText(link.bye) : text("ended")} · ${text("leftShort")}`;
  else if (unsent && state !== "connected") said = text("outbox", { state: said, n: unsent });
  const pill = byId("pill");
  pill.dataset.state = state;
  pill.textContent = said;
  pill.dataset.short = shortly(state, seconds, unsent); // what style.css shows of it on a phone
  pill.title = state === "waiting" || state === "offline" ? text("retryNow") : "";
  // A screen reader hears of a change, and not of every second of the countdown.
  const status = byId("status");
  const told = state === "waiting" ? text("waitingShort") : state === "ended" ? said : text(state);
  if (status.textContent !== told) status.textContent = told;
}

function shortly(state, seconds, unsent) {
  if (state === "connected") return "";
  const said = state === "waiting" ? text("seconds", { s: seconds }) : state === "ended" ? text("leftShort") : "";
  return [said || text(state === "offline" ? "offline" : "lostShort"), unsent || ""].filter(Boolean).join(" · ");
}

/** Say who types in the room that is shown. */
export function drawTyping(chat) {
  const names = chat.active ? [...chat.active.typing.keys()] : [];
  const [a, b] = names;
  const key = names.length > 2 ? "typingMany" : names.length === 2 ? "typing2" : "typing1";
  byId("typing").textContent = names.length ? text(key, { a, b }) : "";
}
