"""The store that keeps messages in an SQLite file, over a restart and over a kill -9 (``--db FILE``).

The reactor's thread never waits for the disk.  What is appended is gathered and goes, at most each GATHER seconds and
one batch at a time, to a thread that writes it in one transaction; with what has become of it comes one wake-up back.
A second thread reads: with SQLite's log (WAL) neither waits for the other, and a thousand clients that come back after
a restart, each to a room that has to be loaded, do not hold up what is said meanwhile.

Rule: nothing in this file may run SQL.  Read next: ``sqlite_file.py``, ``store.py``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any

from evloop.apps.chat import sqlite_file, wire
from evloop.apps.chat.names import conversation_users
from evloop.apps.chat.sqlite_file import Batch, DatabaseFile, Outcome, StoreError, Sweeper, undo
from evloop.apps.chat.store import Loaded, Repeat, Unavailable, new_epoch
from evloop.apps.chat.wire import Durability, Msg

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from evloop import Reactor
    from evloop.apps.chat.rooms import Entry
    from evloop.apps.chat.store import RoomState

__all__ = ["SqliteStore", "StoreError"]

logger = logging.getLogger("evloop.chat")

# Seconds between two batches, at least; alone, a message goes at once.  The longer, the fewer pages are written: those
# of 100 rooms have all changed after 100 messages as after 400.  So above FEW messages in a batch, 5,000 a second, it
# is up to LONGER times as long, and with 400 in one a message costs half of what it does with 100: two writes and not
# five.  Price: 5 ms of the latency of a server that is in use, 20 ms of a busy one's.
GATHER = 0.005
FEW = 25
LONGER = 4

# Messages of a batch: 10 ms for SQLite.  A loop that was held up, by whatever else the machine does, has to catch up.
MOST_BATCH = 2048

# Messages that are shown in one turn of the loop, or this part of all that are kept and not shown, if it is more: a
# loop whose turns are long has to catch up.  Who gets several in a turn gets them with one system call; price: the turn
# is the lag that everybody else feels.  At 20,000 messages a second into 100 rooms of five, 64, 128 and 256: a lag of
# 3.4 to 4.5, 4.6 to 6.1 and 6.4 to 7.2 ms at p99, and 0.62, 0.57 and 0.48 of a core for the loop (make bench-chat).
# No more than so many deliveries besides, 50 ns each: the calls of a large room the reactor divides by itself.
SLICE = 64
SHARE = 8
DELIVERIES = 65_536

# Seconds in which nothing is taken after the disk has failed; then one batch tries.
RETRY = 1.0

# Bytes of bodies that may wait for the disk, beside the bound on their number: 20,000 of 8 KiB would be 160 MiB.
PENDING_BYTES = 32 << 20

# Reads that may wait: each client that comes back asks for its rooms, and the hub holds no more rooms than that.
MOST_READS = 10_000

# Direct conversations that are known without asking the disk, of all users; each takes about 300 bytes.  Others are
# still found by their key, and when somebody writes.
MOST_TALKS = 100_000

# Seconds between two slices of deleting, and while there is more to delete in one place: 25,000 messages a second.
SWEEP_AFTER = 1.0
SWEEP_ON = 0.02

# Seconds to wait for the threads at an end that is none in good order: what a batch takes, many times over.
RELEASE = 2.0


class Kept:
    """What the store knows of a room in memory: its row, and the state that was last sent to be written."""

    __slots__ = ("id", "state")

    def __init__(self, room_id: int, state: RoomState | None) -> None:
        self.id = room_id
        self.state = state  # None: there is no row yet, or nobody knows what it has


class SqliteStore:
    """A :class:`evloop.apps.chat.store.Store` in the file at *path*; the server that it is given to owns it.

    An ``ok`` means that the message is committed: a kill -9 does not lose it.  A loss of power may lose the last
    seconds, unless *durable*, with which each commit waits for the disk.

    Args:
        path: the file; made, with mode 0600, if there is none.  ``path.lock``, ``-wal`` and ``-shm`` are beside it.
        durable: see above.
        pending: messages that may wait for the disk (int >= 1); above it they are refused, for a while.
        keep: seconds (float > 0) for which messages are kept.
        room_keep: messages that a room keeps (int >= 1); the older ones go.
        tail: messages that a room gets into memory when it is loaded (int >= 1).
    Raises:
        StoreError: the file cannot be had: no permission, no database, another server's, of a newer schema.
        ValueError: an argument is out of range.

    Reactor thread only, but for the constructor and :meth:`release`.  A context manager, which releases it.
    """

    durability: Durability = "commit"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durable: bool = False,
        pending: int = 20_000,
        keep: float = 7 * 86400.0,
        room_keep: int = 100_000,
        tail: int = 1000,
    ) -> None:
        if not (pending >= 1 and keep > 0 and room_keep >= 1 and tail >= 1):
            raise ValueError(f"{pending=}, {keep=}, {room_keep=} and {tail=} must be > 0")
        self._pending, self._keep, self._tail = pending, keep, tail
        self._file = DatabaseFile(path, durable=durable)
        with contextlib.ExitStack() as undo:
            undo.callback(self._file.close)
            try:
                with contextlib.closing(self._file.connect()) as db:
                    sqlite_file.forget_rooms(db, _now() - int(keep * 1000))
                    self._next_room = sqlite_file.next_room(db)
                    self._talks = Talks(sqlite_file.conversations(db, MOST_TALKS))
                for_writer, for_reader = (
                    undo.enter_context(contextlib.closing(self._file.connect())) for _ in range(2)
                )
            except sqlite3.Error as exc:
                raise StoreError(f"cannot use {self._file.path}: {exc}") from exc
            undo.pop_all()
        self._writer = Worker("chat-writer", Writing(for_writer, keep, room_keep))
        self._reader = Worker("chat-reader", Reading(for_reader))
        self._queue: list[Entry] = []
        self._flying: list[Entry] = []
        self._kept: deque[Entry] = deque()  # and not shown yet
        self._trouble: Outcome | None = None
        self._bytes = self._reads = 0
        self._next = self._refused_until = -RETRY
        self._refusal = ""
        self._scheduled = self._showing = False
        self._closing: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Close the file now, whatever waits for it; nothing is called any more.  Idempotent; blocks for a commit.

        For who has never started the store, or was left by an exception: :meth:`close` is the end in good order.
        """
        if self._writer.end() and self._reader.end():
            self._file.close()

    # --- the seam -------------------------------------------------------------------------------------------------

    def start(
        self,
        reactor: Reactor,
        committed: Callable[[Sequence[Entry]], None],
        failed: Callable[[Sequence[Entry], str], None],
        repeated: Callable[[Entry, Msg], None],
    ) -> None:
        """Begin: as Store.start()."""
        self._reactor = reactor
        self._committed, self._failed, self._repeated = committed, failed, repeated
        self._writer.start(reactor)
        self._reader.start(reactor)

    def append(self, entry: Entry) -> bool:
        """Send ``entry.msg`` to be written, and its room's state if it was not; return False: as Store.append()."""
        waiting = len(self._queue) + len(self._flying) + len(self._kept)
        if waiting >= self._pending or self._bytes > PENDING_BYTES:
            raise Unavailable(f"{waiting} messages wait for the disk, and at most {self._pending} may")
        if self._refusal and self._reactor.time() < self._refused_until:
            raise Unavailable(self._refusal)
        room = entry.room
        if room.state is room.kept.state:
            entry.state = None
        else:
            entry.state = room.kept.state = room.state
        self._queue.append(entry)
        self._bytes += len(entry.msg.body)
        if not (self._scheduled or self._flying):
            self._schedule()
        return False

    def load(self, name: str, done: Callable[[Loaded | None], None]) -> None:
        """Read a room: as Store.load()."""
        self._ask(partial(sqlite_file.room, name=name, limit=self._tail), partial(self._loaded, name, done))

    def read(
        self, name: str, epoch: str, after: int, before: int, limit: int, newest: bool,
        done: Callable[[Sequence[Msg] | None], None],
    ) -> None:  # fmt: skip
        """Read a page: as Store.read()."""

        def work(db: sqlite3.Connection) -> list[Msg]:
            number = sqlite_file.room_id(db, name, epoch)
            if number is None:
                return []
            return _named(name, sqlite_file.messages(db, number, after, before, limit, newest=newest))

        def told(found: Any) -> None:
            done(None if isinstance(found, Exception) else found)

        self._ask(work, told)

    def conversations(self, user: str) -> Sequence[tuple[str, str, int, str]]:
        """Return conversations of *user* from memory: as Store.conversations()."""
        return self._talks.of(user)

    def close(self, done: Callable[[], None]) -> None:
        """Write what waits, and close the file: as Store.close()."""
        self._closing = done
        self._schedule()

    # --- writing --------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """See to it that the next batch goes, if there is one, and none is on its way: its outcome has to be known."""
        if self._scheduled or self._flying or not (self._queue or self._closing is not None):
            return
        self._scheduled = True
        wait = self._next - self._reactor.time()
        if wait <= 0.0 or self._closing is not None:
            self._reactor.call_soon(self._hand_over)
        else:
            self._reactor.call_later(wait, self._hand_over)

    def _hand_over(self) -> None:
        self._scheduled = False
        batch = self._flying = self._queue[:MOST_BATCH]
        del self._queue[:MOST_BATCH]
        if batch:
            self._next = self._reactor.time() + GATHER * min(max(len(batch) / FEW, 1.0), LONGER)
            self._writer.do(Batch(batch), self._written)
        elif self._closing is not None and not self._kept:
            done, self._closing = self._closing, None
            self._writer.do(None, lambda _: self._reader.do(None, lambda _: self._closed(done)))

    def _written(self, outcome: Outcome) -> None:
        """Take what has become of the batch; the thread gets the next one before this one is shown."""
        self._kept.extend([self._flying[index] for index in outcome.kept])
        if outcome.repeats or outcome.failed:
            self._trouble = outcome  # the next batch waits: a part of it is behind what was not kept
        else:
            self._flying = []
            self._schedule()
        if not self._showing:
            self._show()

    def _show(self) -> None:
        """Show a slice of what is kept, the next one in a later turn, and behind it what was not kept."""
        entries: list[Entry] = []
        deliveries = 0
        most = max(SLICE, len(self._kept) // SHARE)
        while self._kept and len(entries) < most and deliveries < DELIVERIES:
            entry = self._kept.popleft()
            entries.append(entry)
            room = entry.room
            deliveries += len(room.users)
            self._bytes -= len(entry.msg.body)
            if room.private:
                self._talks.add(room.name, room.epoch, entry.msg)
        if entries:
            self._refusal = ""
            self._committed(entries)
        self._showing = bool(self._kept)
        if self._showing:
            self._reactor.call_soon(self._show)
            return
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            batch, self._flying = self._flying, []
            self._settle(batch, trouble)
        self._schedule()

    def _settle(self, batch: list[Entry], outcome: Outcome) -> None:
        """Tell what was not kept, when all that was before it is shown."""
        kept = set(outcome.kept)
        self._bytes -= sum(len(entry.msg.body) for index, entry in enumerate(batch) if index not in kept)
        for index, first in outcome.repeats:
            entry = batch[index]
            self._take_back([entry])
            self._repeated(entry, first)
        if outcome.failed:
            if outcome.broken:
                self._refusal = f"the database cannot be written: {outcome.error}"
                self._refused_until = self._reactor.time() + RETRY
            failed = [batch[index] for index in outcome.failed]
            self._failed([*failed, *self._take_back(failed)], outcome.error)

    def _take_back(self, entries: list[Entry]) -> list[Entry]:
        """Take what is behind *entries* in their rooms out of the queue, and return it."""
        rooms = {id(entry.room): entry.room for entry in entries}
        taken = [entry for entry in self._queue if id(entry.room) in rooms]
        self._queue = [entry for entry in self._queue if id(entry.room) not in rooms]
        self._bytes -= sum(len(entry.msg.body) for entry in taken)
        for room in rooms.values():
            room.kept.state = None  # nobody knows what was written of it: it goes with the next message
        return taken

    def _closed(self, done: Callable[[], None]) -> None:
        self.release()
        done()

    # --- reading --------------------------------------------------------------------------------------------------

    def _ask(self, work: Callable[[sqlite3.Connection], Any], told: Callable[[Any], None]) -> None:
        if self._reads >= MOST_READS:
            return told(sqlite3.OperationalError(f"{self._reads} reads wait for the disk"))
        self._reads += 1
        return self._reader.do(work, partial(self._read, told))

    def _read(self, told: Callable[[Any], None], found: Any) -> None:
        self._reads -= 1
        if isinstance(found, Exception):
            logger.error("chat: %s cannot be read: %s", self._file.path, found)
        told(found)

    def _loaded(self, name: str, done: Callable[[Loaded | None], None], found: Any) -> None:
        if isinstance(found, Exception):
            return done(None)
        if found is None:
            number, self._next_room = self._next_room, self._next_room + 1
            return done(Loaded(new_epoch(), kept=Kept(number, None)))
        tail: list[Msg] = found.tail
        repeats = [Repeat(msg.user or "", msg.cid, msg) for msg in tail if msg.cid is not None]
        _named(name, tail)
        top = tail[-1].seq if tail else 0
        return done(Loaded(found.epoch, tail, top, found.state, repeats, Kept(found.id, found.state)))


def _named(name: str, messages: list[Msg]) -> list[Msg]:
    """Return *messages*, to which their room's name was given."""
    if name.startswith("@"):
        for msg in messages:
            msg.dm = name
    else:
        for msg in messages:
            msg.room, msg.user = name, None
    return messages


def _now() -> int:
    return time_ns() // 1_000_000


class Talks:
    """The newest direct conversations of each user, as far as MOST_TALKS goes.  Reactor thread only."""

    def __init__(self, found: Iterable[tuple[str, str, Msg]]) -> None:
        # By user, who has heard something last at the end; each by key, the newest at the end.
        self._users: OrderedDict[str, dict[str, tuple[str, int, str]]] = OrderedDict()
        self._count = 0
        for key, epoch, msg in found:
            self.add(key, epoch, msg)

    def add(self, key: str, epoch: str, msg: Msg) -> None:
        """Note the newest message of the conversation *key*."""
        for user in {*(conversation_users(key) or ())}:
            mine = self._users.setdefault(user, {})
            self._users.move_to_end(user)
            self._count += mine.pop(key, None) is None
            mine[key] = (epoch, msg.seq, (msg.to or "") if msg.user == user else msg.sender)
            if len(mine) > wire.MAX_PAGE:
                del mine[next(iter(mine))]
                self._count -= 1
        while self._count > MOST_TALKS:
            self._count -= len(self._users.popitem(last=False)[1])

    def of(self, user: str) -> list[tuple[str, str, int, str]]:
        """Return (key, epoch, top, nick of the other) of the conversations of *user*, newest first."""
        mine = self._users.get(user, {})
        return [(key, *talk) for key, talk in islice(reversed(mine.items()), wire.MAX_PAGE)]


# --- the threads --------------------------------------------------------------------------------------------------


class Writing:
    """What the writing thread does: batches, and between them the deleting of what is too old."""

    def __init__(self, db: sqlite3.Connection, keep: float, most: int) -> None:
        self.db = db
        self._keep = keep
        self._sweeper = Sweeper(db, most)
        self._sweep_at = monotonic() + SWEEP_AFTER

    def idle(self) -> float | None:
        """Delete a slice if it is time to; return the seconds until the next one."""
        wait = self._sweep_at - monotonic()
        if wait > 0.0:
            return wait
        more = False
        try:
            more = self._sweeper.slice(_now() - int(self._keep * 1000))
        except Exception as exc:  # whatever is in the file, the thread has batches to write
            undo(self.db, exc)
            logger.warning("chat: what is too old could not be deleted: %r", exc)
        wait = SWEEP_ON if more else SWEEP_AFTER
        self._sweep_at = monotonic() + wait
        return wait

    def work(self, batch: Batch) -> Outcome:
        """Write *batch*."""
        try:
            return sqlite_file.write(self.db, batch)
        except Exception as exc:  # nobody else would tell those who wait
            logger.exception("chat: writing failed")
            return Outcome(failed=range(len(batch)), error=undo(self.db, exc), broken=True)


class Reading:
    """What the reading thread does: what it is given."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def idle(self) -> float | None:
        """Return None: there is nothing to do."""
        return None

    def work(self, read: Callable[[sqlite3.Connection], Any]) -> Any:
        """Return what *read* returns, or the exception that it has raised."""
        try:
            return read(self.db)
        except Exception as exc:
            return exc


class Worker:
    """A thread with a connection; ``do(job, told)`` calls ``told(result)`` in the reactor's thread, in order.

    The job None is the last one: the connection is closed, and `told` called with None.
    A daemon: a disk that hangs must not keep the process from ending.
    """

    def __init__(self, name: str, task: Writing | Reading) -> None:
        self._task = task
        self._jobs: SimpleQueue[tuple[Any, Callable[[Any], None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._reactor: Reactor | None = None

    def start(self, reactor: Reactor) -> None:
        """Start the thread, which tells *reactor*."""
        self._reactor = reactor
        self._thread.start()

    def do(self, job: Any, told: Callable[[Any], None]) -> None:
        """Do *job*, later."""
        self._jobs.put((job, told))

    def end(self) -> bool:
        """Do nothing more, and wait for the thread; return whether it has ended.  Idempotent; any thread."""
        if self._reactor is None:
            self._task.db.close()
            return True
        self._jobs.put(None)
        self._thread.join(RELEASE)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while True:
                item = self._next()
                if item is None:
                    return
                job, told = item
                if job is None:
                    self._task.db.close()
                    self._tell(told, None)
                    return
                self._tell(told, self._task.work(job))
        finally:
            self._task.db.close()

    def _next(self) -> tuple[Any, Callable[[Any], None]] | None:
        while True:
            try:
                return self._jobs.get(timeout=self._task.idle())
            except Empty:
                pass

    def _tell(self, told: Callable[[Any], None], result: Any) -> None:
        assert self._reactor is not None
        try:
            self._reactor.call_soon_threadsafe(told, result)
        except RuntimeError:
            self._jobs.put(None)  # the reactor is closed: nobody listens any more
