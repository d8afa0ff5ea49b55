"""Plans: a head that came before is treated as if it came for the first time."""

from uuid import UUID

import pytest

from proxy.exchange import Start
from proxy.wire.admission import Admission
from proxy.wire.fields import from_raw
from proxy.wire.plans import HEAD_BYTES_MAX, KEPT_MAX, Plans
from proxy.wire.refusals import Refusal
from tests.wire.gateways import config_of

ID = UUID(int=1)
TARGET = b"/p/shop/fake/v1/chat/completions"
KEY = (b"Authorization", b"Bearer sk-0123456789abcdef")
HEADS = [
    ((b"Host", b"localhost"), (b"CONTENT-length", b"7"), KEY, (b"X-Stainless-Lang", b"python")),
    (
        (b"content-length", b"7"),
        (b"Host", b"localhost"),
        (b"Connection", b"X-Hop"),
        (b"X-Hop", b"1"),
    ),
    ((b"Host", b"localhost"), (b"Transfer-Encoding", b"chunked"), (b"x-telemetry-session", b"s")),
    ((b"Host", b"localhost"), KEY, (b"Expect", b"100-Continue"), (b"Content-Length", b"7")),
    ((b"Host", b"localhost"), (b"Upgrade", b"h2c"), (b"Connection", b"Upgrade")),
    ((b"Host", b"localhost"), (b"User-Agent", b"a\xff"), (b"Content-Length", b"1" * 16)),
]


def plans(**sections):
    config = config_of({"fake": {"url": "http://provider/base", "api_key": "k" * 20}}, **sections)
    return Plans(Admission(config), b"salt")


def asked(known, raw, method="POST", target=TARGET):
    plan, length = known.of(method, target, from_raw(raw), is_http_1_0=False)
    start = Start.from_bytes(plan.start(str(ID), 7, length))
    assert (start.id, start.at_ns) == (ID, 7)
    return plan, plan.to_upstream(length), start


@pytest.mark.parametrize("raw", HEADS)
@pytest.mark.parametrize("length", [b"0", b"8", b"123456789012345", b"1" * 17])
def test_a_known_head_gives_what_an_unknown_one_gives(raw, length):
    known = plans()
    asked(known, raw)
    other = [(name, length if name.lower() == b"content-length" else v) for name, v in raw]
    (plan, head, start), (_, head_anew, start_anew) = asked(known, other), asked(plans(), other)
    assert (head, start) == (head_anew, start_anew)
    has_length = any(name.lower() == b"content-length" for name, _ in raw)
    assert (b": %b\r\n" % length in head) == has_length
    assert [v for name, v in start.headers if name == "content-length"] == [
        length.decode()
    ] * has_length
    assert plan.admitted == asked(plans(), other)[0].admitted


@pytest.mark.parametrize(
    "change",
    [
        {"target": b"/p/shop/fake/v1/messages"},
        {"target": TARGET + b"?x"},
        {"raw": (*HEADS[0], (b"X-More", b"1"))},
        {"raw": ((b"host", b"localhost"), *HEADS[0][1:])},
        {"raw": ((b"Host", b"localhost"), (b"Content-Length", b"7"), *HEADS[0][2:])},
    ],
)
def test_any_difference_but_the_length_is_seen(change):
    known = plans()
    given = {"raw": HEADS[0], "method": "POST", "target": TARGET}
    asked(known, **given)
    assert asked(known, **given | change)[1:] == asked(plans(), **given | change)[1:]
    assert asked(known, **given | change)[1] != asked(known, **given)[1]


def test_a_refusal_is_decided_each_time_and_an_ambiguous_length_refused():
    known = plans()
    asked(known, HEADS[0])
    for more in ((b"Content-Length", b"7"), (b"Transfer-Encoding", b"chunked")):
        refused, _ = known.of("POST", TARGET, from_raw((*HEADS[0], more)), is_http_1_0=False)
        assert isinstance(refused, Refusal)
        assert refused.status == 400
    for odd in (b"+7", b"7,7", b""):
        given = from_raw([(b"Content-Length", odd)])
        refused, _ = known.of("POST", TARGET, given, is_http_1_0=False)
        assert isinstance(refused, Refusal)


def test_memory_is_bounded():
    known = plans()
    for number in range(KEPT_MAX + 9):
        asked(known, ((b"Host", b"localhost"), (b"X-N", b"%d" % number)))
    assert len(known._plans) == KEPT_MAX
    asked(known, ((b"Host", b"localhost"), (b"X-N", b"x" * HEAD_BYTES_MAX)))
    assert not any(b"x" * HEAD_BYTES_MAX in str(key).encode() for key in known._plans)
