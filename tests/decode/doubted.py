"""Recordings whose expectation is not followed: which, in what, why, and what the provider says.

The expectations are what the providers' SDKs made of the bytes. Here the record's own rules, or
the bytes, say otherwise. The list is exact: `test_corpus` fails where a recording differs that is
not in it, and where one that is in it no longer differs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Doubt:
    """Some recordings that differ in these fields, for one reason."""

    reason: str
    source: str
    found: dict[str, tuple[str, ...]]  # fields by recording


DOUBTS = (
    Doubt(
        "The plan counts as thoughts. It is expected of plain answers; of streams it was not "
        "collected, though the SDK gives it in `ChatToolPlanDeltaEvent`.",
        "https://docs.cohere.com/reference/chat-stream: `tool-plan-delta`",
        dict.fromkeys(
            ("4c47d3ce074c", "8ed304cee28c", "8a36f0018819", "ce2d4d2540f3"), ("thoughts",)
        ),
    ),
    Doubt(
        "The provider runs the tool and says so (`type: server_tool_use`); boto3 has no other "
        "place for it than among the client's calls.",
        "https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ToolUseBlock.html",
        dict.fromkeys(("a45d70edb53c", "05f3d111a1af", "3fbd7a1442d0"), ("tool_calls",)),
    ),
    Doubt(
        "Arguments are streamed as values at paths and belong to the call that was named before; "
        "the SDK leaves each piece a call without name and arguments.",
        "https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/function-calling",
        dict.fromkeys(
            ("78a5bfeee7db", "dbc0969bc6ef", "1ce8e0581309", "17235f428a09"), ("tool_calls",)
        ),
    ),
    Doubt(
        "Two messages in one stream, where the protocol has one. The SDK gives the second's deltas "
        "to the first's blocks: arguments go to another call, and text is dropped where the block "
        "is none of text. What was said is kept in the order in which it was said.",
        "https://docs.anthropic.com/en/docs/build-with-claude/streaming: one `message_start`",
        {
            "44b37bc873c1": ("text",),
            "a36072ec8afe": ("text", "tool_calls"),
            "69bc3699aad1": ("text", "tool_calls"),
            "3daa65137736": ("text",),
            "eb3a89e83c6f": ("thoughts", "tool_calls"),
        },
    ),
    Doubt(
        "The SDK raises at the error event; what came before it was delivered and is kept.",
        "https://openrouter.ai/docs/api/reference/errors-and-debugging: mid-stream errors",
        {
            "3bd96599b84c": ("thoughts",),
            "efde280ab598": ("text", "thoughts"),
            "70db9157865e": ("thoughts",),
        },
    ),
    Doubt(
        "Thoughts that stand in `reasoning_details` only; the SDK's type has no such member.",
        "https://openrouter.ai/docs/guides/best-practices/reasoning-tokens",
        dict.fromkeys(("926537c5226a", "ca678a777d36"), ("thoughts",)),
    ),
    Doubt(
        "Arguments `null` are valid JSON and mean none; the text is kept beside them.",
        "https://docs.cohere.com/reference/chat",
        {"b5e10e2a339a": ("tool_calls",)},
    ),
    Doubt(
        "A spoken answer has no content; what it says is its transcript.",
        "https://platform.openai.com/docs/guides/audio",
        {"ed38948cc52b": ("text",)},
    ),
    Doubt(
        "A usage without `inputTokens`, which the provider always sends: the count is unknown, "
        "not 0.",
        "https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html",
        {"e9bc49d07b4e": ("prompt",)},
    ),
    Doubt(
        "The recording has lost the request's `stream`: the answer is server-sent events.",
        "https://platform.openai.com/docs/api-reference/completions/create: `stream`",
        {"9e0eb50dd433": ("streamed",)},
    ),
)

# Background responses: the expectation is the answer `queued`; a GET that is part of the recording
# completes the row. Only a run through the gateway shows it.
# https://platform.openai.com/docs/guides/background
COMPLETED_LATER = ("19f8b7303a36", "eac4a7af3263", "18ee46ae0cd2")
