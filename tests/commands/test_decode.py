"""`decode FILE` reads an exchange in every form in which people keep one."""

import base64
import hashlib
import json

import pytest
from click.testing import CliRunner

from proxy.captured import packed
from proxy.cli import main
from proxy.exchange import Exchange
from tests.pipeline.exchanges import chat


def recording(exchange: Exchange) -> bytes:
    """One line of a recording."""
    body = base64.b64encode(exchange.response_body).decode()
    request = {
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": {"Content-Type": "application/json"},
        "body_b64": base64.b64encode(exchange.request).decode(),
    }
    response = {"status": 200, "headers": {"Content-Type": "application/json"}, "body_b64": body}
    return json.dumps({"provider": "groq", "request": request, "response": response}).encode()


@pytest.mark.parametrize("form", [packed, Exchange.to_bytes, recording])
def test_text_tokens_and_measures_are_shown(form, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENT_TELEMETRY__DATA_DIR", str(tmp_path))
    exchange = chat("hello")
    file = tmp_path / "exchange"
    file.write_bytes(form(exchange))
    done = CliRunner().invoke(main, ["decode", str(file), "--json"])
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)
    assert (row["user_message"], row["response_text"]) == ("hello", "answer to hello")
    assert row["total_tokens"] == 10
    assert row["capture"]["request_bytes"] == len(exchange.request)
    assert row["capture"]["response_sha256"] == hashlib.sha256(exchange.response_body).hexdigest()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no JSON", "no exchange"),
        (b"{}", "'request' is missing"),
        (b'{"version": 99}', "exchange"),
        (b"\x28\xb5\x2f\xfd broken", "no exchange"),
    ],
)
def test_what_is_no_exchange_is_said_in_one_line(content, said, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENT_TELEMETRY__DATA_DIR", str(tmp_path))
    file = tmp_path / "exchange"
    file.write_bytes(content)
    done = CliRunner().invoke(main, ["decode", str(file)])
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
