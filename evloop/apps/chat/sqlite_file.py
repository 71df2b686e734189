"""The database of a chat server: its file, its tables, and what is written to and read from them.

``rooms`` has a room's epoch and what moderation has made of it, ``events`` its messages, in the order of the rooms.
Everybody may look at them with ``sqlite3 FILE`` while the server runs.

Rule: nothing in this file may know a thread or a reactor: each function waits for the disk.  Read next: ``sqlite.py``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from evloop.apps.chat.store import RoomState
from evloop.apps.chat.wire import File, Msg

if TYPE_CHECKING:
    from evloop.apps.chat.rooms import Entry

# "EvCh": what tells this file from another application's (pragma application_id).
APPLICATION = 0x45764368
SCHEMA = 1

# The clustered key puts a room's messages side by side, in their order: a page of history is one place of the disk.
# The index finds a message that is said again after everybody has forgotten it; what has no cid is not in it.
_TABLES = """
CREATE TABLE rooms (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    state TEXT NOT NULL  -- RoomState, JSON
);
CREATE TABLE events (
    room_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    ts INTEGER NOT NULL,  -- ms since 1970
    kind TEXT NOT NULL,
    sender TEXT NOT NULL,  -- user id
    nick TEXT NOT NULL,
    cid TEXT,
    body TEXT NOT NULL,
    more TEXT,  -- the rarer fields of a message, JSON
    PRIMARY KEY (room_id, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX said ON events (room_id, sender, cid) WHERE cid IS NOT NULL;
"""

# Pages (of 4 KiB) in the log after which it is copied into the file, and both are waited for (fsync): 64 MiB, which at
# 20,000 messages a second is each half second; SQLite's 1000 would be each 30 ms, of pages that are mostly the last
# ones again.  Price: disk space, and 0.1 s more at the start after a kill -9.
_CHECKPOINT = 16_000

# Bytes that the log keeps when it is empty; a long read may have made it larger.
_LOG_KEEPS = 64 << 20

# KiB of pages that the writing connection has at hand: those that 1,000 busy rooms write to, and their index.
_CACHE = 16 << 10

# Seconds to wait for who else has the file: a person with the sqlite3 shell, in a transaction.
_PATIENCE = 5.0

# Rows of one INSERT; see `_inserts`.
MOST_ROWS = 256
_STEP = 16

# Rooms looked at, and messages deleted, in one slice of `sweep`: a few milliseconds, in which nothing is committed.
_SWEEP_ROOMS = 64
_SWEEP_ROWS = 500

_COLUMNS = "(room_id, seq, ts, kind, sender, nick, cid, body, more)"
_WIDTH = 9

# One row of JSON for all messages: the thread gives up the interpreter's lock, and has to get it back, once and not for
# each of a thousand rows; and msgspec makes them of it in a tenth of the time that Python would take.
_MESSAGES = """
SELECT json_group_array(json(one)) FROM (
    SELECT CASE WHEN more IS NULL THEN plain ELSE json_patch(plain, more) END AS one FROM (
        SELECT json_object('seq', seq, 'ts', ts, 'from', nick, 'body', body, 'kind', kind, 'cid', cid, 'user', sender)
            AS plain, more
        FROM events WHERE room_id = ? AND seq > ? AND seq < ? ORDER BY seq {direction} LIMIT ?))
"""
_NEWEST, _FIRST = _MESSAGES.format(direction="DESC"), _MESSAGES.format(direction="ASC")

_SET_ROOM = (
    "INSERT INTO rooms (id, name, epoch, state) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET state=excluded.state"
)

_decode_messages = msgspec.json.Decoder(list[Msg]).decode
_decode_state = msgspec.json.Decoder(RoomState).decode
_encode = msgspec.json.Encoder().encode


class StoreError(Exception):
    """The file cannot be had; the text, one line of English, names it and says why."""


class More(msgspec.Struct, omit_defaults=True):
    """The fields of a message that few have."""

    re: int | None = None
    file: File | None = None
    to: str | None = None
    op: str | None = None
    who: str | None = None
    secs: int | None = None


class RoomRow(NamedTuple):
    """A room as it stands in the file, with its last messages, oldest first; each with its `user`."""

    id: int
    epoch: str
    state: RoomState
    tail: list[Msg]


class Batch:
    """Messages to be written, in order, as what SQLite is given: made in the reactor's thread, for the writing one.

    There all has to be ready: what that thread does beside the steps of a statement, it does with the interpreter's
    lock, and the loop waits.

    Attributes:
        values: `_WIDTH` for each message.
        states: what is to be written of a room, with its id, name and epoch, by the index of the message before which.
    """

    __slots__ = ("values", "states")

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.values: list[Any] = []
        self.states: dict[int, tuple[int, str, str, RoomState]] = {}
        values = self.values
        for index, entry in enumerate(entries):
            room, msg = entry.room, entry.msg
            number = room.kept.id
            if entry.state is not None:
                self.states[index] = number, room.name, room.epoch, entry.state
            common = msg.re is None and msg.file is None and msg.to is None and msg.op is None
            more = None if common else _more(msg)
            values += (number, msg.seq, msg.ts, msg.kind, entry.user, msg.sender, msg.cid, msg.body, more)

    def __len__(self) -> int:
        return len(self.values) // _WIDTH

    def row(self, index: int) -> list[Any]:
        """Return the values of one message: room, seq, ts, kind, user id, nick, cid, ..."""
        return self.values[index * _WIDTH : (index + 1) * _WIDTH]


class Outcome(NamedTuple):
    """What became of rows, by their index.

    Attributes:
        kept: those that are in the file.
        repeats: (index, the first time) of those that were said before; what is behind them in their rooms is not kept.
        failed: those that cannot be written, and what is behind them in their rooms.
        error: why, for people; "" if none failed.
        broken: True if nothing could be written, whatever it was: the disk is full, or gone.
    """

    kept: Sequence[int] = ()
    repeats: Sequence[tuple[int, Msg]] = ()
    failed: Sequence[int] = ()
    error: str = ""
    broken: bool = False


# --- the file -----------------------------------------------------------------------------------------------------


class DatabaseFile:
    """The file at *path*, locked for this server; made, with mode 0600, if there is none.

    The lock is flock(2) on ``PATH.lock``, beside the file: SQLite's own locks on the file are POSIX ones, which the
    process loses when it closes any descriptor of it.  The kernel takes it back whatever the process dies of.

    Args: durable: let each commit wait for the disk (fsync), else for the kernel alone.
    Raises: StoreError.
    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = False) -> None:
        self.path = os.fspath(path)
        self._real = os.path.realpath(self.path)
        self._durable = durable
        self._lock = -1
        try:
            self._refuse_odd()
            self._lock = _locked(self._real + ".lock", self.path)
            _make(self._real)
            with contextlib.closing(self.connect()) as db:
                self._prepare(db)
        except OSError as exc:
            self.close()
            raise StoreError(f"cannot open {self.path}: {exc.strerror}") from exc
        except sqlite3.Error as exc:
            self.close()
            raise StoreError(f"cannot use {self.path}: {exc}") from exc
        except BaseException:
            self.close()
            raise

    def connect(self) -> sqlite3.Connection:
        """Return a new connection, for whichever one thread uses it.  sqlite3.Error: it cannot be made."""
        db = sqlite3.connect(
            self._real, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            # Of kill -9 both keep all that was committed; of a loss of power NORMAL loses the last commits, no more.
            db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
            db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
            db.execute(f"PRAGMA journal_size_limit = {_LOG_KEEPS}")
            db.execute(f"PRAGMA cache_size = -{_CACHE}")
        except BaseException:  # the file is no database, which the first statement finds out
            db.close()
            raise
        return db

    def close(self) -> None:
        """Let others have the file.  Idempotent; after all connections were closed."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _refuse_odd(self) -> None:
        """StoreError: it is there, and can be no database; said now, or a lock would be left beside it."""
        if not self.path:
            raise StoreError("the name of the file is empty")
        if os.path.exists(self._real) and not os.path.isfile(self._real):
            raise StoreError(f"{self.path} is not a regular file")

    def _prepare(self, db: sqlite3.Connection) -> None:
        application, schema = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        empty = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not empty and application != APPLICATION:
            raise StoreError(f"{self.path} is a database of another program")
        if schema > SCHEMA:
            raise StoreError(f"{self.path} has schema {schema}, and this version knows {SCHEMA}: use the newer evloop")
        mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreError(f"{self.path} is where SQLite cannot keep a log beside it (journal mode {mode})")
        if empty:
            db.executescript(
                f"BEGIN; {_TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA}; COMMIT;"
            )
        db.execute("SELECT json_patch('{}', '{}')")  # else this SQLite is one without JSON: said now, and not later


def _locked(lock: str, path: str) -> int:
    """Return a descriptor of the file *lock*, locked.  StoreError: another server has it."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
    except BlockingIOError:
        owner = os.read(fd, 20).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise StoreError(f"{path} is in use by another server, process {owner}") from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make(path: str) -> None:
    """Make the file *path*, for this user alone, unless it is there.  SQLite gives its log the same mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


# --- writing ------------------------------------------------------------------------------------------------------


def write(db: sqlite3.Connection, batch: Batch) -> Outcome:
    """Write *batch* in one transaction; never raises an sqlite3.Error.

    What cannot be written loses nothing else but what is behind it in its room.
    """
    try:
        _write_all(db, batch)
    except (sqlite3.Error, ValueError, OverflowError) as exc:
        error = undo(db, exc)
        if _is_the_disk(exc):
            return Outcome(failed=range(len(batch)), error=error, broken=True)
        return _write_singly(db, batch)
    return Outcome(kept=range(len(batch)))


def _is_the_disk(exc: Exception) -> bool:
    """Return whether the next row would fail as well: the others are of one row (a constraint, a value)."""
    row_errors = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
    return isinstance(exc, sqlite3.Error) and not isinstance(exc, row_errors)


def undo(db: sqlite3.Connection, exc: BaseException) -> str:
    """Roll back, if there is something to; return *exc* as text."""
    with contextlib.suppress(sqlite3.Error):
        if db.in_transaction:
            db.execute("ROLLBACK")
    return str(exc)


def _write_all(db: sqlite3.Connection, batch: Batch) -> None:
    if not batch.states and len(batch) in _INSERTS:
        _insert(db, batch)  # a transaction of its own
        return
    db.execute("BEGIN IMMEDIATE")
    for state in batch.states.values():
        _write_state(db, state)
    _insert(db, batch)
    db.execute("COMMIT")


def _write_singly(db: sqlite3.Connection, batch: Batch) -> Outcome:
    """Write *batch* message by message: one of them cannot be written."""
    kept: list[int] = []
    repeats: list[tuple[int, Msg]] = []
    failed: list[int] = []
    trouble: dict[int, str] = {}  # by room: why; "" if it was a repeat
    try:
        db.execute("BEGIN IMMEDIATE")
        for index in range(len(batch)):
            row = batch.row(index)
            number = row[0]
            if number in trouble:
                if trouble[number]:
                    failed.append(index)
                continue
            try:
                if index in batch.states:
                    _write_state(db, batch.states[index])
                db.execute(_INSERT_ONE, row)
                kept.append(index)
            except (sqlite3.Error, ValueError, OverflowError) as exc:
                if _is_the_disk(exc):
                    raise
                first = _first_time(db, row)
                trouble[number] = "" if first else str(exc)
                if first is None:
                    failed.append(index)
                else:
                    repeats.append((index, first))
        db.execute("COMMIT")
    except sqlite3.Error as exc:
        return Outcome(failed=range(len(batch)), error=undo(db, exc), broken=True)
    return Outcome(kept, repeats, failed, "; ".join({text for text in trouble.values() if text}))


def _write_state(db: sqlite3.Connection, state: tuple[int, str, str, RoomState]) -> None:
    db.execute(_SET_ROOM, (*state[:3], _encode(state[3]).decode()))


def _insert(db: sqlite3.Connection, batch: Batch) -> None:
    """Insert *batch*: one statement for each MOST_ROWS, and at most two for the rest.

    One statement for many rows: each is a moment without the interpreter's lock, after which a busy loop has it, and
    this thread would wait for it up to 5 ms (sys.getswitchinterval), at each row.  1 to 16 rows, or a multiple of 16,
    have a statement, so that they can be prepared once: 31 of them, in about a megabyte.
    """
    at, size = 0, len(batch)
    while at < size:
        left = min(size - at, MOST_ROWS)
        count = left - left % _STEP or left
        db.execute(_INSERTS[count], batch.values[at * _WIDTH : (at + count) * _WIDTH])
        at += count


def _statement(count: int, on_conflict: str) -> str:
    row = f"({', '.join('?' * _WIDTH)})"
    return f"INSERT{on_conflict} INTO events {_COLUMNS} VALUES {', '.join([row] * count)}"


# OR ROLLBACK: one row at fault undoes the transaction, as `write` would.  To undo the statement alone, and leave the
# rest, SQLite copies each page before the first change, and from 64 KiB on to a file: that was half of all its writes.
_INSERTS = {
    count: _statement(count, " OR ROLLBACK") for count in (*range(1, _STEP), *range(_STEP, MOST_ROWS + 1, _STEP))
}
_INSERT_ONE = _statement(1, "")  # undoes itself alone; of one row nothing has to be copied for that


def _more(msg: Msg) -> str:
    return _encode(More(msg.re, msg.file, msg.to, msg.op, msg.who, msg.secs)).decode()


def _first_time(db: sqlite3.Connection, row: Sequence[Any]) -> Msg | None:
    """Return the message that was said with the same cid, by the same user in the same room, or None."""
    number, _, _, _, user, _, cid, _, _ = row
    found = db.execute(
        "SELECT seq FROM events WHERE room_id = ? AND sender = ? AND cid = ?", (number, user, cid)
    ).fetchone()
    return None if found is None else messages(db, number, found[0] - 1, found[0] + 1, 1, newest=True)[0]


# --- reading ------------------------------------------------------------------------------------------------------


def messages(db: sqlite3.Connection, room_id: int, after: int, before: int, limit: int, *, newest: bool) -> list[Msg]:
    """Return at most *limit* messages with ``after < seq < before``, in order, the last or the first ones.

    Each has its `user`, and neither `room` nor `dm`.
    """
    (text,) = db.execute(_NEWEST if newest else _FIRST, (room_id, after, before, limit)).fetchone()
    found = _decode_messages(text)
    found.sort(key=lambda msg: msg.seq)
    return found


def room_id(db: sqlite3.Connection, name: str, epoch: str) -> int | None:
    """Return the id of the room *name*, if it has this epoch."""
    found = db.execute("SELECT id FROM rooms WHERE name = ? AND epoch = ?", (name, epoch)).fetchone()
    return None if found is None else int(found[0])


def room(db: sqlite3.Connection, name: str, limit: int) -> RoomRow | None:
    """Return the room *name*, with its last *limit* messages; None: there is none."""
    found = db.execute("SELECT id, epoch, state FROM rooms WHERE name = ?", (name,)).fetchone()
    if found is None:
        return None
    number, epoch, state = found
    return RoomRow(number, epoch, _decode_state(state), messages(db, number, 0, 1 << 62, limit, newest=True))


def next_room(db: sqlite3.Connection) -> int:
    """Return the first room id above all that were given."""
    return int(db.execute("SELECT coalesce(max(id), 0) + 1 FROM rooms").fetchone()[0])


def conversations(db: sqlite3.Connection, limit: int) -> list[tuple[str, str, Msg]]:
    """Return (key, epoch, last message) of the newest *limit* direct conversations, the newest last."""
    found = db.execute(
        "SELECT name, epoch, e.room_id, e.seq FROM rooms, events e WHERE name >= '@' AND name < 'A' "
        "AND e.room_id = id AND e.seq = (SELECT max(seq) FROM events WHERE room_id = id) ORDER BY ts DESC LIMIT ?",
        (limit,),
    ).fetchall()
    return [
        (name, epoch, messages(db, number, seq - 1, seq + 1, 1, newest=True)[0])
        for name, epoch, number, seq in reversed(found)
    ]


# --- what is too old ----------------------------------------------------------------------------------------------


def forget_rooms(db: sqlite3.Connection, before_ms: int) -> int:
    """Delete rooms in which nobody has spoken since *before_ms*, but those that moderation has made something of.

    Return how many.  Only while nobody has a room in memory: it would go on with an epoch that is gone.
    """
    old = [
        row[0]
        for row in db.execute(
            "SELECT id FROM rooms WHERE json_remove(state, '$.ops') = '{}' AND "
            "coalesce((SELECT ts FROM events WHERE room_id = id ORDER BY seq DESC LIMIT 1), 0) < ? AND "
            "(SELECT count(*) FROM (SELECT 1 FROM events WHERE room_id = id LIMIT 2)) < 2 LIMIT 10000",
            (before_ms,),
        )
    ]
    db.execute("BEGIN IMMEDIATE")
    db.executemany("DELETE FROM events WHERE room_id = ?", [(number,) for number in old])
    db.executemany("DELETE FROM rooms WHERE id = ?", [(number,) for number in old])
    db.execute("COMMIT")
    return len(old)


class Sweeper:
    """Deletes messages before a time, and those above *most* of a room, slice by slice, round and round.

    The newest one of each room stays, since it tells at which number the room goes on.
    """

    def __init__(self, db: sqlite3.Connection, most: int) -> None:
        self._db = db
        self._most = most
        self._behind = 0  # the id of the last room that was looked at and done

    def slice(self, before_ms: int) -> bool:
        """Look at some rooms, and delete; return whether there is more in the same place.  Raises sqlite3.Error."""
        rooms = self._db.execute(
            "SELECT id, (SELECT max(seq) FROM events WHERE room_id = id), (SELECT min(seq) FROM events WHERE "
            "room_id = id), (SELECT ts FROM events WHERE room_id = id ORDER BY seq LIMIT 1) "
            f"FROM rooms WHERE id > ? ORDER BY id LIMIT {_SWEEP_ROOMS}",
            (self._behind,),
        ).fetchall()
        for number, top, oldest, ts in rooms:
            if top is not None and oldest < top and (ts < before_ms or top - oldest >= self._most):
                deleted = self._db.execute(
                    "DELETE FROM events WHERE room_id = ? AND seq < ? AND (ts < ? OR seq <= ?)",
                    (number, min(top, oldest + _SWEEP_ROWS), before_ms, top - self._most),
                ).rowcount
                if deleted >= _SWEEP_ROWS:
                    return True
            self._behind = number
        if len(rooms) < _SWEEP_ROOMS:
            self._behind = 0
        return False
