"""Which requests are model calls, told from method and path alone.

Known to the wire (what gets a row) and to `decode` (which decoder reads it). The path decides,
on every upstream: an Anthropic or OpenAI path is decoded as such whatever the upstream is called.
Everything that is not listed is forwarded and gets no row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DIALECTS = ("openai", "anthropic", "gemini", "ollama", "bedrock", "cohere")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A kind of model call: the dialect of its bodies and the name in the column `endpoint`."""

    dialect: str
    name: str
    makes_row: bool = True  # False: it only adds to the row of another call


# Recorded under names of their own, which no row bears.
RESPONSES_SOCKET = Endpoint("openai", "socket.responses")  # cut into calls: each has a row
REALTIME_SOCKET = Endpoint("openai", "socket.realtime")
RETRIEVED_RESPONSE = Endpoint("openai", "responses.retrieve", makes_row=False)
TURN_REPORT = Endpoint("telemetry", "report.turns", makes_row=False)  # for the gateway itself
FEEDBACK_REPORT = Endpoint("telemetry", "report.feedback", makes_row=False)
REPORTS = frozenset({TURN_REPORT.name, FEEDBACK_REPORT.name})
SOCKETS = frozenset({RESPONSES_SOCKET.name, REALTIME_SOCKET.name})


# One alternation, searched once per request. A group's name is looked up in _BY_GROUP.
# Assistants' /threads/ID/messages ends like an Anthropic call and is none.
_CALL = re.compile(
    r"""(?:
      (?P<chat_completions>/chat/completions)
    | (?P<completions>(?<!/chat)/completions)
    | (?P<responses>/responses)
    | /publishers/(?!anthropic/)[^/]+/models/[^/:]+(?P<chat_raw>:(?:streamRawPredict|rawPredict))
    | (?P<messages>(?<!/threads)/messages | :(?:streamRawPredict|rawPredict))
    | (?P<generate>:generateContent)
    | (?P<stream_generate>:streamGenerateContent)
    | /model/[^/]+ (?: (?P<converse>/converse) | (?P<converse_stream>/converse-stream)
        | (?P<invoke>/invoke) | (?P<invoke_stream>/invoke-with-response-stream) )
    | (?P<ollama_chat>/api/chat)
    | (?P<ollama_generate>/api/generate)
    | (?P<cohere_chat>/v2/chat)
    )/?$""",
    re.VERBOSE,
)
_THREAD_MESSAGES = re.compile(r"/threads/[^/]+/messages/?$")
_BY_GROUP = {
    "chat_completions": Endpoint("openai", "chat.completions"),
    "chat_raw": Endpoint("openai", "chat.completions"),  # Mistral and others on Vertex
    "completions": Endpoint("openai", "completions"),
    "responses": Endpoint("openai", "responses"),
    "messages": Endpoint("anthropic", "messages"),
    "generate": Endpoint("gemini", "generateContent"),
    "stream_generate": Endpoint("gemini", "streamGenerateContent"),
    "converse": Endpoint("bedrock", "converse"),
    "converse_stream": Endpoint("bedrock", "converse-stream"),
    "invoke": Endpoint("bedrock", "invoke"),
    "invoke_stream": Endpoint("bedrock", "invoke-stream"),
    "ollama_chat": Endpoint("ollama", "api.chat"),
    "ollama_generate": Endpoint("ollama", "api.generate"),
    "cohere_chat": Endpoint("cohere", "chat"),
}


_RETRIEVED = re.compile(r"/responses/resp[^/]*/?$")  # an id begins so; /responses/input_tokens


def classify(method: str, path: str, *, is_websocket: bool = False) -> Endpoint | None:
    """The endpoint of a model call, or None where the request is none.

    `path` is the raw path on the upstream, percent-encoded as sent, without the query.
    """
    if is_websocket:
        return _socket(path.rstrip("/"))
    if method == "GET" and _RETRIEVED.search(path):
        return RETRIEVED_RESPONSE
    if method != "POST":
        return None
    found = _CALL.search(path)
    if found is None or found.lastgroup is None:
        return None
    if found.lastgroup == "messages" and _THREAD_MESSAGES.search(path):
        return None
    return _BY_GROUP[found.lastgroup]


def _socket(path: str) -> Endpoint | None:
    """The sockets that are cut into calls. Gemini Live is relayed and counted only."""
    if path.endswith("/responses"):
        return RESPONSES_SOCKET
    return REALTIME_SOCKET if path.endswith("/realtime") else None
