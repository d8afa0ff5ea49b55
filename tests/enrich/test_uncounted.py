"""What an estimate leaves out is named."""

from __future__ import annotations

import pytest

from proxy.call import Answer, Json, ModelCall, Prompt
from proxy.enrich.tokens import TokenCounter
from proxy.enrich.uncounted import uncounted


def call(message: Json = "Hi", model: str = "gpt-4o", **params: Json) -> ModelCall:
    prompt = Prompt(model=model, chat_history=(message,), request_params=params)
    return ModelCall(prompt, Answer(text="a"))


MESSAGES: list[tuple[Json, list[str]]] = [
    ({"role": "user", "content": "audio, video and a file"}, []),
    ({"content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}, []),
    ({"parts": [{"inlineData": {"mimeType": "image/png", "data": "QUJD"}}]}, []),
    ({"content": [{"type": "input_audio", "input_audio": {"data": "QUJD"}}]}, ["audio"]),
    ({"content": [{"type": "file", "file": {"file_id": "f"}}]}, ["files"]),
    ({"content": [{"type": "document", "source": {"type": "url"}}]}, ["files"]),
    ({"content": [{"document": {"format": "pdf"}}, {"video": {}}]}, ["files", "video"]),
    ({"parts": [{"fileData": {"mimeType": "video/mp4"}}]}, ["video"]),
    ({"parts": [{"inline_data": {"mime_type": "application/pdf"}}]}, ["files"]),
]


@pytest.mark.parametrize(("message", "kinds"), MESSAGES)
def test_media_without_a_rule_are_named(message: Json, kinds: list[str]) -> None:
    assert uncounted(call(message)) == kinds


@pytest.mark.parametrize(
    ("model", "params", "is_hidden"),
    [
        ("gpt-4o", {}, False),
        ("o3-mini", {}, True),
        ("openai/gpt-5-nano", {}, True),
        ("ago3", {}, False),
        ("x", {"reasoning_effort": "low"}, True),
        ("x", {"reasoning_effort": "none"}, False),
        ("x", {"reasoning": {"effort": "low"}}, True),
        ("claude-x", {"thinking": {"type": "enabled"}}, True),
        ("claude-x", {"thinking": {"type": "disabled"}}, False),
    ],
)
def test_reasoning_that_cannot_be_seen_is_named(
    model: str, params: dict[str, Json], is_hidden: bool
) -> None:
    assert uncounted(call(model=model, **params)) == ["hidden reasoning"] * is_hidden


def test_thoughts_that_are_shown_are_counted() -> None:
    shown = ModelCall(Prompt(model="o3"), Answer(thoughts="hm"))
    assert uncounted(shown) == []


def test_an_estimate_says_what_it_leaves_out() -> None:
    given = call({"content": [{"type": "file"}]}, model="o3")
    problems = TokenCounter().estimate(given, "chat.completions").problems
    assert problems == ("tokens: the estimate leaves out files, hidden reasoning",)
