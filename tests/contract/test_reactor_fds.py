"""What the reactor promises about file descriptors: who is poked, how often, and who never is."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import socket

import pytest
from reactor_fixtures import (
    READ,
    WRITE,
    clock,
    pair,
    patience,
    pytest_generate_tests,
    reactor,
    reactor_module,
    recording_endpoint,
    run_turns,
    selector_class,
    socket_pair,
    timed,
)

# --- add_reader, add_writer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_fd", [lambda sock: sock, lambda sock: sock.fileno()], ids=["object", "int"])
def test_add_reader_data_arrives_calls_with_the_arguments(reactor, pair, as_fd):
    """The basic use, with both ways to name an fd."""
    got = []
    fd = as_fd(pair[0])
    reactor.add_reader(fd, lambda *args: got.append((args, pair[0].recv(10))), 1, "two")
    pair[1].send(b"hello")
    assert reactor.run_until(lambda: got, deadline=patience(reactor)) is True
    assert got == [((1, "two"), b"hello")]
    assert reactor.remove_reader(fd) is True


def test_add_reader_unread_data_calls_again_in_the_next_turn(reactor, pair):
    """Level-triggered: who reads a part only is told of the rest."""
    got = []
    reactor.add_reader(pair[0], lambda: got.append(pair[0].recv(1)))
    pair[1].send(b"abc")
    reactor.run_until(lambda: len(got) == 3, deadline=patience(reactor))
    assert got == [b"a", b"b", b"c"]
    reactor.remove_reader(pair[0])


def test_add_reader_peer_closed_calls_so_that_the_end_is_read(reactor_module, selector_class):
    """A hang-up alone must wake the reader, with every selector."""
    got = []
    with reactor_module.Reactor(selector_class()) as reactor, socket_pair() as (a, b):
        reactor.add_reader(a, lambda: got.append(a.recv(10)))
        b.close()
        assert reactor.run_until(lambda: got, deadline=patience(reactor)) is True
        assert got[0] == b""
        reactor.remove_reader(a)


def test_add_reader_and_writer_on_one_fd_are_independent(reactor, pair):
    """Removing one direction must leave the other, and report truthfully."""
    trace = []
    reactor.add_reader(pair[0], lambda: trace.append(pair[0].recv(1)))
    reactor.add_writer(pair[0], trace.append, "writable")
    pair[1].send(b"x")
    reactor.run_until(lambda: b"x" in trace, deadline=patience(reactor))
    assert reactor.remove_writer(pair[0]) is True
    assert reactor.remove_writer(pair[0]) is False
    del trace[:]
    pair[1].send(b"y")
    reactor.run_until(lambda: trace, deadline=patience(reactor))
    assert trace == [b"y"]
    assert reactor.remove_reader(pair[0]) is True
    assert reactor.remove_reader(pair[0]) is False
    assert reactor.stats()["fds"] == 0


def test_add_reader_twice_replaces_the_callback(reactor, pair):
    """One reader an fd, the last one; the former is let go."""
    trace = []
    reactor.add_reader(pair[0], trace.append, "old")
    reactor.add_reader(pair[0], lambda: trace.append(pair[0].recv(1)))
    assert reactor.stats()["fds"] == 1
    pair[1].send(b"x")
    reactor.run_until(lambda: trace, deadline=patience(reactor))
    assert trace == [b"x"]
    reactor.remove_reader(pair[0])


def test_add_reader_replaced_during_the_turn_neither_gets_the_stale_event(reactor, pair):
    """Whoever replaces a reader may have read its data; the new one must not be told of data that is gone."""
    trace = []

    def replace():
        pair[0].recv(10)
        reactor.add_reader(pair[0], trace.append, "new")

    reactor.add_reader(pair[0], trace.append, "old")
    pair[1].send(b"x")
    reactor.call_soon(replace)  # queued before the wait, so it runs before what the wait finds
    run_turns(reactor, 2)
    assert trace == []
    pair[1].send(b"y")
    reactor.run_until(lambda: trace, deadline=patience(reactor))
    assert trace[0] == "new"
    reactor.remove_reader(pair[0])


@pytest.mark.parametrize("direction", ["reader", "writer"])
def test_remove_during_the_turn_drops_the_queued_event(reactor, pair, direction):
    """After remove_reader returns, the callback is never called again: its object may be gone."""
    trace = []
    pair[1].send(b"x")
    getattr(reactor, f"add_{direction}")(pair[0], trace.append, "never")
    reactor.call_soon(getattr(reactor, f"remove_{direction}"), pair[0])
    run_turns(reactor, 2)
    assert trace == []
    assert reactor.stats()["fds"] == 0


def test_remove_writer_from_the_reader_of_the_same_event_drops_it(reactor, pair):
    """Readable and writable came together: the reader's decision counts for the second half."""
    trace = []

    def read():
        trace.append(pair[0].recv(1))
        reactor.remove_writer(pair[0])

    reactor.add_reader(pair[0], read)
    reactor.add_writer(pair[0], trace.append, "never")
    pair[1].send(b"x")
    reactor.run_until(lambda: trace, deadline=patience(reactor))
    run_turns(reactor, 1)
    assert trace == [b"x"]
    reactor.remove_reader(pair[0])


def test_watch_handle_of_a_replaced_or_removed_callback_is_cancelled(reactor, pair):
    """Whoever kept the handle of its watch can tell that somebody else has the fd now."""
    first = reactor._watch(pair[0], READ, print, ())
    second = reactor._watch(pair[0], READ, print, ())
    assert (first.cancelled(), second.cancelled()) == (True, False)
    reactor.remove_reader(pair[0])
    assert second.cancelled() is True


def test_remove_reader_from_its_own_callback_is_the_last_call(reactor, pair):
    """The one-shot idiom."""
    trace = []
    reactor.add_reader(pair[0], lambda: trace.append(reactor.remove_reader(pair[0])))
    pair[1].send(b"x")
    reactor.run_until(lambda: trace, deadline=patience(reactor))
    run_turns(reactor, 2)
    assert trace == [True]


def test_add_reader_callback_raises_is_reported_and_stays(reactor, pair):
    """A bug in one reader must not stop the reactor, nor silently unwatch the fd."""
    errors, got = [], []

    def read():
        got.append(pair[0].recv(1))
        if len(got) == 1:
            raise ZeroDivisionError

    reactor.set_exception_handler(lambda _, context: errors.append(type(context["exception"])))
    reactor.add_reader(pair[0], read)
    pair[1].send(b"ab")
    reactor.run_until(lambda: len(got) == 2, deadline=patience(reactor))
    assert (got, errors) == ([b"a", b"b"], [ZeroDivisionError])
    reactor.remove_reader(pair[0])


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("direction", ["reader", "writer"])
def test_callback_that_removes_itself_and_raises_is_reported(reactor, pair, direction, debug):
    """The handle that is reported is nobody's any more by then."""
    contexts = []

    def leave():
        getattr(reactor, f"remove_{direction}")(pair[0])
        raise ZeroDivisionError

    reactor.set_debug(debug)
    reactor.set_exception_handler(lambda _, context: contexts.append(context))
    getattr(reactor, f"add_{direction}")(pair[0], leave)
    pair[1].send(b"x")
    reactor.run_until(lambda: contexts, deadline=patience(reactor))
    assert [type(context["exception"]) for context in contexts] == [ZeroDivisionError]
    assert contexts[0]["handle"].cancelled()


@pytest.mark.parametrize("fd", [-1, "text", None, 1.5, object()])
@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
def test_add_reader_bad_fd_raises_value_error(reactor, method, fd):
    """What is no fd is refused at the call; the kernel would only say EBADF."""
    with pytest.raises(ValueError, match="file"):
        getattr(reactor, method)(fd, print)
    assert reactor.stats()["fds"] == 0


def test_add_reader_not_callable_raises_and_watches_nothing(reactor, pair):
    """A watched fd without a callback would spin."""
    with pytest.raises(TypeError, match="callable"):
        reactor.add_reader(pair[0], None)
    assert reactor.stats()["fds"] == 0


@pytest.mark.parametrize("method", ["remove_reader", "remove_writer"])
def test_remove_reader_unknown_fd_returns_false(reactor, pair, method):
    """Clean-up paths remove what may never have been added."""
    assert getattr(reactor, method)(pair[0]) is False


def test_add_reader_fd_of_an_endpoint_raises_and_leaves_it(reactor_module, reactor, pair):
    """Two owners of one fd steal each other's bytes; the message names the first one."""
    trace = []
    reactor.register(pair[0], READ, recording_endpoint(reactor_module, trace, "owner", reactor=reactor))
    for method in (reactor.add_reader, reactor.add_writer):
        with pytest.raises(RuntimeError, match="belongs to <Recorder owner>"):
            method(pair[0], print)
    with pytest.raises(RuntimeError, match="belongs to <Recorder owner>"):
        reactor.remove_reader(pair[0])
    pair[1].send(b"x")
    run_turns(reactor, 1)
    assert trace == [("owner", "readable")]
    reactor.unregister(pair[0])


# --- endpoints --------------------------------------------------------------------------------------------------------


def test_endpoint_readable_and_writable_are_called_in_that_order(reactor_module, reactor, pair):
    """Read before write: a reply to what was just read can leave in the same turn."""
    trace = []
    endpoint = recording_endpoint(reactor_module, trace, "a", reactor=reactor)
    reactor.register(pair[0], READ | WRITE, endpoint)
    pair[1].send(b"x")
    run_turns(reactor, 1)
    assert trace == [("a", "readable"), ("a", "writable")]
    reactor.unregister(pair[0])


def test_endpoint_closed_by_on_readable_gets_no_on_writable(reactor_module, reactor, pair):
    """Closing in the first half of an event must end it: the fd may be gone."""
    trace = []

    def close():
        endpoint.closed = True
        reactor.unregister(pair[0])

    endpoint = recording_endpoint(reactor_module, trace, "a", reactor=reactor, readable=close)
    reactor.register(pair[0], READ | WRITE, endpoint)
    pair[1].send(b"x")
    run_turns(reactor, 2)
    assert trace == [("a", "readable")]


@pytest.mark.parametrize("way", ["closed", "unregistered"])
@pytest.mark.parametrize("when", ["before", "in between"])
def test_endpoint_gone_earlier_in_the_turn_gets_nothing_more(reactor_module, reactor, pair, way, when):
    """Either way of going is enough by itself, before both halves of the event and between them."""
    trace = []

    def leave():
        if way == "closed":
            endpoint.closed = True
        else:
            reactor.unregister(pair[0])

    actions = {"readable": leave} if when == "in between" else {}
    endpoint = recording_endpoint(reactor_module, trace, "a", reactor=reactor, **actions)
    reactor.register(pair[0], READ | WRITE, endpoint)
    pair[1].send(b"x")
    if when == "before":
        reactor.call_soon(leave)
    run_turns(reactor, 1)
    assert trace == ([("a", "readable")] if when == "in between" else [])


def test_selector_modify_whose_old_data_registers_another_in_its_destructor_knows_which_it_has(
    reactor_module, reactor, pair
):
    """The compiled reactor calls an endpoint without asking what it is: what is there and what it is go together."""
    selector = reactor._selector

    class Old:
        def __del__(self):
            selector.unregister(pair[0])
            selector.register(pair[0], READ, "no endpoint")

    selector.register(pair[0], READ, Old())
    key = selector.modify(pair[0], READ, reactor_module.Endpoint(reactor))
    pair[1].send(b"x")
    with contextlib.suppress(AttributeError, TypeError):  # what is no endpoint cannot be called
        run_turns(reactor, 1)
    assert key.fd == pair[0].fileno()
    assert selector.unregister(pair[0]).data == "no endpoint"


@pytest.mark.parametrize("events", [READ, WRITE])
def test_endpoint_modified_earlier_in_the_turn_gets_only_what_it_still_asks_for(reactor_module, reactor, pair, events):
    """Pausing reading from somebody else's callback holds from that moment on."""
    trace = []
    endpoint = recording_endpoint(reactor_module, trace, "a", reactor=reactor)
    reactor.register(pair[0], READ | WRITE, endpoint)
    pair[1].send(b"x")
    reactor.call_soon(reactor.modify, pair[0], events, endpoint)
    run_turns(reactor, 1)
    assert trace == [("a", "readable" if events == READ else "writable")]
    reactor.unregister(pair[0])


def test_endpoint_fd_reused_in_the_same_turn_gets_no_stale_event(reactor_module, reactor):
    """A connection that gets the number of one just closed must not be told of the dead one's data."""
    trace, endpoints = [], {}
    ends = {name: socket.socketpair() for name in ("a", "b", "new")}

    def close_other_and_reuse(other):
        victim, newcomer = ends[other][0], ends["new"][0]
        if "new" in endpoints:
            return
        reactor.unregister(victim)
        endpoints[other].closed = True
        number = victim.detach()
        os.dup2(newcomer.fileno(), number)  # closes the victim and gives its number to the newcomer
        newcomer.close()
        ends["new"] = (socket.socket(fileno=number), ends["new"][1])
        endpoints["new"] = recording_endpoint(reactor_module, trace, "new", reactor=reactor)
        reactor.register(number, READ, endpoints["new"])

    for me, other in (("a", "b"), ("b", "a")):
        action = functools.partial(close_other_and_reuse, other)
        endpoints[me] = recording_endpoint(reactor_module, trace, me, reactor=reactor, readable=action)
        reactor.register(ends[me][0], READ, endpoints[me])
        ends[me][1].send(b"x")
    run_turns(reactor, 1)
    assert trace in ([("a", "readable")], [("b", "readable")])
    ends["new"][1].send(b"y")
    reactor.run_until(lambda: ("new", "readable") in trace, deadline=patience(reactor))
    for one, other in ends.values():
        one.close()
        other.close()


def test_endpoint_raises_is_reported_with_the_endpoint_and_poked_again(reactor_module, reactor, pair):
    """What escapes an endpoint names it, ends nothing, and does not block later events of it."""
    trace, contexts = [], []

    def fail():
        if len(trace) == 1:
            raise ZeroDivisionError("once")

    reactor.set_exception_handler(lambda _, context: contexts.append(context))
    endpoint = recording_endpoint(reactor_module, trace, "a", reactor=reactor, readable=fail)
    reactor.register(pair[0], READ | WRITE, endpoint)
    pair[1].send(b"x")
    run_turns(reactor, 2)
    assert trace == [("a", "readable"), ("a", "readable"), ("a", "writable")]
    assert [(context["endpoint"], type(context["exception"])) for context in contexts] == [
        (endpoint, ZeroDivisionError)
    ]
    assert contexts[0]["message"] == "Exception in endpoint <Recorder a>"
    reactor.unregister(pair[0])


def test_endpoint_base_class_ignores_what_it_does_not_override(reactor_module, reactor, pair):
    """A listener overrides one method of the three; the others do nothing."""
    endpoint = reactor_module.Endpoint(reactor)
    assert (endpoint.closed, endpoint.on_readable(), endpoint.on_writable(), endpoint.flush()) == (False,) + (None,) * 3


def test_endpoint_subclass_with_slots_has_no_dict(reactor_module, reactor):
    """An idle connection's memory is a promise; a __dict__ by accident would break it."""

    class Slotted(reactor_module.Endpoint):
        __slots__ = ("sock",)

    with pytest.raises(AttributeError):
        Slotted(reactor).anything = 1


def test_register_no_endpoint_raises_type_error(reactor, pair):
    """A stranger in the FIFO would fail inside of the turn, far from the mistake."""
    with pytest.raises(TypeError, match="Endpoint"):
        reactor.register(pair[0], READ, object())
    assert reactor.stats()["fds"] == 0


def test_register_twice_raises_key_error(reactor_module, reactor, pair):
    """A second owner is a bug, and the first one stays."""
    reactor.register(pair[0], READ, reactor_module.Endpoint(reactor))
    with pytest.raises(KeyError):
        reactor.register(pair[0], READ, reactor_module.Endpoint(reactor))
    reactor.unregister(pair[0])


@pytest.mark.parametrize("events", [0, 4, -1, READ | 8])
def test_register_bad_events_raises_value_error(reactor_module, reactor, pair, events):
    """Only the two bits, at least one: to watch nothing is to unregister."""
    with pytest.raises(ValueError):
        reactor.register(pair[0], events, reactor_module.Endpoint(reactor))
    assert reactor.stats()["fds"] == 0


def test_modify_and_unregister_unknown_fd_raise_key_error(reactor_module, reactor, pair):
    """Unregistered twice is a bug in the owner's states, and is told."""
    with pytest.raises(KeyError):
        reactor.modify(pair[0], READ, reactor_module.Endpoint(reactor))
    with pytest.raises(KeyError):
        reactor.unregister(pair[0])


def test_recv_buffer_is_one_writable_memory_of_the_announced_size(reactor_module, reactor):
    """Connections read into it without asking; its size is their budget for a turn."""
    view = reactor.recv_buffer
    assert view.obj is reactor.recv_buffer.obj
    assert (len(view), view.readonly, view.format) == (reactor_module.RECV_BUFFER, False, "B")
    assert reactor_module.RECV_BUFFER == 256 * 1024


def test_recv_buffer_released_by_whoever_asked_is_still_there_for_the_others(reactor):
    """``with reactor.recv_buffer as view`` is how a view is used; connections read into the same memory."""
    with reactor.recv_buffer as view:
        view[0] = 7
    assert reactor.recv_buffer[0] == 7


def test_socket_factory_given_is_what_the_reactor_offers(reactor_module):
    """Listeners and connections make their sockets with it, so that a simulated kernel can stand in."""

    def factory(*args):
        return socket.socket(*args)

    with reactor_module.Reactor(socket_factory=factory) as reactor:
        assert reactor.socket_factory is factory


def test_call_soon_flood_does_not_starve_the_fds(reactor, pair):
    """A callback that always re-arms itself leaves each turn its look at the sockets."""
    got = []

    def busy():
        reactor.call_soon(busy)

    busy()
    reactor.add_reader(pair[0], lambda: got.append(pair[0].recv(1)))
    pair[1].send(b"x")
    assert reactor.run_until(lambda: got, deadline=patience(reactor)) is True
    reactor.remove_reader(pair[0])


@pytest.mark.parametrize("count", [1, 127, 128, 129, 300])
@pytest.mark.parametrize("before", ["nothing", "a callback"])
def test_many_fds_each_is_poked_once_a_turn(reactor_module, reactor, count, before):
    """More ready fds than one is the normal case of a server; none is left out, none comes twice, before any timer."""
    trace, ends = [], [socket.socketpair() for _ in range(count)]
    for number, (a, b) in enumerate(ends):
        reactor.register(a, READ, recording_endpoint(reactor_module, trace, number, reactor=reactor))
        b.send(b"x")
    if before != "nothing":
        reactor.call_soon(int)
    reactor.call_later(0, trace.append, "timer")
    for turns in (1, 2, 3):
        run_turns(reactor, 1)
        assert sorted(trace[:count]) == [(number, "readable") for number in range(count)]
        assert trace[count:] == ["timer"] * (turns == 1)
        assert (reactor.stats()["events"], reactor.stats()["fds"]) == (turns * count, count)
        trace.clear()
    for a, b in ends:
        reactor.unregister(a)
        a.close()
        b.close()


def test_add_reader_selector_reports_more_than_asked_for_calls_the_reader_alone(reactor_module, pair):
    """A selector of somebody else's may be careless; that must not run, or miss, a writer that was never added."""

    class Careless(selectors.SelectSelector):
        def select(self, timeout=None):
            return [(key, READ | WRITE) for key, _ in super().select(timeout)]

    got = []
    with reactor_module.Reactor(Careless()) as reactor:
        reactor.add_reader(pair[0], lambda: got.append(pair[0].recv(1)))
        pair[1].send(b"x")
        assert reactor.run_until(lambda: got, deadline=patience(reactor)) is True
        run_turns(reactor, 1)
        assert got == [b"x"]
        reactor.remove_reader(pair[0])


def test_cancelled_descriptor_closed_socket_can_still_be_removed(reactor, pair):
    """Some close first and remove afterwards; the object still names its entry."""
    reactor.add_reader(pair[0], print)
    pair[0].close()
    assert reactor.remove_reader(pair[0]) is True
    assert reactor.stats()["fds"] == 0
