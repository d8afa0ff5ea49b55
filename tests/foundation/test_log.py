"""Log: one line per event, nothing forged, nothing blocked."""

import io
import json
import logging
import threading

import pytest

from proxy.config import Log
from proxy.log import configure, describe, escaped, event


def logged(settings: Log, *events) -> list[str]:
    stream = io.StringIO()
    listener = configure(settings, stream)
    try:
        for name, fields in events:
            event(name, logging.INFO, **fields)
    finally:
        listener.stop()
    return stream.getvalue().splitlines()


def test_an_event_is_one_json_line():
    lines = logged(Log(format="json"), ("call", {"id": "x", "none": None, "text": "a\nb\x1b[2J"}))
    found = json.loads(lines[0])
    assert len(lines) == 1
    assert found["event"] == "call"
    assert found["level"] == "info"
    assert "none" not in found
    assert found["text"] == "a\\u000ab\\u001b[2J"


def test_the_console_shows_the_line_made_for_people():
    assert logged(Log(format="console"), ("call", {"line": "12:00 ok"})) == ["12:00 ok"]
    (shown,) = logged(Log(format="console"), ("started", {"port": 1}))
    assert shown.endswith("started port=1")


def test_a_blocked_reader_costs_lines_and_not_time(monkeypatch):
    monkeypatch.setattr("proxy.log.STOP_S", 60.0)  # a busy machine writes ten thousand lines slowly
    release, stream = threading.Event(), io.StringIO()

    class Blocked(io.StringIO):
        def write(self, text):
            release.wait()
            return stream.write(text)

    listener = configure(Log(format="json"), Blocked())
    for number in range(10_500):
        event("call", logging.INFO, number=number)
    threading.Timer(0.1, release.set).start()
    listener.stop()
    numbers = [json.loads(line)["number"] for line in stream.getvalue().splitlines() if line]
    assert 10_000 <= len(numbers) < 10_500
    assert numbers == sorted(numbers)


def test_other_libraries_cannot_quote_requests():
    configure(Log(format="json"), io.StringIO()).stop()
    assert not logging.getLogger("aiohttp.server").isEnabledFor(logging.ERROR)


@pytest.mark.parametrize("text", ["\x00", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff", "\udc80"])
def test_what_drives_terminals_is_made_visible(text):
    assert escaped(f"a{text}b") == f"a\\u{ord(text):04x}b"


def test_an_error_is_described_without_its_text():
    with pytest.raises(ValueError) as caught:
        int("secret")
    assert describe(caught.value).startswith("ValueError at test_an_error_is_described")
    assert "secret" not in describe(caught.value)
