"""What ``evloop connect`` does on its connection: the steps that were asked for, then lines to frames and back.

A conversation goes down this list and ends exactly once, with a code and perhaps a sentence:

1. the steps, in order: send a text; wait for exactly one text;
2. input to frames and frames to output, both ways at once;
3. after the end of the input its own end of the stream, and the answers until the peer's.

Rule: nothing in this file may print, exit, or parse a command line.
Read next: ``standard_streams.py``, ``connect.py``, which turns the end into an exit code.
"""

from __future__ import annotations

import codecs
import dataclasses
import os
import sys
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import evloop
from evloop.cli import exits
from evloop.cli.printable import printable, quoted
from evloop.cli.standard_streams import Input, Output
from evloop.socket_queues import queued_input

# Output to the peer above which no more input is read, and at which it is read again.  The connection's own marks are
# switched off: above them it would not read either, and a peer that echoes more than the kernel holds would wait for us
# as we for it.
PAUSE_INPUT_ABOVE = 64 * 1024
RESUME_INPUT_AT = 16 * 1024
LIMITS = evloop.Limits(high_water=sys.maxsize, low_water=sys.maxsize, linger=0.5)

# How often a wait for progress looks whether there was any: the timeout is kept to a quarter.
LOOKS = 4


class Step(NamedTuple):
    """One --send or --expect."""

    expects: bool
    text: bytes


@dataclasses.dataclass
class End:
    """How a conversation ended: an exit code, a sentence for stderr or "", and the bug that was its cause or None."""

    code: int
    message: str = ""
    cause: BaseException | None = None


class Conversation(evloop.Protocol):
    """The protocol of the one connection.

    Args:
        steps: what to send and to wait for first.
        reads_input: then send the lines of descriptor 0; otherwise the input ends with the steps.
        terminal: descriptor 1 shows what it gets to a person: escape what could control it.
        timeout: seconds for each wait for the peer (float > 0), or None.

    Attributes:
        end: an :class:`End`, or None while it goes on.
    Owns: its timer, a duplicate of the connection's descriptor.  Reactor thread only.
    """

    def __init__(
        self,
        reactor: evloop.Reactor,
        framing: evloop.Framing | None,
        *,
        steps: Sequence[Step],
        reads_input: bool,
        terminal: bool,
        timeout: float | None,
    ) -> None:
        self.end: End | None = None
        self.conn: evloop.Connection | None = None
        self._reactor = reactor
        self._framing = framing
        self._steps = deque(steps)
        self._ends_with_steps = bool(steps) and steps[-1].expects and not reads_input
        self._reads_input = reads_input
        self._lines = Lines(framing)
        self._shown = Shown(framed=framing is not None) if terminal else None
        self._early: deque[bytes] = deque()  # arrived while there are steps, and not matched yet
        self._input_ended = False
        self._timeout = timeout
        self._timer: evloop.reactor.TimerHandle | None = None
        self._moved = 0
        self._looks = 0
        self._writable = -1
        self.input = Input(reactor, 0, self._input_received, self._input_failed)
        self.output = Output(reactor, 1, full=self._output_full, empty=self._output_empty, broken=self._output_broken)

    # --- callbacks of the connection -----------------------------------------------------------------------------

    def connection_made(self, conn: evloop.Connection) -> None:
        """Begin with the steps."""
        self.conn = conn
        # The peer's readiness for more, seen beside the connection, which watches its own descriptor.
        self._writable = os.dup(conn.fileno())
        self._next_steps()

    def frames_received(self, frames: list[bytes]) -> None:
        """Match the steps, then show."""
        if self._steps:
            self._early.extend(frames)
            self._next_steps()
        else:
            self._show(frames)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a peer without framing."""
        self.frames_received([data])

    def connection_lost(self, exc: BaseException | None) -> None:
        """Say what that means, unless the conversation is over already."""
        assert self.conn is not None
        self._watch_writable(False)
        os.close(self._writable)
        if self.end is None:
            self.end = self._end_by_peer(self.conn, exc)
        self._over()

    # --- the end -------------------------------------------------------------------------------------------------

    def finish(self, end: End) -> None:
        """End with *end*, the first one counts; what was sent is still flushed if the code is OK or FAILED."""
        if self.end is not None:
            return
        self.end = end
        if self.conn is None or self.conn.closed:
            self._over()
        elif end.code in (exits.OK, exits.FAILED):
            self.conn.close()
        else:
            self.conn.abort()

    def _over(self) -> None:
        self.input.pause()
        self._stop_waiting()
        self._reactor.stop()

    def _end_by_peer(self, conn: evloop.Connection, exc: BaseException | None) -> End:
        if conn.close_reason is evloop.CloseReason.HANDLER:
            return End(exits.FAILED, f"{type(exc).__name__}: {exc}", exc)
        if exc is not None:
            text = str(exc) if isinstance(exc, evloop.FramingError) else f"the connection broke: {exc}"
            remedy = "; see --framing and --max-frame" if isinstance(exc, evloop.FramingError) else ""
            return End(exits.PEER, f"{conn.peer}: {text}{remedy}")
        if self._steps:
            return End(exits.PEER, f"{conn.peer} has closed the connection before {quoted(self._steps[0].text)} came")
        if not self._input_ended:
            return End(exits.PEER, f"{conn.peer} has closed the connection before the end of the input")
        return End(exits.OK)

    # --- steps ---------------------------------------------------------------------------------------------------

    def _next_steps(self) -> None:
        assert self.conn is not None
        while self._steps and self.end is None:
            step = self._steps[0]
            if not step.expects:
                self.conn.send(step.text)
            else:
                got = self._expected(step.text)
                if got is None:
                    if self._timer is None and self._timeout is not None:
                        self._timer = self._reactor.call_later(self._timeout, self._nothing_came)
                    return
                self._stop_waiting()
                if got != step.text:
                    text = f"expected {quoted(step.text)}, received {quoted(got)}"
                    self.finish(End(exits.PEER, text))
            self._steps.popleft()
        if self.end is None:
            self._steps_done()

    def _expected(self, text: bytes) -> bytes | None:
        """Take the next frame, or what of an unframed stream is comparable with *text*; None: not there yet."""
        if self._framing is not None:
            return self._early.popleft() if self._early else None
        data = b"".join(self._early)
        self._early.clear()
        if len(data) < len(text) and text.startswith(data):
            self._early.append(data)
            return None
        if not data.startswith(text):
            return data
        self._early.append(data[len(text) :])
        return text

    def _steps_done(self) -> None:
        if self._ends_with_steps:
            self.finish(End(exits.OK))
            return
        early, self._early = [data for data in self._early if data or self._framing is not None], deque()
        self._show(early)
        if self._reads_input:
            self.input.resume()
        else:
            self._end_input()

    # --- from the input to the peer ------------------------------------------------------------------------------

    def _input_received(self, data: bytes) -> None:
        if self.end is not None or self.conn is None:
            return
        lines = self._lines.feed(data) if data else self._lines.rest()
        if lines:
            self.conn.send_many(lines)
        if self._lines.fault:
            self.finish(End(exits.FAILED, self._lines.fault))
        elif not data:
            self._end_input()
        elif self.conn.stats.output > PAUSE_INPUT_ABOVE:
            self.input.pause()
            self._watch_writable(True)
            self._wait_for_progress()

    def _input_failed(self, exc: OSError) -> None:
        self.finish(End(exits.FAILED, f"cannot read the standard input: {_cause(exc)}"))

    def _end_input(self) -> None:
        assert self.conn is not None
        self._input_ended = True
        self.conn.write_eof()
        self._wait_for_progress()

    def _watch_writable(self, wanted: bool) -> None:
        if wanted:
            self._reactor.add_writer(self._writable, self._room_for_more)
        else:
            self._reactor.remove_writer(self._writable)

    def _room_for_more(self) -> None:
        assert self.conn is not None
        if self.conn.stats.output <= RESUME_INPUT_AT:
            self._watch_writable(False)
            self._stop_waiting()
            self.input.resume()

    # --- from the peer to the output -----------------------------------------------------------------------------

    def _show(self, frames: list[bytes]) -> None:
        if not frames or self.end is not None:
            return
        if self._shown is not None:
            data = self._shown.feed(frames)
        elif self._framing is None:
            data = b"".join(frames)
        else:
            data = b"\n".join([*frames, b""])
        self.output.write(data)

    def _output_full(self) -> None:
        if self.conn is not None:
            self.conn.pause_reading()

    def _output_empty(self) -> None:
        if self.conn is not None:
            self.conn.resume_reading()

    def _output_broken(self, exc: OSError) -> None:
        if isinstance(exc, BrokenPipeError):
            self.finish(End(exits.BROKEN_PIPE))
        else:
            self.finish(End(exits.FAILED, f"cannot write the standard output: {_cause(exc)}"))

    # --- waiting for the peer ------------------------------------------------------------------------------------

    def _nothing_came(self) -> None:
        text = quoted(self._steps[0].text)
        self.finish(End(exits.TIMEOUT, f"{text} did not come within {self._timeout:g} s; see --timeout"))

    def _wait_for_progress(self) -> None:
        """From here on it is the peer's turn: end if no byte moves for the timeout."""
        self._stop_waiting()
        self._looks, self._moved = 0, self._bytes_moved()
        if self._timeout is not None:
            self._timer = self._reactor.call_later(self._timeout / LOOKS, self._look, self._timeout)

    def _look(self, timeout: float) -> None:
        moved, self._looks = self._bytes_moved(), self._looks + 1
        # What our own reader does not take is not the peer's delay.
        if moved != self._moved or self.output.pending:
            self._moved, self._looks = moved, 0
        if self._looks < LOOKS:
            self._timer = self._reactor.call_later(timeout / LOOKS, self._look, timeout)
        else:
            assert self.conn is not None
            text = f"{self.conn.peer} neither answered nor closed for {timeout:g} s; see --timeout"
            self.finish(End(exits.TIMEOUT, text))

    def _bytes_moved(self) -> int:
        assert self.conn is not None
        stats = self.conn.stats
        # A large body is left in the kernel until it is whole.
        return stats.bytes_received + queued_input(self.conn.fileno()) + stats.bytes_sent

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _cause(exc: OSError) -> str:
    text = exc.strerror or str(exc)
    return text[:1].lower() + text[1:]


class Lines:
    """Input cut into messages: lines without their newline; without framing, bytes as they come.

    Attributes:
        fault: what is wrong with a line, in words, or "".  Nothing comes after it.
    Owns: the beginning of the one unfinished line, at most max_frame and a chunk of bytes.
    """

    def __init__(self, framing: evloop.Framing | None) -> None:
        self._framing = framing
        self._begun = bytearray()
        self._count = 0
        self.fault = ""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that *data* completes."""
        if self._framing is None:
            return [data]
        first, newline, others = data.partition(b"\n")
        self._begun += first
        lines = []
        if newline:
            *whole, last = others.split(b"\n")
            lines = [bytes(self._begun), *whole]
            self._begun = bytearray(last)
        return self._checked(lines, len(self._begun))

    def rest(self) -> list[bytes]:
        """Return the last line, if it has no newline."""
        rest, self._begun = bytes(self._begun), bytearray()
        return self._checked([rest] if rest else [], 0)

    def _checked(self, lines: list[bytes], begun: int) -> list[bytes]:
        assert self._framing is not None or not begun
        if self._framing is None or self.fault:
            return lines if not self.fault else []
        most = self._framing.max_frame
        for index, size in enumerate((*map(len, lines), begun)):
            if size > most:
                number = self._count + index + 1
                self.fault = f"line {number} of {size} bytes or more exceeds max_frame {most}; see --max-frame"
                return lines[:index]
        self._count += len(lines)
        return lines


class Shown:
    """What arrives, as lines for a person's terminal: UTF-8, undecodable bytes replaced, control characters escaped."""

    def __init__(self, *, framed: bool) -> None:
        self._framed = framed
        # Without framing a character may be cut between two reads.
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def feed(self, frames: list[bytes]) -> bytes:
        """Return the bytes to write; a frame is one line, whatever is in it."""
        if self._framed:
            text = "".join(printable(frame.decode(errors="replace")) + "\n" for frame in frames)
        else:
            text = printable(self._decode(b"".join(frames)).replace("\r\n", "\n"), keep="\t\n")
        return text.encode()
