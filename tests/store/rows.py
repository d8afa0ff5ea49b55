"""Records for the tests of the store, and values that databases choke on."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

from proxy.record import TelemetryRecord

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def record(**values):
    """A complete call; every column can be given."""
    usual = {
        "id": uuid4(),
        "created_at": NOW,
        "model_used": "model-1",
        "duration_ms": 1234,
        "outcome": "complete",
        "chat_history": [{"role": "user", "content": "hello"}],
        "user_message": "hello",
        "response_text": "hi",
    }
    return TelemetryRecord(**{**usual, **values})


def nested(depth, kind=list):
    value = "core"
    for _ in range(depth):
        value = [value] if kind is list else {"k": value}
    return value


STRINGS = [
    "",
    "\0",
    "a\0b",
    "\0" * 1000,
    "\\u0000",
    "\\\\u0000",
    '"\\u0000"',
    "\\x00",
    "\\N",
    "\\.",
    "a\tb\nc\rd",
    "\ud800",
    "\udfff",
    "x\udc00\ud800y",
    "\ud83d\ude00",
    "\ud800\0\\u0000",
    "\uffff",
    "\ufeff",
    "\u2028\u2029",
    "\u202eevil",
    "\x7f\x80\x9f",
    "\x01\x1b]8;;http://x\x1b\\",
    "😀" * 300,
    "ﷺ" * 5000,
    "e\u0301" * 1000,
    "null",
    "NaN",
    "'; DROP TABLE agent_telemetry; --",
    '{"a": "\\ud800"}',
    "%s %d {} $1",
    "x" * 255,
    "x" * 256,
    "x" * 65_536,
    "x" * 1_000_000,
    "\udcff" * 300,
    "\x00" + "y" * 300,
]

NUMBERS = [
    0,
    -1,
    2**31 - 1,
    2**31,
    -(2**31) - 1,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    10**308,
    2 * 10**308,
    10**4299,
    10**4300,
    10**5000,
    -(10**5000),
    10**130_000,
    0.1,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    1e22,
    float("nan"),
    float("inf"),
    float("-inf"),
    True,
    False,
    Decimal("1e130000"),
    Decimal("NaN"),
]

STRUCTURES = [
    [],
    {},
    None,
    [None],
    {"": ""},
    {"\0": 1, "\ufffd": 2},
    {"\ud800" + "a": 1, "\udfff" + "a": 2},
    {"a\0": {"b\0": ["c\0"]}},
    {1: "int key", None: "none key", 2.5: "float key", False: "bool key"},
    {"1": "a", 1: "b"},
    {"k" * 100_000: 1},
    {"same": 1, "same ": 2},
    nested(254),
    nested(255),
    nested(255, dict),
    nested(5_000),
    nested(30_000),
    nested(20_000, dict),
    [nested(300), {"fine": 1}],
    [nested(300, dict)] * 50,
    list(range(100_000)),
    [[]] * 10_000,
    {str(number): number for number in range(20_000)},
    (1, 2, (3,)),
    [b"bytes \x00\xff"],
    [{1, 2}, object(), len],
    [float("nan"), [float("inf")], {"x": float("-inf")}],
    [10**5000, {"n": 2**64}],
    ["\0", "\ud800", "\\u0000"],
    [uuid4(), NOW, Decimal("0.1")],
]

POISON = [
    *({"response_text": text} for text in STRINGS),
    *({"chat_history": [{"role": "user", "content": text}]} for text in STRINGS),
    *({"session_id": text, "project_id": text} for text in STRINGS),
    *({"model_used": text, "stop_reason": text, "system_prompt": text} for text in STRINGS),
    *({"error": text, "client": text, "outcome": text, "endpoint": text} for text in STRINGS),
    *({"labels": {text: text}, "capture": {text: text}} for text in STRINGS),
    *({"chat_history": [number], "usage": {"n": number}} for number in NUMBERS),
    *({"prompt_tokens": number, "duration_ms": number, "round": number} for number in NUMBERS),
    *({"cost_usd": number} for number in NUMBERS),
    *({"chat_history": value, "tool_calls": value} for value in STRUCTURES),
    *({"request_params": value, "usage": value, "capture": value} for value in STRUCTURES),
    *({"user_message": value, "created_at": value, "streamed": value} for value in STRUCTURES[:8]),
    *({"turn_id": value, "parent_id": value, "status": value} for value in [*STRINGS[:4], 5, []]),
    {"created_at": datetime(1, 1, 1)},
    {"created_at": datetime.max},
    {"created_at": datetime(1900, 1, 1, tzinfo=UTC)},
    {"cost_usd": Decimal("1E-99999")},
    {"cost_usd": Decimal("-0")},
    {"cost_usd": Decimal("0.000001")},
    {"cost_usd": Decimal("Infinity")},
    {"cost_usd": "free"},
]
