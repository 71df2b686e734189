// Every word the page says, in two languages, and how it writes times.
// Rule: nothing in this file may touch the document; codes of the protocol are keys here, never texts.

const EN = {
  welcome: "Come in",
  welcomeText: "Pick a name. No account, nothing to install.",
  yourName: "Your name",
  guestName: "or leave it empty and be a guest",
  password: "Password",
  enter: "Enter",
  other: "中文",
  otherShort: "中",
  rooms: "Rooms",
  direct: "Direct messages",
  members: "Members",
  messages: "Messages",
  suggestions: "Suggestions",
  addRoom: "Join a room",
  roomName: "Room",
  join: "Join",
  cancel: "Cancel",
  close: "Close",
  leave: "Leave {room}",
  send: "Send",
  write: "Message {room}",
  comma: ", ",
  away: "away",
  you: "you",
  op: "op",
  moreMembers: "and {n} more",
  unreadIn: "{room}, {n} unread",
  messageTo: "Message {who}",
  changeName: "Change your name ({who})",
  notifyOff: "Notify me when I am mentioned",
  notifyOn: "Notifications are on",
  notifyDenied: "The browser blocks notifications from this page",
  connecting: "Connecting…",
  connected: "Connected",
  lost: "Reconnecting…",
  lostShort: "…",
  seconds: "{s} s",
  waiting: "Reconnecting in {s} s",
  waitingShort: "Reconnecting",
  offline: "Offline",
  ended: "Disconnected",
  outbox: "{state} · {n} unsent",
  retryNow: "Try now",
  today: "Today",
  yesterday: "Yesterday",
  newLine: "New",
  jump: "Latest ↓",
  jumpNew: "{n} new ↓",
  loading: "Loading…",
  beginning: "The beginning of {room}",
  beginningDirect: "The beginning of your talk with {who}",
  forgotten: "Earlier messages are no longer kept",
  older: "Scroll up for earlier messages",
  sending: "sending",
  retry: "Retry",
  discard: "Delete",
  unsent: "Not sent: {why}",
  gap: "…earlier messages are gone: the server kept fewer than you missed…",
  evJoin: "{who} joined",
  evPart: "{who} left",
  evLost: "{who} lost the connection",
  evNick: "{who} is now {text}",
  typing1: "{a} is typing…",
  typing2: "{a} and {b} are typing…",
  typingMany: "Several people are typing…",
  mentionTitle: "{who} in {room}",
  whoList: "{n} in {room}: {list}",
  isAway: "You are away: {text}",
  isBack: "You are back",
  left: "You have left. Press here to come back.",
  leftShort: "Come back",
  noCommand: "There is no /{name}. /help lists what there is; //{name} sends it as text.",
  usage: "Usage: {usage}",
  notInRoom: "You are in no room. Join one with +.",
  helpNick: "change your name",
  helpJoin: "join a room",
  helpPart: "leave this room",
  helpMsg: "write to one person",
  helpMe: "say what you do",
  helpWho: "list who is here",
  helpTopic: "set the topic",
  helpAway: "be away; alone, be back",
  helpHelp: "list the commands",
  helpQuit: "leave the chat",
  argNick: "NAME",
  argRoom: "ROOM",
  argText: "TEXT",
  modKick: "{from} removed {who}",
  modBan: "{from} banned {who}",
  modUnban: "{from} lifted the ban of {who}",
  modMute: "{from} muted {who}",
  modUnmute: "{from} unmuted {who}",
  modOp: "{from} made {who} an op",
  modDeop: "{from} took op from {who}",
  modTopic: "{from} set the topic: {text}",
  modLock: "{from} locked the room",
  modUnlock: "{from} unlocked the room",
  kicked: "You were removed from {room}",
  errors: {
    nick_taken: "Somebody has this name, perhaps you in another tab. Pick another one.",
    nick_bad: "This cannot be a name.",
    auth_failed: "The password is wrong.",
    password: "This server asks for a password.",
    no_room: "There is no such room.",
    no_nick: "Nobody here has this name.",
    room_bad: "This cannot be the name of a room.",
    already: "It is so already.",
    room_full: "The room is full.",
    forbidden: "You may not do this here.",
    banned: "You are banned from this room.",
    muted: "You are muted here.",
    too_big: "The text is too long.",
    rate_limited: "Too fast. It will be sent again in a moment.",
    unavailable: "The server cannot do this at the moment.",
  },
  byes: {
    1000: "You have left",
    3500: "Not let in",
    3501: "This page is too old for the server: reload",
    3504: "Opened elsewhere",
    3505: "The server did not understand this page",
  },
};

const ZH = {
  welcome: "进来聊聊",
  welcomeText: "起个名字就行，不用注册，不用安装。",
  yourName: "你的名字",
  guestName: "留空就以游客身份进入",
  password: "密码",
  enter: "进入",
  other: "English",
  otherShort: "EN",
  rooms: "房间",
  direct: "私信",
  members: "成员",
  messages: "消息",
  suggestions: "建议",
  addRoom: "加入房间",
  roomName: "房间名",
  join: "加入",
  cancel: "取消",
  close: "关闭",
  leave: "离开 {room}",
  send: "发送",
  write: "在 {room} 说点什么",
  comma: "、",
  away: "离开",
  you: "你",
  op: "管理",
  moreMembers: "还有 {n} 人",
  unreadIn: "{room}，{n} 条未读",
  messageTo: "给 {who} 发私信",
  changeName: "改名（{who}）",
  notifyOff: "有人提到我时通知我",
  notifyOn: "通知已开启",
  notifyDenied: "浏览器禁止了本页的通知",
  connecting: "正在连接…",
  connected: "已连接",
  lost: "正在重连…",
  lostShort: "…",
  seconds: "{s} 秒",
  waiting: "{s} 秒后重连",
  waitingShort: "等待重连",
  offline: "离线",
  ended: "已断开",
  outbox: "{state} · {n} 条待发",
  retryNow: "立即重连",
  today: "今天",
  yesterday: "昨天",
  newLine: "新消息",
  jump: "回到最新 ↓",
  jumpNew: "{n} 条新消息 ↓",
  loading: "加载中…",
  beginning: "{room} 从这里开始",
  beginningDirect: "你和 {who} 的对话从这里开始",
  forgotten: "更早的消息已不再保存",
  older: "向上滚动查看更早的消息",
  sending: "发送中",
  retry: "重试",
  discard: "删除",
  unsent: "未发送：{why}",
  gap: "…更早的消息已不可寻：你错过的比服务器保存的多…",
  evJoin: "{who} 来了",
  evPart: "{who} 走了",
  evLost: "{who} 断线了",
  evNick: "{who} 改名为 {text}",
  typing1: "{a} 正在输入…",
  typing2: "{a} 和 {b} 正在输入…",
  typingMany: "几个人正在输入…",
  mentionTitle: "{who} 在 {room}",
  whoList: "{room} 有 {n} 人：{list}",
  isAway: "你已离开：{text}",
  isBack: "你回来了",
  left: "你已退出，点这里回来。",
  leftShort: "回来",
  noCommand: "没有 /{name} 这个命令。/help 列出全部；//{name} 当作文字发送。",
  usage: "用法：{usage}",
  notInRoom: "你不在任何房间，点 + 加入一个。",
  helpNick: "改名",
  helpJoin: "加入房间",
  helpPart: "离开这个房间",
  helpMsg: "给某人发私信",
  helpMe: "描述你的动作",
  helpWho: "看看谁在",
  helpTopic: "设置话题",
  helpAway: "标记离开；不带文字则回来",
  helpHelp: "列出命令",
  helpQuit: "退出聊天",
  argNick: "名字",
  argRoom: "房间",
  argText: "文字",
  modKick: "{from} 请出了 {who}",
  modBan: "{from} 封禁了 {who}",
  modUnban: "{from} 解封了 {who}",
  modMute: "{from} 禁言了 {who}",
  modUnmute: "{from} 解除了 {who} 的禁言",
  modOp: "{from} 让 {who} 成为管理",
  modDeop: "{from} 取消了 {who} 的管理",
  modTopic: "{from} 设置了话题：{text}",
  modLock: "{from} 锁定了房间",
  modUnlock: "{from} 解锁了房间",
  kicked: "你被请出了 {room}",
  errors: {
    nick_taken: "这个名字有人在用，也许是另一个标签页里的你。换一个吧。",
    nick_bad: "这不能当名字。",
    auth_failed: "密码不对。",
    password: "这个服务器需要密码。",
    no_room: "没有这个房间。",
    no_nick: "这里没有叫这个名字的人。",
    room_bad: "这不能当房间名。",
    already: "已经是这样了。",
    room_full: "房间满了。",
    forbidden: "你在这里不能这样做。",
    banned: "你被这个房间封禁了。",
    muted: "你在这里被禁言了。",
    too_big: "文字太长了。",
    rate_limited: "太快了，稍后会自动重发。",
    unavailable: "服务器暂时做不到。",
  },
  byes: {
    1000: "你已退出",
    3500: "未获准进入",
    3501: "本页版本太旧，请刷新",
    3504: "已在别处打开",
    3505: "服务器看不懂本页",
  },
};

const LANGUAGES = { en: EN, zh: ZH };
let language = "en";

/** The language in use: "en" or "zh". */
export const currentLanguage = () => language;

/** Use *name* from now on; anything but Chinese is English. */
export function setLanguage(name) {
  language = /^zh\b/i.test(name) ? "zh" : "en";
}

/** Return the text of *key*, with {name} replaced by values[name]. */
export function text(key, values = {}) {
  return LANGUAGES[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** Return why a request failed: our words for a code we know, the server's own for another. */
export function errorText(error) {
  const { errors, byes } = LANGUAGES[language];
  return errors[error.code] ?? byes[error.code] ?? error.text ?? error.code;
}

/** Return why the server ended the connection for good. */
export function byeText(bye) {
  return LANGUAGES[language].byes[bye.code] ?? bye.text ?? text("ended");
}

/** Return the hour and minute of *ts*, milliseconds since 1970, as the reader's clock shows it. */
export function clock(ts) {
  return new Date(ts).toLocaleTimeString(language, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
}

/** Return *ts* in full, for who rests on it. */
export function moment(ts) {
  return new Date(ts).toLocaleString(language, { dateStyle: "full", timeStyle: "medium" });
}

/** Return a number that differs exactly when the day does, in the reader's time zone. */
export function dayNumber(ts) {
  const date = new Date(ts);
  return Math.round(Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) / 86_400_000);
}

/** Return the name of the day of *ts*: today, yesterday, or its date, with the year if it is another one. */
export function dayName(ts) {
  const ago = dayNumber(Date.now()) - dayNumber(ts);
  if (ago === 0 || ago === 1) return text(ago ? "yesterday" : "today");
  const date = new Date(ts);
  const year = date.getFullYear() === new Date().getFullYear() ? undefined : "numeric";
  return date.toLocaleDateString(language, { weekday: "long", day: "numeric", month: "long", year });
}
