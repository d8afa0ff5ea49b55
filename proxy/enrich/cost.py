"""Cost: what a call cost in US dollars, from its usage and a price table.

The table is the one that genai-prices ships; nothing is fetched. The operator's own prices win.
What is not known is None, never a guess: an upstream that is no known provider, a model without
a price, usage that contradicts itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache, partial

from genai_prices import Usage as PricedUsage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

from proxy.call import Json, Usage
from proxy.config import Price
from proxy.nouns import noun

MILLION = Decimal(1_000_000)
_MANY = 1_000_000

# Names of upstreams that differ from the price table's; all others are looked up as they are.
PROVIDERS = {
    "gemini": "google",
    "vertex": "google",
    "xai": "x-ai",
    "bedrock": "aws",
    "azure-openai": "azure",
    "moonshot": "moonshotai",
}


def cost_usd(
    provider: str,
    model: str,
    usage: Usage,
    prices: Mapping[str, Price],
    *,
    at: datetime | None = None,
) -> Decimal | None:
    """US dollars, or None where usage or price is not known.

    `provider` is the upstream's name. `prices` is keyed by model or by `provider/model`, the
    latter first. `at` is the time of the call, for prices that changed or depend on the hour.
    """
    if usage.prompt_tokens is None and usage.completion_tokens is None:
        return None
    override = prices.get(f"{provider}/{model}") or prices.get(model)
    if override is not None:
        return _by_override(override, usage)
    priced = _priced_model(PROVIDERS.get(provider, provider), model)
    if priced is None:
        return None
    if _is_plain(usage) and (rates := _rates(*priced, at)) is not None:
        return rates.total(usage)
    return _calculated(priced, lambda: _priced_usage(usage), at)


def _calculated(
    priced: tuple[Provider, ModelInfo], usage_of: Callable[[], PricedUsage], at: datetime | None
) -> Decimal | None:
    try:
        found = priced[1].calc_price(usage_of(), priced[0], genai_request_timestamp=at)
    except ValueError:  # more cached tokens than prompt tokens, negative counts
        return None
    return found.total_price


@noun(frozen=True, slots=True)
class _Rates:
    """US dollars per token where the price table's entry has no tiers, so that it is a sum."""

    call: Decimal  # whatever it holds
    prompt: Decimal
    completion: Decimal
    cached: Decimal  # more than `prompt`, as a rule a negative amount
    written: Decimal

    def total(self, usage: Usage) -> Decimal:
        prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
        cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
        total = self.call + prompt * self.prompt + completion * self.completion
        return total + cached * self.cached + written * self.written


def _is_plain(usage: Usage) -> bool:
    """Whether the usage contradicts nothing and needs no unit of its own."""
    cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    is_consistent = min(cached, written, completion) >= 0 and cached + written <= prompt
    return is_consistent and not _one_hour_writes(usage.raw)


def _rates(provider: Provider, model: ModelInfo, at: datetime | None) -> _Rates | None:
    """The table takes 0.1 ms for each sum, so it is asked for its rates once."""
    prices = model.get_prices(at or datetime.now(UTC))
    key = id(prices)  # the table's objects live as long as the program
    if key not in _KNOWN_RATES:
        _KNOWN_RATES[key] = _asked_rates(provider, model, prices, at)
    return _KNOWN_RATES[key]


_KNOWN_RATES: dict[int, _Rates | None] = {}


def _asked_rates(
    provider: Provider, model: ModelInfo, prices: ModelPrice, at: datetime | None
) -> _Rates | None:
    if any(isinstance(price, TieredPrices) for price in vars(prices).values()):
        return None
    base = {"input_tokens": 0, "output_tokens": 0}
    asked = [
        _calculated((provider, model), partial(PricedUsage, **base | counts), at)
        for counts in (
            {},
            {"input_tokens": _MANY},
            {"output_tokens": _MANY},
            {"input_tokens": _MANY, "cache_read_tokens": _MANY},
            {"input_tokens": _MANY, "cache_write_tokens": _MANY},
        )
    ]
    amounts = [amount for amount in asked if amount is not None]
    if len(amounts) < len(asked):
        return None
    call = amounts[0]
    prompt, completion, cached, written = ((each - call) / MILLION for each in amounts[1:])
    return _Rates(call, prompt, completion, cached - prompt, written - prompt)


def _by_override(price: Price, usage: Usage) -> Decimal | None:
    prompt = usage.prompt_tokens or 0
    cached = usage.cached_tokens or 0
    written = usage.cache_write_tokens or 0
    if cached + written > prompt:
        return None
    total = (
        (prompt - cached - written) * _decimal(price.input)
        + cached * _decimal(price.input if price.cached is None else price.cached)
        + written * _decimal(price.input if price.cache_write is None else price.cache_write)
        + (usage.completion_tokens or 0) * _decimal(price.output)
    )
    return total / MILLION


def _decimal(price: float) -> Decimal:
    """The figure as it was written in the configuration, not its binary neighbour."""
    return Decimal(repr(price))


@lru_cache(maxsize=2048)
def _priced_model(provider: str, model: str) -> tuple[Provider, ModelInfo] | None:
    """The price table's entry. A search takes 0.4 ms and agents name the same few models."""
    try:
        return get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None


def _priced_usage(usage: Usage) -> PricedUsage:
    """In the price table's units. Anthropic prices a cache write by how long it is to last."""
    hour = _one_hour_writes(usage.raw)
    written = usage.cache_write_tokens
    return PricedUsage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cache_read_tokens=usage.cached_tokens or 0,
        cache_write_tokens=written or 0,
        cache_write_1h_tokens=hour if written and 0 < hour <= written else None,
    )


def _one_hour_writes(raw: Json) -> int:
    created = raw.get("cache_creation") if isinstance(raw, dict) else None
    hour = created.get("ephemeral_1h_input_tokens") if isinstance(created, dict) else None
    return hour if isinstance(hour, int) else 0
