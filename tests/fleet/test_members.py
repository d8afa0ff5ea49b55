"""Members: who speaks is counted, who is silent is named, who is gone is not forgotten."""

import asyncio
from datetime import UTC, datetime, timedelta

from proxy.config import Config, Nats
from proxy.doctor import examined
from proxy.fleet import departed
from proxy.fleet.member import GATEWAY, Member
from proxy.fleet.members import Members
from proxy.fleet.publisher import Publisher
from tests.fleet.messages import packed
from tests.fleet.servers import needs_nats

pytestmark = needs_nats


async def test_members_speak_and_are_added_up(connection, settings):
    members = Members(connection, settings)
    assert (await members.read()).members == ()
    now = datetime.now(UTC)
    for id, forwarded in (("a", 5), ("b", 7)):
        for captured in (1, 10):  # the last word counts
            member = Member(
                GATEWAY,
                id,
                "h",
                "1",
                now,
                captured,
                forwarded,
                1,
                {"damaged": 1},
                oldest_waiting_at=now,
            )
            await members.say(member)
    await members.say(Member("recorder", "r", "h", "1", now - timedelta(minutes=5), stored=3))
    await Publisher(connection, settings).publish(packed())
    fleet = await members.read()
    assert [(m.role, m.is_silent) for m in fleet.members] == [
        ("gateway", False),
        ("gateway", False),
        ("recorder", True),
    ]
    assert (fleet.captured, fleet.stored, fleet.quarantined) == (20, 11, 2)
    assert (fleet.lost, fleet.waiting) == ({"damaged": 2}, 5)
    assert fleet.oldest_waiting_at == now
    await members.leave(fleet.recorders[0])
    assert (await members.read()).recorders == []


async def test_the_doctor_names_who_is_silent_and_what_is_too_new(
    connection, settings, nats, tmp_path, dsn
):
    sections = {"spool": {"transport": "nats"}, "nats": nats, "store": {"dsn": dsn}}
    config, since = Config(data_dir=tmp_path, **sections), datetime.now(UTC)
    assert await examined(config, since) == []
    silent = since - timedelta(hours=1)
    await Members(connection, settings).say(Member(GATEWAY, "a", "h", "1", silent, 5, 3))
    await connection.js.publish(f"{settings.subject_prefix}.v2.call._", b"")
    found = {each.name: each.calls for each in await examined(config, since)}
    assert found == {"silent members": 2, "newer messages": 1}
    away = config.model_copy(update={"nats": Nats(servers=("nats://127.0.0.1:1",))})
    (finding,) = await examined(away, since)
    assert (finding.name, "127.0.0.1:1" in finding.remedy) == ("fleet", True)


async def test_gateways_that_are_gone_count_and_are_shown_no_more(connection, settings):
    members, now = Members(connection, settings), datetime.now(UTC)
    long_ago = now - timedelta(days=2)
    await members.say(Member(GATEWAY, "here", "h", "1", now, 10, 8))
    await members.say(Member(GATEWAY, "gone", "h", "1", long_ago, 100, 90, 1, {"damaged": 2}))
    assert (await members.read()).waiting == 2 + 7
    assert await members.depart(now) == 1
    assert await members.depart(now) == 0
    fleet = await members.read()
    assert [each.id for each in fleet.members] == ["here"]
    assert (fleet.captured, fleet.stored, fleet.quarantined) == (110, 98, 1)
    assert (fleet.lost, fleet.waiting) == ({"damaged": 2, "gone": 7}, 2)
    # It comes back after all, speaks, and is counted as itself: once, at every moment.
    await members.say(Member(GATEWAY, "gone", "h", "1", now, 101, 90, 1, {"damaged": 2}))
    assert (await members.read()).captured == 110
    await members.come_back("gone")
    fleet = await members.read()
    assert (fleet.captured, fleet.lost, fleet.waiting) == (111, {"damaged": 2}, 2 + 8)
    await members.come_back("gone")


async def test_of_two_that_clear_away_one_does(connection, settings, monkeypatch):
    members, now = Members(connection, settings), datetime.now(UTC)
    for id in "abc":
        await members.say(Member(GATEWAY, id, "h", "1", now - timedelta(days=2), 5, 5))
    done = await asyncio.gather(*(Members(connection, settings).depart(now) for _ in range(5)))
    assert max(done) == 3
    assert (await members.read()).captured == 15


def test_of_those_gone_longest_only_the_sums_are_kept(monkeypatch):
    monkeypatch.setattr(departed, "KNOWN_MAX", 2)
    gone = departed.Departed()
    for number in range(5):
        lost = {"damaged": 1}
        member = Member(GATEWAY, str(number), "h", "1", datetime.now(UTC), 10, 5, 1, lost)
        gone = gone.with_more([member])
    again = departed.Departed.from_bytes(gone.to_bytes(), 7)
    assert list(again.known) == ["3", "4"]
    assert sum(each.captured for each in again.members) == 50
    assert sum(each.lost["gone"] for each in again.members) == 15
    assert not any(each.waiting for each in again.members)


def test_a_member_of_a_later_version_is_understood_as_far_as_possible():
    member = Member(GATEWAY, "a", "h", "9", datetime.now(UTC), captured=3)
    later = member.to_bytes()[:-1] + b',"new":{"x":1}}'
    assert Member.from_bytes(later) == member
    assert Member.from_bytes(b"[]") is None
