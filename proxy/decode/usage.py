"""Token counts put together under the record's rules, whatever the dialect calls them."""

from __future__ import annotations

from proxy.call import Json, Usage


def usage_of(
    raw: Json,
    prompt: int | None,
    completion: int | None,
    total: int | None = None,
    *,
    cached: int | None = None,
    cache_write: int | None = None,
    reasoning: int | None = None,
) -> Usage:
    """Usage from a provider's object. The total is as reported, else the sum of what is known."""
    if total is None:
        total = known_sum(prompt, completion)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=total,
        cached_tokens=cached,
        cache_write_tokens=cache_write,
        reasoning_tokens=reasoning,
        raw=raw,
    )


def known_sum(*counts: int | None) -> int | None:
    """The sum of the counts that are known; None where none is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
