"""The server side of a WebSocket (RFC 6455) on a connection of ours: whole messages in, ready-made frames out.

The ``websockets`` package's sans-I/O parser checks the handshake, unmasks, answers pings and closes, and refuses what
breaks the protocol; this file gives it bytes in portions, joins fragments, and holds what may not be delivered yet.
What is sent does not pass through the package: a frame to a client is its payload behind 2, 4 or 10 constant bytes,
which :func:`data_frame` makes once for however many connections get it.

Rule: nothing in this file may know what the messages mean.  Read next: ``http.py``, which a WebSocket begins as.
"""

from __future__ import annotations

import logging
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from evloop import CloseReason, Connection, Protocol, Reactor
from evloop.apps.http import Request

# For the package, which tells each connection at INFO, and at DEBUG each message with its text.  The first is noise,
# and what people say to each other is not for a log; so this one begins with warnings, whatever is asked of `evloop`.
logger = logging.getLogger("evloop.websocket")
logger.setLevel(logging.WARNING)

# Bytes that the parser gets at once.  A read may hold 256 KiB, which is 43,000 of the smallest frames, and one takes
# the parser some 3 us (35,000 instructions, with 100 bytes); 1 KiB of them takes it half a millisecond.
PORTION = 1024

# Frames after which the others get their turn: about the same time, with the smallest frames and with usual ones.  What
# is left of the read goes back to the connection, which is three copies of it; they take less than the frames do.
FRAMES_PER_TURN = 256

# Bytes of the reason in a close frame: a control frame has 125 at most, and the code takes two (RFC 6455, 5.5.1).
MAX_REASON = 123

_TEXT = 0x80 | Opcode.TEXT  # FIN, and the opcode
_BINARY = 0x80 | Opcode.BINARY
_SHORT = struct.Struct("!BB")
_MEDIUM = struct.Struct("!BBH")
_LONG = struct.Struct("!BBQ")


def data_frame(payload: bytes, *, text: bool) -> bytes:
    """Return a whole message to a client on the wire: UTF-8 of a text, or any bytes; unmasked (RFC 6455, 5.2).

    Any thread; the same bytes are good for every WebSocket without extensions, and that is all of ours.  A quarter of
    the instructions that the package takes for it (2,600 of 10,400).
    """
    size, first = len(payload), _TEXT if text else _BINARY
    if size < 126:
        return _SHORT.pack(first, size) + payload
    if size < 0x10000:
        return _MEDIUM.pack(first, 126, size) + payload
    return _LONG.pack(first, 127, size) + payload


class WebSocket(Protocol):
    """One WebSocket; a subclass has ``message_received(payload: bytes)``, called once per message, in order.

    Args:
        reactor: who drives the connection.
        subprotocols: names that are spoken, in order of preference; a client that offers none of them is refused, one
            that offers nothing gets the first without its being said.
        max_message: bytes of a message, fragments added up (int > 0); one more is a close with 1009.

    Attributes:
        conn: the connection, with ``framing=None``; set by :meth:`begin`.
        subprotocol: the one that holds (str).
        text: whether messages are texts, in both directions (bool); the other kind is a close with 1003.

    Extensions are refused: compression would take 50 KiB a connection, and could not be shared by the receivers of one
    message.  Reactor thread only.
    """

    text = True

    def __init__(self, reactor: Reactor, subprotocols: Sequence[str], max_message: int) -> None:
        self.reactor = reactor
        self.subprotocol = subprotocols[0]
        names = [Subprotocol(name) for name in subprotocols]
        self._parser = _Parser(subprotocols=names, max_size=max_message, logger=logger)
        self._events: deque[Any] = deque()  # what was parsed and not delivered
        self._answers = b""  # what the parser answers to those, behind them in the order
        self._ends = False  # the parser wants nothing more after those
        self._message: bytearray | None = None  # the fragments so far
        self._paused = self._full = False

    # --- the handshake -------------------------------------------------------------------------------------------

    def begin(self, conn: Connection, request: Request) -> bool:
        """Answer *request*, the handshake; return whether *conn* is a WebSocket now, else it is closing.

        The answer to a client that does not speak as it should says what is wrong: 400, 405, 426.
        """
        self.conn = conn
        parser = self._parser
        parser.receive_data(request.head)
        events = parser.events_received()
        if not events:  # its parser is stricter than ours: transfer codings, a body
            return self._refuse(b"".join(parser.data_to_send()) or _NOT_A_HANDSHAKE)
        handshake = events[0]
        assert isinstance(handshake, Handshake)
        response = parser.accept(handshake)
        _tidy(response.headers)
        parser.send_response(response)
        answer = b"".join(parser.data_to_send())
        if parser.state is not State.OPEN:
            return self._refuse(answer)
        conn.send(answer)
        self.subprotocol = parser.subprotocol or self.subprotocol
        return True

    def _refuse(self, answer: bytes) -> bool:
        self.conn.send(answer)
        self.conn.close()
        self._parser.let_go()
        return False

    # --- input ---------------------------------------------------------------------------------------------------

    def message_received(self, payload: bytes) -> None:
        """Take a message; a subclass has it."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Take *data*, and deliver the messages that it completes."""
        self._go_on(data)

    def close_received(self) -> bool:
        """Called when the client has sent its close frame, or broken the protocol, with all before that delivered.

        Return true to go on sending, and call :meth:`close` later, which answers it; otherwise that is done at once.
        An answer may wait for what is being sent (RFC 6455, 5.5.1).
        """
        return False

    def pause_reading(self) -> None:
        """Deliver nothing more, from this message on, until :meth:`resume_reading`.  Idempotent."""
        self._paused = True
        self.conn.pause_reading()

    def resume_reading(self) -> None:
        """Deliver again, what was held back first, from the next turn on.  Idempotent."""
        if self._paused:
            self._paused = False
            self.reactor.call_soon(self._resume)

    def _resume(self) -> None:
        try:
            self._go_on()
        except Exception as exc:  # not inside of a callback of the connection, which would have done the same
            self.conn.close_for(CloseReason.HANDLER, exc)
        if not self._paused:
            self.conn.resume_reading()

    def pause_writing(self) -> None:
        """Parse nothing more: a client that does not take its answers gets no more questions answered."""
        self._full = True

    def resume_writing(self) -> None:
        """Parse again."""
        self._full = False
        self._go_on()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of everything; a subclass calls this."""
        self._parser.let_go()

    def _go_on(self, data: bytes = b"") -> None:
        """Deliver what is parsed, and then what *data* has, for one turn's worth of frames."""
        left, at = FRAMES_PER_TURN, 0
        while not (self._paused or self._full or self.conn.is_closing()):
            if self._events:
                left -= 1
                self._take(self._events.popleft())
            elif self._answers or self._ends:
                self._send_answers()
            elif at >= len(data):
                return
            elif left <= 0:
                break
            else:
                self._parse(data[at : at + PORTION])
                at += PORTION
        if at < len(data):
            # To be delivered again, in a later turn, and counted meanwhile as what this connection holds.
            self.conn.set_framing(None, data[at:])

    def _parse(self, portion: bytes) -> None:
        """Have *portion* parsed; what it makes whole is to be delivered, and then answered."""
        parser = self._parser
        parser.receive_data(portion)
        self._events.extend(parser.events_received())
        writes = parser.data_to_send()
        if writes:
            self._ends = writes[-1] == b""  # SEND_EOF
            self._answers = b"".join(writes)

    def _send_answers(self) -> None:
        if self._ends and self.close_received():
            return self.pause_reading()
        answers, self._answers = self._answers, b""
        if answers:
            self.conn.send(answers)
        if self._ends:
            self.conn.close()
        return None

    def _take(self, frame: Frame) -> None:
        """Deliver the message that *frame* completes, if it does; control frames have been answered."""
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if (opcode is Opcode.TEXT) is not self.text:
                wanted, got = ("text", "binary") if self.text else ("binary", "text")
                text = f"{self.subprotocol} has {wanted} messages, and this is a {got} one"
                return self.close(CloseCode.UNSUPPORTED_DATA, text)
            if frame.fin:
                return self._deliver(bytes(frame.data))
            self._message = bytearray(frame.data)
        elif opcode is Opcode.CONT and self._message is not None:
            self._message += frame.data
            if frame.fin:
                message, self._message = bytes(self._message), None
                return self._deliver(message)
        return None

    def _deliver(self, payload: bytes) -> None:
        if self.text:
            try:
                payload.decode()
            except UnicodeDecodeError as exc:
                # "must _Fail the WebSocket Connection_" (RFC 6455, 8.1), and browsers' authors rely on it.
                return self.close(CloseCode.INVALID_DATA, f"invalid UTF-8 at byte {exc.start} of a text message")
        return self.message_received(payload)

    # --- output and the end --------------------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        """Send one message; on a closing connection it is dropped in silence, as there."""
        self.conn.send(data_frame(payload, text=self.text))

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame, and close in good order: what the client still sends is discarded.  Idempotent.

        Args:
            code: 1000..1014 or 3000..4999, as RFC 6455, 7.4 has them.
            reason: a text for people; cut to MAX_REASON bytes of UTF-8.

        The client's own close frame is not waited for by itself: the connection waits briefly for the client's end of
        the stream, discarding what comes, which is the same time for all who close.
        """
        if self.conn.is_closing():
            return
        parser = self._parser
        if parser.state is State.OPEN:
            parser.send_close(code, reason.encode()[:MAX_REASON].decode(errors="ignore"))
            self._answers += b"".join(parser.data_to_send())
        if self._answers:  # or those to a close frame that came behind the message which is being treated
            self.conn.send(self._answers)
            self._answers = b""
        self.conn.close()


_NOT_A_HANDSHAKE = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class _Parser(ServerProtocol):
    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        """Return the first of ours that was offered; None to a client that offers nothing: one typed by hand does not.

        Raises:
            NegotiationError: others were offered; a client that speaks version 2 is not to be answered in version 1.
        """
        ours = self.available_subprotocols or ()
        for name in ours:
            if name in subprotocols:
                return name
        if subprotocols:
            raise NegotiationError(f"no subprotocol in common; spoken here: {', '.join(ours)}")
        return None

    def let_go(self) -> None:
        """Break the circles in here, a generator and its own object: else each connection is the collector's."""
        self.parser.close()
        self.parser_exc = self.handshake_exc = None


def _tidy(headers: Headers) -> None:
    """Make the library's refusals end as ours do."""
    if "Content-Length" in headers:
        headers["Cache-Control"] = "no-store"
