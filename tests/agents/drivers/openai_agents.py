"""OpenAI Agents SDK: chat completions and Responses, agents as tools, handoffs."""

from __future__ import annotations

import asyncio
from typing import Any

import common
from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import APIError, AsyncOpenAI

set_tracing_disabled(True)


def model_of(scenario: common.Scenario, key: str) -> Any:
    client = AsyncOpenAI(
        api_key=key,
        base_url=common.base_url(scenario),
        max_retries=scenario["retries"],
        default_headers=scenario["headers"],
    )
    kind = OpenAIResponsesModel
    if scenario["dialect"] == "chat":
        kind = OpenAIChatCompletionsModel
    return kind(model=common.MODEL, openai_client=client)


def agent_of(scenario: common.Scenario, key: str) -> Agent:
    tools = [function_tool(tool) for tool in (common.read, common.write, common.search)]
    tools.append(function_tool(common.fetch))

    @function_tool
    async def delegate(task: str) -> str:
        """Hand a task to another agent."""
        sub = Agent(
            name="helper",
            instructions=common.SUB_INSTRUCTIONS,
            model=model_of(scenario, scenario["tasks"][task]),
            tools=tools[:2],
        )
        return str((await Runner.run(sub, task)).final_output)

    settings = ModelSettings(store=False) if scenario["dialect"] == "responses" else ModelSettings()
    main = Agent(
        name="assistant",
        instructions=common.INSTRUCTIONS,
        model=model_of(scenario, key),
        model_settings=settings,
        tools=[*tools, delegate],
    )
    if any(turn["tag"] == "handoff" for turn in scenario["turns"]):
        main.handoffs = [
            Agent(
                name="billing",
                instructions="You answer questions about bills.",
                model=main.model,
                model_settings=settings,
                tools=tools[:1],
            )
        ]
    return main


async def run(scenario: common.Scenario, key: str) -> None:
    agent = agent_of(scenario, key)
    history: list[Any] = []
    for turn in scenario["turns"]:
        given = [*history, {"role": "user", "content": turn["user"]}]
        history = await one_turn(scenario, agent, turn, given)


async def one_turn(scenario: common.Scenario, agent: Agent, turn: Any, given: list[Any]) -> Any:
    options = {"max_turns": turn["cap"] or 20}
    try:
        if not scenario["stream"]:
            result = await Runner.run(agent, given, **options)
        else:
            result = Runner.run_streamed(agent, given, **options)
            await follow(result, turn)
            if turn["aborts"]:
                return given
        return result.to_input_list()
    except (MaxTurnsExceeded, APIError):
        return given


async def follow(result: Any, turn: Any) -> None:
    async def events() -> None:
        async for event in result.stream_events():
            is_delta = event.type == "raw_response_event" and "delta" in event.data.type
            if turn["aborts"] and is_delta and getattr(event.data, "delta", None):
                result.cancel()
                return

    await asyncio.wait_for(events(), 20)


common.run_all(run)
