"""``evloop chat`` on a terminal: what a person sees, and what their keys do, against the real server."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import stat
import xml.etree.ElementTree

import pytest
from chatthread import PATIENCE, ChatThread
from pictures import svg
from screens import Screen

import evloop
from evloop.apps.chat import wire

CTRL_C, CTRL_D, ALT = "\x03", "\x04", "\x1b"


class Person:
    """Somebody else in the room, by a blocking client."""

    def __init__(self, address, nick, room):
        self.room = room
        self.client = evloop.BlockingClient(address, timeout=PATIENCE)
        self.send(wire.Hello(v=1, client="test", nick=nick))
        self.send(wire.Join(room=room))
        self.cid = 0

    def send(self, message):
        """Send a wire struct."""
        self.client.send(wire.JSON.encode(message))

    def say(self, body, **where):
        """Say *body* in the room, or ``to=`` somebody."""
        self.cid += 1
        self.send(wire.Say(body=body, cid=str(self.cid), ref=self.cid, **(where or {"room": self.room})))

    def hear(self, kind, **fields):
        """Return the next message that is a *kind* and has these fields."""
        while True:
            message = wire.JSON.decode_reply(self.client.recv())
            if type(message) is kind and all(getattr(message, name) == value for name, value in fields.items()):
                return message


class World:
    """The pieces of a scene: a server, a room, screens, people."""

    room = "lobby"

    def __init__(self, stack, state, server):
        self.state = state
        self._stack, self._server = stack, server

    def screen(self, nick, *args, address=None, **env):
        """Return a screen on which *nick* has started to chat."""
        command = ("chat", address or self._server.address, "--nick", nick, "--room", self.room, *args)
        return self._stack.enter_context(Screen(*command, XDG_STATE_HOME=str(self.state), **env))

    def person(self, nick, address=None):
        """Return somebody else who is in the room."""
        person = Person(address or self._server.address, nick, self.room)
        self._stack.callback(person.client.close)
        person.hear(wire.Joined)
        return person


@pytest.fixture
def world(tmp_path):
    """A scene with a server of its own."""
    with ChatThread() as server, contextlib.ExitStack() as stack:
        yield World(stack, tmp_path / "state", server)


def ready(screen):
    """Wait for the room to be entered."""
    screen.wait(lambda screen: "> " in screen.input_line + " " and "──" in screen.text and "●" in screen.bar)


# --- what is seen -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_terminal_shows_what_comes_above_a_line_of_input_that_stays(world):
    """The heart of a chat on a terminal: what is half typed survives whatever arrives, wide characters and all."""
    screen = world.screen("小明")
    amy = world.person("amy")
    ready(screen)
    screen.type("你好，a half")
    screen.wait(lambda screen: screen.input_line == f"{world.room}> 你好，a half")
    for number in range(40):
        amy.say(f"line {number} 中文")
    screen.wait("line 39 中文")
    screen.wait(lambda screen: screen.input_line == f"{world.room}> 你好，a half")
    assert screen.cursor[1] == len(world.room) + 2 + 6 + len("a half")  # three of them are two columns wide
    heard = re.findall(r"amy: line (\d+) 中文", screen.text)
    assert heard == [str(number) for number in range(40)]
    screen.type("\x7f\x7f\x7f\x7f\x7f\x7f\x7f")  # six letters and one wide comma
    screen.wait(lambda screen: screen.input_line == f"{world.room}> 你好")
    screen.enter("！")
    assert amy.hear(wire.Msg).body == "你好！"
    screen.wait("小明: 你好！")
    screen.wait(lambda screen: screen.input_line == f"{world.room}>")
    screen.type(CTRL_D)
    assert screen.finish() == 0


@pytest.mark.slow
def test_terminal_shows_a_peers_control_characters_as_text(world):
    """A message must not clear the screen, retitle the window, ring, or pretend to be from somebody else."""
    screen, mallory = world.screen("amy"), world.person("mallory")
    ready(screen)
    mallory.say("\x1b[2J\x1b]0;title\x07 \u202eevil\u2028x\nbob: I am bob")
    screen.wait("I am bob")
    assert "mallory: \\x1b[2J\\x1b]0;title\\x07 \\u202eevil\\u2028x" in screen.text
    assert "\n      bob: I am bob" in screen.text  # a second line of mallory's stands under the first
    assert screen.bells == 0


@pytest.mark.slow
def test_terminal_rings_and_marks_a_mention_in_another_room(world):
    """Unread marks tell where something is new; a mention and a direct message call."""
    screen, bob = world.screen("amy", "--room", world.room + "2"), world.person("bob")
    ready(screen)
    screen.wait(lambda screen: f"2 {world.room}2" in screen.bar)
    screen.type(ALT + "2")
    screen.wait(lambda screen: screen.input_line == f"{world.room}2>")
    bob.say("nothing for you, amyx")
    screen.wait(lambda screen: f"1 {world.room} 1 " in screen.bar)
    assert screen.bells == 0
    bob.say("but this, AMY!")
    screen.wait(lambda screen: f"1 {world.room}! 2 " in screen.bar)
    assert screen.bells == 1
    assert "nothing for you" not in screen.text
    bob.say("psst", to="amy")
    screen.wait(lambda screen: "3 @bob! 1" in screen.bar)
    screen.enter("/room 1")
    screen.wait("but this, AMY!")
    screen.wait(lambda screen: f"1 {world.room}  " in screen.bar)
    screen.type(ALT + "a")  # the next one with something new
    screen.wait(lambda screen: screen.input_line == "@bob>")
    screen.wait("bob: psst")
    screen.enter("hi bob")
    assert bob.hear(wire.Msg, room=None, sender="amy").body == "hi bob"


@pytest.mark.slow
def test_terminal_in_chinese_says_the_same(world):
    """Texts are in the person's language; commands and codes are not."""
    screen = world.screen("小明", LC_ALL="zh_CN.UTF-8")
    ready(screen)
    assert "● 在线  小明" in screen.bar
    screen.enter("/nosuch")
    screen.wait("没有命令 /nosuch")
    screen.enter("/help")
    screen.wait("Tab 补全昵称和命令")
    screen.enter("/who")
    screen.wait(f"{world.room} (1): +小明")


@pytest.mark.slow
def test_terminal_that_is_resized_keeps_its_line(world):
    """A window is dragged while somebody types."""
    screen = world.screen("amy")
    ready(screen)
    screen.type("half typed")
    screen.wait("half typed")
    screen.resize(50, 12)
    screen.wait(lambda screen: screen.input_line == f"{world.room}> half typed"[:50] and "●" in screen.bar)


# --- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_clears_the_line_and_then_says_how_to_leave(world):
    """The key of panic must not lose a conversation."""
    screen, bob = world.screen("amy"), world.person("bob")
    ready(screen)
    screen.type("never mind")
    screen.wait("never mind")
    screen.type(CTRL_C)
    screen.wait(lambda screen: screen.input_line == f"{world.room}>")
    screen.type(CTRL_C)
    screen.wait("Ctrl-D or /quit leaves")
    screen.enter("still here")
    assert bob.hear(wire.Msg).body == "still here"


@pytest.mark.slow
@pytest.mark.parametrize("word", ["quit", "/quit", CTRL_D])
def test_leaving_is_ctrl_d_and_quit_with_or_without_its_stroke(world, word):
    """The tutorials' word works, and the server is told: no ghost keeps the nick."""
    screen = world.screen("amy")
    ready(screen)
    screen.type(word if word == CTRL_D else word + "\r")
    assert screen.finish() == 0
    ready(world.screen("amy"))


@pytest.mark.slow
def test_tab_completes_nicks_and_commands(world):
    """A nick at the beginning is an address; a command gets its space."""
    screen = world.screen("amy")
    ready(screen)
    world.person("Bartholomäus")
    screen.wait("Bartholomäus is here")
    screen.type("bar\t")
    screen.wait(lambda screen: screen.input_line == f"{world.room}> Bartholomäus:")
    screen.type("see bar\t.")
    screen.wait(lambda screen: screen.input_line.endswith("Bartholomäus: see Bartholomäus ."))
    screen.type(CTRL_C + "/hi\t5")
    screen.wait(lambda screen: screen.input_line == f"{world.room}> /history 5")


@pytest.mark.slow
def test_history_of_what_was_typed_outlives_the_program_and_is_private(world):
    """The arrow keys give it back tomorrow; nobody else on the machine reads it."""
    screen = world.screen("amy")
    ready(screen)
    screen.enter("remember 这个")
    screen.wait("amy: remember 这个")
    screen.type(CTRL_D)
    assert screen.finish() == 0
    path = world.state / "evloop" / "chat-history"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700
    again = world.screen("amy")
    ready(again)
    again.type("\x1b[A")
    again.wait(lambda screen: screen.input_line == f"{world.room}> remember 这个")


# --- commands -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_commands_do_what_the_help_says(world):
    """One walk through them."""
    screen = world.screen("amy")
    ready(screen)  # first: who opens a room is its operator
    bob = world.person("bob")
    screen.enter("/me waves")
    said = bob.hear(wire.Msg)
    assert (said.kind, said.body) == ("action", "waves")
    screen.wait("* amy waves")
    screen.enter("//etc is no command")
    assert bob.hear(wire.Msg).body == "/etc is no command"
    screen.enter("/topic the weather")
    screen.wait("amy changed the topic: the weather")
    screen.enter("/topic")
    screen.wait("topic: the weather")
    screen.enter("/nick Amelia")
    screen.wait("you are now Amelia")
    screen.wait(lambda screen: " Amelia " in screen.bar)
    screen.enter("/away lunch")
    screen.wait("Amelia is away: lunch")
    screen.enter("/away")
    screen.wait("Amelia is back")
    screen.enter("/msg bob in private")
    assert bob.hear(wire.Msg, room=None).body == "in private"
    screen.wait(lambda screen: screen.input_line == "@bob>")
    screen.enter("/part")
    screen.wait("you left @bob")
    screen.enter("/join other")
    screen.wait(lambda screen: screen.input_line == "other>")
    screen.enter("/part")
    screen.wait("you left other")
    screen.enter("/msg")
    screen.wait("write: /msg NICK TEXT")
    screen.enter("/msg nobody-here hello")
    screen.wait("(no_nick)")


@pytest.mark.slow
def test_history_goes_back_page_by_page(world):
    """A room shows its end when it is entered; what was before is asked for."""
    bob = world.person("bob")
    for number in range(12):
        bob.say(f"line {number}.")
        bob.hear(wire.Ok)
    screen = world.screen("amy", "--history", "4")
    ready(screen)
    screen.wait("line 11.")
    assert "line 7." not in screen.text
    screen.enter("/history 3")
    screen.wait("line 5.")
    screen.wait(lambda screen: screen.text.count(f"── {world.room} ──") == 2)
    assert re.findall(r"line (\d+)\.", screen.text) == ["8", "9", "10", "11", "5", "6", "7"]
    screen.enter("/history 100")
    screen.wait("line 0.")
    screen.enter("/history")
    screen.wait("nothing before that")


# --- losing the connection ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_line_said_while_the_server_is_down_is_sent_when_it_is_back(world):
    """The program stays usable: it says how things are, takes lines, and sends them once."""
    with ChatThread() as first:
        address = first.address
        screen = world.screen("amy", address=address)
        ready(screen)
    screen.wait(lambda screen: "○" in screen.bar)
    screen.wait("the connection is lost: Connection reset by peer")
    screen.enter("said offline")
    screen.wait("said offline (not sent yet)")
    screen.wait(lambda screen: "1 unsent" in screen.bar)
    with ChatThread(address):
        screen.wait("connected again")
        screen.wait("amy: said offline")
        screen.wait(lambda screen: "unsent" not in screen.bar)
        bob = world.person("bob", address)
        bob.send(wire.History(room=world.room))
        assert [message.body for message in bob.hear(wire.Page).items] == ["said offline"]
        screen.type(CTRL_D)
        assert screen.finish() == 0


@pytest.mark.slow
def test_leaving_with_something_unsent_takes_a_second_time(world):
    """What was typed while the server is away is lost with the program: nobody may lose it by a key too many."""
    with ChatThread() as server:
        screen = world.screen("amy", address=server.address)
        ready(screen)
    screen.wait(lambda screen: "○" in screen.bar)
    screen.enter("unsent")
    screen.wait("unsent (not sent yet)")
    screen.type(CTRL_D)
    screen.wait("1 unsent would be lost")
    screen.type(CTRL_D)
    assert screen.finish() == 0


@pytest.mark.slow
def test_bar_that_is_too_narrow_shows_where_something_is_new(world):
    """Twenty rooms do not fit; the one that is shown, and those that want to be, do."""
    rooms = [argument for number in range(9) for argument in ("--room", f"another-room-{number}")]
    bob = world.person("bob")
    bob.send(wire.Join(room="another-room-8"))
    bob.hear(wire.Joined)
    screen = world.screen("amy", *rooms)
    ready(screen)
    bob.hear(wire.Event, e="join", who="amy", room="another-room-8")
    bob.say("here!", room="another-room-8")
    screen.wait(lambda screen: "10 another-room-8 1" in screen.bar)
    assert f"1 {world.room} " in screen.bar and "another-room-0" not in screen.bar


@pytest.mark.slow
def test_person_who_is_kicked_is_told_and_can_say_no_more(world):
    """Not a program that ends without a word."""
    bob = world.person("bob")  # the first one in a room is its operator
    screen = world.screen("amy")
    ready(screen)
    bob.send(wire.Mod(room=world.room, op="kick", who="amy", text="enough"))
    screen.wait("bob kicked amy out: enough")
    screen.wait(f"you are no longer in {world.room}: enough")
    screen.enter("but")
    screen.wait("not sent:")


# --- starting -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nick_that_is_taken_ends_with_the_code_of_a_refusal(world):
    """Before the screen is touched: one line, and the way out of it."""
    world.person("amy")
    screen = world.screen("amy")
    assert screen.finish() == 6
    assert "evloop: the server refuses:" in screen.text and "see --nick" in screen.text.replace("\n", "")


@pytest.mark.slow
def test_terminal_is_as_it_was_after_a_signal(world):
    """kill must not leave a terminal that shows nothing of what is typed."""
    screen = world.screen("amy")
    ready(screen)
    screen.process.terminate()
    assert screen.finish() == 0
    assert "Traceback" not in screen.text


# --- the picture --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_terminal_picture_for_the_readme(world, tmp_path):
    """The README shows what a run of the tests has seen: `make screenshots`."""
    world.room = "大厅"
    screen = world.screen("李雷", "--room", "releases", lines=17, LC_ALL="zh_CN.UTF-8")
    ready(screen)
    screen.wait(lambda screen: "2 releases" in screen.bar)
    screen.enter("/topic Release night: evloop 0.3")
    screen.wait("更改了话题")
    amy, ming, bob = world.person("amy"), world.person("小明"), world.person("bob")
    screen.wait("bob 来了")
    amy.say("Hi all, is the new build up?")
    screen.wait("build up?")
    ming.say("在的，刚刚部署好了")
    screen.wait("刚刚部署好了")
    screen.enter("收到，我在终端里看")
    screen.wait("李雷: 收到")
    amy.say("Went through two tunnels on the train and lost nothing")
    screen.wait("lost nothing")
    ming.say("那就好。每个房间一个 seq，断线后从 since 补齐，\n重发由 cid 去重。")
    screen.wait("去重")
    ming.say("@李雷 你那边呢？")
    screen.wait("你那边呢")
    screen.enter("/me 点了点头")
    screen.wait("* 李雷")
    bob.say("tagged 0.3.0, building wheels", room="releases")
    bob.send(wire.Join(room="releases"))
    bob.hear(wire.Joined)
    bob.say("tagged 0.3.0, building wheels", room="releases")
    amy.say("dinner at 7?", to="李雷")
    screen.wait(lambda screen: "3 @amy! 1" in screen.bar and "2 releases 1" in screen.bar)
    screen.type("一条断线也不丢")
    screen.wait(lambda screen: screen.input_line == "大厅> 一条断线也不丢")
    picture = svg(screen.cells, screen.cursor, "evloop chat")
    xml.etree.ElementTree.fromstring(picture)
    path = pathlib.Path(os.environ.get("EVLOOP_PICTURES") or tmp_path) / "chat-terminal.svg"
    path.write_text(picture, encoding="utf-8")
