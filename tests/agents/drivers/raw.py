"""Agents written out by hand: what no framework can be made to do at will.

Habits of Claude Code (title call, reminders, a billing header that changes at each call, nudges),
of Codex (environment, early close, compaction in mid-turn), and of a person who writes while tools
are still to run. Each turn's `tag` names what is done.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import common

Json = dict[str, Any]
TOOLS = [{"name": "read", "description": "Read a file.", "input_schema": {"type": "object"}}]
FUNCTIONS = [{"type": "function", "name": "read", "parameters": {"type": "object"}}]
REMINDER = "<system-reminder>\nToday is Monday.\n</system-reminder>"
NUDGE = "[Your previous response had no visible output. Please continue.]"
ENVIRONMENT = "<environment_context>\n  <cwd>/home/dev</cwd>\n</environment_context>"
CHECKPOINT = "You are performing a CONTEXT CHECKPOINT COMPACTION. Create a handoff summary."
SUMMARY = "Another language model started to solve this problem and produced a summary:\n"


class Agent:
    """One agent: its calls over HTTP, its history, and how many calls it made."""

    def __init__(self, session: aiohttp.ClientSession, scenario: common.Scenario, key: str) -> None:
        self._session = session
        self._scenario = scenario
        self._key = key
        self.history: list[Json] = []
        self.calls = 0

    async def post(self, path: str, body: Json, *, leaves: bool = False) -> Json:
        """One call; where the agent leaves, it does so after the terminal event."""
        self.calls += 1
        headers = {**self._scenario["headers"], "x-api-key": self._key}
        headers |= {"anthropic-version": "2023-06-01", "user-agent": "by-hand/1.0"}
        url = f"{common.base_url(self._scenario)}{path}"
        async with self._session.post(url, json=body, headers=headers) as answer:
            if not body.get("stream"):
                return dict(await answer.json())
            text = ""
            async for piece in answer.content.iter_any():
                text += piece.decode()
                if leaves and "event: response.completed" in text and text.endswith("\n\n"):
                    answer.close()
                    break
            last = text.strip().rpartition("data: ")[2]
            return dict(json.loads(last)["response"])


async def claude(agent: Agent, turn: Json) -> None:
    """Messages with all that Claude Code puts around them."""
    texts = [{"type": "text", "text": REMINDER}, {"type": "text", "text": turn["user"]}]
    if not agent.history:
        schema = {"type": "object", "properties": {"title": {"type": "string"}}}
        title = f"<session>\n{turn['user']}\n</session>"
        asked = {"messages": [{"role": "user", "content": title}], "tools": []}
        output = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
        await messages(agent, {**asked, **output})
    agent.history.append({"role": "user", "content": texts})
    while True:
        answer = await messages(agent, {"messages": marked(agent.history), "tools": TOOLS})
        used = [block for block in answer["content"] if block["type"] == "tool_use"]
        if not answer["content"]:
            agent.history[-1]["content"].append({"type": "text", "text": NUDGE})
            continue
        agent.history.append({"role": "assistant", "content": answer["content"]})
        if not used:
            return
        results = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": "words"}
            for block in used
        ]
        agent.history.append({"role": "user", "content": results})


def marked(history: list[Json]) -> list[Json]:
    """The history with a cache mark on its last block, which moves from call to call."""
    found = json.loads(json.dumps(history))
    found[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
    return list(found)


async def messages(agent: Agent, body: Json) -> Json:
    billing = f"x-anthropic-billing-header: cc_version=2.1; cch={agent.calls:05x};"
    system = [{"type": "text", "text": billing}, {"type": "text", "text": common.INSTRUCTIONS}]
    fixed = {"model": common.MODEL, "max_tokens": 500, "system": system}
    return await agent.post("/v1/messages", {**fixed, **body})


async def codex(agent: Agent, turn: Json) -> None:
    """Responses as Codex uses them: everything sent each time, hanging up after the last event."""
    if not agent.history:
        agent.history.append(item("developer", common.INSTRUCTIONS))
        agent.history.append(item("user", ENVIRONMENT))
    agent.history.append(item("user", turn["user"]))
    while True:
        answer = await responses(agent, FUNCTIONS)
        agent.history += answer["output"]
        used = [each for each in answer["output"] if each["type"] == "function_call"]
        if not used:
            return
        for call in used:
            done = {"type": "function_call_output", "call_id": call["call_id"], "output": "words"}
            agent.history.append(done)
        if turn["tag"] == "compacts" and len(agent.history) > 6:
            await compact(agent)


async def compact(agent: Agent) -> None:
    """Replace the history by what was typed and a summary."""
    typed = [each for each in agent.history if each.get("role") in ("developer", "user")]
    agent.history.append(item("user", CHECKPOINT))
    answer = await responses(agent, [])
    said = answer["output"][0]["content"][0]["text"]
    agent.history = [*typed, item("user", SUMMARY + said)]


async def responses(agent: Agent, tools: list[Json]) -> Json:
    body = {"model": common.MODEL, "input": agent.history, "tools": tools, "store": False}
    return await agent.post("/responses", {**body, "stream": True}, leaves=True)


def item(role: str, text: str) -> Json:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


async def interrupted(agent: Agent, turn: Json) -> None:
    """Chat completions; the person writes again while a tool is still to run."""
    agent.history.append({"role": "user", "content": turn["user"]})
    tools = [{"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}]
    body = {"model": common.MODEL, "messages": agent.history, "tools": tools}
    answer = await agent.post("/chat/completions", body)
    message = answer["choices"][0]["message"]
    agent.history.append(message)
    for call in message.get("tool_calls", ()):
        stopped = {"role": "tool", "tool_call_id": call["id"], "content": "stopped by the user"}
        agent.history.append(stopped)


KINDS: dict[str, Callable[[Agent, Json], Awaitable[None]]] = {
    "claude": claude,
    "codex": codex,
    "compacts": codex,
    "interrupted": interrupted,
}


async def run(scenario: common.Scenario, key: str) -> None:
    async with aiohttp.ClientSession() as session:
        agent = Agent(session, scenario, key)
        for turn in scenario["turns"]:
            await asyncio.wait_for(KINDS[turn["tag"]](agent, turn), 20)


common.run_all(run)
