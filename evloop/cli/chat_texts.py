"""What ``evloop chat`` says to people, in English and Chinese; codes, commands and exit codes are the same in both.

Rule: nothing in this file may do more than look a text up.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

LANGUAGES: Final = ("en", "zh")

_TEXTS: Final[dict[str, tuple[str, str]]] = {
    # the connection
    "connected": ("you are {nick}; /help shows the commands", "你是 {nick}；输入 /help 查看命令"),
    "lost": ("the connection is lost: {reason}", "连接断开：{reason}"),
    "back": ("connected again", "已重新连接"),
    "closed": ("the server has ended this session: {reason}", "服务器结束了会话：{reason}"),
    "online": ("online", "在线"),
    "offline": ("offline", "离线"),
    "retry": ("offline, again in {seconds} s", "离线，{seconds} 秒后重连"),
    "unsent": ("{n} unsent", "{n} 条未发送"),
    "queued": ("(not sent yet)", "（尚未发送）"),
    # rooms
    "entered": ("{n} here", "{n} 人"),
    "topic": ("topic: {topic}", "话题：{topic}"),
    "names": ("here: {names}", "在场：{names}"),
    "hole": ("earlier messages are gone", "更早的消息已丢失"),
    "new": ("new", "新消息"),
    "earlier": ("{n} earlier", "更早 {n} 条"),
    "left": ("you are no longer in {room}: {text}", "你已不在 {room}：{text}"),
    "parted": ("you left {room}", "你离开了 {room}"),
    "no-rooms": ("there are no rooms", "没有房间"),
    "no-history": ("there is nothing before that", "没有更早的消息"),
    # people
    "join": ("{who} is here", "{who} 来了"),
    "part": ("{who} left", "{who} 离开了"),
    "lost-one": ("{who} lost the connection", "{who} 掉线了"),
    "nick": ("{who} is now {text}", "{who} 改名为 {text}"),
    "away": ("{who} is away: {text}", "{who} 离开：{text}"),
    "back-one": ("{who} is back", "{who} 回来了"),
    "renamed": ("you are now {nick}", "你现在叫 {nick}"),
    "retopic": ("{sender} changed the topic: {body}", "{sender} 更改了话题：{body}"),
    "kick": ("{sender} kicked {who} out", "{sender} 把 {who} 移出了房间"),
    "ban": ("{sender} banned {who}", "{sender} 封禁了 {who}"),
    "unban": ("{sender} lifted the ban of {who}", "{sender} 解除了对 {who} 的封禁"),
    "mute": ("{sender} muted {who}", "{sender} 禁言了 {who}"),
    "unmute": ("{sender} let {who} speak again", "{sender} 解除了 {who} 的禁言"),
    "op": ("{sender} made {who} an operator", "{sender} 让 {who} 成为管理员"),
    "deop": ("{who} is no longer an operator, by {sender}", "{sender} 取消了 {who} 的管理员"),
    "lock": ("{sender} locked the room", "{sender} 锁定了房间"),
    "unlock": ("{sender} unlocked the room", "{sender} 解锁了房间"),
    # complaints
    "not-sent": ("not sent: {text} ({code})", "未发送：{text}（{code}）"),
    "refused": ("{text} ({code})", "{text}（{code}）"),
    "unknown": (
        "no command {name}; /help shows them, and // begins a line with /",
        "没有命令 {name}；见 /help；行首用 // 表示 /",
    ),
    "usage": ("write: {usage}", "用法：{usage}"),
    "no-room": ("you are in no room; /join ROOM", "你不在任何房间；/join 房间"),
    "no-such-room": ("you are not in {room}; /join {room}", "你不在 {room}；/join {room}"),
    "disconnected": ("there is no connection now; try again when it is back", "现在没有连接；恢复后再试"),
    "too-long": ("{error}", "消息长度不合适：{error}"),
    "outbox-full": ("not sent: {error}", "未发送：{error}"),
    "quit-hint": ("Ctrl-D or /quit leaves", "按 Ctrl-D 或输入 /quit 退出"),
    "leave-hint": ("{n} unsent would be lost; once more leaves", "{n} 条未发送将会丢失；再按一次退出"),
    # help
    "help": (
        """\
/join ROOM       enter a room           /part [ROOM]     leave it
/room N|NAME     show another (Alt+N)   /rooms [PREFIX]  list them
/msg NICK TEXT   to one person          /me TEXT         an action
/who [ROOM]      who is there           /history [N]     what was before
/nick NICK       another name           /away [TEXT]     and back
/topic [TEXT]    show or set it         /quit            or Ctrl-D
/kick NICK [WHY], also /ban /unban /mute /unmute /op /deop
Tab completes names and commands; // begins a line with /""",
        """\
/join 房间       进入房间               /part [房间]     离开房间
/room 序号|名称  切换（Alt+序号）       /rooms [前缀]    列出房间
/msg 昵称 内容   私聊                   /me 内容         动作
/who [房间]      谁在场                 /history [条数]  更早的消息
/nick 昵称       改名                   /away [说明]     离开或回来
/topic [内容]    查看或设置话题         /quit            或 Ctrl-D
/kick 昵称 [原因]，另有 /ban /unban /mute /unmute /op /deop
Tab 补全昵称和命令；行首用 // 表示 /""",
    ),
}


class Texts:
    """The texts in *lang*, one of LANGUAGES: ``texts("nick", who="amy", text="bea")``."""

    def __init__(self, lang: str) -> None:
        self._index = LANGUAGES.index(lang)

    def __call__(self, key: str, **fields: object) -> str:
        """Return the text called *key*, with *fields* in their places.  KeyError: there is none."""
        text = _TEXTS[key][self._index]
        return text.format(**fields) if fields else text


def language_of(environment: Mapping[str, str] = os.environ) -> str:
    """Return the language that *environment* asks for, as locale(7) says: ``"zh"``, or ``"en"`` for all others."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environment.get(name):
            return "zh" if value.startswith("zh") else "en"
    return "en"
