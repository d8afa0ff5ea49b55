"""Which requests are model calls: providers' paths as their SDKs send them."""

import pytest

from proxy.endpoints import classify

VERTEX = "/v1/projects/p/locations/l/publishers"


@pytest.mark.parametrize(
    ("path", "dialect", "name"),
    [
        ("/v1/chat/completions", "openai", "chat.completions"),
        ("/api/v1/chat/completions", "openai", "chat.completions"),  # OpenRouter
        ("/chat/completions", "openai", "chat.completions"),  # DeepSeek, Perplexity
        ("/api/paas/v4/chat/completions", "openai", "chat.completions"),  # Z.ai
        ("/v1beta/openai/chat/completions", "openai", "chat.completions"),  # Gemini
        (
            "/v1/projects/p/locations/l/endpoints/openapi/chat/completions",
            *("openai", "chat.completions"),
        ),
        ("/openai/deployments/gpt-4o/chat/completions", "openai", "chat.completions"),  # Azure
        ("/models/chat/completions", "openai", "chat.completions"),  # Azure AI inference
        ("/openai/deployments/ada/completions", "openai", "completions"),
        ("/openai/v1/responses", "openai", "responses"),
        ("/openai/responses", "openai", "responses"),
        ("/v1/messages", "anthropic", "messages"),
        ("/anthropic/v1/messages", "anthropic", "messages"),  # Azure, DeepSeek, Z.ai
        (f"{VERTEX}/anthropic/models/claude-4:rawPredict", "anthropic", "messages"),
        (f"{VERTEX}/anthropic/models/claude-4:streamRawPredict", "anthropic", "messages"),
        (f"{VERTEX}/mistralai/models/mistral-3:rawPredict", "openai", "chat.completions"),
        (f"{VERTEX}/mistralai/models/mistral-3:streamRawPredict", "openai", "chat.completions"),
        (f"{VERTEX}/google/models/gemini-3:generateContent", "gemini", "generateContent"),
        ("/v1beta/tunedModels/t:streamGenerateContent", "gemini", "streamGenerateContent"),
        ("/model/us.amazon.nova%3A0/converse", "bedrock", "converse"),
        ("/model/m/invoke-with-response-stream", "bedrock", "invoke-stream"),
        ("/api/chat", "ollama", "api.chat"),
        ("/v2/chat", "cohere", "chat"),
    ],
)
def test_a_model_call_is_told_by_its_path(path, dialect, name):
    found = classify("POST", path)
    assert found is not None
    assert (found.dialect, found.name) == (dialect, name)
    assert classify("GET", path) is None


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/embeddings", "/v1/messages/count_tokens", "/v1/messages/batches", "/v1/rerank"),
        *("/v1/threads/t/messages", "/v1/responses/resp_1/cancel", "/v1/responses/input_tokens"),
        *("/v1/models", "/v1beta/models/m:countTokens", "/v1beta/models/m:embedContent"),
        *("/model/m/count-tokens", "/v1/conversations", "/api/embed", "/v2/embed"),
        *("/v1/images/generations", "/v1/audio/speech", "/v1/files", "/v1/batches"),
    ],
)
def test_anything_else_gets_no_row(path):
    assert classify("POST", path) is None
