"""Ids that follow from names are the same however they are come by, and are remembered cheaply."""

import tracemalloc
from uuid import NAMESPACE_OID, uuid5

import pytest

from proxy.turn import conversation_id


@pytest.mark.parametrize("session", ["s", "s" * 255, "s" * 256, "s" * 65_536])
@pytest.mark.parametrize("project", [None, "p", "p" * 65_536])
def test_a_conversation_is_named_by_project_and_session(project, session):
    expected = uuid5(uuid5(NAMESPACE_OID, project or ""), session)
    assert conversation_id(project, session) == conversation_id(project, session) == expected


@pytest.mark.parametrize("is_project", [True, False])
def test_long_names_are_not_kept_in_memory(is_project):
    tracemalloc.start()
    try:
        for number in range(200):
            name = f"{number} " + "x" * 65_536
            conversation_id(*((name, "s") if is_project else ("p", name)))
            del name
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()
