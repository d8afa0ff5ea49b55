"""Any value becomes one that PostgreSQL takes; what is clean stays as it is."""

import itertools
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.record import COLUMNS
from proxy.store.jsonb import DEPTH_MAX
from proxy.store.storable import storable
from tests.store.rows import NOW, POISON, nested, record

CLEAN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), inner)
    ),
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)


def row(**values):
    """The storable row as column → value, JSON columns parsed."""
    found = dict(zip(COLUMNS, storable(record(**values)), strict=True))
    for column in ("chat_history", "tool_calls", "usage", "labels", "capture"):
        if found[column] is not None:
            found[column] = json.loads(found[column])
    return found


def sanitized(**values):
    return (row(**values)["capture"] or {}).get("sanitized", {})


@pytest.mark.parametrize(
    ("text", "kept", "reasons"),
    [
        ("plain", "plain", []),
        ("", "", []),
        ("tab\tand\nline", "tab\tand\nline", []),
        ("naïve 😀", "naïve 😀", []),
        ("\\u0000", "\\u0000", []),
        ("a\0b", "a\ufffdb", ["nul"]),
        ("a\ud800b", "a\ufffdb", ["surrogate"]),
        ("\ud83d\ude00", "😀", ["surrogate"]),
        ("\ude00\ud83d", "\ufffd\ufffd", ["surrogate"]),
        ("\0\ud800", "\ufffd\ufffd", ["nul", "surrogate"]),
        (b"by\xfftes", "by\ufffdtes", ["type"]),
        (7, "7", ["type"]),
        ([1], "<list>", ["type"]),
    ],
)
def test_text_is_changed_only_where_postgresql_cannot_hold_it(text, kept, reasons):
    found = row(response_text=text, chat_history=[text] if isinstance(text, str) else [])
    assert found["response_text"] == kept
    assert (found["capture"] or {}).get("sanitized", {}).get("response_text", []) == reasons
    if isinstance(text, str):
        assert found["chat_history"] == [kept]


@given(CLEAN)
def test_clean_json_stays_equal(value):
    """A JSON value without NUL, surrogates and infinities comes out equal and unremarked."""
    found = row(chat_history=[value], usage={"v": value})
    assert found["chat_history"] == [value]
    assert found["usage"] == {"v": value}
    assert found["capture"] is None


@given(ANYTHING, ANYTHING)
def test_any_value_gives_a_row(value, other):
    """Whatever stands in a column, the row is encodable, without NUL, and parses."""
    values = dict.fromkeys([name for name in COLUMNS if name not in ("id", "capture")], value)
    for cell in storable(record(**values, capture=other)):
        if isinstance(cell, str):
            assert "\0" not in cell
            cell.encode()
    found = row(**values, capture=other)
    assert "\\u0000" not in json.dumps(found["chat_history"]).replace("\\\\", "")


@pytest.mark.parametrize("values", POISON, ids=range(len(POISON)))
def test_poison_gives_a_row(values):
    found = storable(record(**values))
    assert len(found) == len(COLUMNS)


@pytest.mark.parametrize(
    ("number", "kept", "is_changed"),
    [
        (2**63, 2**63, False),
        (10**300, 10**300, False),
        (-(10**300), -(10**300), False),
        (2 * 10**308, str(2 * 10**308), True),
        (-(10**400), "-1" + "0" * 400, True),
        (16**4000, "0x1" + "0" * 4000, True),
        (float("nan"), "NaN", True),
        (float("inf"), "Infinity", True),
        (float("-inf"), "-Infinity", True),
        (0.1, 0.1, False),
        (5e-324, 5e-324, False),
        (1.7976931348623157e308, 1.7976931348623157e308, False),
        (True, True, False),
    ],
    ids=itertools.count(),  # pytest cannot write numbers of that size
)
def test_json_numbers_stay_exact_or_become_strings(number, kept, is_changed):
    found = row(usage={"n": number})
    assert found["usage"] == {"n": kept}
    assert type(found["usage"]["n"]) is type(kept)
    assert sanitized(usage={"n": number}) == ({"usage": ["number"]} if is_changed else {})


@pytest.mark.parametrize("kind", [list, dict])
def test_depth_is_capped_and_the_rest_kept_as_json_text(kind):
    deepest = nested(DEPTH_MAX - 1, kind)
    assert row(chat_history=[deepest])["chat_history"] == [deepest]
    assert sanitized(chat_history=[deepest]) == {}
    found = row(chat_history=[nested(DEPTH_MAX + 9, kind)])
    assert found["capture"]["sanitized"] == {"chat_history": ["depth"]}
    inner = found["chat_history"]
    while not isinstance(inner, str):
        inner = inner[0] if isinstance(inner, list) else inner["k"]
    assert json.loads(inner) == nested(10, kind)


def test_text_of_what_is_too_deep_keeps_nul_as_an_escape():
    deep = ["\0 \ud800 é", {"a": [1.5, None, True, float("inf"), 10**400], 5: ()}]
    for _ in range(DEPTH_MAX):
        deep = [deep]
    found = row(chat_history=deep)["chat_history"]
    while not isinstance(found, str):
        found = found[0]
    assert json.loads(found) == [
        "\0 \ufffd é",
        {"a": [1.5, None, True, "Infinity", str(10**400)], "5": []},
    ]


@pytest.mark.parametrize(
    ("members", "kept"),
    [
        ({"\0": 1, "\ufffd": 2}, {"\ufffd": 1, "\ufffd\ufffd": 2}),
        ({"1": "a", 1: "b"}, {"1": "a", "1\ufffd": "b"}),
        ({None: 1}, {"<NoneType>": 1}),
        ({"a": {1, 2}}, {"a": "<set>"}),
        ({5: UUID(int=1)}, {"5": str(UUID(int=1))}),
    ],
)
def test_no_member_is_lost(members, kept):
    assert row(usage=members)["usage"] == kept
    assert sanitized(usage=members)


@pytest.mark.parametrize("column", ["session_id", "project_id"])
def test_long_labels_are_hashed_so_that_two_never_merge(column):
    fits, first, second = "x" * 255, "x" * 256, "x" * 257
    assert row(**{column: fits})[column] == fits
    found = {row(**{column: label})[column] for label in (fits, first, second)}
    assert len(found) == 3
    assert all(len(label) == 255 for label in found)
    assert row(**{column: first})[column].startswith("x" * 222 + "-")
    assert sanitized(**{column: first}) == {column: ["length"]}
    nul, replaced = "\0" * 300, "\ufffd" * 300
    assert row(**{column: nul})[column] != row(**{column: replaced})[column]


@pytest.mark.parametrize("column", ["model_used", "stop_reason"])
def test_long_names_are_cut(column):
    assert row(**{column: "é" * 300})[column] == "é" * 255
    assert sanitized(**{column: "é" * 300}) == {column: ["length"]}


@pytest.mark.parametrize(
    ("number", "kept", "reasons"),
    [
        (5, 5, []),
        (None, None, []),
        (2**31, 2**31 - 1, ["range"]),
        (-(2**40), -(2**31), ["range"]),
        (1.0, 1, []),
        (1.5, 1, []),
        (True, 1, []),
        (float("nan"), None, ["type"]),
        ("5", None, ["type"]),
    ],
)
def test_integers_fit_their_column(number, kept, reasons):
    assert row(prompt_tokens=number)["prompt_tokens"] == kept
    assert sanitized(prompt_tokens=number).get("prompt_tokens", []) == reasons


@pytest.mark.parametrize(
    ("amount", "kept", "reasons"),
    [
        (Decimal("0.0000123"), Decimal("0.0000123"), []),
        (None, None, []),
        (0.25, Decimal("0.25"), []),
        (Decimal("NaN"), None, ["range"]),
        (Decimal("1e130000"), None, ["range"]),
        (Decimal("1e-50"), Decimal("0"), ["range"]),
        (float("inf"), None, ["range"]),
        (float("nan"), None, ["range"]),
        (10**40, None, ["range"]),
        (3, Decimal(3), []),
        (True, None, ["type"]),
        ("1", None, ["type"]),
    ],
)
def test_amounts_are_amounts(amount, kept, reasons):
    assert row(cost_usd=amount)["cost_usd"] == kept
    assert sanitized(cost_usd=amount).get("cost_usd", []) == reasons


@pytest.mark.parametrize(
    ("instant", "kept"),
    [
        (NOW, NOW),
        (datetime(2026, 3, 1, 12), NOW),
        (datetime(2026, 3, 1, 14, tzinfo=timezone(timedelta(hours=2))), NOW),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))), datetime.max),
        ("today", None),
    ],
)
def test_instants_are_utc(instant, kept):
    found = row(created_at=instant)["created_at"]
    assert found == (kept.replace(tzinfo=UTC) if kept else None)


@pytest.mark.parametrize(
    ("column", "value", "kept"),
    [
        ("turn_id", str(UUID(int=7)), UUID(int=7)),
        ("turn_id", "turn-7", None),
        ("parent_id", 7, None),
        ("streamed", "yes", None),
        ("streamed", False, False),
        ("chat_history", None, []),
        ("system_prompt", None, ""),
        ("model_used", "", "unknown"),
        ("model_used", None, "unknown"),
        ("duration_ms", None, 0),
        ("usage", None, None),
    ],
)
def test_columns_get_their_own_type(column, value, kept):
    assert row(**{column: value})[column] == kept


def test_what_was_changed_is_said_in_capture():
    found = row(capture={"request_bytes": 5, "note": "\0"}, session_id="s\0", cost_usd="x")
    assert found["capture"] == {
        "request_bytes": 5,
        "note": "\ufffd",
        "sanitized": {"session_id": ["nul"], "cost_usd": ["type"], "capture": ["nul"]},
    }
    assert row(capture=["odd\0"])["capture"] == {
        "capture": ["odd\ufffd"],
        "sanitized": {"capture": ["nul"]},
    }


def test_sizes_are_capped(monkeypatch):
    for module in ("jsonb", "storable"):
        monkeypatch.setattr(f"proxy.store.{module}.BYTES_MAX", 64)
    monkeypatch.setattr("proxy.store.jsonb.KEPT_BYTES_MAX", 16)
    monkeypatch.setattr("proxy.store.jsonb.NODES_MAX", 20)
    found = row(response_text="é" * 40, error="short")
    assert found["response_text"] == "é" * 32
    assert found["error"] == "short"
    assert found["capture"]["sanitized"] == {"response_text": ["size"]}
    many = row(chat_history=list(range(30)), usage={"k": "é" * 90}, labels={"é" * 20: 1})
    assert many["chat_history"] == ["[0,1,2,3,4,5,6,7"]
    assert many["usage"] == {"truncated": '{"k":"' + "é" * 5}
    assert many["labels"] == {"é" * 8: 1}
    assert many["capture"]["sanitized"] == {
        "chat_history": ["size"],
        "usage": ["size"],
        "labels": ["size"],
    }
