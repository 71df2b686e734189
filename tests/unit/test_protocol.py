"""How a handler is told apart, and what is refused with words that say what to do."""

from __future__ import annotations

import functools

import pytest

import evloop
from evloop import Protocol
from evloop.protocol import FunctionProtocol, protocol_factory_of


class Echo(Protocol):
    def frame_received(self, frame):
        pass


class Callable_:
    def __call__(self, conn, frame):
        return (conn, frame)

    def method(self, conn, frame):
        return (conn, frame)


class AsyncCallable:
    async def __call__(self, conn, frame):
        pass


def function(conn, frame):
    return (conn, frame)


async def coroutine(conn):
    pass


@pytest.mark.parametrize(
    "handler",
    [function, lambda conn, frame: (conn, frame), Callable_(), Callable_().method, functools.partial(function)],
    ids=["function", "lambda", "object", "method", "partial"],
)
def test_protocol_factory_callable_is_called_per_frame(handler):
    """Whatever can be called with (conn, frame) is a handler."""
    protocol = protocol_factory_of(handler, None)()
    assert isinstance(protocol, FunctionProtocol)
    assert protocol.handler("the connection", b"x") == ("the connection", b"x")


def test_protocol_factory_subclass_makes_one_object_per_connection():
    """State of one peer must not be another's."""
    factory = protocol_factory_of(Echo, None)
    first, second = factory(), factory()
    assert type(first) is type(second) is Echo
    assert first is not second


def test_protocol_factory_of_a_function_makes_one_protocol_for_all():
    """It keeps nothing of a connection, so ten thousand idle ones need not have ten thousand of it."""
    factory = protocol_factory_of(function, None)
    assert factory() is factory()
    assert not hasattr(factory(), "__dict__")


def test_protocol_factory_given_is_used_as_it_is():
    """A factory is only ever protocol_factory=."""
    made = Echo()
    assert protocol_factory_of(None, lambda: made)() is made
    assert protocol_factory_of(None, Echo) is Echo


@pytest.mark.parametrize(
    ("handler", "factory", "words"),
    [
        (None, None, "give a handler or a protocol_factory, and not both"),
        (function, Echo, "give a handler or a protocol_factory, and not both"),
        (None, 5, "protocol_factory must be callable, not int"),
        (None, Echo(), "protocol_factory must be callable, not Echo"),
        (5, None, "a handler must be a function or a Protocol class, not int"),
        ("echo", None, "a handler must be a function or a Protocol class, not str"),
        (Callable_, None, "protocol_factory=Callable_"),
        (dict, None, "class dict is no evloop.Protocol"),
        (Echo(), None, "not an object of it"),
        (coroutine, None, "a coroutine handler needs an event loop to run in"),
        (functools.partial(functools.partial(coroutine)), None, "a coroutine handler needs an event loop to run in"),
        (AsyncCallable(), None, "a coroutine handler needs an event loop to run in"),
    ],
    ids=["none", "both", "int-factory", "object-factory", "int", "str", "class", "builtin", "object", "coroutine",
         "partial-coroutine", "async-call"],
)  # fmt: skip
def test_protocol_factory_wrong_kind_is_refused_with_clear_words(handler, factory, words):
    """A handler of the wrong kind would fail at the first peer, in a log that nobody reads."""
    with pytest.raises(TypeError) as caught:
        protocol_factory_of(handler, factory)
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_protocol_factory_generator_function_is_refused(kind):
    """Called per frame it would return an object and do nothing, for ever and in silence."""

    def generator(conn, frame):
        yield

    async def async_generator(conn, frame):
        yield

    with pytest.raises(TypeError):
        protocol_factory_of(generator if kind == "generator" else async_generator, None)


def test_protocol_factory_partial_of_a_protocol_class_is_refused():
    """A partial is called per frame; that of a class makes an object for each, and does nothing with it."""
    with pytest.raises(TypeError):
        protocol_factory_of(functools.partial(Echo, 1), None)


@pytest.mark.parametrize("user", [evloop.Server, evloop.connect])
@pytest.mark.parametrize(
    "handler", [None, 5, coroutine, dict, Echo()], ids=["none", "int", "coroutine", "class", "object"]
)
def test_protocol_wrong_handler_is_refused_by_server_and_connect(user, handler):
    """Where the mistake is made, before a socket is."""
    with evloop.Reactor() as reactor, pytest.raises(TypeError):
        user(reactor, handler) if user is evloop.Server else user(reactor, "127.0.0.1:9", handler)


def test_protocol_base_callbacks_take_everything_and_keep_the_default():
    """eof_received's falsy answer means "close when flushed"."""
    protocol = Protocol()
    assert protocol.connection_made(None) is None
    assert not protocol.eof_received()
    assert protocol.pause_writing() is protocol.resume_writing() is protocol.connection_lost(None) is None
    assert not hasattr(protocol, "frame_received")
    assert not hasattr(protocol, "frames_received")
    assert not hasattr(protocol, "data_received")
