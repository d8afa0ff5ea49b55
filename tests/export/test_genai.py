"""Messages in the form of OpenTelemetry's GenAI conventions."""

from proxy.export.genai import answered, given
from proxy.export.message import (
    Called,
    Conversation,
    Media,
    Message,
    Result,
    Role,
    Text,
    Thought,
)

PICTURE = Media("image", "image/png", data="aGVsbG8=")
ELSEWHERE = Media("audio", "audio/wav", url="https://example.org/a.wav")
TALK = Conversation(
    "Be brief.",
    (
        Message(Role.USER, (Text("look"), PICTURE, ELSEWHERE)),
        Message(Role.ASSISTANT, (Called("c1", "read", {"path": "a"}),)),
        Message(Role.TOOL, (Result("c1", "read", (Text("one"), PICTURE, Text("two"))),)),
        Message(Role.ASSISTANT, (Thought("hm"), Text("done"))),
    ),
)


def test_every_part_has_its_form():
    asked, called, result = given(TALK)
    assert asked == {
        "role": "user",
        "parts": [
            {"type": "text", "content": "look"},
            {
                "type": "uri",
                "modality": "image",
                "mime_type": "image/png",
                "uri": "agent-telemetry:inline",
            },
            {
                "type": "uri",
                "modality": "audio",
                "mime_type": "audio/wav",
                "uri": "https://example.org/a.wav",
            },
        ],
    }
    call = {"type": "tool_call", "id": "c1", "name": "read", "arguments": {"path": "a"}}
    assert called == {"role": "assistant", "parts": [call]}
    response = {"type": "tool_call_response", "id": "c1", "response": "one\n\ntwo"}
    assert result == {"role": "tool", "parts": [response]}


def test_the_answer_says_why_it_ended():
    parts = [{"type": "reasoning", "content": "hm"}, {"type": "text", "content": "done"}]
    expected = {"role": "assistant", "parts": parts, "finish_reason": "stop"}
    assert answered(TALK, "stop") == [expected]
    assert answered(TALK, None) == [expected | {"finish_reason": "unknown"}]


def test_bytes_of_media_stay_in_the_table():
    assert "aGVsbG8=" not in str(given(TALK))
