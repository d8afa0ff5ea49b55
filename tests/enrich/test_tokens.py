"""Token estimates: OpenAI's rules exactly, any input without a failure."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.call import Answer, Json, ModelCall, Prompt, ToolCall
from proxy.enrich import tokens as tokens_module
from proxy.enrich.tokens import PIECE_CHARS, Estimate, TokenCounter
from proxy.enrich.vocabulary import encoding
from tests.enrich.test_tool_schema import WEATHER

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
IMAGE = (
    "data:image/png;base64,"
    + base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\4\0\0\0\4\0\0\0\0").decode()
)


def call(
    *history: Json,
    model: str = "gpt-4o",
    system: str = "",
    answer: Answer | None = None,
    **params: Json,
) -> ModelCall:
    prompt = Prompt(
        model=model, system_prompt=system, chat_history=history, request_params=params or None
    )
    return ModelCall(prompt, answer or Answer())


def prompt_tokens(*history: Json, endpoint: str = "chat.completions", **rest: Any) -> int:
    return TokenCounter().estimate_prompt(call(*history, **rest), endpoint)


def test_text_in_pieces_counts_as_the_whole() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 2000
    assert len(text) > 4 * PIECE_CHARS
    assert TokenCounter().count(text, "gpt-4o") == len(encoding("o200k_base").encode(text))


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_text_can_be_counted(text: str) -> None:
    """Lone surrogates, NUL, special tokens: a number, zero only for the empty text."""
    found = TokenCounter().count(text, "gpt-4o")
    assert (found == 0) == (text == "")
    assert found <= 4 * len(text)


@pytest.mark.parametrize("unit", ["a", "^", "_", " ", "\n", "ab ", "🙂", "\ud800"])
def test_a_megabyte_of_one_character_is_counted(unit: str) -> None:
    text = (unit * 1_000_000)[:1_000_000]
    assert 0 < TokenCounter().count(text, "gpt-4o") <= 3 * len(text)


def test_a_megabyte_of_random_letters_is_counted() -> None:
    text = "".join(random.Random(1).choices(string.ascii_letters, k=1_000_000))
    assert 400_000 < TokenCounter().count(text, "gpt-4") < 1_000_000


def test_text_beyond_the_limit_is_estimated_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "TEXT_BYTES_MAX", PIECE_CHARS)
    message: Json = {"role": "user", "content": "x" * 3 * PIECE_CHARS}
    found = TokenCounter().estimate(call(message), "chat.completions")
    assert found.problems == (f"tokens: {2 * PIECE_CHARS} bytes of text estimated from length",)
    assert PIECE_CHARS // 2 < found.prompt_tokens < PIECE_CHARS
    assert found.total_tokens == found.prompt_tokens


class PanicException(BaseException):
    """What a panic of tiktoken's Rust code looks like from Python."""


class Stopped(BaseException):
    """Any other end of the program."""


class Broken:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def encode(self, text: str, **_: object) -> list[int]:
        raise self.error


def test_a_panic_of_the_tokenizer_ends_in_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "encoding", lambda name: Broken(PanicException))
    assert TokenCounter().count("x" * 400, "gpt-4o") == 100


def test_other_ends_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "encoding", lambda name: Broken(Stopped))
    with pytest.raises(Stopped):
        TokenCounter().count("x", "gpt-4o")


def test_openai_messages_follow_the_cookbook() -> None:
    # Cookbook, "How to count tokens with tiktoken": what the API says.
    turns = [
        ("example_user", "New synergies will help drive top-line growth."),
        ("example_assistant", "Things working well together will increase revenue."),
        (
            "example_user",
            "Let's circle back when we have more bandwidth to touch base on opportunities "
            "for increased leverage.",
        ),
        (
            "example_assistant",
            "Let's talk later when we're less busy about how to do better.",
        ),
    ]
    pivot = "This late pivot means we don't have time to boil the ocean for the client deliverable."
    system = (
        "You are a helpful, pattern-following assistant that translates corporate jargon "
        "into plain English."
    )
    history: list[Json] = [{"role": "system", "name": n, "content": c} for n, c in turns]
    history.append({"role": "user", "content": pivot})
    assert prompt_tokens(*history, system=system, model="gpt-4-0613") == 129
    assert prompt_tokens(*history, system=system, model="gpt-4o") == 124


USER: Json = {"role": "user", "content": "hello world"}


@pytest.mark.parametrize(
    ("more", "extra"),
    [
        ({"history": [{"role": "user", "content": "hello world"}]}, 6),
        ({"history": [{"role": "user", "content": [{"type": "text", "text": "hello world"}]}]}, 6),
        (
            {
                "history": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": IMAGE}}],
                    }
                ]
            },
            4 + 765,
        ),
        (
            {
                "history": [
                    {
                        "role": "user",
                        "content": [{"type": "input_image", "image_url": IMAGE, "detail": "low"}],
                    }
                ]
            },
            4 + 85,
        ),
        # A tool call of one token's name and one token's arguments, and its frame.
        (
            {
                "history": [
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "x",
                                "type": "function",
                                "function": {"name": "grep", "arguments": "{}"},
                            }
                        ],
                    }
                ]
            },
            4 + 7 + 2,
        ),
        ({"system": "hello world"}, 6),
        ({"tools": [WEATHER]}, 9 + 82),
        ({"tools": [WEATHER], "system": "hello world"}, 9 + 82 + 6 - 4),
        ({"tools": "odd"}, 0),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "string"}},
                }
            },
            5 + 5,
        ),
        ({"text": {"format": {"type": "json_schema", "schema": {"type": "string"}}}}, 5 + 5),
        ({"text": {"format": "odd"}, "response_format": "odd"}, 0),
    ],
)
def test_what_each_part_of_a_prompt_adds(more: dict[str, Any], extra: int) -> None:
    history = more.pop("history", [])
    assert prompt_tokens(USER, *history, **more) - prompt_tokens(USER) == extra


@pytest.mark.parametrize(
    ("model", "part", "tokens"),
    [
        (
            "claude-sonnet-4-5",
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": IMAGE},
            },
            1399,
        ),
        ("gemini-2.5-pro", {"inlineData": {"mimeType": "image/png", "data": IMAGE}}, 1032),
        (
            "us.anthropic.claude-3-haiku",
            {"image": {"format": "png", "source": {"bytes": IMAGE}}},
            1399,
        ),
        ("gemini-2.5-pro", {"fileData": {"mimeType": "image/png", "fileUri": "gs://x"}}, 1032),
        ("gemini-2.5-pro", {"inlineData": {"mimeType": "audio/wav", "data": IMAGE}}, 0),
        ("claude-sonnet-4-5", {"type": "document", "source": {"type": "base64", "data": IMAGE}}, 0),
    ],
)
def test_images_count_by_their_providers_rule(model: str, part: Json, tokens: int) -> None:
    counter = TokenCounter()
    framing = tokens_module.framing_of(model, "messages")
    with_image = counter._message({"role": "user", "content": [part]}, model, framing)
    assert with_image - counter._message({"role": "user", "content": []}, model, framing) == tokens


def completion_tokens(
    answer: Answer, model: str = "gpt-4o", endpoint: str = "chat.completions"
) -> int:
    return TokenCounter().estimate_completion(call(model=model, answer=answer), endpoint)


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (Answer(), 0),
        (Answer(text="hello world"), 2),
        (Answer(text="hello world", thoughts="hello world"), 4),
        (Answer(text="hello", choices=({"text": "hello world"}, {"text": None}, "odd")), 3),
        (Answer(tool_calls=(ToolCall("1", "grep", {}),)), 1 + 1 + 7),
        (Answer(tool_calls=(ToolCall("1", "grep", {}, raw="{}"),) * 2), 2 * 2 + 5 + 24),
        (Answer(tool_calls=(ToolCall("1", "web_search", {}, is_server=True),)), 0),
        (Answer(tool_calls=(ToolCall("1", "grep", "not json"),)), 1 + 2 + 7),
    ],
)
def test_what_each_part_of_an_answer_adds(answer: Answer, tokens: int) -> None:
    assert completion_tokens(answer) == tokens


def test_families_and_endpoints_frame_an_answer_differently() -> None:
    answer = Answer(text="hello world")
    assert completion_tokens(answer, endpoint="responses") == 3
    assert completion_tokens(answer, model="gpt-5-2025-08-07") == 11
    assert completion_tokens(answer, model="gpt-5.4-mini") == 5
    assert completion_tokens(answer, model="claude-sonnet-4-5") == 5
    assert completion_tokens(answer, model="my-deployment", endpoint="messages") == 5
    assert completion_tokens(answer, model="vendor/unknown", endpoint="messages") == 2
    assert completion_tokens(Answer(text="a " * 100), model="claude-sonnet-5") > 140


@pytest.mark.parametrize(
    ("message", "calls"),
    [
        ({"type": "function_call", "name": "f", "arguments": "{}"}, 1),
        ({"role": "assistant", "content": [{"type": "tool_use"}, {"type": "text"}, "odd"]}, 1),
        ({"role": "assistant", "content": "text"}, 0),
    ],
)
def test_tool_calls_in_a_history_are_framed(message: dict[str, Json], calls: int) -> None:
    assert tokens_module._calls_of(message) == calls


def test_other_families_count_tools_as_json() -> None:
    assert prompt_tokens(USER, tools=[WEATHER], model="claude-sonnet-4-5") > 480 + 100
    assert (
        prompt_tokens(USER, tools=[WEATHER], endpoint="responses") == prompt_tokens(USER) + 3 + 82
    )


def test_a_bare_prompt_has_no_frame() -> None:
    assert prompt_tokens(USER, model="gpt-3.5-turbo-instruct", endpoint="completions") == 2


def test_tools_of_converse_are_counted() -> None:
    model = "anthropic.claude-3-haiku"
    config: Json = {"tools": [WEATHER]}
    assert prompt_tokens(USER, toolConfig=config, model=model) == prompt_tokens(
        USER, tools=[WEATHER], model=model
    )


def test_what_was_counted_is_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "CACHE_ENTRIES_MAX", 2)
    counter = TokenCounter()
    histories: list[Json] = [{"role": "user", "content": "word " * n} for n in (1, 2, 3, 1, 1)]
    found = [counter._remembered(m, "gpt-4o", tokens_module.OTHER) for m in histories]
    assert found[0] == found[3] == found[4] < found[1] < found[2]
    assert len(counter._seen) == 2


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(codec=None, exclude_categories=())),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "type",
                    "image_url",
                    "source",
                    "tool_calls",
                    "input",
                    "url",
                    "data",
                    "function",
                    "parameters",
                    "properties",
                    "enum",
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=15,
)


@settings(deadline=None)
@given(JSON, JSON, JSON, st.sampled_from(["gpt-4o", "claude-x", "gemini-2.5", "x", "\ud800"]))
def test_any_json_gives_an_estimate(message: Json, tools: Json, params: Json, model: str) -> None:
    """Whatever stands in a request: a number and no exception."""
    counter = TokenCounter()
    answer = Answer(text="x", tool_calls=(ToolCall(None, "f", message),), choices=(params,))
    given_call = call(message, model=model, tools=[tools], text=params, answer=answer)
    found = counter.estimate(given_call, "responses")
    assert isinstance(found, Estimate)
    assert found.prompt_tokens >= 0
    assert found.completion_tokens >= 1


@pytest.mark.parametrize("choice", [2**80, "\ud83d", json.loads("[" * 400 + "]" * 400)])
def test_any_choice_of_a_tools_schema_gives_an_estimate(choice: Json) -> None:
    schema: Json = {"type": "object", "properties": {"x": {"enum": [choice]}}}
    tool: Json = {"type": "function", "function": {"name": "f", "parameters": schema}}
    given_call = call({"role": "user", "content": "x"}, model="gpt-4o", tools=[tool])
    assert TokenCounter().estimate(given_call, "chat.completions").prompt_tokens > 10


def test_nesting_without_end_gives_an_estimate() -> None:
    deep: Json = "x"
    for _ in range(5000):
        deep = {"input": [deep]}
    assert prompt_tokens({"role": "user", "content": [deep]}) > 0


def _recorded() -> Iterator[tuple[ModelCall, int]]:
    """OpenAI's text answers with what OpenAI counted, from what the official SDK read."""
    file = CORPUS / "expected" / "openai.chat.completions.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines():
        expected = json.loads(line).get("expected") or {}
        usage = expected.get("usage_raw") or {}
        details = usage.get("completion_tokens_details") or {}
        text, choices = expected.get("response_text"), expected.get("choices_text") or []
        is_plain = not (details.get("reasoning_tokens") or details.get("audio_tokens"))
        told = expected.get("completion_tokens")
        if text and told and is_plain and len(choices) == 1 and not expected.get("tool_calls"):
            answer = Answer(model=expected["model"], text=text)
            yield ModelCall(Prompt(), answer), told


@pytest.mark.skipif(not CORPUS.exists(), reason="the recorded calls are not beside the repository")
def test_recorded_text_answers_are_counted_as_openai_did() -> None:
    counter = TokenCounter()
    errors = [
        abs(counter.estimate_completion(found, "chat.completions") - told) / told
        for found, told in _recorded()
    ]
    assert len(errors) > 400
    assert median(errors) <= 0.01
    assert sum(error <= 0.01 for error in errors) / len(errors) > 0.6
