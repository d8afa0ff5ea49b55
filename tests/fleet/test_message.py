"""What travels: a message says the same on the other side, and foreign bytes are refused."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import AnswerHead, End, Exchange, Labels, Outcome, Piece, Secret, Start
from proxy.fleet.message import Message, Unreadable
from proxy.fleet.subjects import Subjects, token

ID = UUID("01900000-0000-7000-8000-000000000001")
START = Start(
    ID,
    1_700_000_000_000_000_000,
    "openai",
    "openai",
    "responses",
    "POST",
    "/v1/responses",
    headers=(("user-agent", "x"),),
    labels=Labels(project="shop", session="s", extra=(("team", "a"),)),
    salt="ab",
    secrets=(Secret(20, "cd"),),
    sequence=7,
    socket=UUID(int=5),
)
times = st.integers(0, 2**63)
exchanges = st.builds(
    Exchange,
    st.just(START),
    st.binary(),
    st.none() | st.builds(AnswerHead, times, st.integers(100, 599), st.just((("a", "b"),))),
    st.lists(st.builds(Piece, times, st.binary()), max_size=4).map(tuple),
    st.none() | st.builds(End, times, st.sampled_from(Outcome)),
)


@given(exchanges, st.lists(st.text(st.characters(exclude_categories=["Cs"]))).map(tuple))
def test_a_message_comes_back_as_it_was(exchange, problems):
    message = Message(exchange, problems)
    assert Message.from_bytes(message.to_bytes()) == message


def test_no_change_of_a_message_is_read_as_another():
    """Any byte that is wrong, and any cut, is noticed."""
    whole = Message(Exchange(START, b"q", AnswerHead(1, 200), (Piece(2, b"r"),))).to_bytes()
    for at in range(len(whole)):
        changed = whole[:at] + bytes((whole[at] ^ 0x10,)) + whole[at + 1 :]
        for data in (changed, whole[:at]):
            try:
                assert Message.from_bytes(data).exchange.start == START
            except Unreadable:
                continue
            assert Message.from_bytes(data) == Message.from_bytes(whole)


@given(st.binary(max_size=64))
def test_foreign_bytes_are_refused_and_never_raise_otherwise(data):
    with pytest.raises(Unreadable):
        Message.from_bytes(data)


@given(st.lists(st.text(), min_size=2, max_size=2, unique=True))
def test_projects_are_one_token_each_and_never_the_same(projects):
    first, second = map(token, projects)
    assert (first != second) or not any(projects)
    for each in (first, second):
        assert not set(each) & set(" .*>\t\r\n\0")
        assert each.isascii()
        assert 0 < len(each) < 200


@pytest.mark.parametrize("project", ["x" * 255, "ü" * 255, "a.b", "*", ">", "_", "", None])
def test_subjects_tell_version_and_kind(project):
    subjects = Subjects("a.b")
    for is_part, kind in ((False, "call"), (True, "part")):
        subject = subjects.message(project, is_part=is_part)
        assert subjects.kind(subject) == ("v1", kind)
        large = subjects.message(project, is_part=is_part, large=ID)
        assert large == f"{subject}.{ID}"
        assert subjects.kind(large) == ("v1", kind)
        assert large.count(".") == subjects.of_object(ID).count(".")
