"""agent-telemetry: a recorder for agents, placed between an agent and its LLM provider."""

__version__ = "0.1.0"
