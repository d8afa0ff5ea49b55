"""Routes: labels, upstream and rest from the raw target; hostile targets are told apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.routes import Route, parse, unnamed_upstream


@pytest.mark.parametrize(
    ("target", "route"),
    [
        (b"/openai/v1/models", Route("openai", b"/v1/models", None)),
        (b"/openai", Route("openai", b"", None)),
        (b"/openai/", Route("openai", b"/", None)),
        (b"/openai?a=b", Route("openai", b"", b"a=b")),
        (b"/openai/x?", Route("openai", b"/x", b"")),
        (b"/openai//x///y/", Route("openai", b"//x///y/", None)),
        (b"/openai/a%3Ab/%7e/%2F?q=%20", Route("openai", b"/a%3Ab/%7e/%2F", b"q=%20")),
        (b"/openai/../x/./y", Route("openai", b"/../x/./y", None)),
        (b"/openai/v1/p/x/s/y", Route("openai", b"/v1/p/x/s/y", None)),
        (b"/openai/http://evil/x", Route("openai", b"/http://evil/x", None)),
        (b"/openai/x?u=http://e/?a?b", Route("openai", b"/x", b"u=http://e/?a?b")),
        (b"/openai/\xc3\xa9", Route("openai", b"/\xc3\xa9", None)),
        (b"/v1/messages", Route(None, b"/v1/messages", None)),
        (b"/v1beta/models/m:x?alt=sse", Route(None, b"/v1beta/models/m:x", b"alt=sse")),
        (b"/v1", Route(None, b"/v1", None)),
        (b"/p/shop/v1/x", Route(None, b"/v1/x", None, project="shop")),
        (b"/p/a/s/b/t/c/up/x", Route("up", b"/x", None, "a", "b", b"c")),
        (b"/t/c/s/b/p/a/up/x", Route("up", b"/x", None, "a", "b", b"c")),
        (b"/s/t%2F1%20%C3%A9/up", Route("up", b"", None, session="t/1 é")),
        (b"/s/%ff/up", Route("up", b"", None, session="\ufffd")),
        (b"/t/%ff/up", Route("up", b"", None, token=b"\xff")),
        (b"/p/p/s/s/up", Route("up", b"", None, "p", "s")),
        (b"/telemetry/v1/turns", Route("telemetry", b"/v1/turns", None)),
        (b"/\xff/x", Route("\ufffd", b"/x", None)),
    ],
)
def test_a_target_is_taken_apart_and_its_rest_left_alone(target, route):
    assert parse(target) == route


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"*",
        b"http://169.254.169.254/latest",
        b"https://evil/openai/v1",
        b"evil:443",
        b"@evil/x",
        b"openai/v1",
        b"//evil/x",
        b"///evil",
        b"/\\evil/x",
        b"/openai/\\..\\x",
        b"/openai/x#y",
        b"/openai/x?y#z",
        b"/openai/\x00",
        b"/openai/\r\nHost: evil",
        b"/openai/\tx",
        b"/openai/ x",
        b"/openai/\x7f",
        b"/p/",
        b"/p",
        b"/s//openai/x",
        b"/p/a/t/",
        b"/p/p/s/s/s",
    ],
)
def test_a_hostile_or_broken_target_is_refused_without_echo(target):
    problem = parse(target)
    assert isinstance(problem, str)
    assert "evil" not in problem


@pytest.mark.parametrize(
    ("path", "has_version", "name"),
    [
        (b"/v1/messages", True, "anthropic"),
        (b"/v1beta/models/m:generateContent", False, "gemini"),
        (b"/v1/chat/completions", False, "openai"),
        (b"/v1beta/x", True, "anthropic"),
    ],
)
def test_headers_and_version_choose_where_no_upstream_is_named(path, has_version, name):
    assert unnamed_upstream(path, has_version) == name


VISIBLE = [byte for byte in range(33, 256) if byte not in b"\\#?\x7f"]


@given(st.lists(st.sampled_from(VISIBLE)).map(bytes))
def test_whatever_follows_the_upstream_is_unchanged(rest):
    """For every rest of visible bytes: base + rest goes out as it came in."""
    route = parse(b"/up/" + rest)
    assert isinstance(route, Route)
    assert (route.upstream, route.path) == ("up", b"/" + rest)


@given(st.binary())
def test_any_bytes_give_a_route_or_a_problem(target):
    """Parsing never raises, and a route's path begins at the root."""
    route = parse(target)
    if isinstance(route, Route):
        assert route.path[:1] in (b"", b"/")
