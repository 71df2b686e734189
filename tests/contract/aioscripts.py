"""Scripts for an asyncio loop whose events come in one order only, to be compared between loops.

A script is a function of a :class:`World`, in ``SCRIPTS`` by its name.  ``world.tick(n)`` has the turns told in the
trace, so two loops agree only if they do the same things in the same turns.

What the kernel or a heap leaves open is in no script: the order of several fds that are ready at once, that of more
than three timers of one deadline, and anything that takes time.

Rule: nothing in this file may import evloop, or look at which loop it has.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import socket
import sys
import threading

PATIENCE = 20.0  # seconds; only a script that goes wrong runs as long
SCRIPTS = {}

COLOUR = contextvars.ContextVar("COLOUR", default="none")


def script(function):
    """Register a script; a coroutine function is run by ``run_until_complete``."""
    SCRIPTS[function.__name__] = function
    return function


class World:
    """A loop, a trace, and the sockets that a script asks for; closed at the end, the loop included."""

    def __init__(self, loop):
        self.loop, self.trace, self.sockets = loop, [], []
        loop.set_exception_handler(self._failed)

    def note(self, *what):
        """Write something down."""
        self.trace.append(what)

    def noting(self, *what):
        """Return a callback that writes something down, and its arguments."""
        return lambda *args: self.trace.append((*what, *args))

    def failing(self, name):
        """Return a callback that raises."""

        def fail(*args):
            self.note(name, "raises")
            raise ZeroDivisionError(name)

        return fail

    def _failed(self, loop, context):
        assert loop is self.loop
        exc = context.get("exception")
        # The words of a callback's own message name it, each loop in its way.
        message = context["message"].partition("Exception in callback")[1] or context["message"]
        self.note("handler", message, sorted(context), type(exc).__name__)

    def tick(self, turns):
        """Write down the next so many turns."""
        if turns:
            self.note("turn")
            self.loop.call_soon(self.tick, turns - 1)

    def turn(self, turns):
        """Run a few turns, told in the trace, none of which waits."""
        self.loop.call_soon(self.tick, turns)
        for _ in range(turns):
            self.loop.stop()
            self.loop.run_forever()

    def run(self):
        """Run until something stops the loop; fail when patience ends."""
        late = self.loop.call_later(PATIENCE, self.failing("patience ended"))
        self.loop.run_forever()
        late.cancel()

    def pair(self):
        """Return two connected sockets, both non-blocking."""
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        self.sockets += ends
        return ends

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for end in self.sockets:
            end.close()
        self.loop.close()


def play(name, loop):
    """Run a script on a loop, which it closes; return the trace."""
    with World(loop) as world:
        function = SCRIPTS[name]
        if asyncio.iscoroutinefunction(function):
            loop.run_until_complete(asyncio.wait_for(function(world), PATIENCE))
            loop.run_until_complete(loop.shutdown_asyncgens())
        else:
            function(world)
        return world.trace


# --- callbacks and timers --------------------------------------------------------------------------------------------


@script
def call_soon_from_callbacks(world):
    loop, note = world.loop, world.noting

    def deeper(depth):
        world.note("depth", depth)
        if depth < 4:
            loop.call_soon(deeper, depth + 1)
            loop.call_soon(note("beside"), depth)

    loop.call_soon(deeper, 0)
    loop.call_soon(note("after"))
    world.turn(7)


@script
def handles_cancelled_before_between_and_while_they_run(world):
    loop, note = world.loop, world.noting
    handles = {}

    def cancelling(*names):
        for name in names:
            handles[name].cancel()
            world.note("cancelled", name, handles[name].cancelled())

    handles["own"] = loop.call_soon(cancelling, "own", "next")
    handles["next"] = loop.call_soon(note("not to run"))
    loop.call_soon(note("runs"))
    handles["before"] = loop.call_soon(note("not to run"))
    cancelling("before", "before")
    world.turn(2)


@script
def timers_that_are_due_run_after_what_was_ready(world):
    loop, note = world.loop, world.noting
    now = loop.time()
    loop.call_at(now - 1, note("later"))
    loop.call_at(now - 2, note("sooner"))
    loop.call_at(now - 2, note("sooner, second"))
    loop.call_at(now - 2, note("sooner, third"))
    loop.call_soon(note("ready"))
    loop.call_later(0, note("at once"))
    loop.call_later(-5, note("long ago"))
    world.turn(3)


@script
def timers_armed_and_cancelled_by_timers(world):
    loop, note = world.loop, world.noting
    now = loop.time()
    far = [loop.call_later(1000, note("not to run")) for _ in range(3)]

    def due():
        world.note("due")
        loop.call_at(now, note("armed by a timer"))
        loop.call_soon(note("called by a timer"))
        victim.cancel()
        for timer in far:
            timer.cancel()

    loop.call_at(now - 2, due)
    victim = loop.call_at(now - 1, note("cancelled in the turn in which it is due"))
    world.turn(4)


@script
def timers_that_must_wait_come_in_the_order_of_their_deadlines(world):
    loop, note = world.loop, world.noting
    now = loop.time()
    for delay in (0.03, 0.01, 0.02):
        loop.call_at(now + delay, note("timer", delay))
    loop.call_at(now + 0.04, loop.stop)
    world.run()


@script
def stop_lets_the_turn_finish(world):
    loop, note = world.loop, world.noting
    loop.call_soon(loop.stop)
    loop.call_soon(note("same turn"))
    loop.call_soon(loop.call_soon, note("next run"))
    world.run()
    world.note("stopped")
    loop.call_soon(loop.stop)
    world.run()


@script
def callbacks_run_in_their_contexts(world):
    loop = world.loop

    def show(name):
        world.note(name, COLOUR.get())
        COLOUR.set(name)

    red = contextvars.copy_context()
    red.run(COLOUR.set, "red")
    loop.call_soon(show, "plain")
    loop.call_soon(show, "in red", context=red)
    loop.call_soon(show, "in red again", context=red)
    loop.call_later(0, show, "timer in red", context=red)
    loop.call_soon_threadsafe(show, "threadsafe in red", context=red)
    red.run(loop.call_soon, show, "a copy of red")
    red.run(loop.add_writer, world.pair()[0], lambda: (show("writer"), loop.remove_writer(world.sockets[0])))
    world.turn(3)
    world.note(red[COLOUR], COLOUR.get())


@script
def exceptions_of_callbacks_are_told_and_do_no_harm(world):
    loop, note = world.loop, world.noting
    ours, other = world.pair()
    other.send(b"x")

    def reader():
        loop.remove_reader(ours)
        raise ZeroDivisionError("reader")

    loop.call_soon(world.failing("callback"))
    loop.call_soon(note("the next one"))
    loop.call_later(0, world.failing("timer"))
    loop.call_soon_threadsafe(world.failing("threadsafe"))
    loop.add_reader(ours, reader)
    world.turn(3)


@script
def exits_leave_the_loop_and_what_was_ready_runs_later(world):
    loop, note = world.loop, world.noting

    def leave(kind):
        world.note("raises", kind.__name__)
        raise kind

    for kind in (KeyboardInterrupt, SystemExit):
        loop.call_soon(leave, kind)
        loop.call_soon(note("after", kind.__name__))
        try:
            world.run()
        except (KeyboardInterrupt, SystemExit) as exc:
            world.note("left", type(exc).__name__, loop.is_running())
        world.turn(2)


@script
def call_soon_threadsafe_wakes_a_loop_that_waits(world):
    loop, note = world.loop, world.noting

    def others():
        for number in range(3):
            loop.call_soon_threadsafe(note("from a thread"), number)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=others)
    loop.call_soon(thread.start)
    world.run()
    thread.join()


@script
def call_soon_threadsafe_keeps_its_place_among_callbacks(world):
    loop, note = world.loop, world.noting
    loop.call_soon(note("first"))
    loop.call_soon_threadsafe(note("second"))
    loop.call_soon(note("third"))
    loop.call_soon(loop.call_soon_threadsafe, note("next turn"))
    world.turn(3)


@script
def signals_are_handled_in_the_turn_that_reads_them(world):
    loop, note = world.loop, world.noting

    def handled():
        world.note("handled")
        loop.call_soon(note("after the signal"))

    loop.add_signal_handler(signal.SIGUSR1, handled)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.call_soon(note("same turn"))
    world.turn(5)
    world.note(loop.remove_signal_handler(signal.SIGUSR1), loop.remove_signal_handler(signal.SIGUSR1))


# --- file descriptors ------------------------------------------------------------------------------------------------


@script
def readable_fd_beside_callbacks_and_timers(world):
    loop, note = world.loop, world.noting
    ours, other = world.pair()
    loop.add_reader(ours, lambda: (world.note("read", ours.recv(1)), loop.call_soon(note("called by the reader"))))
    other.send(b"abc")
    loop.call_soon(note("ready before"))
    loop.call_at(loop.time() - 1, note("due"))
    world.turn(5)


@script
def reader_comes_before_writer_and_may_remove_it(world):
    loop, note = world.loop, world.noting
    ours, other = world.pair()
    other.send(b"x")

    def reader():
        world.note("reader", loop.remove_writer(ours), loop.remove_writer(ours))
        loop.add_reader(ours, last)

    def last():
        world.note("replaced by itself", ours.recv(1))

    loop.add_reader(ours, reader)
    loop.add_writer(ours, note("writer"))
    world.turn(3)
    world.note(loop.remove_reader(ours), loop.remove_reader(ours))


@script
def writer_may_remove_the_reader_and_itself(world):
    loop = world.loop
    ours, other = world.pair()

    def writer():
        world.note("writer", loop.remove_writer(ours))
        other.send(b"x")

    loop.add_writer(ours, writer)
    loop.add_reader(ours, lambda: world.note("reader", ours.recv(1)))
    world.turn(3)
    world.note(loop.remove_reader(ours))


@script
def reader_replaced_in_the_turn_of_its_event(world):
    loop, note = world.loop, world.noting
    ours, other = world.pair()
    loop.add_reader(ours, note("the old one"))
    other.send(b"x")
    loop.call_soon(loop.add_reader, ours, lambda: world.note("the new one", ours.recv(1)))
    world.turn(3)
    world.note(loop.remove_reader(ours))


@script
def reader_removed_in_the_turn_of_its_event(world):
    loop, note = world.loop, world.noting
    ours, other = world.pair()
    loop.add_reader(ours, note("not to run"))
    other.send(b"x")
    loop.call_soon(lambda: world.note(loop.remove_reader(ours)))
    world.turn(2)
    loop.add_reader(ours, lambda: world.note("again", ours.recv(1)))
    world.turn(2)
    world.note(loop.remove_reader(ours))


@script
def one_reader_removes_the_other(world):
    loop = world.loop
    pairs = [world.pair(), world.pair()]

    def reader(number):
        world.note("one of them ran", loop.remove_reader(pairs[1 - number][0]))

    for number, (ours, other) in enumerate(pairs):
        other.send(b"x")
        loop.add_reader(ours, reader, number)
    world.turn(1)
    world.note(sum(loop.remove_reader(ours) for ours, _ in pairs))


@script
def fd_closed_and_used_again_between_two_turns(world):
    loop, note = world.loop, world.noting
    ours, other = world.pair()
    fd = ours.fileno()
    other.send(b"x")
    loop.add_reader(fd, note("the former one"))

    def exchange():
        loop.remove_reader(fd)
        again, _ = world.pair()
        os.dup2(again.fileno(), fd)
        loop.add_reader(fd, note("the new one, which has nothing to read"))

    loop.call_soon(exchange)
    world.turn(3)
    world.note(loop.remove_reader(fd))


@script
def hang_up_is_readable_and_writable(world):
    loop = world.loop
    ours, other = world.pair()
    loop.add_reader(ours, lambda: (world.note("reader", ours.recv(10)), loop.remove_reader(ours)))
    loop.add_writer(ours, lambda: (world.note("writer"), loop.remove_writer(ours)))
    other.close()
    world.turn(3)


# --- futures and tasks -----------------------------------------------------------------------------------------------


@script
async def future_wakes_its_waiters_in_their_order(world):
    world.tick(6)
    future = world.loop.create_future()

    async def waiter(number):
        world.note("waits", number)
        world.note("woken", number, await future)

    tasks = [asyncio.ensure_future(waiter(number)) for number in range(3)]
    future.add_done_callback(lambda done: world.note("done callback", done.result()))
    await asyncio.sleep(0)
    world.loop.call_soon(world.noting("before the wake-up"))
    future.set_result("result")
    world.loop.call_soon(world.noting("after the wake-up"))
    await asyncio.gather(*tasks)
    world.note("gathered")


@script
async def tasks_step_in_turns(world):
    world.tick(6)

    async def stepping(name, count):
        for number in range(count):
            world.note(name, number)
            await asyncio.sleep(0)

    await asyncio.gather(stepping("a", 3), stepping("b", 2), stepping("c", 4))


@script
async def cancellation_arrives_in_the_next_turn(world):
    world.tick(8)

    async def victim(name, reaction):
        try:
            world.note(name, "starts")
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            world.note(name, "cancelled")
            if reaction == "delays":
                await asyncio.sleep(0)
            if reaction == "swallows":
                return "swallowed"
            raise

    reactions = ["raises", "delays", "swallows"]
    tasks = [asyncio.ensure_future(victim(reaction, reaction)) for reaction in reactions]
    unborn = asyncio.ensure_future(victim("never started", "raises"))
    unborn.cancel()
    await asyncio.sleep(0)
    for task in tasks:
        task.add_done_callback(lambda done: world.note("done", done.cancelled()))
        world.note("cancel", task.cancel())
        world.loop.call_soon(world.noting("after the cancel"))
    results = await asyncio.gather(*tasks, unborn, return_exceptions=True)
    world.note([type(result).__name__ for result in results])


@script
async def cancellation_races_the_result(world):
    world.tick(6)
    for order in (("result", "cancel"), ("cancel", "result")):
        future = world.loop.create_future()

        async def waiter(future=future):
            try:
                return await future
            except asyncio.CancelledError:
                world.note("cancelled, though the future", future.done(), future.cancelled())
                raise

        task = asyncio.ensure_future(waiter())
        await asyncio.sleep(0)
        for what in order:
            if what == "cancel":
                world.note("cancel", task.cancel())
            else:
                future.set_result("result") if not future.done() else world.note("too late")
        world.note([type(result).__name__ for result in await asyncio.gather(task, return_exceptions=True)])


@script
async def time_outs_shields_and_waits(world):
    world.tick(4)
    inner = asyncio.ensure_future(asyncio.sleep(1000))
    for waiting in (asyncio.wait_for(asyncio.shield(inner), 0.001), asyncio.wait_for(asyncio.sleep(1000), 0)):
        try:
            await waiting
        except asyncio.TimeoutError:
            world.note("timed out", inner.done())
    done, pending = await asyncio.wait([inner], timeout=0.001)
    world.note(len(done), len(pending))
    inner.cancel()
    done, pending = await asyncio.wait([inner])
    world.note(len(done), len(pending))
    if sys.version_info >= (3, 11):
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(1000)
        except TimeoutError:
            world.note("timed out by the context manager")


@script
async def queues_locks_events_and_conditions(world):
    world.tick(10)
    queue, lock, event, condition = asyncio.Queue(1), asyncio.Lock(), asyncio.Event(), asyncio.Condition()

    async def producer():
        for number in range(4):
            await queue.put(number)
            world.note("put", number)

    async def consumer(name):
        for _ in range(2):
            world.note(name, "got", await queue.get())

    async def locker(name):
        async with lock:
            world.note(name, "holds")
            await event.wait()
        async with condition:
            condition.notify()
            world.note(name, "notifies")

    async def notified():
        async with condition:
            await condition.wait()
            world.note("notified")

    world.loop.call_soon(world.loop.call_soon, event.set)
    await asyncio.gather(notified(), producer(), consumer("one"), consumer("two"), locker("one"), locker("two"))


@script
async def async_generators_are_closed_by_their_loop(world):
    world.tick(6)

    async def numbers():
        try:
            for number in range(10):
                yield number
                await asyncio.sleep(0)
        finally:
            world.note("closed")

    async for number in numbers():
        world.note("number", number)
        if number == 2:
            break
    gc.collect()
    await asyncio.sleep(0)
    world.note("after a turn")


@script
async def exceptions_that_nobody_retrieved(world):
    async def failing():
        raise ZeroDivisionError

    task = asyncio.ensure_future(failing())
    future = world.loop.create_future()
    future.set_exception(ZeroDivisionError())
    future.add_done_callback(world.failing("done callback"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()
    del future
    gc.collect()


# --- protocols -------------------------------------------------------------------------------------------------------


class Noting(asyncio.Protocol):
    """A protocol that writes down each of its callbacks, and calls something soon from each."""

    def __init__(self, world, **actions):
        self.world, self.actions = world, actions
        self.lost = world.loop.create_future()
        self.transport = None

    def _did(self, name, *args):
        self.world.note(name, *args)
        self.world.loop.call_soon(self.world.noting("soon after", name))
        return self.actions.get(name, lambda *args: None)(self.transport, *args)

    def connection_made(self, transport):
        self.transport = transport
        self._did("made")

    def data_received(self, data):
        self._did("data", bytes(data))

    def eof_received(self):
        return self._did("eof")

    def pause_writing(self):
        self._did("pause")

    def resume_writing(self):
        self._did("resume")

    def connection_lost(self, exc):
        self._did("lost", type(exc).__name__)
        self.lost.set_result(None)


async def connected(world, **actions):
    """Return a noting protocol on one end of a pair, and the other end."""
    ours, other = world.pair()
    _, protocol = await world.loop.create_connection(lambda: Noting(world, **actions), sock=ours)
    return protocol, other


@script
async def protocol_from_the_beginning_to_the_end(world):
    world.tick(10)
    protocol, other = await connected(world, data=lambda transport, data: transport.write(data.upper()))
    world.note("connected")
    for data in (b"one", b"two"):
        other.send(data)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.note("echoed", other.recv(100))
    other.shutdown(socket.SHUT_WR)
    await protocol.lost
    world.note("end", other.recv(100))


@script
async def protocol_data_beside_callbacks_and_timers(world):
    protocol, other = await connected(world)
    world.tick(5)
    other.send(b"data")
    world.loop.call_soon(world.noting("ready before"))
    world.loop.call_at(world.loop.time() - 1, world.noting("due"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.loop.call_soon(world.noting("before the close"))
    protocol.transport.close()
    world.loop.call_soon(world.noting("after the close"))
    await protocol.lost


@script
async def protocol_that_keeps_open_after_the_end(world):
    protocol, other = await connected(world, eof=lambda transport: True)
    world.tick(8)
    other.send(b"last words")
    other.shutdown(socket.SHUT_WR)
    for _ in range(4):
        await asyncio.sleep(0)
    world.note("closing", protocol.transport.is_closing())
    protocol.transport.write(b"answer")
    protocol.transport.write_eof()
    world.note("answer", other.recv(100), other.recv(100))
    protocol.transport.close()
    await protocol.lost


@script
async def protocol_paused_and_resumed_by_the_output(world):
    protocol, other = await connected(world)
    protocol.transport.set_write_buffer_limits(high=1000, low=100)
    world.tick(3)
    filler = b"x" * 5_000_000
    protocol.transport.write(filler)
    world.note("written", protocol.transport.get_write_buffer_size() > 1000)
    await asyncio.sleep(0)
    got = 0
    while got < len(filler):
        data = await world.loop.sock_recv(other, 1_000_000)
        got += len(data)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.note("drained", got, protocol.transport.get_write_buffer_size())
    protocol.transport.close()
    await protocol.lost


@script
async def protocol_paused_and_resumed_by_itself(world):
    def pausing(transport, data):
        if data == b"first":
            transport.pause_reading()
            world.loop.call_soon(world.loop.call_soon, transport.resume_reading)

    protocol, other = await connected(world, data=pausing)
    world.tick(8)
    other.send(b"first")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    other.send(b"second")
    for _ in range(5):
        await asyncio.sleep(0)
    protocol.transport.abort()
    await protocol.lost


@script
async def protocol_aborts_in_its_callback(world):
    protocol, other = await connected(world, data=lambda transport, data: transport.abort())
    world.tick(4)
    other.send(b"data")
    await protocol.lost
    world.note("end", other.recv(100))


@script
async def protocol_whose_peer_has_gone(world):
    protocol, other = await connected(world)
    world.tick(6)
    other.close()
    protocol.transport.write(b"to nobody")
    world.note("closing", protocol.transport.is_closing())
    await protocol.lost


@script
async def protocol_whose_callbacks_raise(world):
    def fail(transport, *args):
        raise ZeroDivisionError

    for name, provoke in (
        ("made", lambda other: None),
        ("data", lambda other: other.send(b"x")),
        ("eof", lambda other: other.shutdown(socket.SHUT_WR)),
        ("lost", lambda other: other.shutdown(socket.SHUT_WR)),
    ):
        world.note("---", name)
        protocol, other = await connected(world, **{name: fail})
        world.tick(4)
        provoke(other)
        for _ in range(5):
            await asyncio.sleep(0)
        protocol.transport.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@script
async def servers_accept_and_close(world):
    accepted = []

    def accept():
        accepted.append(Noting(world))
        return accepted[-1]

    server = await world.loop.create_server(accept, "127.0.0.1", 0)
    client = socket.socket()
    world.sockets.append(client)
    client.setblocking(False)
    await world.loop.sock_connect(client, server.sockets[0].getsockname())
    client.send(b"hello")
    while not any(event[0] == "data" for event in world.trace):
        await asyncio.sleep(0)
    world.note("serving", server.is_serving())
    server.close()
    world.note("serving", server.is_serving())
    client.close()
    await accepted[0].lost
    await server.wait_closed()


@script
async def streams_read_write_and_end(world):
    ours, other = world.pair()
    reader, writer = await asyncio.open_connection(sock=ours)
    world.tick(12)
    other.send(b"line\nrest")
    world.note(await reader.readline(), await reader.readexactly(4))
    writer.write(b"answer")
    await writer.drain()
    world.note(other.recv(100))
    other.shutdown(socket.SHUT_WR)
    world.note(await reader.read(), reader.at_eof())
    writer.close()
    await writer.wait_closed()
    world.note("closed")


@script
async def sockets_of_the_loop_itself(world):
    ours, other = world.pair()
    world.tick(8)
    reading = asyncio.ensure_future(world.loop.sock_recv(ours, 100))
    await asyncio.sleep(0)
    world.note("waits", reading.done())
    await world.loop.sock_sendall(other, b"data")
    world.note("got", await reading)
    reading = asyncio.ensure_future(world.loop.sock_recv(ours, 100))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    world.note("cancelled", reading.cancelled(), world.loop.remove_reader(ours))
    await world.loop.sock_sendall(other, b"more")
    world.note("there already", await world.loop.sock_recv(ours, 100))
