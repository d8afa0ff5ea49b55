"""What the request sides of all dialects have in common.

Instructions become `system_prompt`, the other messages stay as they are, the rest of the body is
`request_params`. Nothing is judged here: whether a user's text was typed or put in by the client
is told by the shape of the message and by the known texts of `proxy/injected.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

from proxy.call import Json, Prompt
from proxy.decode.jsonvalue import at, elements, members, string, word
from proxy.injected import CALLING, typed

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SESSION_KEYS = ("session_id", "conversation_id", "thread_id", "langfuse_session_id")
_PERSON_KEYS = ("user", "safety_identifier")
_SYSTEM_ROLES = ("system", "developer")

BLANK_LINE = "\n\n"


def text_parts(content: Json) -> list[str]:
    """The texts of a message's content: a string, or parts that carry a `text`."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else [content]
    return [
        part if isinstance(part, str) else string(members(part).get("text"))
        for part in parts
        if isinstance(part, str) or word(at(part, "text"))
    ]


def joined(parts: Iterable[str]) -> str:
    """Several instructions or paragraphs as one text."""
    return BLANK_LINE.join(part for part in parts if part)


def split_system(messages: Sequence[Json]) -> tuple[str, tuple[Json, ...]]:
    """The text of the leading system and developer messages, and the messages after them."""
    leading = list(takewhile(lambda message: at(message, "role") in _SYSTEM_ROLES, messages))
    texts = [joined(text_parts(at(message, "content"))) for message in leading]
    return joined(texts), tuple(messages[len(leading) :])


def last_user_text(
    messages: Sequence[Json], texts_of: Callable[[dict[str, Json]], list[str] | None]
) -> str | None:
    """The text of the last message a person wrote, without what the client put in.

    `texts_of` gives the texts of one message, none at all for a person's message without words (a
    picture), and None for a message that is no person's. A message that the client alone wrote is
    passed over; where there is no other, its text is better than none.
    """
    put_in: str | None = None
    for number in range(len(messages) - 1, -1, -1):
        texts = texts_of(members(messages[number]))
        if texts is None:
            continue
        before = text_parts(at(messages[number - 1], "content")) if number else []
        follows_call = any(CALLING in text for text in before)
        words = joined(typed(text, follows_call=follows_call) for text in texts)
        if words or not texts:
            return words or None
        put_in = put_in or joined(texts)
    return put_in


def chat_prompt(
    body: dict[str, Json],
    *,
    is_stream: bool,
    session_hint: str | None = None,
    labels: tuple[tuple[str, str], ...] = (),
) -> Prompt:
    """The request of a chat as most dialects write it: `messages` with a role and a content."""
    system, history = split_system(messages_of(body))
    return Prompt(
        model=word(body.get("model")),
        system_prompt=system,
        chat_history=history,
        user_message=last_user_text(history, _typed),
        request_params=without(body, "messages"),
        is_stream=is_stream,
        session_hint=session_hint,
        labels=labels,
    )


def _typed(message: dict[str, Json]) -> list[str] | None:
    return text_parts(message.get("content")) if message.get("role") == "user" else None


def without(body: dict[str, Json], *names: str) -> dict[str, Json]:
    """The parameters of a request: its body without the members that have columns."""
    return {name: value for name, value in body.items() if name not in names}


def openai_session(body: dict[str, Json]) -> str | None:
    """The conversation an OpenAI body names: metadata, `conversation`, a UUID as cache key."""
    metadata = members(body.get("metadata"))
    for key in _SESSION_KEYS:
        if found := word(metadata.get(key)):
            return found
    conversation = body.get("conversation")
    if found := word(conversation) or word(at(conversation, "id")):
        return found
    cache_key = string(body.get("prompt_cache_key"))
    return cache_key if _UUID.fullmatch(cache_key) else None


def openai_labels(body: dict[str, Json]) -> tuple[tuple[str, str], ...]:
    """The persons an OpenAI body names."""
    return tuple((key, found) for key in _PERSON_KEYS if (found := word(body.get(key))))


def messages_of(body: dict[str, Json], name: str = "messages") -> list[Json]:
    """The list of messages; one bare message counts as a list of one."""
    found = body.get(name)
    if isinstance(found, dict):
        return [found]
    return elements(found)


def user_message(content: Json) -> dict[str, Json]:
    """A bare prompt as the one message it stands for."""
    return {"role": "user", "content": content}
