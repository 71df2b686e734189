"""The two reactors side by side: one script, one manual clock, the same trace of events."""

from __future__ import annotations

import random
import socket

import pytest
from reactor_fixtures import READ, WRITE, ManualClock, recording_endpoint, run_turns
from twins import needs_compiled


def both(config):
    """Return the modules to be compared."""
    needs_compiled(config)
    import evloop._reactor
    import evloop._reactor_py

    return evloop._reactor, evloop._reactor_py


class Script:
    """Random but repeatable work on one reactor: timers, callbacks, fds, wake-ups, failures; it records all."""

    def __init__(self, module, seed, own_selector):
        self.random = random.Random(seed)
        self.module = module
        self.clock = ManualClock()
        self.reactor = module.Reactor(None if own_selector else self.clock, clock=self.clock.time)
        # The kernel reports several fds in the order of the system calls before, which is no promise of either twin:
        # over its own selector each script has one fd, and does not pause, which the two do in different ways.
        self.ends = 1 if own_selector else 6
        self.wants = (READ, READ | WRITE) if own_selector else (0, READ)
        self.reactor.set_exception_handler(lambda _, context: self.note("error", repr(context["exception"])))
        self.trace, self.timers, self.pairs, self.endpoints = [], [], [], []
        for number in range(self.ends):
            mine, other = socket.socketpair()
            mine.setblocking(False)
            self.pairs.append((mine, other))
            self.endpoints.append(self.endpoint(number))

    def endpoint(self, number):
        return recording_endpoint(
            self.module,
            self.trace,
            number,
            reactor=self.reactor,
            readable=lambda: self.read(number),
            writable=lambda: self.step(f"writable {number}"),
            flush=lambda: self.step(f"flush {number}"),
        )

    def note(self, *what):
        self.trace.append((round(self.clock.now, 6), *what))

    def read(self, number):
        try:
            self.note("read", number, self.pairs[number][0].recv(1))
        except BlockingIOError:
            self.note("nothing to read", number)
        self.step(f"readable {number}")

    def step(self, name):
        """Do one random thing; the choice depends on nothing but the seed and the order of the steps."""
        self.note(name)
        if len(self.trace) > 3000:
            return
        for _ in range(self.random.choice((0, 1, 1, 2))):
            action = self.random.choice(self.ACTIONS)
            try:
                action(self, self.random.randrange(self.ends))
            except (KeyError, ValueError) as exc:
                self.note("refused", type(exc).__name__)

    def soon(self, number):
        self.reactor.call_soon(self.step, f"soon {number}")

    def safe(self, number):
        self.reactor.call_soon_threadsafe(self.step, f"safe {number}")

    def later(self, number):
        delay = self.random.choice((-1, 0, 0.25, 0.25, 1, 3))
        self.timers.append(self.reactor.call_later(delay, self.step, f"timer {number} after {delay}"))

    def cancel(self, number):
        if self.timers:
            self.timers.pop(self.random.randrange(len(self.timers))).cancel()

    def fail(self, number):
        self.reactor.call_soon([].pop)

    def send(self, number):
        self.pairs[number][1].send(b"x")

    def register(self, number):
        self.reactor.register(self.pairs[number][0], self.random.choice((READ, READ | WRITE)), self.endpoints[number])

    def modify(self, number):
        self.reactor.modify(self.pairs[number][0], self.random.choice((READ, WRITE)), self.endpoints[number])

    def unregister(self, number):
        self.reactor.unregister(self.pairs[number][0])

    def want(self, number):
        self.reactor._want(self.pairs[number][0].fileno(), self.random.choice(self.wants), self.endpoints[number])

    def flush(self, number):
        self.reactor.flush_soon(self.endpoints[number])

    def replace(self, number):
        """Close an fd and let the next socket have its number."""
        mine, other = self.pairs[number]
        self.endpoints[number].closed = True
        try:
            self.reactor.unregister(mine)
        except KeyError:
            self.note("was not registered", number)
        mine.close()
        other.close()
        mine, other = socket.socketpair()
        mine.setblocking(False)
        self.pairs[number] = (mine, other)
        self.endpoints[number] = self.endpoint(number)

    ACTIONS = (soon, safe, later, later, cancel, fail, send, send, register, register, modify, unregister, want, flush, replace)  # fmt: skip # noqa: E501

    def run(self):
        try:
            for number in range(self.ends):
                self.register(number)
                self.later(number)
            for turn in range(150):
                self.step(f"turn {turn}")
                self.clock.now += self.random.choice((0, 0, 0.125, 1))
                run_turns(self.reactor, 1)
            if self.reactor._selector is self.clock:
                self.reactor.run_until(deadline=self.clock.now + 2)
            stats = self.reactor.stats()
            del stats["implementation"]
            self.note("end", stats, self.reactor._timer_cancelled_count)
        finally:
            self.reactor.close()
            self.clock.close()
            for ends in self.pairs:
                for end in ends:
                    end.close()
        return self.trace, self.clock.waits


@pytest.mark.parametrize("own_selector", [True, False], ids=["own", "manual"])
@pytest.mark.parametrize("seed", range(12))
def test_reactors_same_script_gives_the_same_trace(request, seed, own_selector):
    """Whoever debugs with the readable twin must see what the fast one does, event by event and wait by wait."""
    results = [Script(module, seed, own_selector).run() for module in both(request.config)]
    assert results[0] == results[1]
    assert len(results[0][0]) > 300


MISUSES = {
    "call_later text": lambda r, m, s: r.call_later("1", print),
    "call_later nothing": lambda r, m, s: r.call_later(None, print),
    "call_later complex": lambda r, m, s: r.call_later(1j, print),
    "call_later nan": lambda r, m, s: r.call_later(float("nan"), print),
    "call_at huge": lambda r, m, s: r.call_at(10**400, print),
    "call_soon": lambda r, m, s: r.call_soon(5),
    "handle": lambda r, m, s: m.Handle(5, (), r),
    "handle without arguments": lambda r, m, s: type(m.Handle(print, (), r)._args),
    "register object": lambda r, m, s: r.register(s, READ, object()),
    "register no events": lambda r, m, s: r.register(s, 0, m.Endpoint(r)),
    "register bad fd": lambda r, m, s: r.register("x", READ, m.Endpoint(r)),
    "register negative": lambda r, m, s: r.register(-1, READ, m.Endpoint(r)),
    "register not open": lambda r, m, s: r.register(999_999, READ, m.Endpoint(r)),
    "register beyond int": lambda r, m, s: r.register(10**20, READ, m.Endpoint(r)),
    "register fd twice": lambda r, m, s: [r.register(s, READ, m.Endpoint(r)) for _ in range(2)],
    "modify unknown": lambda r, m, s: r.modify(s.fileno(), READ, m.Endpoint(r)),
    "modify bad fd": lambda r, m, s: r.modify("x", READ, m.Endpoint(r)),
    "unregister unknown": lambda r, m, s: r.unregister(s.fileno()),
    "unregister bad fd": lambda r, m, s: r.unregister(None),
    "unregister beyond int": lambda r, m, s: r.unregister(10**20),
    "remove_reader beyond int": lambda r, m, s: r.remove_reader(10**20),
    "add_reader bad fd": lambda r, m, s: r.add_reader(1.5, print),
    "add_reader not callable": lambda r, m, s: r.add_reader(s, None),
    "flush_soon": lambda r, m, s: r.flush_soon(object()),
    "endpoint": lambda r, m, s: m.Endpoint(None),
    "want object": lambda r, m, s: r._want(s.fileno(), READ, None),
    "want bad events": lambda r, m, s: r._want(s.fileno(), 4, m.Endpoint(r)),
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES.keys())
def test_reactors_same_misuse_gives_the_same_error(request, misuse):
    """Type and text: a handler written against one twin must catch the other's."""
    seen = []
    for module in both(request.config):
        a, b = socket.socketpair()
        with a, b, module.Reactor() as reactor:
            try:
                seen.append(("returned", misuse(reactor, module, a)))
            except Exception as exc:
                seen.append((type(exc), str(exc).replace(f"FD {a.fileno()}", "FD").replace(repr(a), "the socket")))
    assert seen[0] == seen[1]


def test_endpoint_of_the_other_implementation_is_refused(request):
    """Two layouts of one name: mixed, they would crash or lie; the error says so at the first contact."""
    modules = both(request.config)
    for here, there in (modules, modules[::-1]):
        a, b = socket.socketpair()
        with a, b, here.Reactor() as reactor, there.Reactor() as other:
            with pytest.raises(TypeError, match="its own implementation"):
                here.Endpoint(other)
            with pytest.raises(TypeError, match="this implementation's Endpoint"):
                reactor.register(a, READ, there.Endpoint(other))
            with pytest.raises(TypeError, match="this implementation's Endpoint"):
                reactor.flush_soon(there.Endpoint(other))
