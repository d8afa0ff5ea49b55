"""Files: data sets on disk, as lines of JSON or as Parquet; whole, or not there at all.

Written beside their place under a temporary name and moved there at the end.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from proxy.errors import ConfigError

TRAIN, HELD_OUT = "train", "validation"
_ROWS_MAX, _BYTES_MAX = 1000, 4 * 1024 * 1024  # of a group of rows in Parquet


class Writer(Protocol):
    """One file of a data set."""

    def write(self, example: bytes) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """One example a line, UTF-8."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, example: bytes) -> None:
        self._file.write(example + b"\n")

    def close(self) -> None:
        self._file.close()


class Parquet:
    """Columns of fixed types, so that any rows fit together.

    `messages` (in pairs `prompt`, `chosen`, `rejected`) are TRL's; the arguments of calls and the
    column `tools` are JSON text, as is the content of a message with media.
    """

    def __init__(self, path: Path, *, has_pairs: bool) -> None:
        arrow = load_arrow()
        self._arrow = arrow
        columns = ("prompt", "chosen", "rejected") if has_pairs else ("messages",)
        self._columns = columns
        messages = arrow.list_(_message_type(arrow))
        self._schema = arrow.schema(
            [*((name, messages) for name in columns), ("tools", arrow.string())]
        )
        self._writer = importlib.import_module("pyarrow.parquet").ParquetWriter(
            path, self._schema, compression="zstd"
        )
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, example: bytes) -> None:
        given = json.loads(example)
        row: dict[str, Any] = {name: _flat(given[name]) for name in self._columns}
        row["tools"] = _text(given["tools"]) if "tools" in given else None
        self._rows.append(row)
        self._bytes += len(example)
        if len(self._rows) >= _ROWS_MAX or self._bytes >= _BYTES_MAX:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, self._schema))
        self._rows, self._bytes = [], 0


class Files:
    """The files of one data set by split. To be used with `with`: an error leaves none of them."""

    def __init__(self, paths: Mapping[str, Path], kind: str, *, has_pairs: bool) -> None:
        self._paths = paths
        self._parts = {split: _part(path) for split, path in paths.items()}
        self._kind, self._has_pairs = kind, has_pairs
        self._writers: dict[str, Writer] = {}

    def __enter__(self) -> Self:
        for split, path in self._parts.items():
            is_parquet = self._kind == "parquet"
            self._writers[split] = (
                Parquet(path, has_pairs=self._has_pairs) if is_parquet else JsonLines(path)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for writer in self._writers.values():
            writer.close()
        for split, part in self._parts.items():
            if kind is None:
                os.replace(part, self._paths[split])
            else:
                part.unlink(missing_ok=True)

    def write(self, split: str, example: bytes) -> None:
        self._writers[split].write(example)


def paths_of(out: Path, *, is_split: bool) -> dict[str, Path]:
    """Split → file: `data.jsonl`, or `data.train.jsonl` and `data.validation.jsonl`."""
    if not is_split:
        return {TRAIN: out}
    return {name: out.with_name(f"{out.stem}.{name}{out.suffix}") for name in (TRAIN, HELD_OUT)}


def load_arrow() -> Any:
    """The library behind Parquet. Raises ConfigError where it is not installed."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError:
        raise ConfigError(
            "--format parquet needs pyarrow: pip install 'agent-telemetry[parquet]'"
        ) from None


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _message_type(arrow: Any) -> Any:
    text = arrow.string()
    function = arrow.struct([("name", text), ("arguments", text)])
    call = arrow.struct([("id", text), ("type", text), ("function", function)])
    return arrow.struct(
        [
            ("role", text),
            ("content", text),
            ("thinking", text),
            ("tool_calls", arrow.list_(call)),
            ("tool_call_id", text),
            ("name", text),
        ]
    )


def _flat(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with text where their shape depends on what they hold."""
    return [
        message
        | {
            "content": _text(message["content"]),
            "tool_calls": [_flat_call(call) for call in message.get("tool_calls", ())] or None,
        }
        for message in messages
    ]


def _flat_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return call | {"function": function | {"arguments": _text(function["arguments"])}}


def _text(value: Any) -> str:
    """Arguments may be deeper and numbers longer than quicker encoders take."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
