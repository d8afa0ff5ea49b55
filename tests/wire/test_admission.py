"""Admission: who may call what, decided from the head; nothing in a request names a host."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.endpoints import REALTIME_SOCKET, RESPONSES_SOCKET, RETRIEVED_RESPONSE, Endpoint
from proxy.wire.admission import Admission, Admitted, Healthy, Reporting
from proxy.wire.fields import from_raw
from proxy.wire.refusals import Refusal
from tests.wire.gateways import config_of

TOKEN = "client-token-0123456789"
KEY = "sk-configured-0123456789"
UPSTREAMS = {
    "openai": {"url": "https://api.openai.com"},
    "anthropic": {"url": "https://api.anthropic.com", "dialect": "anthropic"},
    "gemini": {"url": "https://generativelanguage.googleapis.com", "dialect": "gemini"},
    "keyed": {"url": "http://127.0.0.1:9/base/", "dialect": "anthropic", "api_key": KEY},
    "bearer": {"url": "http://127.0.0.1:9", "api_key": KEY},
    "named": {"url": "http://127.0.0.1:9", "api_key": KEY, "api_key_header": "X-My-Key"},
}
HOST = (b"Host", b"127.0.0.1:8080")


def decide(target, *raw, method="POST", upstreams=UPSTREAMS, **sections):
    admission = Admission(config_of(upstreams, **sections))
    return admission.decide(method, target, from_raw((HOST, *raw)))


def admitted(*args, **kwargs):
    decision = decide(*args, **kwargs)
    assert isinstance(decision, Admitted), decision
    return decision


def refused(*args, **kwargs):
    decision = decide(*args, **kwargs)
    assert isinstance(decision, Refusal), decision
    return decision


@pytest.mark.parametrize(
    ("target", "raw", "name", "forwarded"),
    [
        (b"/openai/v1/chat/completions", (), "openai", b"/v1/chat/completions"),
        (b"/openai", (), "openai", b"/"),
        (b"/keyed", (), "keyed", b"/base"),
        (b"/keyed//x?a=%3A", (), "keyed", b"/base//x?a=%3A"),
        (b"/keyed/x?key=mine&alt=sse", (), "keyed", b"/base/x?alt=sse"),
        (b"/keyed/x?key=mine", (), "keyed", b"/base/x"),
        (b"/openai/x?key=mine", (), "openai", b"/x?key=mine"),
        (b"/openai/x?", (), "openai", b"/x?"),
        (b"/v1/messages", ((b"Anthropic-Version", b"1"),), "anthropic", b"/v1/messages"),
        (b"/v1/models", (), "openai", b"/v1/models"),
        (b"/v1beta/models", (), "gemini", b"/v1beta/models"),
        (b"/p/a/s/b/t/c/openai/x", (), "openai", b"/x"),
    ],
)
def test_a_path_chooses_a_configured_upstream(target, raw, name, forwarded):
    decision = admitted(target, *raw)
    assert (decision.origin.name, decision.target) == (name, forwarded)


@given(st.binary(max_size=60), st.lists(st.tuples(st.binary(), st.binary()), max_size=3))
def test_no_request_reaches_a_host_that_is_not_configured(target, raw):
    """For all targets and headers: refused, or one of the configured upstreams."""
    decision = decide(b"/" + target, *raw)
    if isinstance(decision, Admitted):
        assert decision.origin.host in {
            b"api.openai.com",
            b"api.anthropic.com",
            b"generativelanguage.googleapis.com",
            b"127.0.0.1:9",
        }
        assert decision.target.startswith(b"/")


def test_an_unknown_upstream_lists_the_known_ones_and_the_remedy():
    refusal = refused(b"/nowhere/x")
    assert refusal.status == 404
    assert "anthropic, bearer, gemini" in refusal.text
    assert "[upstreams.NAME]" in refusal.text
    assert "nowhere" not in refusal.text


def test_whoever_asks_is_told_that_the_gateway_answers():
    for raw in ((), ((b"Origin", b"http://x"),), ((b"Authorization", b"Bearer x"),)):
        found = decide(
            b"/telemetry/v1/health", *raw, method="GET", gateway={"client_tokens": [TOKEN]}
        )
        assert found == Healthy()
    assert isinstance(decide(b"/telemetry/v1/health", method="POST"), Refusal)


@pytest.mark.parametrize(
    ("target", "endpoint"),
    [
        (b"/openai/v1/responses", RESPONSES_SOCKET),
        (b"/openai/v1/realtime?model=m", REALTIME_SOCKET),
        (b"/gemini/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiX", None),
    ],
)
def test_sockets_that_are_cut_into_calls(target, endpoint):
    raw = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
    assert admitted(target, *raw, method="GET").endpoint == endpoint


def test_telemetry_is_reserved():
    assert refused(b"/telemetry/v1/other").status == 404
    assert isinstance(decide(b"/telemetry/v1/turns"), Reporting)
    assert refused(b"/telemetry/v1/turns", (b"Origin", b"http://x")).status == 403
    tokens = {"client_tokens": [TOKEN]}
    assert refused(b"/telemetry/v1/turns", gateway=tokens).status == 401
    assert refused(b"/t/" + TOKEN.encode() + b"/telemetry/v1", gateway=tokens).status == 404


@pytest.mark.parametrize(
    ("method", "target", "endpoint"),
    [
        ("POST", b"/openai/v1/chat/completions", Endpoint("openai", "chat.completions")),
        ("POST", b"/openai/v1/messages", Endpoint("anthropic", "messages")),
        ("POST", b"/gemini/v1beta/models/m:generateContent", Endpoint("gemini", "generateContent")),
        (
            "POST",
            b"/gemini/v1beta/models/m%3AgenerateContent?alt=sse",
            Endpoint("gemini", "generateContent"),
        ),
        ("GET", b"/openai/v1/chat/completions", None),
        ("POST", b"/openai/v1/embeddings", None),
        ("GET", b"/openai/v1/models", None),
        ("GET", b"/openai/v1/responses/resp_1?stream=true&starting_after=3", RETRIEVED_RESPONSE),
        ("GET", b"/openai/v1/responses/resp_1/input_items", None),
        ("DELETE", b"/openai/v1/responses/resp_1", None),
        ("GET", b"/openai/v1/responses", None),
    ],
)
def test_model_calls_are_told_from_the_rest(method, target, endpoint):
    assert admitted(target, method=method).endpoint == endpoint


def test_a_call_that_must_not_be_recorded_has_no_endpoint():
    chat = b"/openai/v1/chat/completions"
    assert admitted(chat, (b"x-telemetry-record", b"off")).endpoint is None
    assert admitted(chat, capture={"enabled": False}).endpoint is None


@pytest.mark.parametrize(
    ("raw", "sections", "content"),
    [
        ((), {}, "full"),
        ((), {"capture": {"content": "metadata"}}, "metadata"),
        (((b"x-telemetry-record", b"metadata"),), {}, "metadata"),
        (((b"x-telemetry-project", b"shop"),), {"projects": {"shop": {"content": "metadata"}}},
         "metadata"),
        (((b"x-telemetry-project", b"lab"),), {"projects": {"shop": {"content": "metadata"}}},
         "full"),
        (
            ((b"x-telemetry-project", b"lab"),),
            {"capture": {"content": "metadata"}, "projects": {"lab": {"content": "full"}}},
            "full",
        ),
    ],
)  # fmt: skip
def test_the_strictest_word_for_the_call_decides_what_is_kept(raw, sections, content):
    assert admitted(b"/openai/v1/chat/completions", *raw, **sections).content == content


@pytest.mark.parametrize(
    ("target", "raw"),
    [
        (b"/openai/x", ((b"x-telemetry-token", TOKEN.encode()),)),
        (b"/t/" + TOKEN.encode() + b"/openai/x", ()),
        (b"/bearer/x", ((b"authorization", b"Bearer " + TOKEN.encode()),)),
        (b"/keyed/x", ((b"x-api-key", TOKEN.encode()),)),
        (
            b"/bearer/v1/realtime",
            ((b"Sec-WebSocket-Protocol", b"realtime, openai-insecure-api-key." + TOKEN.encode()),),
        ),
        (
            b"/bearer/v1/realtime",
            ((b"Sec-WebSocket-Protocol", b"realtime, bearer, " + TOKEN.encode()),),
        ),
        (b"/keyed/x", ((b"authorization", b"Bearer " + TOKEN.encode()),)),
        (b"/keyed/x?key=" + TOKEN.encode(), ()),
        (b"/named/x", ((b"x-my-key", TOKEN.encode()),)),
    ],
)
def test_a_client_token_is_taken_in_its_places(target, raw):
    admitted(target, *raw, gateway={"client_tokens": ["another-token", TOKEN]})


@pytest.mark.parametrize("target", [b"/t/a%2Bb%2Fc%3D/openai/x", b"/keyed/x?key=a%2Bb%2Fc%3D"])
def test_a_client_token_may_be_percent_encoded_in_an_address(target):
    admitted(target, gateway={"client_tokens": ["a+b/c="]})


@pytest.mark.parametrize(
    ("target", "raw"),
    [
        (b"/openai/x", ()),
        (b"/openai/x", ((b"x-telemetry-token", b""),)),
        (b"/openai/x", ((b"x-telemetry-token", TOKEN[:-1].encode()),)),
        (b"/openai/x", ((b"x-telemetry-token", TOKEN.encode() + b"x"),)),
        # It would be sent on to the upstream:
        (b"/openai/x", ((b"authorization", b"Bearer " + TOKEN.encode()),)),
        (b"/openai/x?key=" + TOKEN.encode(), ()),
        (b"/t/wrong/openai/x", ()),
    ],
)
def test_without_a_client_token_a_request_is_refused(target, raw):
    refusal = refused(target, *raw, gateway={"client_tokens": [TOKEN]})
    assert refusal.status == 401
    assert TOKEN not in refusal.text


def test_tokens_and_the_configured_key_are_known_as_secrets():
    raw = (b"x-telemetry-token", TOKEN.encode())
    found = admitted(b"/t/path-token-0123456789/bearer/x", raw).credentials
    assert found == (b"path-token-0123456789", TOKEN.encode(), KEY.encode())


@pytest.mark.parametrize(
    "raw",
    [
        ((b"Origin", b"http://127.0.0.1:8080"),),
        ((b"Origin", b"null"),),
        ((b"Sec-Fetch-Site", b"cross-site"),),
        ((b"Sec-Fetch-Site", b"same-site"),),
    ],
)
@pytest.mark.parametrize("target", [b"/keyed/x", b"/telemetry/v1/turns"])
def test_a_browsers_page_cannot_spend_a_key(target, raw):
    assert refused(target, *raw).status == 403
    admitted(b"/openai/x", *raw)  # there it would need a key of its own


@pytest.mark.parametrize(
    ("listen", "host", "is_ours"),
    [
        ("127.0.0.1:8080", b"127.0.0.1:8080", True),
        ("127.0.0.1:8080", b"127.0.0.1", True),
        ("127.0.0.1:8080", b"LOCALHOST:9000", True),
        ("127.0.0.1:8080", b"[::1]:8080", True),
        ("localhost:8080", b"127.0.0.1:8080", True),
        ("127.0.0.1:8080", b"evil.test:8080", False),
        ("127.0.0.1:8080", b"127.0.0.1.evil.test", False),
        ("127.0.0.1:8080", b"gateway", False),
        ("127.0.0.1:8080", b"10.0.0.1:8080", False),
        ("127.0.0.1:8080", b"", False),
        ("0.0.0.0:8080", b"10.0.0.1:8080", True),
        ("0.0.0.0:8080", b"gateway:8080", True),
        ("0.0.0.0:8080", b"localhost", True),
        ("0.0.0.0:8080", b"evil.test", False),
        ("10.0.0.1:8080", b"10.0.0.1:8080", True),
        ("10.0.0.1:8080", b"127.0.0.1:8080", False),
        ("10.0.0.1:8080", b"localhost:8080", False),
        ("unix:/run/gateway", b"localhost", True),
        ("unix:/run/gateway", b"evil.test", False),
    ],
)
def test_a_host_that_a_stranger_can_own_is_refused(listen, host, is_ours):
    gateway = {"listen": listen, "allow_open": True}
    admission = Admission(config_of(UPSTREAMS, gateway=gateway))
    decision = admission.decide("POST", b"/keyed/x", from_raw([(b"Host", host)]))
    assert isinstance(decision, Admitted) == is_ours


def test_with_client_tokens_a_browser_may_call():
    raw = ((b"Origin", b"http://x"), (b"x-telemetry-token", TOKEN.encode()))
    admitted(b"/keyed/x", *raw, gateway={"client_tokens": [TOKEN]})


@pytest.mark.parametrize(
    ("target", "raw"),
    [
        (b"/openai/x", ((b"Authorization", b"AWS4-HMAC-SHA256 Credential=A"),)),
        (b"/openai/x?X-Amz-Signature=abc", ()),
    ],
)
def test_a_signed_request_is_refused_with_the_remedy(target, raw):
    refusal = refused(target, *raw)
    assert refusal.status == 400
    assert "Bedrock API key" in refusal.text


def test_a_refusal_has_the_upstreams_error_shape():
    assert refused(b"/keyed/x", (b"Origin", b"x")).dialect == "anthropic"
    assert refused(b"/anthropic/x", (b"Connection", b"host")).dialect == "anthropic"


def test_websockets_are_told_from_other_requests():
    raw = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
    assert admitted(b"/openai/v1/realtime", *raw, method="GET").is_websocket
    assert not admitted(b"/openai/v1/realtime", *raw, method="POST").is_websocket


@pytest.mark.parametrize(
    "presented", [b"wrong", b"token-0123456789a", b"token-0123456789b", b"\xff"]
)
def test_every_token_is_compared_whole_whatever_is_presented(presented, monkeypatch):
    """So that the time of a refusal tells neither which token nearly matched nor where."""
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("proxy.wire.admission.hmac.compare_digest", compare)
    tokens = ("token-0123456789a", "token-0123456789b", "token-0123456789c")
    admission = Admission(
        config_of({"fake": {"url": "http://x"}}, gateway={"client_tokens": tokens})
    )
    fields = from_raw([(b"Host", b"x"), (b"x-telemetry-token", presented)])
    admission.decide("GET", b"/fake/v1/models", fields)
    assert compared == [(presented, token.encode()) for token in tokens]
