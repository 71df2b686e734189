"""A connection over SEQPACKET sockets: what carries a stream, what is a message, what the kernel does at the edges."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import errno
import random
import socket

import pytest
from packetpeers import PACKET, SEQPACKET, narrow_packet_pair, packet_pair, packets
from peers import BatchRecorder, DataRecorder, FrameRecorder, echo, encode
from test_connection_reentry import PLACES, collection_after

from evloop import CloseReason, FrameTooLarge
from evloop._connection_shared import SEND_BUDGET
from evloop.reactor import RECV_BUFFER


def largest():
    """Return the bytes of the largest packet that fits the kernel's default buffer."""
    with socket.socket(*SEQPACKET) as sock:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32


def send_raw(peer, *packets):
    """Have *peer* send packets of just these bytes; each has to fit."""
    for packet in packets:
        assert peer.sock.send(packet) == len(packet)


def wide_pair():
    """A pair whose peer's packets may be larger than what is read at once."""
    ours, theirs = packet_pair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, RECV_BUFFER)  # doubled; below wmem_max's usual 208 KiB
    if theirs.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < RECV_BUFFER + 64:
        ours.close(), theirs.close()
        pytest.skip("net.core.wmem_max is too small for a packet that is too large")
    return ours, theirs


# --- packets that carry a stream -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 1000])
def test_packets_with_framing_a_frame_in_several_packets_is_one_frame(packets, cut):
    """Where a packet ends means nothing, header or not."""
    rec = FrameRecorder()
    _, peer = packets.connect(rec)
    data = encode(b"x" * 2000)
    send_raw(peer, data[:cut], data[cut:])
    packets.settle()
    assert rec.frames == [b"x" * 2000]


def test_packets_with_framing_several_frames_in_one_packet_are_one_batch(packets):
    """What was read at once is delivered at once, as from a stream."""
    rec = BatchRecorder()
    _, peer = packets.connect(rec)
    send_raw(peer, encode(b"one", b"two") + encode(b"three")[:-1], b"e" + encode(b""))
    packets.settle()
    assert rec.frames == [b"one", b"two", b"three", b""]
    assert rec.log == ["made", "frames", "frames"]


def test_packets_with_framing_are_of_at_most_64_kib_and_hold_what_was_sent_at_once(packets):
    """A peer that reads 64 KiB at a time loses nothing, and small answers to one read are one packet."""
    rec = BatchRecorder(frames=lambda rec, frames: rec.conn.send_many(frames))
    _, peer = packets.connect(rec, reading=True)
    send_raw(peer, encode(b"1", b"2", b"3"))
    packets.settle()
    assert peer.packets == [encode(b"1", b"2", b"3")]
    payload = random.Random(1).randbytes(300_000)
    rec.conn.send(payload)
    packets.until(lambda: len(peer.received) >= 300_000)
    assert peer.frames == [b"1", b"2", b"3", payload]
    assert max(map(len, peer.packets)) == PACKET


def test_packets_with_framing_of_a_socket_with_little_room_are_smaller(packets):
    """SO_SNDBUF bounds a packet, whatever we would like to send."""
    rec = FrameRecorder()
    conn, peer = packets.connect(rec, pair=lambda: packet_pair(8192), reading=True)
    conn.send(bytes(100_000))
    packets.until(lambda: len(peer.received) == 100_004)
    assert max(map(len, peer.packets)) == 8192 - 32


def test_packets_with_framing_ten_mebibytes_are_echoed(packets):
    """Both directions at once, with a peer that takes as fast as it gives."""
    rec = FrameRecorder(frame=echo)
    _, peer = packets.connect(rec, reading=True)
    data = encode(*[random.Random(number).randbytes(1 << 20) for number in range(10)])
    peer.write(data, fin=True)
    packets.until(lambda: peer.ended and rec.lost)
    assert peer.received == data
    assert rec.reason is CloseReason.PEER


def test_packets_with_framing_empty_frames_are_frames(packets):
    """Only a packet cannot be empty."""
    rec = FrameRecorder(frame=echo)
    _, peer = packets.connect(rec, reading=True)
    send_raw(peer, encode(b"", b""))
    packets.settle()
    assert (rec.frames, peer.frames) == ([b"", b""], [b"", b""])


# --- packets that are messages ---------------------------------------------------------------------------------------


def test_packets_without_framing_each_packet_is_one_message(packets):
    """The reason to use such a socket."""
    rec = DataRecorder()
    _, peer = packets.connect(rec, framing=None)
    sent = [b"one", b"two", bytes(100_000), b"x"]
    send_raw(peer, *sent)
    packets.settle()
    assert rec.frames == sent


def test_packets_without_framing_each_send_is_one_packet(packets):
    """Neither corked answers, nor send_many, nor what waits for room may be merged or cut."""
    rec = DataRecorder(
        data=lambda rec, data: (rec.conn.send(data), rec.conn.send(b"again"), rec.conn.send(bytearray(3)))
    )
    conn, peer = packets.connect(rec, framing=None, reading=True)
    send_raw(peer, b"question")
    packets.settle()
    assert peer.packets == [b"question", b"again", bytes(3)]
    del peer.packets[:]
    sent = [bytes([number % 251]) * (number * 37 % 5000 + 1) for number in range(1000)]
    conn.send_many(iter(sent[:500]))
    for message in sent[500:]:
        conn.send(message)
    assert conn.stats.output > 0
    packets.until(lambda: len(peer.packets) == 1000)
    assert peer.packets == sent
    assert (conn.stats.output, conn.stats.frames_sent) == (0, 1003)
    assert conn.stats.bytes_sent == sum(map(len, sent)) + 16


def test_packets_without_framing_largest_packet_passes_and_one_more_byte_does_not(packets):
    """The kernel's bound, found before anything is queued; the text names both numbers and the knob."""
    most = largest()
    conn, peer = packets.connect(DataRecorder(), framing=None, reading=True)
    for size in (most - 1, most):
        conn.send(bytes(size))
        packets.settle()
    with pytest.raises(FrameTooLarge) as caught:
        conn.send(bytes(most + 1))
    with pytest.raises(FrameTooLarge):
        conn.send_many([b"good", bytes(most + 1)])
    conn.send(b"after")
    packets.settle()
    assert [len(packet) for packet in peer.packets] == [most - 1, most, 5]
    text = str(caught.value)
    assert str(most + 1) in text and str(most) in text and "net.core.wmem_default" in text
    assert (caught.value.length, caught.value.limit) == (most + 1, most)


@pytest.mark.parametrize("send", [lambda conn: conn.send(b""), lambda conn: conn.send_many([b"good", b""])])
def test_packets_without_framing_empty_message_raises_and_nothing_is_sent(packets, send):
    """Its receiver would take it for the end of the stream."""
    conn, peer = packets.connect(DataRecorder(), framing=None, reading=True)
    with pytest.raises(ValueError, match="end of the stream"):
        send(conn)
    conn.send_many([])
    packets.settle()
    assert (peer.packets, conn.stats.frames_sent) == ([], 0)


def test_packets_without_framing_message_may_exceed_what_is_left_of_the_turn(packets):
    """The share of a turn ends inside some packet, which then must leave whole all the same."""
    kernel = packets.spy()
    conn, _ = packets.connect(DataRecorder(), framing=None)
    kernel.swallow_writes(conn)  # the real one takes less than the share at once
    size = largest()
    conn.send_many([bytes(size)] * 12)
    packets.settle()
    assert (kernel.sends(conn), kernel.taken(conn), conn.stats.output) == (12, 12 * size, 0)
    assert 12 * size > 2 * SEND_BUDGET


def test_packets_without_framing_water_marks_count_bytes(packets):
    """As without packets: a producer is told when to pause, and when to go on."""
    rec = DataRecorder()
    conn, peer = packets.connect(rec, framing=None, pair=narrow_packet_pair, high_water=10_000, low_water=1000)
    while "pause" not in rec.log:
        conn.send(bytes(100))
    assert 10_000 < conn.stats.output <= 10_100
    peer.reading = True
    packets.until(lambda: "resume" in rec.log)
    packets.settle()
    assert set(map(len, peer.packets)) == {100}
    assert rec.log == ["made", "pause", "resume"]


def test_packets_without_framing_after_a_broken_end_messages_are_dropped(packets):
    """What a peer that is gone is sent is dropped in silence, sizes and all."""
    rec = DataRecorder()
    conn, peer = packets.connect(rec, framing=None)
    conn.pause_reading()
    peer.close()
    for _ in range(3):
        conn.send(b"x")
        packets.turn(2)
    assert (conn.stats.output, rec.lost) == (0, False)
    conn.resume_reading()
    packets.settle()
    assert rec.reason is CloseReason.RESET


def test_packets_without_framing_write_eof_follows_the_last_message(packets):
    """Half-close is the peer's empty read, behind everything that was sent."""
    conn, peer = packets.connect(DataRecorder(), framing=None, pair=narrow_packet_pair)
    conn.send_many([bytes(1000)] * 50)
    conn.write_eof()
    with pytest.raises(RuntimeError):
        conn.send(b"late")
    peer.reading = True
    packets.until(lambda: peer.eof)
    assert peer.packets == [bytes(1000)] * 50
    assert conn.state == "open"


# --- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framed", [True, False])
def test_packets_packet_of_the_whole_buffer_is_read_and_one_more_byte_closes(packets, framed):
    """A packet that is cut in silence would be a corrupt message; what came before it is delivered."""
    options = {"pair": wide_pair} if framed else {"pair": wide_pair, "framing": None}
    rec = (FrameRecorder if framed else DataRecorder)()
    _, peer = packets.connect(rec, reading=True, **options)
    good = [bytes(size - 4) for size in (RECV_BUFFER - 1, RECV_BUFFER)]
    good = [encode(payload) for payload in good]
    for packet in good:
        send_raw(peer, packet)
        packets.settle()
    send_raw(peer, encode(b"last"), bytes(RECV_BUFFER + 1))
    packets.until(lambda: peer.eof)
    peer.fin()
    packets.until(lambda: rec.lost)
    assert rec.frames == (
        [bytes(len(packet) - 4) for packet in good] + [b"last"] if framed else [*good, encode(b"last")]
    )
    assert rec.reason is CloseReason.FRAME_TOO_LARGE
    assert str(rec.exc).startswith(f"packet of {RECV_BUFFER + 1} bytes exceeds {RECV_BUFFER}, ")


def test_packets_too_large_packet_waits_behind_what_is_held_back(packets):
    """A pause holds the fault, too: the good message comes first, whenever that is."""
    rec = DataRecorder(data=lambda rec, data: rec.conn.pause_reading())
    conn, peer = packets.connect(rec, framing=None, pair=wide_pair)
    send_raw(peer, b"one", bytes(RECV_BUFFER + 1))
    packets.settle()
    assert (rec.frames, conn.close_reason) == ([b"one"], None)
    conn.resume_reading()
    packets.until(lambda: conn.close_reason)
    assert conn.close_reason is CloseReason.FRAME_TOO_LARGE


def test_packets_reset_is_told_by_the_kernel_before_the_packets_that_are_delivered_first(packets):
    """Unlike a stream's, the reset of a peer that has not read everything overtakes what that peer has sent."""
    rec = FrameRecorder(made=lambda rec: rec.conn.send(b"never read"))
    _, peer = packets.connect(rec)
    send_raw(peer, encode(b"one"), encode(b"two"))
    peer.close()
    packets.settle()
    assert rec.frames == [b"one", b"two"]
    assert (rec.reason, rec.exc.errno) == (CloseReason.RESET, errno.ECONNRESET)


def test_packets_reset_found_by_a_write_delivers_what_was_sent_before_it(packets):
    """Whoever finds it out, read or write, nothing that arrived is lost."""
    rec = FrameRecorder(frame=echo, made=lambda rec: (rec.conn.send(b"never read"), rec.conn.pause_reading()))
    conn, peer = packets.connect(rec)
    send_raw(peer, encode(b"one"), encode(b"two"))
    peer.close()
    conn.send(b"into the void")
    packets.settle()
    assert rec.frames == []
    conn.resume_reading()
    packets.settle()
    assert rec.frames == [b"one", b"two"]
    assert rec.reason is CloseReason.RESET


def test_packets_empty_packet_is_the_end_of_the_stream(packets):
    """recv(2) returns 0 for both."""
    rec = DataRecorder()
    _, peer = packets.connect(rec, framing=None)
    send_raw(peer, b"one", b"")
    packets.settle()
    assert (rec.frames, rec.reason) == ([b"one"], CloseReason.PEER)


def test_packets_end_of_the_stream_inside_a_frame_is_truncated(packets):
    """A frame in two packets of which the second never comes."""
    rec = FrameRecorder()
    _, peer = packets.connect(rec)
    send_raw(peer, encode(b"one") + encode(b"two")[:5])
    peer.fin()
    packets.settle()
    assert (rec.frames, rec.reason) == ([b"one"], CloseReason.TRUNCATED)


@pytest.mark.parametrize("unread", [True, False])
def test_packets_abort_resets_the_peer_only_if_something_was_unread(packets, unread):
    """unix(7) knows no other reset; the documentation says so."""
    rec = DataRecorder()
    conn, peer = packets.connect(rec, framing=None, reading=True)
    conn.pause_reading()
    if unread:
        send_raw(peer, b"unread")
    conn.abort()
    packets.settle()
    assert (peer.eof, peer.error) == (True, errno.ECONNRESET if unread else None)
    assert rec.reason is CloseReason.ABORTED


def test_packets_close_with_unread_packets_does_not_reset_the_peer(packets):
    """Closing discards what still comes, or the peer would hear of a reset before the last answer."""
    rec = DataRecorder(data=lambda rec, data: (rec.conn.send(b"bye"), rec.conn.close()))
    _, peer = packets.connect(rec, framing=None)
    send_raw(peer, *[b"unread"] * 20)
    peer.fin()
    packets.until(lambda: rec.lost)
    peer.reading = True
    packets.settle()
    assert (peer.packets, peer.eof, peer.error) == ([b"bye"], True, None)
    assert (rec.frames, rec.reason) == ([b"unread"], CloseReason.LOCAL)


def test_packets_one_packet_of_a_flood_is_read_a_turn_and_a_witness_is_served(packets):
    """A peer that never stops has no larger share than any other."""
    flood, witness = DataRecorder(), DataRecorder(data=echo)
    packets.connect(flood, framing=None)[1].write(bytes(16 << 20))
    _, peer = packets.connect(witness, framing=None, reading=True)
    for number in range(1, 20):
        send_raw(peer, b"x")
        packets.turn(2)
        assert len(peer.packets) == number


def test_packets_write_timeout_sees_what_the_peer_takes_of_the_kernels_part(packets):
    """SIOCOUTQ works for these sockets, too: a slow reader stays, one that stopped goes."""
    rec = DataRecorder()
    conn, peer = packets.connect(rec, framing=None, write_timeout=10)
    conn.send_many([bytes(10_000)] * 100)
    packets.settle()
    for _ in range(5):
        packets.advance(4.9)
        assert peer.sock.recv(20_000)
    assert not rec.lost
    packets.advance(10)
    packets.advance(10)
    assert rec.reason is CloseReason.WRITE_TIMEOUT


def test_packets_max_output_counts_what_the_kernel_does_not_take(packets):
    """A slow consumer of messages is cut as one of frames is."""
    rec = DataRecorder()
    conn, _ = packets.connect(rec, framing=None, pair=narrow_packet_pair, max_output=10_000, linger=0)
    sent = 0
    while not conn.closed:
        before = conn.stats.output
        conn.send(bytes(1000))
        sent += 1
        assert sent < 100
    packets.settle()
    assert before == 10_000
    assert rec.reason is CloseReason.SLOW_CONSUMER
    assert "11000 bytes of output exceed 10000 (max_output)" in str(rec.exc)


@pytest.mark.parametrize("call", ["abort", "close"])
def test_packets_ended_by_a_collection_in_send_many_sends_whole_messages_in_order(packets, call):
    """A destructor may end the connection between the output and its sizes; neither may be taken for the other's."""
    sent = [b"a" * 10, b"b" * 20, b"c" * 30]
    for place in range(1, PLACES):
        conn, peer = packets.connect(DataRecorder(), framing=None, reading=True, linger=0)
        packets.turn()
        with collection_after(place, getattr(conn, call)):
            conn.send_many(sent)
        packets.turn(2)
        assert peer.packets == sent[: len(peer.packets)], place
        assert conn.stats.output == 0
        peer.close()
