"""``--db``: what was said is in the file, over a restart, a full disk, a forgotten cid; and the file is ours alone."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sqlite3
import stat
import threading
from types import SimpleNamespace

import pytest
from chatpeers import Chat, body_of
from peers import World
from programs import Served, frame, receive_frame, run_program, serving

from evloop.apps.chat import sqlite, sqlite_file
from evloop.apps.chat.sqlite import SqliteStore, StoreError, Talks
from evloop.apps.chat.sqlite_file import MOST_ROWS, Batch, Sweeper
from evloop.apps.chat.store import RoomState
from evloop.apps.chat.wire import Msg

LOCAL = "127.0.0.1:0"


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """The clock of these servers stands still, and with it would the second batch."""
    monkeypatch.setattr(sqlite, "GATHER", 0.0)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "chat.db")


@contextlib.contextmanager
def chatting(path, *, limits=None, **options):
    """Yield a chat server over the file at *path*."""
    with SqliteStore(path, **options) as store:
        chat = Chat(store=store, limits=limits or {})
        try:
            yield chat
            chat.server.shutdown()
            chat.until(lambda: store._file._lock < 0)
        finally:
            chat.close()


def seqs(messages):
    return [message["seq"] for message in messages]


# --- over a restart -----------------------------------------------------------------------------------------------


def test_restart_finds_order_history_and_moderation(path):
    """What a member had and knew goes on as if nothing had been, and is recovered."""
    with chatting(path) as chat:
        amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
        for n in range(5):
            amy.say(str(n))
        epoch = amy.join("r")["epoch"]
        assert amy.ask("mod", room="r", op="topic", text="tea")["seq"] == 6
        assert amy.ask("mod", room="r", op="mute", who="bob")["seq"] == 7
        assert amy.ask("mod", room="r", op="ban", who="eve")["seq"] == 8
    with chatting(path) as chat:
        eve = chat.client("eve")
        assert eve.refused("join", room="r") == "banned"
        back = chat.client("bob", resume=bob.resume)
        joined = back.join("r", since={"epoch": epoch, "seq": 3})
        assert joined["recovered"] is True and seqs(joined["history"]) == [4, 5, 6, 7, 8]
        assert (joined["topic"], joined["epoch"], joined["top"]) == ("tea", epoch, 8)
        assert back.refused("say", room="r", body="x", cid="x") == "muted"
        amy = chat.client("amy", "r", resume=amy.resume)
        assert amy.join("r")["you"]["role"] == "op"
        assert amy.say("3")["dup"] is True
        assert amy.say("next")["seq"] == 9


def test_first_member_is_still_op_after_a_restart(path):
    """Nobody has moderated anything yet, and somebody else comes in first."""
    with chatting(path) as chat:
        amy = chat.client("amy", "r")
        amy.say("x")
    with chatting(path) as chat:
        chat.client("bob", "r")
        assert chat.client("amy", resume=amy.resume).join("r")["you"]["role"] == "op"


def test_messages_come_back_as_they_were_said(path):
    """Every field, and every character that a text may have."""
    said = [
        {"body": 'a\0b "c" \\ 好 😀 \u2028', "kind": "action"},
        {"body": "f", "kind": "file", "file": {"name": "ü.txt", "size": 3, "ticket": "t"}, "re": 1},
        {"body": "x" * 8192},
    ]
    with chatting(path) as chat:
        amy = chat.client("amy", "r")
        for n, fields in enumerate(said):
            amy.say(room="r", cid=f"c{n}", **fields)
        before = chat.client("bob").join("r")["history"]
    with chatting(path) as chat:
        assert chat.client("bob").join("r")["history"] == before
        assert body_of(before) == [fields["body"] for fields in said]


def test_direct_conversation_is_announced_after_a_restart(path):
    """Who was away hears in `welcome` that somebody has written, and from whom."""
    with chatting(path) as chat:
        amy, bob = chat.client("amy"), chat.client("bob")
        amy.say("psst", room=None, to="bob")
        bob.say("yes?", room=None, to="amy")
        amy.say("mine", room=None, to="amy")
    with chatting(path) as chat:
        amy = chat.client("amy", resume=amy.resume)
        told = {dm["who"]: dm["top"] for dm in amy.welcome["dms"]}
        assert told == {"bob": 2, "amy": 1}
        key = next(dm["dm"] for dm in amy.welcome["dms"] if dm["who"] == "bob")
        history = amy.join(key)["history"]
        assert [(m["from"], m["body"], m["dm"]) for m in history] == [("amy", "psst", key), ("bob", "yes?", key)]


def test_older_pages_come_from_the_file(path):
    """Memory holds the end of a room, the file all of it; a page may be of both."""
    with chatting(path, limits={"room_messages": 5}) as chat:
        amy = chat.client("amy", "r")
        for n in range(20):
            amy.say(str(n))
        assert seqs(amy.ask("history", room="r", limit=8)["items"]) == list(range(13, 21))
        first = amy.ask("history", room="r", before=4)
        assert seqs(first["items"]) == [1, 2, 3] and not first.get("more_before")
        assert seqs(amy.ask("history", room="r", after=2, limit=3)["items"]) == [3, 4, 5]
        assert seqs(amy.ask("history", room="r", around=10, limit=4)["items"]) == [8, 9, 10, 11]


def test_room_let_go_of_is_loaded_again_with_its_order(path):
    """Memory is bounded by the rooms in use; the others are where they were."""
    with chatting(path, limits={"rooms": 1}) as chat:
        amy = chat.client("amy", "a")
        epoch = amy.join("a")["epoch"]
        amy.say("x", room="a")
        amy.ask("part", room="a")
        amy.join("b")
        amy.say("y", room="b")
        amy.ask("part", room="b")
        joined = amy.join("a")
        assert (joined["epoch"], joined["top"]) == (epoch, 1)


# --- said again ---------------------------------------------------------------------------------------------------


def test_repeat_that_only_the_file_remembers_is_no_second_message(path):
    """Effectively once, for as long as the message is kept; who speaks behind it in the same read notices nothing."""
    with chatting(path, limits={"repeats": 1}) as chat:
        amy, bob = chat.client("amy", "r"), chat.client("bob", "r")
        amy.hear("ev")
        for n in range(5):
            amy.say(str(n), cid=f"c{n}")
            bob.hear("msg", seq=n + 1)
        for ref, cid, body in ((91, "c0", "0"), (92, "new", "5"), (93, "c1", "other"), (94, "newer", "6")):
            amy.tell("say", room="r", body=body, cid=cid, ref=ref)
        amy.hear("ok", ref=91, seq=1, dup=True)
        amy.hear("ok", ref=92, seq=6, dup=None)
        amy.hear("err", ref=93, code="cid_conflict")
        amy.hear("ok", ref=94, seq=7, dup=None)
        assert [bob.hear("msg")["seq"] for _ in range(2)] == [6, 7]
        assert chat.hub.stats()["pending"] == 0, "a repeat does not wait for ever"
        assert amy.say("5", cid="new") == {"t": "ok", "ref": amy.ref, "seq": 6, "epoch": bob.join()["epoch"],
                                           "ts": bob.join()["history"][5]["ts"], "dup": True}  # fmt: skip
        assert seqs(bob.join("r", limit=20)["history"]) == [1, 2, 3, 4, 5, 6, 7]


def test_row_that_cannot_be_written_loses_no_other_room(path):
    """One message that SQLite does not take is that room's trouble alone, up to the next one."""
    with SqliteStore(path) as store, contextlib.closing(store._file.connect()) as db:
        rows = [row(room, seq, body="\ud800" if (room, seq) == (2, 2) else "x") for seq in (1, 2, 3) for room in (1, 2)]
        outcome = sqlite_file.write(db, Batch(rows))
        assert (list(outcome.kept), list(outcome.failed), outcome.broken) == ([0, 1, 2, 4], [3, 5], False)
        assert "surrogate" in outcome.error
        assert seqs_of(db, 1) == [1, 2, 3] and seqs_of(db, 2) == [1]


class Odd:
    """A value that sqlite3 refuses: what it cannot bind is a ProgrammingError or an InterfaceError, by its version."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __conform__(self, protocol):
        """Raise, as an adapter may: as it comes out of execute()."""
        raise self.error


@pytest.mark.parametrize("error", [sqlite3.InterfaceError, sqlite3.ProgrammingError, OverflowError])
def test_row_that_sqlite3_refuses_loses_no_other_room(path, error):
    """InterfaceError is an sqlite3.Error and no DatabaseError: the batch would be lost, and its transaction stay."""
    with SqliteStore(path) as store, contextlib.closing(store._file.connect()) as db:
        bad = row(1, 1, state=RoomState(topic="x"))
        bad.msg.body = Odd(error("odd"))
        outcome = sqlite_file.write(db, Batch([bad, row(2, 1), row(1, 2)]))
        assert (list(outcome.kept), list(outcome.failed), outcome.broken) == ([1], [0, 2], False)
        assert outcome.error == "odd" and not db.in_transaction


def test_batch_that_fails_for_a_reason_nobody_knows_leaves_no_transaction(path):
    """The next one would be in it, told as kept and never committed."""
    with SqliteStore(path) as store, contextlib.closing(store._file.connect()) as db:
        bad = row(1, 1, state=RoomState(topic="x"))
        bad.msg.body = Odd(KeyError("odd"))
        outcome = store._writer._task.work(Batch([bad]))
        assert outcome.broken and list(outcome.failed) == [0] and "odd" in outcome.error
        assert list(store._writer._task.work(Batch([row(1, 1)])).kept) == [0]
        assert seqs_of(db, 1) == [1]


def test_writer_outlives_a_row_that_deleting_stumbles_over(path, monkeypatch, caplog):
    """A time that is none, by whoever has written to the file: nothing is deleted, that is told, and it goes on."""
    monkeypatch.setattr(sqlite, "SWEEP_AFTER", 0.0)
    with chatting(path) as chat:
        amy = chat.client("amy", "r")
        amy.say("0")
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE events SET ts = 'never'")
            db.commit()
        for n in range(1, 100):
            amy.say(str(n))
            if "could not be deleted" in caplog.text:
                break
        amy.say("last")
    assert "could not be deleted" in caplog.text


@pytest.mark.parametrize("count", [1, 15, 16, 17, 31, 32, 255, 256, 257, 600])
def test_batch_of_any_size_is_written_whole(path, count):
    """Each size is made of statements that are prepared once; none may lack a row."""
    with SqliteStore(path) as store, contextlib.closing(store._file.connect()) as db:
        outcome = sqlite_file.write(db, Batch(row(1, seq) for seq in range(1, count + 1)))
        assert list(outcome.kept) == list(range(count)) and outcome.error == ""
        assert seqs_of(db, 1) == list(range(1, count + 1))


def test_repeat_in_a_late_part_of_a_batch_loses_nothing_of_the_parts_before(path):
    """A batch is several statements, and the one at fault undoes all of them: they are written again, row by row."""
    with SqliteStore(path) as store, contextlib.closing(store._file.connect()) as db:
        sqlite_file.write(db, Batch([row(1, 1, cid="c")]))
        rows = [*(row(2, seq) for seq in range(1, MOST_ROWS + 5)), row(1, 2, cid="c")]
        outcome = sqlite_file.write(db, Batch(rows))
        assert list(outcome.kept) == list(range(MOST_ROWS + 4)) and not outcome.failed
        assert [(index, first.seq) for index, first in outcome.repeats] == [(MOST_ROWS + 4, 1)]
        assert seqs_of(db, 2) == list(range(1, MOST_ROWS + 5)) and seqs_of(db, 1) == [1]


@pytest.mark.parametrize(("count", "times"), [(1, 1), (25, 1), (26, 1.04), (100, 4), (101, 4)])
def test_batch_is_gathered_for_longer_the_more_the_last_one_had(path, monkeypatch, count, times):
    """A message costs the less the more are written with it, and one by one nobody has to wait for that."""
    monkeypatch.setattr(sqlite, "GATHER", 0.005)
    room = SimpleNamespace(kept=sqlite.Kept(1, None), name="r", epoch="e", state=RoomState(), users={}, private=False)
    with contextlib.closing(World()) as world, SqliteStore(path) as store:
        kept = []
        store.start(world.reactor, kept.extend, None, None)
        for seq in range(1, count + 1):
            msg = Msg(seq=seq, ts=1, sender="amy", body="x")
            store.append(SimpleNamespace(room=room, msg=msg, user="g-1", state=None))
        world.until(lambda: len(kept) == count)
        assert store._next - world.reactor.time() == pytest.approx(0.005 * times)


def row(room, seq, body="x", ts=1, state=None, cid=None):
    """Return what of an Entry is written down."""
    where = SimpleNamespace(kept=SimpleNamespace(id=room), name=f"room{room}", epoch="e")
    msg = Msg(seq=seq, ts=ts, sender="amy", body=body, cid=cid)
    return SimpleNamespace(room=where, state=state, user="g-1", msg=msg)


def seqs_of(db, room):
    return [seq for (seq,) in db.execute("SELECT seq FROM events WHERE room_id = ? ORDER BY seq", (room,))]


# --- a disk that does not ----------------------------------------------------------------------------------------


def test_messages_above_the_bound_are_refused_for_a_while(path):
    """A database that falls behind must not fill the memory: limit, limit + 1."""
    with chatting(path, pending=3) as chat:
        amy = chat.client("amy", "r")
        amy.peer.write(
            b"".join(frame(b'{"t":"say","room":"r","body":"x","cid":"%d","ref":%d}' % (n, n)) for n in range(5))
        )
        chat.until(lambda: len(amy.arrived()) == 5)
        kinds = {message["ref"]: message for message in amy.messages if "ref" in message}
        assert [kinds[n]["t"] for n in range(5)] == ["ok"] * 3 + ["err"] * 2
        assert "3 messages wait" in kinds[3]["text"] and kinds[3]["temp"] is True
        amy.messages.clear()
        assert amy.say("x", cid="4")["seq"] == 4


@pytest.mark.slow
def test_full_disk_is_told_and_over_when_there_is_room_again(path):
    """EFBIG stands for ENOSPC: the server lives, what it could not write is not shown, and is taken later."""
    with serving("chat", LOCAL, "--db", path, "--rate", "0") as server, server.connect() as sock:
        ask(sock, t="hello", v=1, client="x", nick="amy")
        ask(sock, t="join", room="r")
        assert ask(sock, t="say", room="r", body="x", cid="1")["seq"] == 1
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (os.path.getsize(path + "-wal") + 4096, hard))
        codes = [ask(sock, t="say", room="r", body="y" * 8000, cid="2").get("code") for _ in range(3)]
        assert codes == ["unavailable"] * 3
        assert ask(sock, t="ping")["t"] == "pong", "it lives"
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        answer = {}
        while answer.get("t") != "ok":
            answer = ask(sock, t="say", room="r", body="y" * 8000, cid="2")
        assert answer["seq"] == 2
    with serving("chat", LOCAL, "--db", path) as server, server.connect() as sock:
        ask(sock, t="hello", v=1, client="x", nick="amy")
        assert seqs(ask(sock, t="join", room="r")["history"]) == [1, 2]


def ask(sock, **message):
    """Send a message, and return its answer; one at a time, and so one ref does."""
    sock.sendall(frame(json.dumps({**message, "ref": 1}).encode()))
    while True:
        answer = json.loads(receive_frame(sock))
        if answer.get("ref") == 1:
            return answer


def test_file_that_cannot_be_read_makes_a_room_unavailable(path):
    """Somebody has made room with the wrong file; who is here goes on."""
    with chatting(path) as chat:
        amy = chat.client("amy", "r")
        amy.say("x")
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("DROP TABLE rooms")
            db.commit()
        assert amy.refused("join", room="other") == "unavailable"
        assert chat.hub.stats()["pending"] == 0
        assert amy.say("y")["seq"] == 2


def test_store_that_falls_behind_shutdown_is_flushed(path):
    """An `ok` that is owed comes before the `bye`, and the message is in the file."""
    with chatting(path) as chat:
        amy = chat.client("amy", "r")
        amy.tell("say", room="r", body="x", cid="c", ref=9)
        chat.until(lambda: chat.hub.stats()["pending"] or amy.arrived())
        chat.server.shutdown()
        amy.hear("ok", ref=9)
        amy.hear("bye", code=3001)
    with chatting(path) as chat:
        assert chat.client("bob").join("r")["top"] == 1


# --- the file -----------------------------------------------------------------------------------------------------


def test_file_is_for_its_owner_alone(path):
    """It has what people say to each other."""
    mask = os.umask(0)
    try:
        with chatting(path) as chat:
            chat.client("amy", "r").say("x")
            modes = {name: stat.S_IMODE(os.stat(path + name).st_mode) for name in ("", "-wal", "-shm", ".lock")}
    finally:
        os.umask(mask)
    assert modes == dict.fromkeys(modes, 0o600)


def test_second_server_on_the_file_is_refused_and_the_next_one_not(path, tmp_path):
    """Two would give the same places twice; by whatever name the file is called."""
    (tmp_path / "link.db").symlink_to(path)
    with SqliteStore(path) as first:
        for name in (path, str(tmp_path / "link.db")):
            with pytest.raises(StoreError, match=f"in use by another server, process {os.getpid()}"):
                SqliteStore(name)
        first.release()
        first.release()
        SqliteStore(path).release()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("chat-")]


def test_wrong_file_is_refused_with_its_name(path, tmp_path):
    """Each in one line, before anything listens; and what is not ours stays as it is."""
    (tmp_path / "text").write_text("no database, and longer than a header of SQLite's would be: " * 3)
    with contextlib.closing(sqlite3.connect(tmp_path / "other")) as db:
        db.execute("CREATE TABLE t (x)")
    SqliteStore(path).release()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 2")
    for name, text in (
        ("text", "not a database"),
        ("other", "of another program"),
        ("chat.db", "has schema 2, and this version knows 1"),
        ("missing/chat.db", "No such file or directory"),
        (".", "is not a regular file"),
    ):
        with pytest.raises(StoreError, match=text):
            SqliteStore(tmp_path / name)
    with contextlib.closing(sqlite3.connect(tmp_path / "other")) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize(
    ("name", "text"),
    [("", "the name of the file is empty"), ("folder", "folder is not a regular file"), ("pipe", "not a regular")],
)
def test_name_that_can_be_no_file_is_told_and_leaves_nothing(tmp_path, monkeypatch, name, text):
    """`--db "$DB"` with DB unset: the lock of nothing would lie beside the folder."""
    folder = tmp_path / "here"
    (folder / "folder").mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    monkeypatch.chdir(folder)
    with pytest.raises(StoreError, match=text):
        SqliteStore(name)
    assert sorted(os.listdir(folder)) == ["folder", "pipe"] and os.listdir(tmp_path) == ["here"]


def test_store_that_runs_out_of_descriptors_keeps_none(path):
    """At each place where the next one is refused: what was opened before it is closed, and the lock is gone."""
    SqliteStore(path).release()
    before = set(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    refused, store = 0, None
    while store is None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) - 1 + refused, hard))
        try:
            store = SqliteStore(path)
        except StoreError:  # whose traceback keeps all that was not closed
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert set(os.listdir("/proc/self/fd")) == before, refused
            refused += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    store.release()
    assert refused >= 4


@pytest.mark.parametrize("durable", [False, True])
def test_durable_waits_for_the_disk_and_else_for_the_kernel(path, durable):
    """PRAGMA synchronous: 1 is NORMAL, 2 FULL."""
    with SqliteStore(path, durable=durable) as store, contextlib.closing(store._file.connect()) as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2 if durable else 1,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("option", ["pending", "keep", "room_keep", "tail"])
def test_store_option_out_of_range_is_a_value_error(path, option):
    """Before the file is made."""
    with pytest.raises(ValueError, match=f"{option}=0"):
        SqliteStore(path, **{option: 0})
    assert not os.path.exists(path)


# --- what is too old ----------------------------------------------------------------------------------------------


def test_sweep_deletes_what_is_too_old_or_too_much_and_keeps_the_newest(path):
    """In slices; the newest message tells where the order goes on, whatever its age."""
    with SqliteStore(path) as store, contextlib.closing(store._file.connect()) as db:
        write_all(db, [row(1, seq, ts=seq) for seq in range(1, 1201)])  # 600 of them too old
        write_all(db, [row(2, seq, ts=5000) for seq in range(1, 1003)])  # 2 of them too many
        write_all(db, [row(3, seq, ts=1) for seq in range(1, 4)])  # all too old
        write_all(db, [row(4, 1, ts=1)])
        sweeper = Sweeper(db, most=1000)
        slices = [sweeper.slice(601) for _ in range(3)]
        assert slices == [True, False, False]
        assert seqs_of(db, 1) == list(range(601, 1201))
        assert seqs_of(db, 2) == list(range(3, 1003))
        assert seqs_of(db, 3) == [3] and seqs_of(db, 4) == [1]


def test_silent_rooms_are_forgotten_unless_somebody_is_banned_there(path):
    """At the start, when nobody has one in memory."""
    with SqliteStore(path) as store, contextlib.closing(store._file.connect()) as db:
        write_all(db, [row(1, 1, state=RoomState(ops=["g-1"])), row(2, 1, state=RoomState(topic="tea"))])
        write_all(db, [row(3, 1, ts=500, state=RoomState()), row(4, 1, state=RoomState()), row(4, 2)])
        assert sqlite_file.forget_rooms(db, 100) == 1
        assert db.execute("SELECT id FROM rooms ORDER BY id").fetchall() == [(2,), (3,), (4,)]
        assert seqs_of(db, 1) == []
        assert sqlite_file.next_room(db) == 5


def write_all(db, rows):
    """Write *rows*; each room gets a state with its first one, as a server writes it."""
    seen = set()
    for at in range(0, len(rows), MOST_ROWS):
        part = []
        for one in rows[at : at + MOST_ROWS]:
            if one.room.kept.id not in seen and one.state is None:
                one.state = RoomState()
            seen.add(one.room.kept.id)
            part.append(one)
        assert not sqlite_file.write(db, Batch(part)).failed


def test_page_that_begins_before_what_is_kept_has_no_hole(path):
    """Older pages end where the file does; a client that asks for what follows is told that it is gone."""
    with chatting(path, limits={"room_messages": 5}) as chat:
        amy = chat.client("amy", "r")
        for n in range(20):
            amy.say(str(n))
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("DELETE FROM events WHERE seq <= 8")
            db.commit()
        page = amy.ask("history", room="r", limit=15)
        assert seqs(page["items"]) == list(range(9, 21)) and not page.get("more_before")
        assert amy.refused("history", room="r", after=4) == "gone"
        assert seqs(amy.ask("history", room="r", after=8, limit=2)["items"]) == [9, 10]


def test_conversations_in_memory_are_bounded(monkeypatch):
    """200 of a user, and so many of all; who has heard nothing for longest goes first."""
    monkeypatch.setattr(sqlite, "MOST_TALKS", 402)
    talks = Talks(())
    for n in range(201):
        talks.add(f"@g-1/h-{n:03}", "e", Msg(seq=n + 1, ts=1, sender="x", user=f"h-{n:03}", to="amy"))
    mine = talks.of("g-1")
    assert len(mine) == 200 and mine[0] == ("@g-1/h-200", "e", 201, "x") and mine[-1][0] == "@g-1/h-001"
    assert talks.of("h-000") == [("@g-1/h-000", "e", 1, "amy")]
    talks.add("@x-1/x-2", "e", Msg(seq=1, ts=1, sender="x", user="x-1", to="y"))
    assert talks.of("h-000") == [] and talks.of("h-001") != []
    assert sum(len(talks.of(user)) for user in talks._users) == talks._count == 402


# --- the command --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_command_refuses_what_it_cannot_have_in_one_line(path, tmp_path):
    """Exit codes: 1 for a file, 2 for the line."""
    for args, code, text in (
        (["--durable"], 2, "--durable needs --db FILE"),
        (["--db", str(tmp_path / "no" / "chat.db")], 1, "No such file or directory"),
    ):
        done = run_program("serve", "chat", LOCAL, *args)
        assert (done.returncode, done.stdout) == (code, b"")
        assert text in done.stderr.decode() and done.stderr.count(b"\n") == 1
    with Served("chat", LOCAL, "--db", path) as server:
        done = run_program("serve", "chat", LOCAL, "--db", path)
        assert done.returncode == 1 and f"process {server.process.pid}" in done.stderr.decode()
