"""Signing in with the admin token: what a browser gets, keeps, and may do with it."""

import pytest

from proxy.admin.token import COOKIE, GOOD_FOR_S, is_ticket, ticket
from tests.admin.test_server import TOKEN, admin

SECRET = TOKEN["AGENT_TELEMETRY__ADMIN__TOKEN"]
BROWSER = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Site": "none"}
PATH = "/conversations?project=shop"


async def sign_in(session, token=SECRET, following=PATH, **headers):
    form = {"token": token, "next": following}
    return await session.post("/login", data=form, headers=headers, allow_redirects=False)


async def test_a_browser_is_shown_the_form_and_then_the_page_it_asked_for(tmp_path):
    async with admin(tmp_path, **TOKEN) as session:
        async with session.get(PATH, headers=BROWSER) as answer:
            assert answer.status == 401
            assert 'name="token"' in (text := await answer.text())
            assert f'value="{PATH}"' in text
        answer = await sign_in(session)
        assert (answer.status, answer.headers["Location"]) == (303, PATH)
        kept = answer.headers["Set-Cookie"]
        assert SECRET not in kept
        assert all(part in kept for part in ("HttpOnly", "SameSite=Strict", "Path=/"))
        # The session keeps no cookies of addresses, so it is handed over as a browser does.
        cookie = {"Cookie": kept.partition(";")[0]}
        async with session.get(PATH, headers=BROWSER | cookie) as answer:
            assert answer.status == 503  # no database stands behind this listener
            assert "Sign out" in await answer.text()


async def test_a_program_is_told_what_to_send(tmp_path):
    async with admin(tmp_path, **TOKEN) as session, session.get(PATH) as answer:
        assert answer.status == 401
        assert "Authorization" in (await answer.json())["error"]["message"]


async def test_the_header_opens_pages_too(tmp_path):
    headers = BROWSER | {"Authorization": f"Bearer {SECRET}"}
    async with admin(tmp_path, **TOKEN) as session, session.get(PATH, headers=headers) as answer:
        assert answer.status == 503


@pytest.mark.parametrize("given", ["", "wrong", SECRET[:-1], SECRET + "x", "é" * 9000, "\0"])
async def test_a_wrong_token_gets_the_form_again(tmp_path, given):
    async with admin(tmp_path, **TOKEN) as session:
        answer = await sign_in(session, given)
        assert answer.status == 401
        assert "Set-Cookie" not in answer.headers
        assert "not the admin token" in await answer.text()


@pytest.mark.parametrize(
    "elsewhere",
    ["https://evil.test/", "//evil.test/", "/\\evil.test", "javascript:alert(1)", "/a\nb", ""],
)
async def test_signing_in_leads_to_this_listener_only(tmp_path, elsewhere):
    async with admin(tmp_path, **TOKEN) as session:
        answer = await sign_in(session, following=elsewhere)
        assert answer.headers["Location"] == "/"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.test"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://127.0.0.1.evil.test"},
    ],
)
@pytest.mark.parametrize("path", ["/login", "/logout"])
async def test_another_origin_can_neither_sign_in_nor_out(tmp_path, headers, path):
    form = {"token": SECRET, "next": "/"}
    cookie = {"Cookie": f"{COOKIE}={ticket(SECRET)}"}
    async with admin(tmp_path, **TOKEN) as session:
        asked = session.post(path, data=form, headers=headers | cookie, allow_redirects=False)
        async with asked as answer:
            assert answer.status == 403
            assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},  # as browsers send our own form
        {"Origin": "null"},  # the same over plain HTTP to another machine
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_the_listeners_own_form_signs_in(tmp_path, headers):
    async with admin(tmp_path, **TOKEN) as session:
        assert (await sign_in(session, **headers)).status == 303


async def test_a_link_from_elsewhere_asks_again_so_that_the_cookie_comes_along(tmp_path):
    headers = BROWSER | {"Sec-Fetch-Site": "cross-site"}
    async with admin(tmp_path, **TOKEN) as session, session.get(PATH, headers=headers) as answer:
        assert 'http-equiv="refresh"' in await answer.text()


async def test_signing_out_forgets_the_cookie(tmp_path):
    cookie = {"Cookie": f"{COOKIE}={ticket(SECRET)}"}
    async with admin(tmp_path, **TOKEN) as session:
        asked = session.post("/logout", headers=cookie, allow_redirects=False)
        async with asked as answer:
            assert answer.status == 303
            assert f'{COOKIE}=""' in answer.headers["Set-Cookie"]


def test_a_ticket_is_good_for_a_while_and_for_its_token_only():
    good = ticket("one", now=1000)
    assert is_ticket(good, "one", now=1000 + GOOD_FOR_S - 1)
    assert not is_ticket(good, "one", now=1000 + GOOD_FOR_S)
    assert not is_ticket(good, "two", now=1000)
    later = f"9{good}"
    assert not is_ticket(later, "one", now=1000)
    for other in ("", ".", "x.y", good.partition(".")[0], f"²{good}", "\udcff.\udcff"):
        assert not is_ticket(other, "one", now=1000)
