"""Exporting: recorded conversations into the files of a data set.

One pass over the database in one snapshot: calls and turns without content, conversation by
conversation, then the content of leaves alone, a few at a time. Conversions that do not work out
are counted and named in the card, never raised.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from proxy.config import Config
from proxy.enrich import media
from proxy.enrich.redact import Redactor, Scan
from proxy.enrich.threads import ANEW
from proxy.errors import ProxyError
from proxy.exchange import Start
from proxy.export import card
from proxy.export.card import Tally
from proxy.export.conversation import as_recorded, conversation_of, pair_of
from proxy.export.files import HELD_OUT, TRAIN, Files, load_arrow, paths_of
from proxy.export.formats import SHAPES, Format
from proxy.export.message import Conversation, Unconvertible
from proxy.export.staging import Facts, Staging, alone_in
from proxy.export.state import State, part_of, state_path
from proxy.export.trace import trace
from proxy.export.tree import Leaf, Node, Tree, TurnEnd, Twins, Wanted, share
from proxy.progress import progress
from proxy.reading import dsn_of, remedied
from proxy.record import COLUMNS, TelemetryRecord
from proxy.store import examples
from proxy.store.examples import Filters
from proxy.store.postgres import Row
from proxy.store.snapshot import Snapshot, snapshot
from proxy.turn import Kind

CARD = "dataset_card.md"
BATCH_EXAMPLES, BATCH_BYTES = 64, 512 * 1024  # of content fetched at once, as it is stored

# Rows hold no credential of their calls any more: only the rules are left to search by.
_NOBODY = Start(UUID(int=0), 0, "", "", "", "", "")


@dataclass(frozen=True, slots=True)
class Options:
    """What to export, and how."""

    format: Format
    out: Path
    filters: Filters = field(default_factory=Filters)
    wanted: Wanted = field(default_factory=Wanted)
    keeps_thoughts: bool = True
    split: float | None = None  # the share of conversations to train on
    has_pairs: bool = False
    is_strict: bool = False  # redact once more
    since_last: bool = False

    def about(self) -> dict[str, str]:
        """The options that say what is in the data set, for the card and for later runs."""
        shape = SHAPES[self.format]
        thoughts = "kept" if self.keeps_thoughts and shape.holds_thoughts else "dropped"
        filters = {name: value for name, value in asdict(self.filters).items() if value}
        return {
            "format": f"{self.format}, {'preference pairs' if self.has_pairs else 'conversations'}",
            "thoughts": thoughts,
            "turns that ended": ", ".join(self.wanted.stop_reasons),
            "rounds at least": str(self.wanted.rounds_min),
            "filters": json.dumps(filters, default=str) if filters else "none",
            "split": "none" if self.split is None else f"{self.split:g}",
            "redacted again": "yes" if self.is_strict else "no",
        }


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    files: dict[str, Path]  # by split
    card: Path
    tally: Tally


@dataclass(frozen=True, slots=True)
class _Wish:
    """An example to be made: the calls whose rows it needs, and the answer it rejects."""

    leaf: Leaf
    context: tuple[UUID, ...]
    share: float
    rejected: Leaf | None = None

    @property
    def needed(self) -> tuple[UUID, ...]:
        return (*self.context, *([self.rejected.node.id] if self.rejected else ()))

    @property
    def rows(self) -> tuple[str, ...]:
        other = (self.rejected.node.id,) if self.rejected else ()
        return tuple(str(id) for id in (*self.leaf.contained, *other, self.leaf.node.id))


async def export(config: Config, options: Options) -> Exported:
    """Write the data set. Raises StoreUnavailable, StoreMisconfigured or ConfigError."""
    if options.format is Format.PARQUET:
        load_arrow()
    directory = options.out.parent
    if options.out.exists() and not options.out.is_file():  # such as /dev/null
        raise ProxyError(f"--out {options.out}: is no regular file, and would be replaced by one")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(alone_in(directory))
            staging = stack.enter_context(Staging(directory, options.out.name))
            state = _state(options, stack)
            tally = Tally()
            with remedied(config):
                async with snapshot(dsn_of(config)) as reader:
                    await _Export(config, options, reader, staging, tally, state).run()
            return _written(options, staging, tally, state)
    except OSError as error:
        raise ProxyError(f"--out {options.out}: {error.strerror}") from None


def _state(options: Options, stack: ExitStack) -> State | None:
    if not options.since_last:
        return None
    state = State(state_path(options.out), json.dumps(options.about()))
    stack.callback(state.close)
    return state


def _written(options: Options, staging: Staging, tally: Tally, state: State | None) -> Exported:
    """Read the staged examples back, those of them that nothing contains."""
    out = part_of(options.out, state.number) if state else options.out
    paths = paths_of(out, is_split=options.split is not None)
    card_path = part_of(out.with_name(CARD), state.number if state else 1)
    lineage = card_path.with_name(f".{card_path.name}.lineage")
    try:
        with Files(paths, options.format, has_pairs=options.has_pairs) as files:
            with lineage.open("w", encoding="utf-8") as lines:
                for facts, example in staging.chosen():
                    if example is None:
                        tally.skip("another example is the same or goes on from it", facts.rows[-1])
                        continue
                    files.write(facts.split, example)
                    tally.take(facts)
                    lines.write(card.lineage(facts, tally.splits[facts.split]) + "\n")
                    if state:
                        state.note(facts.rows[-1:])
            _write_card(card_path, lineage, tally, options)
    finally:
        lineage.unlink(missing_ok=True)
    if state:
        state.commit()
    return Exported(paths, card_path, tally)


def _write_card(path: Path, lineage: Path, tally: Tally, options: Options) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file, lineage.open(encoding="utf-8") as lines:
        file.writelines(f"{line}\n" for line in card.head(tally, options.about()))
        file.writelines(lines)
    part.replace(path)


class _Export:
    """One pass over the database."""

    def __init__(
        self,
        config: Config,
        options: Options,
        reader: Snapshot,
        staging: Staging,
        tally: Tally,
        state: State | None,
    ) -> None:
        self._options = options
        self._reader = reader
        self._staging = staging
        self._tally = tally
        self._state = state
        redaction = config.redaction.model_copy(update={"enabled": True})
        self._scan = Redactor(redaction).scan(_NOBODY) if options.is_strict else None

    async def run(self) -> None:
        query, values = examples.skeleton(self._options.filters)
        (found,) = await self._reader.fetch("SELECT count(*) AS rows FROM agent_telemetry")
        with progress("rows", found["rows"]) as advance:
            batch: list[_Wish] = []
            size = 0
            async for key, tree in self._trees(query, values, advance):
                for wish in self._wishes(tree, *key):
                    batch.append(wish)
                    size += sum(tree.nodes[id].size_bytes for id in wish.context)
                    if len(batch) >= BATCH_EXAMPLES or size >= BATCH_BYTES:
                        await self._make(batch)
                        batch, size = [], 0
            await self._make(batch)

    async def _trees(
        self, query: str, values: Sequence[Any], advance: Callable[[], None]
    ) -> AsyncIterator[tuple[tuple[str | None, str | None], Tree]]:
        """One conversation after another; a call without a session is one of its own."""
        key: tuple[str | None, str | None] = (None, None)
        tree = Tree()
        async for row in self._reader.rows(query, *values):
            advance()
            of_row = row["project_id"], row["session_id"]
            if of_row != key or of_row[1] is None:
                yield key, tree
                key, tree = of_row, Tree()
            _enter(tree, row)
        yield key, tree

    def _wishes(self, tree: Tree, project: str | None, session: str | None) -> Iterable[_Wish]:
        found: list[Leaf] | list[Twins]
        wanted = self._options.wanted
        found = tree.twins(wanted) if self._options.has_pairs else tree.leaves(wanted)
        for each in found:
            leaf, other = (each.chosen, each.rejected) if isinstance(each, Twins) else (each, None)
            if self._state and self._state.has(str(leaf.node.id)):
                continue
            try:
                context = tuple(tree.context(leaf.node))
            except LookupError as error:
                self._tally.skip(str(error), leaf.node.id)
                continue
            yield _Wish(leaf, context, share(project, session, leaf.node.id), other)

    async def _make(self, batch: Sequence[_Wish]) -> None:
        """Fetch the rows of these examples, and write those down that can be made."""
        if not batch:
            return
        ids = sorted({id for wish in batch for id in wish.needed})
        rows = {row["id"]: row for row in await self._reader.fetch(examples.CONTENT, ids)}
        for wish in batch:
            held = await self._restored([rows[id] for id in wish.needed])
            try:
                digests, example, redactions = self._example(wish, held)
            except Unconvertible as reason:
                self._tally.skip(str(reason), wish.leaf.node.id)
                continue
            facts = Facts(
                rows=wish.rows,
                split=self._split(wish),
                model=held[len(wish.context) - 1]["model_used"],
                stop_reason=wish.leaf.stop_reason,
                tokens=_tokens(held[len(wish.context) - 1]),
                redactions=redactions,
            )
            self._staging.add(facts, digests, example)

    async def _restored(self, rows: Sequence[Row]) -> list[Row]:
        """The rows, redacted once more where so wanted, with their media in place."""
        found = []
        for row in rows:
            clean = _redacted(row, self._scan) if self._scan else row
            blobs: dict[str, bytes] = {}
            for key in row["blobs"] or ():
                for blob in await self._reader.fetch(examples.BLOB, bytes.fromhex(key)):
                    blobs[key] = blob["content"]
            found.append(_with_media(clean, blobs))
        return found

    def _example(self, wish: _Wish, rows: Sequence[Row]) -> tuple[Sequence[bytes], bytes, int]:
        """The digests of an example, its text, and how often it was redacted just now."""
        format, shape = self._options.format, SHAPES[self._options.format]
        keeps = self._options.keeps_thoughts and shape.holds_thoughts
        redactions = self._counted()
        context = rows[: len(wish.context)]
        if wish.rejected is not None:
            pair = pair_of(context, rows[-1], keeps_thoughts=keeps)
            held = Conversation(pair.system, (*pair.messages, pair.chosen, pair.rejected))
            return trace(held)[-1:], _json(shape.pair(pair)), redactions
        if format is Format.JSONL:
            example = _json(as_recorded(context, keeps_thoughts=keeps))
            return _trace_of(context), example, redactions
        conversation = conversation_of(context, keeps_thoughts=keeps)
        return trace(conversation), _json(shape.conversation(conversation)), redactions

    def _counted(self) -> int:
        if self._scan is None:
            return 0
        count = self._scan.counts.total()
        self._scan.counts.clear()
        return count

    def _split(self, wish: _Wish) -> str:
        split = self._options.split
        return TRAIN if split is None or wish.share < split else HELD_OUT


def _enter(tree: Tree, row: Row) -> None:
    """Put a row of the skeleton where it belongs."""
    if row["record_type"] == "turn_summary":
        last = row["last_call"]
        end = TurnEnd(row["stop_reason"] or "", row["rounds"] or 1, UUID(last) if last else None)
        tree.ends[row["turn_id"]] = end
        return
    tree.nodes[row["id"]] = Node(
        id=row["id"],
        created_at=row["created_at"],
        turn=row["turn_id"],
        parent=row["parent_id"],
        kind=row["kind"],
        is_anew=row["kind"] == Kind.FORKS and row["evidence"] == ANEW,
        is_whole=row["is_whole"],
        is_wanted=row["is_wanted"],
        is_partial=row["is_partial"],
        response=row["response"],
        previous=row["previous"],
        size_bytes=row["size_bytes"],
    )


def _redacted(row: Row, scan: Scan) -> Row:
    given = {name: value for name, value in row.items() if name in COLUMNS}
    clean = scan.record(
        TelemetryRecord(**given, created_at=_NOBODY.started_at, duration_ms=0)
    ).as_row()
    return row | {name: clean[name] for name in given}


def _with_media(row: Row, blobs: dict[str, bytes]) -> Row:
    columns = [name for name in media.COLUMNS if name in row]
    return row | {name: media.restore(row[name], blobs.get) for name in columns}


def _trace_of(rows: Sequence[Row]) -> Sequence[bytes]:
    """Digests of a conversation as recorded; of its last row alone where it cannot be read."""
    try:
        return trace(conversation_of(rows, keeps_thoughts=False))
    except Unconvertible:
        return [rows[-1]["id"].bytes]


def _tokens(row: Row) -> int | None:
    if row["total_tokens"] is not None:
        return int(row["total_tokens"])
    known = [row[name] for name in ("prompt_tokens", "completion_tokens") if row[name] is not None]
    return sum(known) if known else None


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
