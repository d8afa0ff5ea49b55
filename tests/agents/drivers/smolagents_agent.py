"""smolagents: its tool-calling agent, whose answer is a tool call, and its code agent."""

from __future__ import annotations

import contextlib
from typing import Any

import common
from smolagents import CodeAgent, OpenAIServerModel, Tool, ToolCallingAgent
from smolagents.utils import AgentError


class Read(Tool):
    name = "read"
    description = "Read a file."
    inputs = {"path": {"type": "string", "description": "where"}}  # noqa: RUF012 - its own form
    output_type = "string"

    def forward(self, path: str) -> str:
        return f"contents of {path}"


class Search(Tool):
    name = "search"
    description = "Search the index."
    inputs = {"query": {"type": "string", "description": "what"}}  # noqa: RUF012
    output_type = "string"

    def forward(self, query: str) -> str:
        raise RuntimeError("the index is not there")


def model_of(scenario: common.Scenario, key: str) -> Any:
    return OpenAIServerModel(
        model_id=common.MODEL,
        api_base=common.base_url(scenario),
        api_key=key,
        client_kwargs={
            "max_retries": scenario["retries"],
            "default_headers": scenario["headers"],
        },
    )


def agent_of(scenario: common.Scenario, key: str) -> Any:
    tags = {turn["tag"] for turn in scenario["turns"]}
    options: Any = {"tools": [Read(), Search()], "model": model_of(scenario, key)}
    options |= {"verbosity_level": 0, "stream_outputs": scenario["stream"]}
    if "code" in tags:
        return CodeAgent(**options)
    if scenario["tasks"]:
        (task_key,) = scenario["tasks"].values()
        helper = ToolCallingAgent(
            tools=[Read()],
            model=model_of(scenario, task_key),
            name="helper",
            description="does one small task",
            verbosity_level=0,
        )
        options["managed_agents"] = [helper]
    return ToolCallingAgent(**options, planning_interval=2 if "planned" in tags else None)


def run(scenario: common.Scenario, key: str) -> None:
    agent = agent_of(scenario, key)
    for number, turn in enumerate(scenario["turns"]):
        with contextlib.suppress(AgentError):
            agent.run(turn["user"], reset=number == 0, max_steps=turn["cap"] or 20)


common.run_all_in_threads(run)
