"""Lines: what a person sees of a call or a turn, and that nothing foreign drives the terminal."""

from datetime import UTC, datetime

import pytest

from proxy.views.lines import count, duration, is_good, line, one_line
from proxy.views.row import as_json, as_text

CALL = {
    "record_type": "llm_call",
    "created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "status": 200,
    "outcome": "complete",
    "model_used": "gpt-4o-mini",
    "duration_ms": 1234,
    "ttft_ms": 321,
    "prompt_tokens": 1200,
    "completion_tokens": 35,
    "tool_calls": [{"name": "get_weather"}, {"name": "note"}],
    "project_id": "shop",
    "session_id": "thread-42",
    "user_message": "What is the\nweather?",
    "response_text": "Rain.",
}


def test_a_call_is_one_line():
    assert line(CALL, 200)[8:] == (
        "  200 ok  gpt-4o-mini  1.2s (first 321ms)  1.2k→35 tok  ⚒ get_weather,note"
        "  shop/thread-42  “What is the weather?”  → Rain."
    )
    assert "weather?" not in line(CALL, 200, with_content=False)


def test_a_call_without_anything_is_a_line_too():
    assert line({"record_type": "llm_call"}) == "--:--:--  --- ?  unknown  -  -→- tok"


@pytest.mark.parametrize("width", [20, 40, 80, 100])
def test_a_line_fits_its_width(width):
    assert len(line(CALL, width)) <= width


def test_a_turn_is_one_line():
    turn = {
        **CALL,
        "record_type": "turn_summary",
        "stop_reason": "loop_detected:same_call:grep",
        "rounds": 14,
        "tool_call_count": 13,
        "duration_ms": 192_000,
    }
    shown = "turn session=thread-42 stop=loop_detected:same_call:grep rounds=14 tools=13"
    assert shown in line(turn, 200)
    assert "3m12s" in line(turn, 200)
    assert not is_good(turn)
    assert is_good(turn | {"stop_reason": "completed"})


@pytest.mark.parametrize(
    "hostile",
    ["\x1b]8;;http://x\x07", "\x9b2J", "a\u202eb", "\x00", "\ud800", "a\u2028b", "\r\nok"],
)
def test_foreign_text_cannot_drive_the_terminal(hostile):
    row = CALL | {"user_message": hostile, "model_used": hostile, "session_id": hostile}
    for text in (line(row, 500), as_text(row), one_line(hostile, 50)):
        assert not set(text.replace("\n", "")) & {*map(chr, range(32)), "\x7f", "\x9b", "\u202e"}
        text.encode()


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (None, "-"),
        (0, "0ms"),
        (999, "999ms"),
        (1000, "1.0s"),
        (99_999, "100.0s"),
        (192_000, "3m12s"),
    ],
)
def test_durations(milliseconds, shown):
    assert duration(milliseconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (None, "-"),
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (1234, "1.2k"),
        (210_400, "210k"),
        (3_400_000, "3.4M"),
    ],
)
def test_counts(number, shown):
    assert count(number) == shown


def test_long_values_are_cut_and_say_so():
    assert as_text({"a": "x" * 1000}).endswith("… (400 more characters)")
    assert as_text({"a": None, "b": [], "c": 0, "d": False}).split() == ["c", "0", "d", "False"]
    assert as_json({"n": 2**70}) == b'{"n":1180591620717411303424}'
