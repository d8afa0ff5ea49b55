"""Uncounted: what a token estimate leaves out, so that a row can say so. Pure.

Images are counted by rule; audio, video and files have no rule that can be followed from outside,
and reasoning that the provider hides cannot be seen at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.call import Json, ModelCall

DEPTH_MAX = 8  # of a message; media stand at most six levels deep

# Part of a `type`, or name of a member, → what it holds.
_TYPES = {
    "input_audio": "audio",
    "audio": "audio",
    "video_url": "video",
    "video": "video",
    "file": "files",
    "input_file": "files",
    "document": "files",
}
_MIME_NAMES = ("mimeType", "mime_type")
_REASONING_MODEL = re.compile(r"(?:^|/)(?:o[134](?:-|$)|gpt-5)")


def uncounted(call: ModelCall) -> list[str]:
    """The kinds of content that are in the call and in no count."""
    found = {kind for message in call.prompt.chat_history for kind in _kinds(message, 0)}
    found |= {kind for part in call.answer.media for kind in _kinds(part, 0)}
    if _reasons_unseen(call):
        found.add("hidden reasoning")
    return sorted(found)


def _kinds(value: Json, depth: int) -> Iterator[str]:
    if depth >= DEPTH_MAX:
        return
    if isinstance(value, list):
        for item in value:
            yield from _kinds(item, depth + 1)
    elif isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and kind in _TYPES:
            yield _TYPES[kind]
        mime = next((m for name in _MIME_NAMES if isinstance(m := value.get(name), str)), "")
        if mime and not mime.startswith("image/"):
            family = mime.partition("/")[0]
            yield family if family in ("audio", "video") else "files"
        if len(value) == 1 and (only := next(iter(value))) in ("audio", "video", "document"):
            yield _TYPES[only]  # Bedrock names a block by its only member
        for item in value.values():
            yield from _kinds(item, depth + 1)


def _reasons_unseen(call: ModelCall) -> bool:
    """Whether the model is one that reasons, or was asked to, and shows nothing of it."""
    if call.answer.thoughts is not None:
        return False
    params = call.prompt.request_params or {}
    effort = params.get("reasoning_effort")
    thinking = params.get("thinking")
    return (
        _REASONING_MODEL.search(call.model) is not None
        or (isinstance(effort, str) and effort != "none")
        or bool(params.get("reasoning"))
        or (isinstance(thinking, dict) and thinking.get("type") == "enabled")
    )
