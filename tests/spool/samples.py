"""Calls as a gateway writes them, and short ways to write and read spools."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

from proxy.exchange import AnswerHead, End, Exchange, Outcome, Start
from proxy.spool.reader import Delivery, SpoolReader
from proxy.spool.totals import Totals, read_totals, summed
from proxy.spool.writer import SpoolWriter

ROOM = 2**40


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def call_id(at_ms: int = 1_800_000_000_000) -> UUID:
    """A UUIDv7 of that instant."""
    random = uuid4().int & (2**62 - 1)
    return UUID(int=at_ms << 80 | 7 << 76 | 2 << 62 | random)


def a_start(id: UUID | None = None) -> Start:
    return Start(id or call_id(), 1, "openai", "openai", "chat.completions", "POST", "/v1/chat")


def an_end(at_us: int = 9) -> End:
    return End(at_us, Outcome.COMPLETE)


def write_call(
    writer: SpoolWriter, request: bytes = b"ask", answer: tuple[bytes, ...] = (b"yes", b"sir")
) -> UUID:
    """One whole call; every append must succeed."""
    start = a_start()
    assert writer.start(start)
    assert writer.request(start.id, 1, request)
    assert writer.head(start.id, AnswerHead(2, 200))
    for at_us, data in enumerate(answer, 3):
        assert writer.response(start.id, at_us, data)
    assert writer.end(start.id, an_end())
    return start.id


def a_writer(root: Path, **settings: object) -> SpoolWriter:
    return SpoolWriter(root, **({"max_bytes": ROOM, "sync_s": 0.001} | settings))  # type: ignore[arg-type]  # test settings by name


def read_all(reader: SpoolReader, *, acknowledge: bool = True, size: int = 100) -> list[Delivery]:
    """Everything that has ended, batch by batch."""
    found: list[Delivery] = []
    while batch := reader.read(size, ROOM):
        found += batch
        if acknowledge:
            reader.acknowledge(batch)
    return found


def recorded(root: Path) -> list[Delivery]:
    """Everything that a recorder finds, stores and acknowledges."""
    reader = SpoolReader(root)
    found = read_all(reader)
    reader.close()
    return found


def ids(deliveries: list[Delivery]) -> list[UUID]:
    return [delivery.exchange.start.id for delivery in deliveries]


def body(exchange: Exchange) -> tuple[bytes, bytes]:
    return exchange.request, exchange.response_body


def totals(root: Path) -> Totals:
    return summed(read_totals(root))


def segment_files(root: Path, slot: int = 0) -> list[Path]:
    return sorted((root / str(slot)).glob("*.seg"))
