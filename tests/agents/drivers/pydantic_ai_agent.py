"""Pydantic AI: chat completions, Responses and Anthropic messages; output tools and retries."""

from __future__ import annotations

from typing import Any

import anthropic
import common
import openai
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, ModelRetry, UnexpectedModelBehavior
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits


class Answer(BaseModel):
    """The whole answer."""

    answer: str


def model_of(scenario: common.Scenario, key: str) -> Any:
    options: Any = {
        "api_key": key,
        "base_url": common.base_url(scenario),
        "max_retries": scenario["retries"],
        "default_headers": scenario["headers"],
    }
    if scenario["dialect"] == "messages":
        client = anthropic.AsyncAnthropic(**options)
        return AnthropicModel(common.MODEL, provider=AnthropicProvider(anthropic_client=client))
    kind = OpenAIChatModel if scenario["dialect"] == "chat" else OpenAIResponsesModel
    provider = OpenAIProvider(openai_client=openai.AsyncOpenAI(**options))
    return kind(common.MODEL, provider=provider)


def agent_of(scenario: common.Scenario, key: str) -> Agent:
    is_structured = any(turn["tag"] == "structured" for turn in scenario["turns"])
    agent = Agent(
        model_of(scenario, key),
        instructions=common.INSTRUCTIONS,
        output_type=Answer if is_structured else str,
        retries=5,
    )
    agent.tool_plain(common.read)
    agent.tool_plain(common.write)

    @agent.tool_plain
    def search(query: str) -> str:
        """Search the index."""
        raise ModelRetry("the index is not there")

    @agent.tool_plain
    def fetch(url: str) -> str:
        """Fetch a page."""
        raise ModelRetry(f"cannot reach {url}")

    @agent.tool_plain
    async def delegate(task: str) -> str:
        """Hand a task to another agent."""
        sub = Agent(
            model_of(scenario, scenario["tasks"][task]), instructions=common.SUB_INSTRUCTIONS
        )
        sub.tool_plain(common.read)
        return (await sub.run(task)).output

    return agent


async def drained(context: Any, events: Any) -> None:
    """Asking for events makes it stream."""
    async for _ in events:
        pass


async def run(scenario: common.Scenario, key: str) -> None:
    agent = agent_of(scenario, key)
    history: Any = None
    for turn in scenario["turns"]:
        options: Any = {"message_history": history}
        options["usage_limits"] = UsageLimits(request_limit=turn["cap"] or 20)
        try:
            if turn["aborts"]:
                async with agent.run_stream(turn["user"], **options) as result:
                    async for _ in result.stream_text(delta=True, debounce_by=None):
                        break
                    history = result.all_messages()
            else:
                options["event_stream_handler"] = drained if scenario["stream"] else None
                history = (await agent.run(turn["user"], **options)).all_messages()
        except (UsageLimitExceeded, ModelHTTPError, UnexpectedModelBehavior):
            pass


common.run_all(run)
