"""What a call cost: the price table, the operator's prices, and what has no price."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

import pytest

from proxy.call import Usage
from proxy.config import Price
from proxy.enrich.cost import cost_usd

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR_WRITE = {"cache_creation": {"ephemeral_1h_input_tokens": 100_000}}


@pytest.mark.parametrize(
    ("provider", "model", "usage", "dollars"),
    [
        # US dollars per million tokens, from the providers' price pages.
        ("openai", "gpt-4o-mini-2024-07-18", Usage(1_000_000, 0), "0.15"),
        ("openai", "gpt-4o-mini", Usage(0, 1_000_000), "0.60"),
        ("openai", "gpt-4o-mini", Usage(1_000_000, 0, cached_tokens=1_000_000), "0.075"),
        ("anthropic", "claude-3-5-haiku-20241022", Usage(1_000_000, 0), "0.80"),
        (
            "anthropic",
            "claude-3-5-haiku-20241022",
            Usage(1000, 0, cache_write_tokens=1000),
            "0.001",
        ),
        ("gemini", "gemini-2.0-flash", Usage(1_000_000, 0), "0.10"),
        ("openai", "gpt-4o-mini", Usage(None, 1_000_000), "0.60"),
        ("openai", "gpt-4o-mini", Usage(0, 0), "0"),
    ],
)
def test_known_models_cost_what_their_provider_charges(
    provider: str, model: str, usage: Usage, dollars: str
) -> None:
    assert cost_usd(provider, model, usage, {}, at=AT) == Decimal(dollars)


def test_an_hours_cache_write_costs_more_than_five_minutes() -> None:
    short = Usage(100_000, 0, cache_write_tokens=100_000)
    long = Usage(100_000, 0, cache_write_tokens=100_000, raw=HOUR_WRITE)
    model = "claude-sonnet-4-5"
    assert cost_usd("anthropic", model, short, {}, at=AT) == Decimal("0.375")
    assert cost_usd("anthropic", model, long, {}, at=AT) == Decimal("0.6")


@pytest.mark.parametrize(
    "raw", [None, 7, {"cache_creation": 1}, {"cache_creation": {"ephemeral_1h_input_tokens": "x"}}]
)
def test_odd_usage_objects_are_priced_as_plain(raw: object) -> None:
    usage = Usage(1000, 0, cache_write_tokens=400, raw=raw)  # type: ignore[arg-type] # any JSON
    plain = Usage(1000, 0, cache_write_tokens=400)
    assert cost_usd("anthropic", "claude-sonnet-4-5", usage, {}) == cost_usd(
        "anthropic", "claude-sonnet-4-5", plain, {}
    )


@pytest.mark.parametrize(
    ("provider", "model", "usage"),
    [
        ("ollama", "llama3", Usage(10, 10)),  # no known provider
        ("openai", "no-such-model", Usage(10, 10)),
        ("openai", "gpt-4o", Usage()),  # no usage
        ("openai", "gpt-4o", Usage(10, 0, cached_tokens=20)),  # more cached than there are
        ("openai", "gpt-4o", Usage(-10, 0)),
    ],
)
def test_what_is_not_known_has_no_cost(provider: str, model: str, usage: Usage) -> None:
    assert cost_usd(provider, model, usage, {}) is None


PRICE = Price(input=1, output=10, cached=0.1, cache_write=2)


@pytest.mark.parametrize(
    ("price", "usage", "dollars"),
    [
        (PRICE, Usage(1_000_000, 100_000), "2"),
        (PRICE, Usage(1_000_000, 0, cached_tokens=500_000), "0.55"),
        (PRICE, Usage(1_000_000, 0, cache_write_tokens=500_000), "1.5"),
        (
            Price(input=1, output=10),
            Usage(1_000_000, 0, cached_tokens=9, cache_write_tokens=1),
            "1",
        ),
        (PRICE, Usage(None, 100_000), "1"),
        (Price(input=0.15, output=0), Usage(1, None), "0.00000015"),
    ],
)
def test_the_operators_price_wins(price: Price, usage: Usage, dollars: str) -> None:
    assert cost_usd("openai", "gpt-4o", usage, {"gpt-4o": price}) == Decimal(dollars)


def test_a_price_for_provider_and_model_wins_over_one_for_the_model() -> None:
    prices = {"m": Price(input=1, output=1), "mine/m": Price(input=5, output=5)}
    usage = Usage(1_000_000, 0)
    assert cost_usd("mine", "m", usage, prices) == 5
    assert cost_usd("other", "m", usage, prices) == 1


def test_an_override_does_not_price_usage_that_contradicts_itself() -> None:
    usage = Usage(10, 0, cached_tokens=8, cache_write_tokens=8)
    assert cost_usd("openai", "gpt-4o", usage, {"gpt-4o": PRICE}) is None


def test_a_sum_by_rates_is_what_the_price_table_calculates() -> None:
    """Every model of the table, at several instants and usages."""
    from genai_prices.data_snapshot import get_snapshot

    from proxy.enrich import cost

    usages = [
        Usage(prompt, completion, cached_tokens=cached, cache_write_tokens=written)
        for prompt in (0, 12_345)
        for completion in (0, 77)
        for cached in (None, 12_000)
        for written in (None, 300)
    ]
    usages = [usage for usage in usages if cost._is_plain(usage)]
    seen = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            for at in (AT, datetime(2026, 3, 1, 3, tzinfo=UTC)):
                rates = cost._rates(provider, model, at)
                if rates is None:
                    continue
                for usage in usages:
                    asked = partial(cost._priced_usage, usage)
                    calculated = cost._calculated((provider, model), asked, at)
                    assert rates.total(usage) == calculated, (provider.id, model.id, usage)
                seen += 1
    assert seen > 500
