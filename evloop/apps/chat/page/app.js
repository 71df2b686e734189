// The chat page: what the user does, and what becomes of it.  Read chat.js next, which holds the rules.
// Rule: the protocol is in link.js and chat.js alone; what is stored in the browser is in this file alone.

import { Chat } from "./chat.js";
import { COMMANDS, Composer, usage } from "./composer.js";
import { Log } from "./log.js";
import { currentLanguage, errorText, setLanguage, text } from "./texts.js";
import { drawBar, drawMe, drawMembers, drawRooms, drawState, drawTyping, roomTitle, translate } from "./view.js";
import { element } from "./elements.js";

const DEFAULT_ROOM = "大厅"; // where one comes in, unless the address names a #room
const KEPT = "evloop-chat"; // of sessionStorage: this tab's session, while the page is away
const A_FRAME = 16; // ms; not requestAnimationFrame, which stands still while the title of a hidden tab must count
const byId = (id) => document.getElementById(id);

// --- what the browser remembers ----------------------------------------------------------------------------------

/** Storage may be forbidden or full; the chat works without. */
function remember(key, value) {
  try {
    if (value === null) localStorage.removeItem(`evloop-${key}`);
    else localStorage.setItem(`evloop-${key}`, value);
  } catch {
    // nothing is remembered, then
  }
}

function remembered(key) {
  try {
    return localStorage.getItem(`evloop-${key}`);
  } catch {
    return null;
  }
}

/**
 * The key that resumes the session is in storage only while the page is not there to use it: a tab that is
 * duplicated copies the storage, and two tabs with one key would take the session from each other for ever.
 */
function stow() {
  rememberDraft();
  const kept = chat.keep();
  try {
    if (kept) sessionStorage.setItem(KEPT, JSON.stringify(kept));
  } catch {
    // a reload begins anew, then
  }
}

function takeBack() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT));
    sessionStorage.removeItem(KEPT);
    return kept;
  } catch {
    return null;
  }
}

// --- the parts ---------------------------------------------------------------------------------------------------

setLanguage(remembered("language") ?? navigator.language);

const view = {
  state: () => drawState(chat),
  welcomed,
  gate: (error) => openGate(error),
  rooms: () => {
    roomsTimer ||= setTimeout(drawRoomsNow, A_FRAME);
  },
  opened,
  reset: (room) => {
    log.redraw(room);
    if (room === chat.active) drawAll();
  },
  added: (room, item) => log.added(room, item),
  moved: (room, item) => log.moved(room, item),
  dropped: (room, item) => log.dropped(room, item),
  older: (room, items) => log.older(room, items),
  trimmed: (room, items) => log.trimmed(room, items),
  members: (room) => room === chat.active && drawMembers(chat, openDirect, leave),
  typing: (room) => room === chat.active && drawTyping(chat),
  called: notify,
  watching: (room) => log.watching(room),
};

// Beside the page, wherever a proxy has put that.
const address = new URL("ws", location.origin + location.pathname);
address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
const chat = new Chat(view, address.href, currentLanguage);

const log = new Log(
  { scroll: byId("scroll"), list: byId("log"), top: byId("top"), jump: byId("jump") },
  {
    older: (room) => chat.older(room),
    seen: (room) => chat.seen(room),
    retry: (room, item) => chat.retry(room, item),
    discard: (room, item) => chat.discard(room, item),
  },
);

const composer = new Composer(
  { form: byId("composer"), input: byId("input"), send: byId("send"), left: byId("left"), list: byId("hints") },
  {
    send: written,
    typing: (on) => chat.active && chat.typing(chat.active, on),
    names: () => [...(chat.active?.members.keys() ?? [])].filter((nick) => nick !== chat.nick),
    longest: () => chat.limits.body,
  },
);

let roomsTimer = 0;

/** The lists change with every message of another room: in a flood they are drawn once a frame. */
function drawRoomsNow() {
  clearTimeout(roomsTimer);
  roomsTimer = 0;
  drawRooms(chat, openRoom);
}

function drawAll() {
  drawRoomsNow();
  drawMembers(chat, openDirect, leave);
  drawTyping(chat);
  drawState(chat);
}

// --- coming in ---------------------------------------------------------------------------------------------------

/** Ask for a name; *error* is why the last one would not do. */
function openGate(error = null) {
  const asked = error?.code === "auth_failed" || error?.code === 3500;
  const why = asked ? { code: byId("gate-password").value ? "auth_failed" : "password" } : error;
  byId("gate-error").textContent = why ? errorText(why) : "";
  byId("gate-password-row").hidden = !asked && byId("gate-password-row").hidden;
  byId("gate-nick").value ||= chat.nick || remembered("nick") || "";
  byId("app").inert = true;
  if (!byId("gate").open) byId("gate").showModal();
  byId(asked ? "gate-password" : "gate-nick").focus();
}

byId("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  byId("gate-error").textContent = "";
  chat.enter(byId("gate-nick").value.trim(), byId("gate-password").value || null);
});
byId("gate").addEventListener("cancel", (event) => event.preventDefault()); // there is nothing behind it yet

function welcomed() {
  if (byId("gate").open) {
    byId("gate").close();
    byId("gate-password").value = "";
  }
  byId("app").inert = false;
  drawMe(chat);
  remember("nick", chat.nick);
  if (chat.rooms.every((room) => room.direct !== null)) {
    chat.join(roomOfAddress() ?? DEFAULT_ROOM);
    if (matchMedia("(pointer: fine)").matches) composer.focus();
  } else if (log.room !== chat.active) {
    openRoom(chat.active ?? chat.rooms[0]);
  }
}

function roomOfAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1)) || null;
  } catch {
    return null;
  }
}

addEventListener("hashchange", () => {
  const name = roomOfAddress();
  if (name && chat.link.connected) chat.join(name);
});

byId("pill").addEventListener("click", () => {
  if (chat.link.state !== "ended") chat.link.retryNow();
  else if (chat.link.bye?.code === 1000 || chat.link.bye?.code === 3504) chat.enter(chat.nick);
  else openGate();
});

// --- rooms -------------------------------------------------------------------------------------------------------

function rememberDraft() {
  if (log.room) log.room.draft = composer.value;
}

function openRoom(room) {
  chat.open(room);
  if (matchMedia("(pointer: fine)").matches) composer.focus();
}

function opened(room) {
  rememberDraft();
  log.show(room);
  composer.value = room?.draft ?? "";
  history.replaceState(null, "", room && room.direct === null ? `#${encodeURIComponent(room.name)}` : "#");
  closeDrawers();
  drawAll();
}

function openDirect(nick) {
  chat.direct(nick);
  composer.focus();
}

function leave(room) {
  chat.leave(room);
}

async function findRoom() {
  byId("finder-name").value = "";
  byId("finder-list").replaceChildren();
  byId("finder").showModal();
  try {
    const { list } = await chat.link.request({ t: "rooms", limit: 50 });
    const rows = list.map(({ room, n }) => {
      const row = element("button", { type: "button" }, element("span", { className: "sign" }, "#"));
      row.append(element("span", { className: "label" }, room), element("span", { className: "badge" }, String(n)));
      row.onclick = () => found(room);
      return element("li", {}, row);
    });
    byId("finder-list").replaceChildren(...rows);
  } catch {
    // a name can still be written
  }
}

byId("add-room").addEventListener("click", findRoom);

function found(name) {
  byId("finder").close();
  if (name) chat.join(name);
}

byId("finder-form").addEventListener("submit", (event) => {
  event.preventDefault();
  found(byId("finder-name").value.trim().replace(/^#/, ""));
});
byId("finder-cancel").addEventListener("click", () => found(""));

// --- the drawers of a narrow window ------------------------------------------------------------------------------

const DRAWERS = { rooms: byId("open-rooms"), members: byId("open-members") };

/** Whether the window is wide enough for *name* to be a column; the button hides that then. */
const isColumn = (name) => getComputedStyle(byId(name)).position !== "fixed";

function toggle(name) {
  const opens = !byId(name).classList.contains("open");
  closeDrawers();
  if (isColumn(name)) {
    byId("app").classList.toggle(`no-${name}`);
  } else if (opens) {
    byId(name).classList.add("open");
    byId("scrim").hidden = false;
    byId("main").inert = true;
    byId(name).querySelector("button")?.focus();
  }
  drawDrawers();
}

function closeDrawers() {
  byId("main").inert = false;
  byId("scrim").hidden = true;
  for (const [name, button] of Object.entries(DRAWERS)) {
    if (byId(name).classList.contains("open")) button.focus();
    byId(name).classList.remove("open");
  }
  drawDrawers();
}

function drawDrawers() {
  for (const [name, button] of Object.entries(DRAWERS)) {
    const hidden = byId("app").classList.contains(`no-${name}`);
    const shown = isColumn(name) ? !hidden : byId(name).classList.contains("open");
    button.setAttribute("aria-expanded", String(shown));
  }
}

for (const [name, button] of Object.entries(DRAWERS)) button.addEventListener("click", () => toggle(name));
byId("scrim").addEventListener("click", closeDrawers);
byId("close-members").addEventListener("click", closeDrawers);
addEventListener("resize", drawDrawers);

addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Escape") {
    if (!byId("scrim").hidden) closeDrawers();
    else log.toEnd();
  } else if (event.altKey && (event.key === "ArrowDown" || event.key === "ArrowUp") && chat.active) {
    event.preventDefault();
    openNeighbour(event.key === "ArrowDown" ? 1 : -1);
  }
});

/** Go on to the next room, as the lists show them: rooms, then conversations; behind the last is the first. */
function openNeighbour(step) {
  const shown = [...chat.rooms].sort((a, b) => (a.direct !== null) - (b.direct !== null));
  openRoom(shown.at((shown.indexOf(chat.active) + step) % shown.length));
}

// --- what is written ---------------------------------------------------------------------------------------------

function written(body) {
  const command = /^\/(\w+)(?:\s+([\s\S]*))?$/.exec(body);
  if (command) run(command[1].toLowerCase(), (command[2] ?? "").trim());
  else if (chat.active) chat.say(chat.active, body.replace(/^\/\//, "/"));
  else findRoom();
}

const RUN = {
  nick: (rest) => rest && answered(chat.rename(rest)),
  join: (rest) => rest && chat.join(rest.replace(/^#/, "")),
  part: () => chat.active && (chat.leave(chat.active), true),
  msg: (rest) => {
    const [, nick, body] = /^@?(\S+)\s+([\s\S]+)$/.exec(rest) ?? [];
    if (nick) chat.say(chat.direct(nick), body);
    return nick;
  },
  me: (rest) => rest && chat.active && (chat.say(chat.active, rest, "action"), true),
  who: () => answered(who()),
  topic: (rest) => answered(chat.link.request({ t: "mod", room: chat.active?.name, op: "topic", text: rest })),
  away: (rest) => answered(away(rest)),
  help: () => note(Object.keys(COMMANDS).map((name) => `${usage(name)} — ${text(COMMANDS[name][1])}`).join("\n")),
  quit: () => (chat.quit(), true),
};

function run(name, rest) {
  if (!Object.hasOwn(RUN, name)) note(text("noCommand", { name }), "bad");
  else if (!RUN[name](rest)) note(text("usage", { usage: usage(name) }), "bad");
}

function note(words, kind = "info") {
  if (chat.active) chat.note(chat.active, kind, { text: words });
  return true;
}

/** Show what a command failed with in the room that it was written in. */
function answered(promise) {
  const room = chat.active;
  promise.catch((error) => room && chat.note(room, "bad", error.code === "lost" ? { text: text("offline") } : error));
  return true;
}

async function who() {
  const room = chat.active;
  if (!room) return;
  const { n, list } = await chat.link.request({ t: "who", room: room.name });
  const names = list.map(({ nick, away: gone }) => (gone ? `${nick} (${text("away")})` : nick));
  note(text("whoList", { n, room: roomTitle(room), list: names.join(text("comma")) }));
}

async function away(words) {
  await chat.link.request(words ? { t: "away", text: words } : { t: "away" });
  note(words ? text("isAway", { text: words }) : text("isBack"));
}

byId("me").addEventListener("click", () => {
  closeDrawers();
  composer.value = "/nick ";
  composer.focus();
});

// --- notifications: asked for by a press alone -------------------------------------------------------------------

const canNotify = "Notification" in window;
let notifying = canNotify && Notification.permission === "granted" && remembered("notify") === "on";

function drawNotify() {
  const button = byId("notify");
  button.hidden = !canNotify;
  const key = notifying ? "notifyOn" : canNotify && Notification.permission === "denied" ? "notifyDenied" : "notifyOff";
  button.setAttribute("aria-pressed", String(notifying));
  button.title = text(key);
  button.setAttribute("aria-label", text(key));
}

byId("notify").addEventListener("click", async () => {
  const granted = !notifying && (await Notification.requestPermission()) === "granted";
  notifying = granted;
  remember("notify", granted ? "on" : null);
  drawNotify();
});

function notify(room, item) {
  if (!notifying || (!document.hidden && document.hasFocus())) return;
  const title = room.direct === null ? text("mentionTitle", { who: item.from, room: room.name }) : item.from;
  try {
    const shown = new Notification(title, { body: item.body, tag: `evloop-${room.name}` });
    shown.onclick = () => {
      window.focus();
      openRoom(room);
      shown.close();
    };
  } catch {
    // Android's Chrome has the class and does not let a page use it
  }
}

// --- the window --------------------------------------------------------------------------------------------------

function switchLanguage() {
  setLanguage(currentLanguage() === "zh" ? "en" : "zh");
  remember("language", currentLanguage());
  redrawTexts();
}

function redrawTexts() {
  translate();
  drawNotify();
  drawMe(chat);
  drawAll();
  log.redraw();
}

byId("language").addEventListener("click", switchLanguage);
byId("gate-language").addEventListener("click", switchLanguage);
addEventListener("focus", () => log.check());
addEventListener("pagehide", stow);
document.addEventListener("visibilitychange", () => {
  // A phone may end a hidden page without a word.
  if (document.hidden) stow();
  else takeBack();
  log.check();
});
addEventListener("pageshow", (event) => event.persisted && takeBack());

translate();
drawNotify();
const kept = takeBack();
if (kept) chat.restore(kept);
if (kept) chat.enter(kept.nick);
else if (remembered("nick")) chat.enter(remembered("nick"));
else openGate();
if (chat.active) opened(chat.active);
