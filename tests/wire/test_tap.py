"""Tap: counts, hashes and keeps what passes; never harms the call."""

from hashlib import sha256
from time import monotonic_ns, time_ns
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Outcome, Start
from proxy.wire.tap import Tap, mint_id
from tests.fakes import MemorySink

ID = UUID(int=7)


class Faults:
    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1


START = Start(ID, 0, "openai", "openai", "chat.completions", "POST", "/v1/chat/completions")


def opened(sink, room=1000, faults=None, **more):
    return Tap.open(sink, ID, START.to_bytes, monotonic_ns(), room, faults or Faults(), **more)


def test_bodies_are_kept_counted_and_hashed():
    sink = MemorySink()
    tap = opened(sink)
    tap.request(b"ab")
    tap.request(b"c")
    tap.request_complete()
    tap.head(200, lambda: (("content-type", "x"),))
    tap.response(b"12")
    tap.response(b"345")
    tap.end(Outcome.COMPLETE)
    exchange = sink[ID]
    assert exchange.request == b"abc"
    assert [piece.data for piece in exchange.response] == [b"12", b"345"]
    assert (exchange.head.status, exchange.head.headers) == (200, (("content-type", "x"),))
    end = exchange.end
    assert (end.outcome, end.error, end.request_complete) == (Outcome.COMPLETE, None, True)
    assert (end.request_bytes, end.request_kept) == (3, 3)
    assert (end.response_bytes, end.response_kept) == (5, 5)
    assert exchange.request_sha256 == sha256(b"abc").hexdigest()
    assert exchange.response_sha256 == sha256(b"12345").hexdigest()
    assert sink.order == ["start", "request", "request", "head", "response", "response", "end"]


def test_times_are_offsets_that_do_not_go_back():
    sink = MemorySink()
    tap = opened(sink)
    tap.response(b"1")
    tap.response(b"2")
    tap.end(Outcome.COMPLETE)
    times = [0, *(piece.at_us for piece in sink[ID].response), sink[ID].end.at_us]
    assert times == sorted(times)
    assert times[-1] < 60_000_000


def test_what_is_released_together_is_appended_together():
    sink = MemorySink()
    tap = opened(sink, body=b"question")
    tap.request_complete()
    tap.head(200, lambda: (("content-type", "x"),))
    assert sink.order == ["start", "request"]
    tap.response(b"answer", is_last=True)
    tap.end(Outcome.COMPLETE)
    exchange = sink[ID]
    assert sink.order == ["start", "request", "head", "response", "end"]
    assert (exchange.request, exchange.response_body) == (b"question", b"answer")
    assert (exchange.end.request_kept, exchange.end.response_kept) == (8, 6)


def test_a_head_that_is_released_alone_is_appended_before():
    sink = MemorySink()
    tap = opened(sink)
    tap.head(200, tuple)
    tap.release()
    assert sink.order == ["start", "head"]
    tap.response(b"1")
    tap.end(Outcome.COMPLETE)
    assert sink.order == ["start", "head", "response", "end"]


def test_a_last_piece_that_is_not_taken_is_not_said_to_be_kept():
    sink = MemorySink()
    tap = opened(sink)
    tap.response(b"one")
    tap.response(b"two", is_last=True)
    sink.accepts = False
    tap.end(Outcome.COMPLETE)
    sink.accepts = True
    assert sink[ID].response_body == b"one"


def test_a_body_of_which_nothing_is_taken_is_hashed_all_the_same():
    sink = MemorySink()
    tap = opened(sink, announced=b"6")
    sink.accepts = False
    tap.request(b"abc")
    tap.request(b"def")
    sink.accepts = True
    tap.end(Outcome.COMPLETE)
    assert sink[ID].end.request_sha256 == sha256(b"abcdef").hexdigest()


@given(st.lists(st.binary(min_size=1, max_size=9)), st.integers(1, 40), st.booleans())
def test_what_is_kept_is_a_prefix_within_the_room(pieces, room, is_announced):
    """For every split: kept = the first `room` bytes; size and hash are of the whole."""
    sink, whole = MemorySink(), b"".join(pieces)
    announced = b"%d" % len(whole) if is_announced else None
    tap = opened(sink, room, announced=announced)
    tap.head(200, tuple, announced=announced)
    for piece in pieces:
        tap.request(piece)
        tap.response(piece)
    tap.end(Outcome.COMPLETE)
    end = sink[ID].end
    assert sink[ID].request == sink[ID].response_body == whole[:room]
    assert end.request_kept == end.response_kept == len(whole[:room])
    assert end.request_bytes == end.response_bytes == len(whole)
    assert sink[ID].request_sha256 == sink[ID].response_sha256 == sha256(whole).hexdigest()
    is_left_to_others = is_announced and len(whole) <= room
    assert (end.request_sha256 == end.response_sha256 == "") == is_left_to_others


@pytest.mark.parametrize("room", [1 << 20, 5000])
def test_a_long_stream_of_small_pieces_is_hashed_whole(room):
    """Small pieces are hashed many at once; nothing is left out, kept or not."""
    sink, events = MemorySink(), [b"event %d\n" % number for number in range(3000)]
    tap = opened(sink, room)
    for event in events:
        tap.response(event)
    tap.end(Outcome.COMPLETE)
    end, whole = sink[ID].end, b"".join(events)
    assert end.response_sha256 == sha256(whole).hexdigest()
    assert (end.response_bytes, end.response_kept) == (len(whole), min(room, len(whole)))


def test_after_a_piece_that_was_not_taken_no_later_one_is_kept():
    sink = MemorySink()
    tap = opened(sink)
    tap.response(b"one")
    sink.accepts = False
    tap.response(b"two")
    sink.accepts = True
    tap.response(b"three")
    tap.end(Outcome.COMPLETE)
    assert sink[ID].response_body == b"one"
    assert (sink[ID].end.response_kept, sink[ID].end.response_bytes) == (3, 11)


def test_a_call_that_the_sink_does_not_take_has_no_tap():
    sink, faults = MemorySink(), Faults()
    sink.accepts = False
    assert opened(sink, faults=faults) is None
    assert faults.count == 0


@pytest.mark.parametrize("where", ["start", "request", "head", "response", "end"])
def test_a_sink_that_raises_is_counted_once_and_never_felt(where):
    sink, faults = MemorySink(), Faults()
    sink.raises_in = where
    tap = opened(sink, faults=faults)
    if tap is not None:
        tap.request(b"a")
        tap.head(200, tuple)
        tap.response(b"b")
        tap.response(b"c", is_last=True)
        tap.end(Outcome.COMPLETE)
    assert faults.count == 1
    assert (tap is None) == (where == "start")
    # The end is kept, so that no exchange stays open for ever.
    assert [e.end.outcome for e in sink.ended] == (
        [] if where in ("start", "end") else [Outcome.COMPLETE]
    )


def broken():
    raise KeyError("a bug in what makes the record")


def test_a_bug_in_what_makes_the_record_is_counted_and_never_felt():
    sink, faults = MemorySink(), Faults()
    assert Tap.open(sink, ID, broken, monotonic_ns(), 10, faults) is None
    tap = opened(sink, faults=faults)
    tap.head(200, broken)
    tap.end(Outcome.COMPLETE)
    assert faults.count == 2
    assert (sink[ID].head, sink[ID].end.outcome) == (None, Outcome.COMPLETE)


def test_the_first_end_counts_and_nothing_follows_it():
    sink = MemorySink()
    tap = opened(sink)
    tap.end(Outcome.UPSTREAM_RESET, "cut")
    tap.end(Outcome.COMPLETE)
    tap.request(b"late")
    tap.head(200, tuple)
    tap.response(b"late")
    assert sink.order == ["start", "end"]
    assert (sink[ID].end.outcome, sink[ID].end.error) == (Outcome.UPSTREAM_RESET, "cut")
    assert not sink[ID].end.request_complete


def test_an_answer_recorded_elsewhere_is_marked():
    sink = MemorySink()
    tap = opened(sink)
    tap.head(200, tuple, is_recorded_elsewhere=True)
    tap.end(Outcome.COMPLETE)
    assert sink[ID].end.is_recorded_elsewhere


def test_ids_are_uuid_7_in_the_order_of_time():
    now = time_ns()
    ids = [mint_id(now + step * 1000) for step in range(100)]
    assert {(id.version, id.variant) for id in ids} == {(7, "specified in RFC 4122")}
    assert ids == sorted(ids)
    assert len({mint_id(now) for _ in range(1000)}) == 1000
    assert ids[0].int >> 80 == now // 1_000_000
