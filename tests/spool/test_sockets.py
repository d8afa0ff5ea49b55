"""Sockets in the spool: given in parts while they are open, whole to each reader, settled once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.endpoints import RESPONSES_SOCKET
from proxy.exchange import AnswerHead, Start
from proxy.socket_part import SocketPart
from proxy.spool import sockets
from proxy.spool.reader import SpoolReader
from proxy.spool.writer import SpoolWriter

from .samples import a_start, a_writer, an_end, call_id, read_all, segment_files, totals, write_call

Pieces = list[tuple[bool, bytes]]


def begin(writer: SpoolWriter) -> UUID:
    id = call_id()
    name = RESPONSES_SOCKET.name
    assert writer.start(Start(id, 1, "openai", "openai", name, "GET", "/v1/responses"))
    assert writer.head(id, AnswerHead(2, 101))
    return id


def say(writer: SpoolWriter, id: UUID, pieces: Pieces) -> None:
    for is_from_agent, data in pieces:
        assert (writer.request if is_from_agent else writer.response)(id, 3, data)


def take(reader: SpoolReader, found: list[SocketPart]) -> None:
    """Read on; what has come of sockets is added, and last parts are acknowledged."""
    read_all(reader)
    while deliveries := reader.read_sockets(4):
        found += [delivery.part for delivery in deliveries]
        reader.acknowledge([each for each in deliveries if each.part.is_last])


def said(parts: list[SocketPart]) -> Pieces:
    return [(piece.is_from_agent, piece.data) for part in parts for piece in part.pieces]


def test_what_has_come_is_given_once_and_the_last_part_settles(tmp_path: Path) -> None:
    writer, reader = a_writer(tmp_path), SpoolReader(tmp_path)
    id, parts = begin(writer), list[SocketPart]()
    say(writer, id, [(True, b"ask")])
    take(reader, parts)
    assert [(part.start.id, part.head and part.head.status) for part in parts] == [(id, 101)]
    say(writer, id, [(False, b"answer"), (True, b"more")])
    take(reader, parts)
    take(reader, parts)
    assert said(parts) == [(True, b"ask"), (False, b"answer"), (True, b"more")]
    assert (totals(tmp_path).waiting, totals(tmp_path).stored) == (1, 0)
    writer.end(id, an_end())
    take(reader, parts)
    assert [part.is_last for part in parts] == [False, False, True]
    assert parts[-1].end == an_end()
    assert (totals(tmp_path).waiting, totals(tmp_path).stored) == (0, 1)
    reader.close()
    writer.close()


def test_a_new_reader_is_given_a_socket_from_its_beginning(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    id = begin(writer)
    for number in range(3):
        say(writer, id, [(True, b"%d" % number)])
        reader, parts = SpoolReader(tmp_path), list[SocketPart]()
        take(reader, parts)
        reader.close()
        assert [data for _, data in said(parts)] == [b"%d" % n for n in range(number + 1)]
    writer.close()


def test_a_socket_whose_gateway_died_has_a_last_part_without_an_end(tmp_path: Path) -> None:
    writer, reader = a_writer(tmp_path), SpoolReader(tmp_path)
    parts = list[SocketPart]()
    say(writer, begin(writer), [(True, b"ask")])
    take(reader, parts)
    writer.close()
    take(reader, parts)
    assert [(part.is_last, part.end) for part in parts] == [(False, None), (True, None)]
    assert totals(tmp_path).stored == 1
    reader.close()


def test_a_large_socket_is_given_in_several_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "PART_BYTES_MAX", 1000)
    writer, reader = a_writer(tmp_path), SpoolReader(tmp_path)
    id, parts, pieces = begin(writer), list[SocketPart](), [(True, b"x" * 300)] * 20
    say(writer, id, pieces)
    writer.end(id, an_end())
    take(reader, parts)
    assert said(parts) == pieces
    assert len(parts) > 5
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    reader.close()
    writer.close()


def test_an_agent_cannot_make_a_call_look_like_a_socket() -> None:
    mark = f'"endpoint":"{RESPONSES_SOCKET.name}"'
    ordinary = a_start()
    assert not sockets.begins_socket(ordinary.to_bytes())
    assert not sockets.begins_socket(replace(ordinary, target=f"/{mark}").to_bytes())
    assert not sockets.begins_socket(replace(ordinary, headers=(("a", mark),)).to_bytes())


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.sampled_from(["agent", "upstream", "other call", "read", "new reader"]), max_size=40
    ),
    st.booleans(),
)
def test_whoever_reads_when_and_whatever_was_carried_nothing_is_lost_or_doubled(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], ends: bool
) -> None:
    """The last reader is given the whole socket, in order, each piece once."""
    root = tmp_path_factory.mktemp("spool")
    writer, reader = a_writer(root, segment_bytes=600), SpoolReader(root)
    id, parts, pieces = begin(writer), list[SocketPart](), list[tuple[bool, bytes]]()
    for number, step in enumerate(steps):
        match step:
            case "agent" | "upstream":
                pieces.append((step == "agent", b"%d" % number * 50))
                say(writer, id, pieces[-1:])
            case "other call":
                write_call(writer)
            case "read":
                take(reader, parts)
            case "new reader":
                reader.close()
                reader, parts = SpoolReader(root), []
    if ends:
        writer.end(id, an_end())
    else:
        writer.close()
    take(reader, parts)
    assert said(parts) == pieces
    assert parts[-1].is_last
    found = totals(root)
    assert (found.waiting, sum(found.lost.values())) == (0, 0)
    assert found.stored == found.captured
    writer.close()
    reader.close()


def test_an_open_socket_does_not_hold_the_segments(tmp_path: Path) -> None:
    writer, reader = a_writer(tmp_path, segment_bytes=2000), SpoolReader(tmp_path)
    id, parts, pieces = begin(writer), list[SocketPart](), list[tuple[bool, bytes]]()
    for number in range(40):
        pieces.append((True, b"%d" % number * 20))
        say(writer, id, pieces[-1:])
        write_call(writer, request=b"x" * 1000)
        take(reader, parts)
    assert len(segment_files(tmp_path)) < 8
    assert said(parts) == pieces
    reader.close()
    reader, again = SpoolReader(tmp_path), list[SocketPart]()
    take(reader, again)
    assert said(again) == pieces
    reader.close()
    writer.close()
