"""Poison: values that databases choke on, in every column that other people's bytes reach."""

from tests.store.rows import NUMBERS, STRINGS
from tests.store.rows import POISON as KNOWN


def _call(text: str) -> dict:
    return {"id": text, "name": text, "arguments": {text: [text]}, "raw": text}


POISON: list[dict] = [
    *KNOWN,
    *({"tool_calls": [_call(text)], "response_thoughts": text} for text in STRINGS),
    *({"user_message": text, "finish_reason": text, "provider": text} for text in STRINGS),
    *({"tool_results": [{"id": text, "output": text}], "turn_intent": text} for text in STRINGS),
    *({"request_params": {text: {"n": number}}} for text in STRINGS[:3] for number in NUMBERS),
    *({"capture": {"problems": [number]}, "labels": {"n": number}} for number in NUMBERS),
    *({"total_tokens": number, "ttft_ms": number, "rounds": number} for number in NUMBERS),
]
