"""Records for the tests of the store."""

from datetime import UTC, datetime
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
