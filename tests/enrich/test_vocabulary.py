"""Vocabularies: which model has which, as published, without a network."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import tiktoken
from tiktoken_ext import openai_public

from proxy.enrich import vocabulary
from proxy.enrich.vocabulary import encoding, encoding_name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o-2024-08-06", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("gpt-5-mini", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("gpt-4.5-preview", "o200k_base"),
        ("claude-sonnet-4-5", "o200k_base"),
        ("unknown", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-0613", "cl100k_base"),
        ("openai/gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo-0125", "cl100k_base"),
        ("gpt-35-turbo", "cl100k_base"),
        ("ft:gpt-3.5-turbo:acme", "cl100k_base"),
        ("ft:gpt-4o:acme", "o200k_base"),
    ],
)
def test_each_model_has_its_encoding(model: str, name: str) -> None:
    assert encoding_name(model) == name


@pytest.mark.parametrize(
    ("name", "text", "tokens"),
    [
        ("o200k_base", "hello world", [24912, 2375]),
        ("cl100k_base", "hello world", [15339, 1917]),
        ("o200k_base", "<|endoftext|>", [27, 91, 419, 1440, 919, 91, 29]),
    ],
)
def test_shipped_vocabularies_encode_as_published(name: Any, text: str, tokens: list[int]) -> None:
    assert encoding(name).encode(text, disallowed_special=()) == tokens


def test_building_an_encoding_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    loader = openai_public.load_tiktoken_bpe
    fresh = vocabulary.encoding.__wrapped__("cl100k_base")
    assert isinstance(fresh, tiktoken.Encoding)
    assert fresh.n_vocab == 100_277
    assert openai_public.load_tiktoken_bpe is loader


def test_a_vocabulary_that_is_not_the_declared_one_is_refused() -> None:
    with pytest.raises(ValueError, match="cl100k_base"):
        vocabulary._shipped("https://host/cl100k_base.tiktoken", "0" * 64)
