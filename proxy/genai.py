"""What OpenTelemetry's GenAI conventions call our providers and endpoints. Data and lookups, pure.

Names are those of semantic conventions 1.41 (`gen_ai.provider.name`, `gen_ai.operation.name`);
what they have no word for keeps our own.
"""

from __future__ import annotations

import re

TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
"""The W3C header by which an agent says in which trace and span it is: trace, span, flags."""

_OPERATIONS = {
    "completions": "text_completion",
    "api.generate": "text_completion",
    "generateContent": "generate_content",
    "streamGenerateContent": "generate_content",
}
_PROVIDERS = {
    "gemini": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
    "bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
}
_BEDROCK = frozenset({"converse", "converse-stream", "invoke", "invoke-stream"})


def operation_name(endpoint: str | None) -> str:
    """The operation that a call to this endpoint is: `chat` but for the older and Google's."""
    return _OPERATIONS.get(endpoint or "", "chat")


def provider_name(upstream: str | None, endpoint: str | None) -> str:
    """The provider behind an upstream; the upstream's own name where it is not a known one."""
    if endpoint in _BEDROCK:
        return _PROVIDERS["bedrock"]
    return _PROVIDERS.get(upstream or "", upstream or "unknown")
