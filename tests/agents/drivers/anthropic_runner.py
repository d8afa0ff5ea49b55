"""Anthropic SDK: its tool runner, plain and streaming."""

from __future__ import annotations

import contextlib
from typing import Any

import anthropic
import common
from anthropic import beta_async_tool


def client_of(scenario: common.Scenario, key: str) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        api_key=key,
        base_url=common.base_url(scenario),
        max_retries=scenario["retries"],
        default_headers=scenario["headers"],
    )


def tools_of(scenario: common.Scenario) -> list[Any]:
    @beta_async_tool
    async def read(path: str) -> str:
        """Read a file."""
        return common.read(path)

    @beta_async_tool
    async def write(path: str, text: str) -> str:
        """Write a file."""
        return common.write(path, text)

    @beta_async_tool
    async def search(query: str) -> str:
        """Search the index."""
        return common.search(query)

    @beta_async_tool
    async def fetch(url: str) -> str:
        """Fetch a page."""
        return common.fetch(url)

    @beta_async_tool
    async def delegate(task: str) -> str:
        """Hand a task to another agent."""
        sub = client_of(scenario, scenario["tasks"][task]).beta.messages.tool_runner(
            model=common.MODEL,
            max_tokens=500,
            system=common.SUB_INSTRUCTIONS,
            tools=[read],
            messages=[{"role": "user", "content": task}],
        )
        return text_of(await sub.until_done())

    return [read, write, search, fetch, delegate]


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


async def run(scenario: common.Scenario, key: str) -> None:
    client, tools = client_of(scenario, key), tools_of(scenario)
    messages: list[Any] = []
    for turn in scenario["turns"]:
        messages.append({"role": "user", "content": turn["user"]})
        runner = client.beta.messages.tool_runner(
            model=common.MODEL,
            max_tokens=500,
            system=common.INSTRUCTIONS,
            tools=tools,
            messages=messages,
            max_iterations=turn["cap"] or 20,
            stream=scenario["stream"],
        )
        with contextlib.suppress(anthropic.APIError):
            messages = await follow(runner, turn, messages)


async def follow(runner: Any, turn: Any, messages: list[Any]) -> list[Any]:
    found = list(messages)
    async for answer in runner:
        if turn["aborts"]:
            async for event in answer:
                if event.type == "text":
                    await answer.close()
                    return messages
        message = await answer.get_final_message() if hasattr(answer, "text_stream") else answer
        found.append({"role": "assistant", "content": message.content})
        results = await runner.generate_tool_call_response()
        if results is not None:
            found.append(results)
    return found


common.run_all(run)
