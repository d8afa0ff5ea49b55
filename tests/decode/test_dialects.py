"""Each dialect, plain and streamed, and each known oddity: the cases of `data/*.json`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.call import ModelCall
from proxy.decode.dispatch import decode
from proxy.exchange import Exchange, Piece
from tests.decode.cases import all_cases, exchange_of, flattened

CASES = [pytest.param(case, id=name) for name, case in all_cases()]


@pytest.mark.parametrize("case", CASES)
def test_case_is_read_as_written_beside_it(case: dict[str, Any]) -> None:
    found = flattened(decode(exchange_of(case)))
    assert {name: found[name] for name in case["expected"]} == case["expected"]


@pytest.mark.parametrize("case", CASES)
def test_bytes_that_come_one_by_one_are_read_the_same(case: dict[str, Any]) -> None:
    whole = exchange_of(case)
    body = whole.response_body
    split = replace(whole, response=tuple(Piece(at, body[at : at + 1]) for at in range(len(body))))
    assert timeless(split) == timeless(whole)


def timeless(exchange: Exchange) -> ModelCall:
    call = decode(exchange)
    return replace(call, answer=replace(call.answer, first_content_us=None))
