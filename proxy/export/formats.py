"""The formats of a data set: how each writes a conversation and a pair. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from proxy.call import Json
from proxy.export import anthropic, gemini, openai, sharegpt
from proxy.export.message import Conversation, Pair

Members = dict[str, Json]


class Format(StrEnum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    SHAREGPT = "sharegpt"
    TRL = "trl"
    PARQUET = "parquet"
    JSONL = "jsonl"  # as recorded, in the provider's own shape


@dataclass(frozen=True, slots=True)
class Shape:
    """How a format writes what was asked and answered."""

    conversation: Callable[[Conversation], Members]
    pair: Callable[[Pair], Members]
    holds_thoughts: bool = True


SHAPES = {
    Format.OPENAI: Shape(openai.conversation, openai.pair, holds_thoughts=False),
    Format.ANTHROPIC: Shape(anthropic.conversation, anthropic.pair),
    Format.GEMINI: Shape(gemini.conversation, gemini.pair),
    Format.SHAREGPT: Shape(sharegpt.conversation, sharegpt.pair),
    Format.TRL: Shape(openai.trl_conversation, openai.trl_pair),
    Format.PARQUET: Shape(openai.trl_conversation, openai.trl_pair),
    # Two answers side by side have no form in the view that this one follows: TRL's serves.
    Format.JSONL: Shape(openai.trl_conversation, openai.trl_pair),
}
