"""Credentials: every one is found, masked and known by its hash only."""

from base64 import b64encode
from hashlib import blake2b

import pytest

from proxy.exchange import Secret
from proxy.wire.credentials import (
    as_secrets,
    in_head,
    masked,
    masked_target,
    parameters,
    without_key_parameter,
    without_scheme,
)
from proxy.wire.fields import from_raw

KEY = b"sk-ant-0123456789abcdef"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Authorization", b"Bearer " + KEY),
        (b"authorization", b"bearer   " + KEY),
        (b"Authorization", b"Basic " + KEY),
        (b"Authorization", KEY),
        (b"X-Api-Key", KEY),
        (b"x-goog-api-key", KEY),
        (b"api-key", KEY),
        (b"Proxy-Authorization", b"Basic " + KEY),
        (b"Helicone-Auth", b"Bearer " + KEY),
        (b"X-Amz-Security-Token", KEY),
        (b"X-Client-Secret", KEY),
        (b"x-portkey-virtual-key", KEY),
        (b"X-Password", KEY),
        (b"Cookie", b"a=b; session=" + KEY),
        (b"x-telemetry-token", KEY),
        (b"Sec-WebSocket-Protocol", b"realtime, openai-insecure-api-key." + KEY),
        (b"Sec-WebSocket-Protocol", b"OpenAI-Ephemeral-Token." + KEY + b" ,realtime.v1"),
        (b"Sec-WebSocket-Protocol", b"bearer, " + KEY),
        (b"Sec-WebSocket-Protocol", b"realtime, Token ," + KEY + b",realtime-of-some-version"),
        (b"Sec-WebSocket-Protocol", b"access_token," + KEY),
        (b"Sec-WebSocket-Protocol", b"x-api-key , " + KEY),
        (b"Sec-WebSocket-Protocol", b"Authorization, bearer, " + KEY),
        (b"Sec-WebSocket-Protocol", b"openai-insecure-api-key," + KEY),
        (b"Sec-WebSocket-Protocol", b"jwt." + KEY),
        (b"Sec-WebSocket-Protocol", b"realtime, Bearer " + KEY),
    ],
)
def test_a_credential_in_a_header_is_found_without_its_scheme(name, value):
    assert in_head(from_raw([(name, value)]), None) == (KEY,)


@pytest.mark.parametrize(
    ("pair", "found"),
    [
        (b"user:" + KEY, (KEY,)),
        (KEY + b":", (KEY,)),
        (KEY + b":x" + KEY, (KEY, b"x" + KEY)),
        (b"someone@example.com:short", (b"someone@example.com",)),
        (b"user:" + KEY + b":" + KEY, (KEY + b":" + KEY,)),
        (b"no pair of any kind", ()),
    ],
)
def test_what_basic_credentials_are_made_of_is_found(pair, found):
    coded = b64encode(pair)
    raw = [(b"Authorization", b"Basic " + coded)]
    assert in_head(from_raw(raw), None) == (coded, *found)


def test_a_key_offered_in_a_line_of_its_own_is_found():
    raw = [(b"Sec-WebSocket-Protocol", offer) for offer in (b"realtime, bearer", KEY, b"x" * 20)]
    assert in_head(from_raw(raw), None) == (KEY,)


@pytest.mark.parametrize("query", [b"key=", b"alt=sse&access_token=", b"SIG=", b"api-key=", b"u="])
def test_a_credential_in_the_query_is_found(query):
    assert in_head((), query + KEY) == (KEY,)


def test_a_credential_in_the_query_is_found_as_sent_and_decoded():
    assert in_head((), b"key=abcdefgh%2Bijklmnop") == (
        b"abcdefgh+ijklmnop",
        b"abcdefgh%2Bijklmnop",
    )


@pytest.mark.parametrize(
    ("raw", "query"),
    [
        ([(b"Authorization", b"Bearer test")], b"key=test"),
        ([(b"Idempotency-Key", KEY), (b"Sec-WebSocket-Key", KEY)], None),
        ([(b"Sec-WebSocket-Protocol", b"bearer, test, a-subprotocol-of-a-long-name")], None),
        ([(b"Sec-WebSocket-Protocol", b"openai-beta.realtime-v1, graphql-transport-ws")], None),
        ([(b"Sec-WebSocket-Protocol", b"a-key.test, a-subprotocol-of-a-long-name, token")], None),
        ([(b"User-Agent", KEY), (b"session-id", KEY), (b"X-Request-Id", KEY)], None),
        ([], b"api-version=2026-01-01-preview-x&model=a-model-of-a-long-name"),
    ],
)
def test_placeholders_and_open_values_are_no_credentials(raw, query):
    assert in_head(from_raw(raw), query) == ()


def test_each_credential_counts_once():
    raw = [(b"authorization", b"Bearer " + KEY), (b"x-api-key", KEY)]
    assert in_head(from_raw(raw), b"key=" + KEY) == (KEY,)


def test_a_secret_tells_length_and_keyed_hash_only():
    digest = blake2b(KEY, digest_size=16, key=b"salt").hexdigest()
    assert as_secrets((KEY,), b"salt") == (Secret(len(KEY), digest),)
    assert as_secrets((KEY,), b"other") != as_secrets((KEY,), b"salt")


@pytest.mark.parametrize(
    ("path", "query", "kept"),
    [
        (b"/v1/x", None, "/v1/x"),
        (b"/v1/x", b"", "/v1/x?"),
        (b"/v1/x", b"alt=sse&key=short", "/v1/x?alt=sse&key=[REDACTED]"),
        (b"/v1/x", b"API-Version=1&u=1", "/v1/x?API-Version=1&u=[REDACTED]"),
        (b"/v1/" + KEY, b"alt=" + KEY, "/v1/[REDACTED]?alt=[REDACTED]"),
        (b"/v1/x", b"sk-not-a-parameter&&a b=c", "/v1/x?[REDACTED]&&[REDACTED]"),
    ],
)
def test_the_recorded_target_shows_open_parameters_only(path, query, kept):
    assert masked_target(path, query, (KEY,)) == kept


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (None, None),
        (b"", b""),
        (b"alt=sse&b=%41", b"alt=sse&b=%41"),
        (b"key=a", None),
        (b"key=a&alt=sse&key=b", b"alt=sse"),
        (b"monkey=a", b"monkey=a"),
    ],
)
def test_the_key_parameter_alone_is_cut_out(query, left):
    assert without_key_parameter(query) == left


def test_masking_leaves_other_text_alone():
    assert masked(b"a\xe9 " + KEY + b"b", (KEY, b"unused-credential")) == "aé [REDACTED]b"


def test_parameters_are_as_sent():
    assert parameters(b"a=1%20&b&=c") == [(b"a", b"1%20"), (b"b", b""), (b"", b"c")]
    assert parameters(None) == []


def test_a_value_without_scheme_is_itself():
    assert without_scheme(b"plain") == b"plain"
