"""LangGraph with langchain's agents: OpenAI and Anthropic models, summarization in mid-turn."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import common
import openai
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware, wrap_tool_call
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.errors import GraphRecursionError


def model_of(scenario: common.Scenario, key: str) -> Any:
    common_options: Any = {
        "model": common.MODEL,
        "api_key": key,
        "base_url": common.base_url(scenario),
        "max_retries": scenario["retries"],
        "default_headers": scenario["headers"],
    }
    if scenario["dialect"] == "messages":
        return ChatAnthropic(**common_options, max_tokens=500)
    is_responses = scenario["dialect"] == "responses"
    return ChatOpenAI(**common_options, use_responses_api=is_responses)


@wrap_tool_call
async def as_error(request: Any, handler: Any) -> Any:
    try:
        return await handler(request)
    except RuntimeError as error:
        content = f"Error: {error}"
        return ToolMessage(content, tool_call_id=request.tool_call["id"], status="error")


def agent_of(scenario: common.Scenario, key: str) -> Any:
    tools = [tool(each) for each in (common.read, common.write, common.search, common.fetch)]

    @tool
    async def delegate(task: str) -> str:
        """Hand a task to another agent."""
        sub = create_agent(
            model_of(scenario, scenario["tasks"][task]),
            tools[:2],
            system_prompt=common.SUB_INSTRUCTIONS,
        )
        found = await sub.ainvoke({"messages": [{"role": "user", "content": task}]})
        return str(found["messages"][-1].text)

    model = model_of(scenario, key)
    middleware: list[Any] = [as_error]
    if any(turn["tag"] == "summarized" for turn in scenario["turns"]):
        middleware.append(
            SummarizationMiddleware(model=model, trigger=("messages", 6), keep=("messages", 2))
        )
    return create_agent(
        model, [*tools, delegate], system_prompt=common.INSTRUCTIONS, middleware=middleware
    )


async def run(scenario: common.Scenario, key: str) -> None:
    agent = agent_of(scenario, key)
    messages: list[Any] = []
    for turn in scenario["turns"]:
        given = {"messages": [*messages, {"role": "user", "content": turn["user"]}]}
        # A round is a step for the model and one for its tools.
        config = {"recursion_limit": 2 * turn["cap"] if turn["cap"] else 60}
        try:
            if turn["aborts"]:
                await asyncio.wait_for(abort(agent, given, config), 20)
                messages = given["messages"]
            elif scenario["stream"]:
                async for state in agent.astream(given, config, stream_mode="values"):
                    messages = state["messages"]
            else:
                messages = (await agent.ainvoke(given, config))["messages"]
        except (GraphRecursionError, openai.APIError, anthropic.APIError):
            pass


async def abort(agent: Any, given: Any, config: Any) -> None:
    async for chunk, _ in agent.astream(given, config, stream_mode="messages"):
        if chunk.text and chunk.type == "AIMessageChunk":
            break


common.run_all(run)
