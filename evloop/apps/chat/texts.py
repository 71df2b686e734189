"""What the server says to people, in English and Chinese; programs look at the codes, which no language changes.

Rule: nothing in this file may decide anything.
"""

from __future__ import annotations

from collections.abc import Mapping

# Each text by its code, and then by language; {} takes the detail, which is English.
_TEXTS: Mapping[str, tuple[str, str]] = {
    "bad_frame": ("this is neither JSON nor MessagePack: {}", "既不是 JSON 也不是 MessagePack：{}"),
    "bad_message": ("bad message: {}", "消息有误：{}"),
    "unknown_type": ("unknown message type: {}", "未知的消息类型：{}"),
    "too_big": ("too big: {}", "过大：{}"),
    "not_ready": ("say hello first", "请先发送 hello"),
    "nick_taken": ("somebody else is called {}", "昵称 {} 已被使用"),
    "nick_bad": ("this cannot be a nick: {}", "昵称不合法：{}"),
    "no_room": ("you are not in the room {}", "你不在房间 {} 里"),
    "no_nick": ("nobody is called {}", "没有叫 {} 的人"),
    "room_bad": ("this cannot be a room's name: {}", "房间名不合法：{}"),
    "room_full": ("full: {}", "已满：{}"),
    "forbidden": ("not allowed: {}", "没有权限：{}"),
    "banned": ("you are banned from {}", "你已被禁止进入 {}"),
    "muted": ("you are muted in {}", "你在 {} 中已被禁言"),
    "already": ("it is so already: {}", "已经如此：{}"),
    "cid_conflict": ("the cid {} was used for another message", "cid {} 已用于另一条消息"),
    "gone": ("no longer kept: {}", "已不再保留：{}"),
    "rate_limited": ("too fast: {}", "操作过快：{}"),
    "unavailable": ("not possible at the moment: {}", "暂时不可用：{}"),
    "internal": ("a fault of the server; it is in its log", "服务器内部错误，已记录在日志中"),
    "1000": ("goodbye", "再见"),
    "3001": ("the server stops", "服务器即将关闭"),
    "3008": ("you did not take what you were sent", "接收过慢，连接已断开"),
    "3012": ("nothing was heard of you", "长时间没有收到你的消息"),
    "3500": ("the password or the token is wrong", "密码或令牌错误"),
    "3501": ("no common version of the protocol", "协议版本不兼容"),
    "3504": ("your session goes on at another connection", "会话已在另一个连接上继续"),
    "3505": ("the protocol is broken: {}", "违反协议：{}"),
}

READY = "服务端已就绪"  # the word by which the tutorials' servers say that they are; the greeting unless another is set

LANGUAGES = ("en", "zh")


def language(wanted: str) -> str:
    """Return the language that there are texts in for a tag such as ``zh-CN``: ``"zh"``, or else ``"en"``."""
    return "zh" if wanted[:2].lower() == "zh" else "en"


def text(code: str | int, lang: str, detail: str = "") -> str:
    """Return the text for a code of an `err` or a `bye` in *lang*, with *detail* in its place."""
    pair = _TEXTS[str(code)]
    return pair[lang == "zh"].replace("{}", detail)
