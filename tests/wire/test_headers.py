"""Headers: what goes on as bytes, what stays, what is refused, what the spool keeps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Labels
from proxy.wire.fields import first, from_raw, text
from proxy.wire.headers import (
    HOP_BY_HOP,
    is_websocket,
    kept_of_answer,
    kept_of_request,
    labels_of,
    problem_in_request,
    recording_wish,
    to_agent,
    to_upstream,
)

CHUNKED = (b"Transfer-Encoding", b"chunked")


def test_forwarded_fields_keep_order_case_repeats_and_bytes():
    raw = [
        (b"X-B", b"1"),
        (b"hOST", b"gateway"),
        (b"x-b", b"\xff\xe9"),
        (b"X-B", b"1"),
        (b"A", b""),
    ]
    assert to_upstream(from_raw(raw), b"api:1", None) == [
        b"X-B: 1\r\n",
        b"hOST: api:1\r\n",
        b"x-b: \xff\xe9\r\n",
        b"X-B: 1\r\n",
        b"A: \r\n",
    ]


def test_a_request_without_host_gets_one():
    assert to_upstream((), b"api", None) == [b"Host: api\r\n"]


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_hop_by_hop_fields_stop_here_both_ways(name):
    fields = from_raw([(b"Host", b"x"), (name.title(), b"chunked"), (b"X-Kept", b"1")])
    extra = [b"Transfer-Encoding: chunked\r\n"] if name == b"transfer-encoding" else []
    assert to_upstream(fields, b"x", None) == [b"Host: x\r\n", b"X-Kept: 1\r\n", *extra]
    assert to_agent(fields, None) == [b"Host: x\r\n", b"X-Kept: 1\r\n"]


def test_fields_that_connection_names_stop_here_both_ways():
    fields = from_raw(
        [
            (b"Host", b"x"),
            (b"Connection", b"close, X-Hop ,"),
            (b"connection", b"Y"),
            (b"x-hop", b"1"),
        ]
    )
    fields += from_raw([(b"y", b"1"), (b"Z", b"1")])
    assert to_upstream(fields, b"x", None) == [b"Host: x\r\n", b"Z: 1\r\n"]
    assert to_agent(fields, None) == [b"Host: x\r\n", b"Z: 1\r\n"]


def test_own_labels_are_not_forwarded_and_aliases_are():
    raw = [(b"host", b"x"), (b"X-Telemetry-Token", b"t"), (b"x-telemetry-label-a", b"1")]
    raw.append((b"Helicone-Session-Id", b"s"))
    assert to_upstream(from_raw(raw), b"x", None) == [b"host: x\r\n", b"Helicone-Session-Id: s\r\n"]


@pytest.mark.parametrize("agents", [b"Authorization", b"x-api-key", b"X-Goog-Api-Key", b"api-key"])
def test_the_configured_key_replaces_whatever_key_the_agent_sent(agents):
    fields = from_raw([(b"Host", b"x"), (agents, b"agents-own"), (b"A", b"1")])
    lines = to_upstream(fields, b"x", (b"x-api-key", b"ours"))
    assert lines == [b"Host: x\r\n", b"A: 1\r\n", b"x-api-key: ours\r\n"]


@pytest.mark.parametrize(
    ("offered", "forwarded"),
    [
        (b"realtime, openai-insecure-api-key.agents-own, v1.x", b"realtime, v1.x"),
        (b"OpenAI-Ephemeral-Token.agents-own", None),
        (b"realtime ,  graphql-ws", b"realtime ,  graphql-ws"),
        (b"realtime, bearer, agents-own, v1.x", b"realtime, v1.x"),
        (b"access_token,agents-own", None),
        (b"realtime ,token", b"realtime ,token"),
    ],
)
def test_a_key_offered_as_a_subprotocol_is_replaced_too(offered, forwarded):
    fields = from_raw([(b"Host", b"x"), (b"Sec-WebSocket-Protocol", offered)])
    kept = [b"Sec-WebSocket-Protocol: " + forwarded + b"\r\n"] if forwarded else []
    ours = (b"authorization", b"Bearer ours")
    key_line = b"authorization: Bearer ours\r\n"
    assert to_upstream(fields, b"x", ours) == [b"Host: x\r\n", *kept, key_line]
    theirs = b"Sec-WebSocket-Protocol: " + offered + b"\r\n"
    assert to_upstream(fields, b"x", None) == [b"Host: x\r\n", theirs]


def test_a_key_offered_in_a_line_of_its_own_is_replaced_too():
    offered = [(b"sec-websocket-protocol", offer) for offer in (b"a, token", b"agents-own", b"b")]
    lines = to_upstream(from_raw(offered), b"x", (b"x-api-key", b"ours"))
    kept = [b"sec-websocket-protocol: a\r\n", b"sec-websocket-protocol: b\r\n"]
    assert lines == [b"Host: x\r\n", *kept, b"x-api-key: ours\r\n"]


def test_an_upgrade_is_forwarded_as_a_websocket():
    fields = from_raw([(b"Connection", b"keep-alive, Upgrade"), (b"Upgrade", b"WebSocket")])
    assert is_websocket(fields)
    lines = to_upstream(fields, b"x", None, keeps_upgrade=True)
    assert lines[-1] == b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        [(b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c")],
        [(b"Upgrade", b"websocket")],
        [(b"Connection", b"Upgrade")],
    ],
)
def test_other_upgrades_are_none(raw):
    assert not is_websocket(from_raw(raw))


@pytest.mark.parametrize(
    ("raw", "is_http_1_0"),
    [
        ([CHUNKED], True),
        ([(b"transfer-encoding", b"gzip, chunked")], False),
        ([(b"transfer-encoding", b"chunked, chunked")], False),
        ([(b"transfer-encoding", b"identity")], False),
        ([(b"transfer-encoding", b"xchunked")], False),
        ([CHUNKED, CHUNKED], False),
        ([CHUNKED, (b"content-length", b"1")], False),
        ([(b"content-length", b"1"), (b"Content-Length", b"1")], False),
        ([(b"content-length", b"+1")], False),
        ([(b"content-length", b"1_0")], False),
        ([(b"connection", b"close, Authorization")], False),
        ([(b"connection", b"host")], False),
        ([(b"connection", b"x"), (b"connection", b"content-LENGTH")], False),
        ([(b"connection", b"anthropic-version")], False),
        ([(b"connection", b"x-goog-api-key")], False),
    ],
)
def test_ambiguous_or_stripping_heads_are_refused(raw, is_http_1_0):
    assert problem_in_request(from_raw(raw), is_http_1_0) is not None


@pytest.mark.parametrize(
    ("raw", "is_http_1_0"),
    [
        ([], True),
        ([CHUNKED], False),
        ([(b"Transfer-Encoding", b" Chunked ")], False),
        ([(b"content-length", b"17")], True),
        ([(b"connection", b"keep-alive, x-hop, te, upgrade")], False),
    ],
)
def test_ordinary_heads_pass(raw, is_http_1_0):
    assert problem_in_request(from_raw(raw), is_http_1_0) is None


def test_the_row_id_is_added_unless_the_answer_carries_one():
    assert to_agent((), "1-2") == [b"x-agent-telemetry-id: 1-2\r\n"]
    behind = from_raw([(b"X-Agent-Telemetry-Id", b"3")])
    assert to_agent(behind, "1-2") == [b"X-Agent-Telemetry-Id: 3\r\n"]


def test_the_spool_keeps_listed_request_fields_with_credentials_masked():
    key = b"sk-0123456789abcdef"
    raw = [(b"Authorization", b"Bearer " + key), (b"User-Agent", b"a " + key), (b"X-Other", key)]
    raw += [(b"Helicone-Property-App", b"\xe9"), (b"Cookie", b"a=b")]
    assert kept_of_request(from_raw(raw), (key,)) == (
        ("user-agent", "a [REDACTED]"),
        ("helicone-property-app", "é"),
    )


def test_the_spool_keeps_listed_answer_fields():
    raw = [(b"X-Request-Id", b"r"), (b"Set-Cookie", b"s=1"), (b"Content-Type", b"text/plain")]
    assert kept_of_answer(from_raw(raw), ()) == (
        ("x-request-id", "r"),
        ("content-type", "text/plain"),
    )


def test_header_labels_win_over_path_labels():
    fields = from_raw(
        [
            (b"X-Telemetry-Project", b"shop"),
            (b"x-telemetry-session", "t-é".encode()),
            (b"x-telemetry-turn", b"7"),
            (b"x-telemetry-chat-mode", b"ask"),
            (b"x-telemetry-turn-intent", b"buy"),
            (b"x-telemetry-label-Team", b"a"),
            (b"x-telemetry-label-", b"nameless"),
            (b"x-telemetry-label-empty", b""),
        ]
    )
    assert labels_of(fields, "p", "s", ()) == Labels(
        "shop", "t-é", "label", "7", "ask", "buy", (("team", "a"),)
    )
    assert labels_of((), "p", "s", ()) == Labels("p", "s", "path")
    assert labels_of((), None, None, ()) == Labels()


@pytest.mark.parametrize(
    ("raw", "wish"),
    [
        ([], None),
        ([(b"x-telemetry-record", b"off")], "off"),
        ([(b"X-Telemetry-Record", b" Metadata ")], "metadata"),
        ([(b"x-telemetry-record", b"on")], None),
        ([(b"Helicone-Omit-Request", b"true")], "metadata"),
        ([(b"Helicone-Omit-Response", b"TRUE")], "metadata"),
        ([(b"Helicone-Omit-Response", b"false")], None),
        ([(b"x-telemetry-record", b"off"), (b"helicone-omit-request", b"true")], "off"),
    ],
)
def test_the_agent_may_limit_what_is_kept(raw, wish):
    assert recording_wish(from_raw(raw)) == wish


def test_the_first_field_of_a_name_counts():
    fields = from_raw([(b"A", b"1"), (b"a", b"2")])
    assert (first(fields, b"a"), first(fields, b"b")) == (b"1", None)


def test_label_text_is_utf8_where_it_can_be():
    assert (text(None), text("é".encode()), text(b"\xe9")) == (None, "é", "é")


NAMES = st.sampled_from([b"X-A", b"x-a", b"Accept", b"Via", b"X-Forwarded-For", b"Forwarded"])


@given(st.lists(st.tuples(NAMES, st.binary(max_size=8))))
def test_end_to_end_fields_pass_unchanged_both_ways(raw):
    """For all lists of end-to-end fields: what goes on is the list, line by line."""
    lines = [name + b": " + value + b"\r\n" for name, value in raw]
    assert to_agent(from_raw(raw), None) == lines
    assert to_upstream(from_raw([(b"Host", b"x"), *raw]), b"x", None) == [b"Host: x\r\n", *lines]
