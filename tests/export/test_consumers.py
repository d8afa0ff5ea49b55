"""Data sets are read by the programs they are made for."""

import json

import pytest

from tests.export.test_export import agent, answered, regenerated
from tests.turns.scripts import Talk

datasets = pytest.importorskip("datasets")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def load(monkeypatch, tmp_path):
    """`datasets.load_dataset` without network and without a trace outside of the test."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()

    def run(kind, **files):
        paths = {split: str(path) for split, path in files.items()}
        return datasets.load_dataset(kind, data_files=paths, cache_dir=str(tmp_path / "cache"))

    return run


@pytest.fixture
def mixed(fill):
    """Conversations with and without tools, with arguments of types that do not fit together."""
    odd = Talk("odd").user("go").call(None, [("read", {"path": 1, "deep": [{"a": None}, "b"]})])
    fill(answered("s", "one", "two"), agent("t"), odd.results("{}").call("done"), regenerated("u"))


@pytest.mark.parametrize("format", ["openai", "trl", "anthropic", "gemini", "sharegpt", "jsonl"])
def test_datasets_reads_what_was_written(mixed, export, load, format):
    done = export(format)
    loaded = load("json", train=done.path)["train"]
    assert len(loaded) == len(done.lines) == 5
    name = next(
        name for name in ("messages", "contents", "conversations", "id") if name in loaded[0]
    )
    assert [row[name] for row in loaded] == [line[name] for line in done.lines]


def test_datasets_reads_both_sides_of_a_split(mixed, export, load):
    done = export("trl", "--split", "0.5")
    sides = {name: done.path.with_name(f"data.{name}.jsonl") for name in ("train", "validation")}
    loaded = load("json", **sides)
    assert sum(map(len, loaded.values())) == 5


def test_parquet_holds_what_trl_lines_hold(mixed, export, load):
    lines, done = export("trl").lines, export("parquet", to="data.parquet")
    table = parquet.read_table(done.path)
    assert table.column_names == ["messages", "tools"]
    for row, line in zip(table.to_pylist(), lines, strict=True):
        assert json.loads(row["tools"]) == line["tools"]
        for message, expected in zip(row["messages"], line["messages"], strict=True):
            calls = message.pop("tool_calls") or []
            kept = {name: value for name, value in message.items() if value is not None}
            assert kept == {n: v for n, v in expected.items() if n != "tool_calls"}
            given = [json.loads(call["function"]["arguments"]) for call in calls]
            wanted = expected.get("tool_calls", [])
            assert given == [call["function"]["arguments"] for call in wanted]
    assert load("parquet", train=done.path)["train"].num_rows == 5


def test_parquet_holds_pairs(mixed, export):
    table = parquet.read_table(export("parquet", "--pairs", to="p.parquet").path)
    (row,) = table.to_pylist()
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == (
        "a good joke",
        "a bad joke",
    )


def test_an_empty_parquet_file_has_its_columns(export):
    assert parquet.read_table(export("parquet").path).column_names == ["messages", "tools"]


def test_parquet_without_its_library_says_what_to_install(export, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    done = export("parquet")
    assert done.code == 2
    assert "agent-telemetry[parquet]" in done.output
