"""Answer: framing from bytes alone, whole, byte by byte and at random splits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.answer import AnswerReader, Framing, HeadLimits
from tests.fakes import chunked, whole

LIMITS = HeadLimits(head_bytes_max=400, field_bytes_max=100, fields_max=8)


def read(pieces, *, is_head_only=False, eof=False):
    """The reader after all pieces, and the body it gave."""
    reader = AnswerReader(LIMITS, is_head_only=is_head_only)
    body = b""
    for piece in filter(None, pieces):  # no read is empty
        body += reader.feed(piece)
    if eof:
        reader.feed_eof()
    return reader, body


CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = [
    (whole(b"abc"), Framing.LENGTH, b"abc", True),
    (whole(b""), Framing.LENGTH, b"", True),
    (CHUNKED_HEAD + chunked([b"a", b"bc"]), Framing.CHUNKED, b"abc", True),
    (CHUNKED_HEAD + b"3;x=\"y\"\r\nabc\r\n0\r\nTrailer: 1\r\n\r\n", Framing.CHUNKED, b"abc", True),
    (b"HTTP/1.1 204 No Content\r\n\r\n", Framing.NONE, b"", True),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Framing.NONE, b"", True),
    (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", Framing.LENGTH, b"a", True),
    (b"HTTP/1.1 200 OK\nContent-Length: 1\n\na", Framing.LENGTH, b"a", True),
    (whole(b"a", b"Connection: close"), Framing.LENGTH, b"a", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", Framing.LENGTH, b"a", False),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "framing", "body", "keeps_alive"), WHOLE)
@given(data=st.data())
def test_an_answer_is_the_same_however_it_is_split(raw, framing, body, keeps_alive, data):
    """For every split of an answer: the same head, body and end."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)))))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    for split in (pieces, [raw], [raw[at : at + 1] for at in range(len(raw))]):
        reader, got = read(split)
        assert got == body
        assert reader.heads[0].framing is framing
        assert (reader.is_complete, reader.has_surplus, reader.fault) == (True, False, None)
        assert reader.keeps_alive == keeps_alive


@pytest.mark.parametrize("first", [raw for raw, *_ in WHOLE])
@pytest.mark.parametrize(("raw", "framing", "body", "keeps_alive"), WHOLE)
def test_a_reader_used_again_reads_as_a_new_one(first, raw, framing, body, keeps_alive):
    reader, _ = read([first])
    if not reader.leaves_parser_clean:
        assert reader.heads[0].framing is not Framing.LENGTH or not reader.keeps_alive
        return
    reader.begin(is_head_only=False)
    assert (reader.has_begun, reader.is_complete, len(reader.heads)) == (False, False, 0)
    got = b"".join(reader.feed(raw[at : at + 1]) for at in range(len(raw)))
    (head,) = reader.heads
    fresh, _ = read([raw])
    assert (head, got) == (fresh.heads[0], body)
    assert (reader.is_complete, reader.has_surplus, reader.fault) == (True, False, None)
    assert reader.keeps_alive == keeps_alive


@pytest.mark.parametrize(("raw", "framing", "body", "keeps_alive"), WHOLE)
def test_an_answer_cut_anywhere_is_not_complete(raw, framing, body, keeps_alive):
    for at in range(len(raw)):
        reader, got = read([raw[:at]], eof=True)
        assert not reader.is_complete
        assert reader.fault is not None
        assert body.startswith(got)
        assert reader.has_begun == (at > 0)


def test_a_body_until_close_ends_with_the_connection():
    reader, body = read([b"HTTP/1.1 200 OK\r\n\r\nab", b"c"])
    assert (body, reader.is_complete, reader.keeps_alive) == (b"abc", False, False)
    reader.feed_eof()
    assert (reader.is_complete, reader.fault) == (True, None)


def test_a_body_until_close_that_breaks_is_not_complete():
    reader, _ = read([b"HTTP/1.1 200 OK\r\n\r\nab"])
    reader.feed_break()
    assert (reader.is_complete, "middle" in str(reader.fault)) == (False, True)


def test_a_head_only_answer_has_no_body_whatever_it_says():
    reader, body = read([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"], is_head_only=True)
    assert (reader.is_complete, reader.has_surplus, body) == (True, False, b"")
    assert reader.feed(b"abc") == b""
    assert reader.has_surplus


def test_interim_heads_come_before_the_final_one():
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    reader, body = read([interim + whole(b"abc")])
    assert [(head.status, head.is_interim) for head in reader.heads] == [
        (100, True),
        (103, True),
        (200, False),
    ]
    assert reader.heads[2].fields == ((b"content-length", b"Content-Length", b"3"),)
    assert body == b"abc"


def test_what_follows_a_switch_is_handed_on():
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    reader, body = read([switch + b"\x00raw"])
    assert (reader.heads[0].status, reader.heads[0].is_interim) == (101, False)
    assert body == b"\x00raw"


@pytest.mark.parametrize("surplus", [b"x", b"HTTP/1.1 200 OK\r\n", whole(b"second")])
def test_bytes_after_the_end_are_surplus_and_no_part_of_the_answer(surplus):
    for pieces in ([whole(b"abc") + surplus], [whole(b"abc"), surplus]):
        reader, body = read(pieces)
        assert (body, reader.has_surplus, reader.fault) == (b"abc", True, None)
        assert len(reader.heads) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 9 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 500,
        CHUNKED_HEAD + b"zz\r\n",
    ],
)
def test_what_cannot_be_framed_safely_is_a_fault(raw):
    reader, _ = read([raw])
    assert reader.fault is not None
    assert not reader.is_complete


ENDLESS = {"trailer": (b"0\r\nX: ", b"a"), "trailers": (b"0\r\n", b"X: a\r\n"), "size": (b"", b"0")}


@pytest.mark.parametrize(("begun", "piece"), ENDLESS.values(), ids=ENDLESS)
def test_what_frames_a_body_has_an_end(begun, piece):
    """What is read and is no body is bounded as a head is, in memory and in the time it takes."""
    pieces = [CHUNKED_HEAD + b"1\r\na\r\n" + begun, *[piece] * (LIMITS.head_bytes_max + 1)]
    reader, body = read(pieces)
    assert (body, reader.is_complete) == (b"a", False)
    assert reader.fault is not None


def test_a_body_in_many_small_chunks_is_no_endless_framing():
    raw = CHUNKED_HEAD + chunked([b"a"] * LIMITS.head_bytes_max)
    reader, body = read([raw[at : at + 1] for at in range(len(raw))])
    assert (len(body), reader.is_complete, reader.fault) == (LIMITS.head_bytes_max, True, None)


def test_bytes_before_a_fault_are_not_lost():
    reader, body = read([CHUNKED_HEAD + b"3\r\nabc\r\nzz\r\n"])
    assert (body, reader.fault is None) == (b"abc", False)


@given(st.lists(st.binary(max_size=60), max_size=8), st.booleans())
def test_any_bytes_at_all_are_read_without_raising(pieces, is_head_only):
    """For all bytes: no exception, and complete or a fault once the connection ends."""
    reader, _ = read(pieces, is_head_only=is_head_only, eof=True)
    assert reader.is_complete or reader.fault is not None
