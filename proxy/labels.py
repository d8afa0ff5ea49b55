"""What agents, SDKs and other gateways' clients say about a call: the names, in one place.

Read by the wire (which headers to consume, which to keep in the spool) and by `enrich` (what they
mean). Sources: the documentation of Helicone, LiteLLM, Portkey and Bifrost, and the traffic of
Claude Code, Codex, OpenCode, Copilot and Kilo Code.
"""

from __future__ import annotations

# Ours: consumed by the gateway, never forwarded.
OWN_PREFIX = "x-telemetry-"
TOKEN = "x-telemetry-token"
RECORD = "x-telemetry-record"  # "off" or "metadata"
PROJECT = "x-telemetry-project"
SESSION = "x-telemetry-session"
TURN = "x-telemetry-turn"
CHAT_MODE = "x-telemetry-chat-mode"
TURN_INTENT = "x-telemetry-turn-intent"
LABEL_PREFIX = "x-telemetry-label-"

# Others' words for "do not keep the content of this call"; forwarded as they are.
OMIT_CONTENT = ("helicone-omit-request", "helicone-omit-response")

# A session by another product's name, the first that is present. Forwarded.
SESSION_ALIASES = (
    "helicone-session-id",
    "x-litellm-trace-id",
    "x-litellm-session-id",
    "x-portkey-trace-id",
    "x-bf-session-id",
)

# A session by the agent's own name, the first that is present. Forwarded.
SESSION_AGENTS = (
    "x-claude-code-session-id",
    "session-id",  # Codex
    "session_id",
    "conversation_id",
    "thread-id",
    "x-opencode-session",
    "x-client-session-id",  # Copilot CLI
    "x-interaction-id",  # Copilot in VS Code
    "x-kilocode-taskid",
)

# Headers that become labels: header → label. A name ending in "*" is a prefix.
LABEL_HEADERS = {
    "helicone-user-id": "user",
    "helicone-property-*": "",
    "x-litellm-tags": "tags",
    "x-portkey-metadata": "",
    "x-bf-dim-*": "",
    "x-claude-code-agent-id": "agent_id",
    "x-claude-code-parent-agent-id": "parent_agent_id",
    "x-codex-turn-metadata": "codex_turn_metadata",
}

# What the spool keeps of a request's head besides the above. Everything else may hold a key.
KEPT_REQUEST_HEADERS = frozenset(
    {
        "accept",
        "anthropic-beta",
        "anthropic-version",
        "content-encoding",
        "content-length",
        "content-type",
        "openai-beta",
        "originator",
        "traceparent",
        "user-agent",
        "x-app",
        "x-stainless-lang",
        "x-stainless-package-version",
        "x-stainless-retry-count",
        *SESSION_ALIASES,
        *SESSION_AGENTS,
        *(name for name in LABEL_HEADERS if not name.endswith("*")),
    }
)
KEPT_REQUEST_PREFIXES = tuple(name[:-1] for name in LABEL_HEADERS if name.endswith("*"))

# What the spool keeps of an answer's head: framing of the body, ids, limits.
KEPT_RESPONSE_HEADERS = frozenset(
    {
        "anthropic-request-id",
        "apim-request-id",
        "cf-ray",
        "content-encoding",
        "content-length",
        "content-type",
        "openai-model",
        "openai-processing-ms",
        "openai-version",
        "request-id",
        "retry-after",
        "x-agent-telemetry-id",
        "x-amzn-requestid",
        "x-goog-request-id",
        "x-request-id",
    }
)

# The provider's id of the call, the first that is present.
REQUEST_ID_HEADERS = (
    "x-request-id",
    "request-id",
    "anthropic-request-id",
    "x-amzn-requestid",
    "apim-request-id",
    "x-goog-request-id",
    "cf-ray",
)
