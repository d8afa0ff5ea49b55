"""Exchange: what its parts are as bytes."""

from dataclasses import fields

import orjson
import pytest

from proxy.exchange import AnswerHead, End, Outcome

END = End(
    9,
    Outcome.UPSTREAM_RESET,
    "cut",
    request_bytes=1,
    response_bytes=2,
    request_sha256="a",
    response_sha256="b",
    request_complete=False,
    request_kept=3,
    response_kept=4,
    is_recorded_elsewhere=True,
)


@pytest.mark.parametrize("noun", [END, AnswerHead(2, 200, (("content-type", "x"),))])
def test_every_field_is_in_the_bytes_and_comes_back(noun):
    data = noun.to_bytes()
    assert list(orjson.loads(data)) == [field.name for field in fields(noun)]
    assert data == orjson.dumps(noun)
    assert type(noun).from_bytes(data) == noun
