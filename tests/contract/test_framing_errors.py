"""The faults of a stream: sticky, with the frames before them, the offset, the header and a guess."""

from __future__ import annotations

import copy
import pickle
import struct
import sys

import pytest
from feeding import chunks, fault_of, feed_each

from evloop import errors
from evloop.errors import BadLength, BadMagic, FrameTooLarge, FramingError, SinkError, TruncatedFrame

FAMILIAR = {
    "GET": (b"GET / HTTP/1.1\r\n\r\n", "http", "an HTTP request"),
    "POST": (b"POST /a HTTP/1.1\r\n", "http", "an HTTP request"),
    "HEAD": (b"HEAD / HTTP/1.1\r\n", "http", "an HTTP request"),
    "PUT": (b"PUT /a HTTP/1.1\r\n", "http", "an HTTP request"),
    "DELETE": (b"DELETE /a HTTP/1.1\r\n", "http", "an HTTP request"),
    "OPTIONS": (b"OPTIONS * HTTP/1.1\r\n", "http", "an HTTP request"),
    "PATCH": (b"PATCH /a HTTP/1.1\r\n", "http", "an HTTP request"),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\n", "http", "an HTTP request"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http", "an HTTP request"),
    "TLS 1.0": (b"\x16\x03\x01\x02\x00\x01", "tls", "a TLS handshake"),
    "TLS 1.2": (b"\x16\x03\x03\x00\x50\x01", "tls", "a TLS handshake"),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", "ssh", "an SSH banner"),
}
each_familiar = pytest.mark.parametrize(("wire", "name", "text"), FAMILIAR.values(), ids=FAMILIAR)

SAMPLES = {
    "FrameTooLarge": FrameTooLarge(9, 5, position=0, header=b"GET ", frames=[b"a", (b"h", b"b")]),
    "FrameTooLarge, ours": FrameTooLarge(9, 5),
    "BadLength": BadLength("varint longer than 64 bits", position=1 << 40, header=b"\xff" * 10),
    "BadMagic": BadMagic(b"croc", b"crab", position=3, header=b"crab\0\0\0\0"),
    "TruncatedFrame": TruncatedFrame(3, 9, position=7, header=b"\0"),
    "SinkError": SinkError("sink took 1 of 2 bytes", position=0, header=b"SSH-", frames=[b""]),
    "FramingError": FramingError("cause"),
}
each_error = pytest.mark.parametrize("error", SAMPLES.values(), ids=SAMPLES)


def refused(decoder, *parts, limit=None):
    """Feed until the decoder refuses; return its error."""
    with pytest.raises(FramingError) as caught:
        for part in parts:
            decoder.feed(part, limit)
    return caught.value


@pytest.mark.parametrize("k", [0, 1, 2, 100])
def test_error_carries_the_frames_before_it_and_later_ones_do_not(framing_module, k):
    """Good frames in front of a bad one are good; Twisted delivers them twice, others never."""
    decoder = framing_module.Framing(1, max_frame=5).decoder()
    exc = refused(decoder, b"\x01a" * k + b"\x06bad")
    assert (exc.frames, exc.position, exc.header) == ([b"a"] * k, 2 * k, b"\x06")
    for _ in range(2):
        again = refused(decoder, b"\x01z")
        assert again is not exc
        assert fault_of(again) == (*fault_of(exc)[:-1], [])
    assert exc.frames == [b"a"] * k


@pytest.mark.parametrize("cut", range(1, 8))
def test_error_carries_only_the_frames_of_its_own_call(framing_module, cut):
    """What an earlier call returned has been delivered."""
    wire = b"\x01a\x02bc\x01d\x06"
    decoder = framing_module.Framing(1, max_frame=5).decoder()
    first = decoder.feed(wire[:cut])
    exc = refused(decoder, wire[cut:])
    assert first + exc.frames == [b"a", b"bc", b"d"]
    assert exc.position == 7


def test_error_behind_a_limit_is_raised_when_its_turn_comes(framing_module):
    """limit frames before the fault are ordinary results."""
    decoder = framing_module.Framing(1, max_frame=5).decoder()
    assert decoder.feed(b"\x01a\x01b\x06", 1) == [b"a"]
    assert decoder.feed(b"", 1) == [b"b"]
    assert refused(decoder, b"", limit=1).frames == []


def test_error_is_sticky_for_every_call_but_reset_and_take_rest(framing_module):
    """Tokio, Go's Scanner and msgpack went on after an error, into loops and freed memory."""
    decoder = framing_module.Framing(1, max_frame=5).decoder()
    refused(decoder, b"\x06")
    calls = (lambda: decoder.feed(b""), lambda: decoder.feed(b"\0", 0), decoder.eof, lambda: decoder.expect_raw(1))
    for call in calls * 2:
        with pytest.raises(FrameTooLarge):
            call()
    assert (decoder.failed, decoder.needed, decoder.position, decoder.buffered) == (True, 0, 0, 1)
    decoder.reset()
    assert (decoder.failed, decoder.feed(b"\x01a")) == (False, [b"a"])


def test_error_does_not_consume_what_follows(framing_module):
    """A failed decoder takes no more bytes, so that it cannot be made to grow."""
    decoder = framing_module.Framing(1, max_frame=5).decoder()
    refused(decoder, b"\x06")
    for _ in range(10):
        refused(decoder, bytes(1000))
    assert decoder.buffered == 1


def test_error_leaves_its_frames_to_the_caller_alone(framing_module):
    """A failed decoder that lingers until its connection is closed must not pin the frames it gave away."""
    decoder, frames = framing_module.Framing(1, max_frame=200).decoder(), []
    try:
        decoder.feed(b"\xc8" + bytes(200) + b"\xc9")
    except FrameTooLarge as exc:
        frames = exc.frames
    assert decoder.failed
    # The list's own reference, and the call's; counted outside the assert, which keeps one, too.
    count = sys.getrefcount(frames[0])
    assert count == 2


def test_error_wrong_arguments_come_before_the_fault(framing_module):
    """A TypeError says more to the caller who passed a str."""
    decoder = framing_module.Framing(1, max_frame=5).decoder()
    refused(decoder, b"\x06")
    for arguments in (("text",), (b"", -1), (b"", "1")):
        with pytest.raises((TypeError, ValueError)) as caught:
            decoder.feed(*arguments)
        assert not isinstance(caught.value, FramingError)


# --- the guess -------------------------------------------------------------------------------------------------


@each_familiar
def test_error_at_the_first_byte_guesses_the_protocol(framing_module, wire, name, text):
    """1195725856 is "GET "; an operator who sees the number alone looks for a bug in the framing."""
    for parts in ([wire], [wire[:1], wire[1:]], [wire[i : i + 1] for i in range(4)]):
        exc = refused(framing_module.Framing().decoder(), *parts)
        assert (exc.looks_like, exc.header) == (name, wire[:4])
        length = int.from_bytes(wire[:4], "big")
        assert str(exc) == (
            f"frame of {length} bytes exceeds max_frame 1048576 at offset 0; "
            f"header {wire[:4].hex(' ')} looks like {text}"
        )


@each_familiar
def test_error_behind_the_first_frame_guesses_nothing(framing_module, wire, name, text):
    """Later, these bytes are payload that came out of step: a guess would mislead."""
    exc = refused(framing_module.Framing().decoder(), b"\0\0\0\1a" + wire)
    assert (exc.position, exc.looks_like) == (5, None)
    assert "looks like" not in str(exc)


def test_error_guess_survives_being_raised_again(framing_module):
    """The log line is often written for the second error."""
    decoder = framing_module.Framing().decoder()
    first = refused(decoder, b"SSH-2.0")
    assert (refused(decoder, b"").looks_like, str(refused(decoder, b""))) == ("ssh", str(first))


def test_error_of_unknown_bytes_guesses_nothing(framing_module):
    """No guess is better than a wrong one."""
    assert refused(framing_module.Framing().decoder(), b"\xff\xff\xff\xff").looks_like is None


def test_error_of_wrong_magic_guesses_too(framing_module):
    """A format with a magic finds the stranger before the length."""
    exc = refused(framing_module.Framing(magic=b"croc").decoder(), b"GET / HTTP/1.1")
    assert (type(exc), exc.looks_like) == (BadMagic, "http")


def test_tutorial_server_with_the_other_byte_order_says_what_it_got(framing_module):
    """A big-endian reader gets the tutorial client's native 38: 637534208 bytes, at the header, nothing allocated."""
    decoder = framing_module.Framing(max_frame=1 << 20).decoder()
    exc = refused(decoder, struct.pack("<i", 38) + b"{}")
    assert (exc.length, exc.header, exc.looks_like) == (38 << 24, b"\x26\0\0\0", None)


# --- the exceptions as objects ---------------------------------------------------------------------------------


@each_error
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_error_pickles_with_everything_it_carries(error, protocol):
    """A worker process reports to its parent."""
    assert fault_of(pickle.loads(pickle.dumps(error, protocol))) == fault_of(error)


@each_error
def test_error_copies_and_repeats(error):
    """again() is what a failed decoder raises: the same without the frames."""
    assert fault_of(copy.copy(error)) == fault_of(error)
    assert fault_of(error.again()) == (*fault_of(error)[:-1], [])


def test_error_of_a_decoder_pickles(framing_module):
    """Not only those made by hand."""
    exc = refused(framing_module.Framing(1, max_frame=5).decoder(), b"\x01a\x06")
    assert fault_of(pickle.loads(pickle.dumps(exc))) == fault_of(exc)


@pytest.mark.parametrize(
    "error",
    [
        errors.AddressError("bad address"),
        errors.ConnectionClosed("peer closed"),
        errors.UnexpectedFrame(b"ready", b"busy"),
        errors.EvloopError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_outside_the_framing_pickles(error):
    """Every exception of the tree, for the same reason."""
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def test_error_classes_are_value_errors_of_one_tree():
    """except ValueError and except EvloopError both catch a broken stream."""
    for error in SAMPLES.values():
        assert isinstance(error, (FramingError,))
        assert isinstance(error, ValueError)
        assert isinstance(error, errors.EvloopError)


@pytest.mark.parametrize("values", [(), (1,), (1, 2, 3)])
def test_error_with_the_wrong_number_of_values_is_type_error(values):
    """FrameTooLarge(length) without its limit would print nonsense later."""
    with pytest.raises(TypeError, match="FrameTooLarge takes length, limit"):
        FrameTooLarge(*values)


def test_error_frames_are_a_list_of_its_own():
    """A shared default list would carry frames from one connection to the next."""
    one, other = FramingError("a"), FramingError("b")
    one.frames.append(b"x")
    assert other.frames == []


def test_error_cut_in_each_place_is_the_same_error(framing_module):
    """Where the network cuts must not show."""
    wire = b"cr\x01acr\x02bccr\x09"
    faults = set()
    for cut in range(len(wire) + 1):
        decoder = framing_module.Framing(1, magic=b"cr", max_frame=5).decoder()
        with pytest.raises(FrameTooLarge) as caught:
            feed_each(decoder, chunks(wire, cut))
        faults.add(fault_of(caught.value)[:-1])
    assert faults == {
        (
            "FrameTooLarge",
            "frame of 9 bytes exceeds max_frame 5 at offset 9; header 63 72 09",
            (9, 5),
            9,
            b"cr\x09",
            None,
        )
    }
