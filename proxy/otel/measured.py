"""Measured: what calls, turns and tools add to OpenTelemetry's GenAI metrics (1.41). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from proxy.otel.attributes import Row, metric_labels, turn_error

# The conventions' own advice for bucket boundaries.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_LONG_SECONDS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_TOKENS = tuple(4**n for n in range(14))
_COUNTS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)


@dataclass(frozen=True, slots=True)
class Instrument:
    """A histogram."""

    name: str
    unit: str
    description: str
    bounds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """One value for one of the instruments."""

    name: str
    value: float
    labels: Mapping[str, str]


CALL_DURATION = Instrument(
    "gen_ai.client.operation.duration",
    "s",
    "From the arrival of the request to the last byte relayed.",
    _SECONDS,
)
FIRST_CHUNK = Instrument(
    "gen_ai.client.operation.time_to_first_chunk",
    "s",
    "From the arrival of the request to the first content of a streamed answer.",
    _SECONDS,
)
TOKENS = Instrument(
    "gen_ai.client.token.usage",
    "{token}",
    "Tokens of a call by type: input (cached ones included) and output.",
    _TOKENS,
)
TURN_DURATION = Instrument(
    "gen_ai.invoke_agent.duration",
    "s",
    "From the first request of a turn to the last byte of its last answer.",
    _LONG_SECONDS,
)
TURN_CALLS = Instrument(
    "gen_ai.invoke_agent.inference_calls", "{call}", "Model calls of a turn.", _COUNTS
)
TURN_TOOLS = Instrument(
    "gen_ai.invoke_agent.tool_calls", "{call}", "Tool calls of a turn.", _COUNTS
)
TOOL_DURATION = Instrument(
    "gen_ai.execute_tool.duration",
    "s",
    "From the end of the answer that called a tool to the request that brought its result.",
    _SECONDS,
)
INSTRUMENTS = (
    *(CALL_DURATION, FIRST_CHUNK, TOKENS, TURN_DURATION, TURN_CALLS, TURN_TOOLS, TOOL_DURATION),
)


def of_call(call: Row) -> Iterator[Measured]:
    """What one call adds."""
    labels = metric_labels(call)
    yield Measured(CALL_DURATION.name, call["duration_ms"] / 1000, labels)
    bare = {name: value for name, value in labels.items() if name != "error.type"}
    if call["ttft_ms"] is not None:
        yield Measured(FIRST_CHUNK.name, call["ttft_ms"] / 1000, bare)
    for kind, column in (("input", "prompt_tokens"), ("output", "completion_tokens")):
        if call[column] is not None:
            yield Measured(TOKENS.name, call[column], {**bare, "gen_ai.token.type": kind})


def of_turn(summary: Row, calls: Sequence[Row]) -> Iterator[Measured]:
    """What one ended turn adds, its tools included."""
    last = metric_labels(calls[-1])
    names = ("gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model")
    labels = {"gen_ai.operation.name": "invoke_agent"} | {name: last[name] for name in names}
    if error := turn_error(summary):
        labels["error.type"] = error
    yield Measured(TURN_DURATION.name, summary["duration_ms"] / 1000, labels)
    yield Measured(TURN_CALLS.name, len(calls), labels)
    yield Measured(TURN_TOOLS.name, summary["tool_call_count"] or 0, labels)
    for result in summary["tool_results"] or ():
        tool = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": str(result["name"] or "unknown"),
        }
        if result["is_error"]:
            tool["error.type"] = "tool_error"
        yield Measured(TOOL_DURATION.name, (result["latency_ms"] or 0) / 1000, tool)
