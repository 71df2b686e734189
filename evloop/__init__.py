"""evloop: a selectors-based reactor for non-blocking sockets that exchanges whole, length-prefixed messages.

Six words: a *Reactor* turns the wheel; a *Connection* is one stream of whole frames; a *Protocol* is your callbacks,
or a function; a *Framing* is the wire format; *Limits* holds every bound; *Server* and *Client* glue them.

>>> import evloop
>>> def upper(conn, frame):
...     conn.send(frame.upper())
>>> evloop.serve(upper, "127.0.0.1:9000")  # doctest: +SKIP
"""

from evloop._version import __version__
from evloop.addresses import Address, parse_address
from evloop.client import BlockingClient, Connector, connect
from evloop.connection import Connection, ConnectionStats
from evloop.errors import (
    AddressError,
    BadLength,
    BadMagic,
    CloseReason,
    ConnectionClosed,
    EvloopError,
    FrameTooLarge,
    FramingError,
    SinkError,
    TlsError,
    TruncatedFrame,
    UnexpectedFrame,
)
from evloop.framing import DecoderStats, FrameDecoder, Framing
from evloop.group import Group
from evloop.limits import Limits
from evloop.protocol import Protocol
from evloop.reactor import Endpoint, Reactor
from evloop.server import Server, serve

__all__ = [
    # the wheel
    "Endpoint",
    "Reactor",
    # a stream of frames, and your callbacks
    "CloseReason",
    "Connection",
    "ConnectionStats",
    "Group",
    "Protocol",
    # the wire format
    "DecoderStats",
    "FrameDecoder",
    "Framing",
    # every bound
    "Limits",
    # servers and clients
    "Address",
    "BlockingClient",
    "Connector",
    "Server",
    "connect",
    "parse_address",
    "serve",
    # what can go wrong
    "AddressError",
    "BadLength",
    "BadMagic",
    "ConnectionClosed",
    "EvloopError",
    "FrameTooLarge",
    "FramingError",
    "SinkError",
    "TlsError",
    "TruncatedFrame",
    "UnexpectedFrame",
    "__version__",
]
