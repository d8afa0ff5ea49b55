"""Conversations of scripted agents, many at a time, whose every answer follows from the request."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import aiohttp
from aiohttp import web

from tests.serving import serving

AT_A_TIME = 32
TOOL = {"type": "function", "function": {"name": "step", "parameters": {"type": "object"}}}


def turns_of(number: int) -> list[str]:
    """What the user says in turn. The last turn of some is left in its middle."""
    said = [f"conversation {number} turn {t} takes {(number + t) % 3} steps" for t in range(2)]
    if number % 5 == 0:
        said.append(f"conversation {number} turn 2 takes 9 steps")
    return said


def expected_turns(count: int) -> int:
    return sum(len(turns_of(number)) for number in range(count))


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    messages = json.loads(await request.read())["messages"]
    asked_at = max(at for at, each in enumerate(messages) if each["role"] == "user")
    said, done = messages[asked_at]["content"], len(messages[asked_at:]) // 2
    message: dict = {"role": "assistant", "content": f"{said}: done"}
    if done < int(said.split()[-2]):
        call = {"name": "step", "arguments": json.dumps({"of": said, "step": done})}
        id = f"call_{'_'.join(said.split()[1:4])}_{done}"
        message = {"role": "assistant", "content": None}
        message["tool_calls"] = [{"id": id, "type": "function", "function": call}]
    reason = "tool_calls" if "tool_calls" in message else "stop"
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "scripted-1",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": len(messages), "completion_tokens": 3, "total_tokens": 9},
    }
    return web.json_response(answer)


def provider() -> AbstractAsyncContextManager[str]:
    return serving(_answer)


async def talk(urls: Sequence[str], count: int) -> None:
    """Lead so many conversations, the calls of each through all gateways in turn."""
    few = asyncio.Semaphore(AT_A_TIME)
    async with aiohttp.ClientSession() as session:

        async def lead(number: int) -> None:
            async with few:
                await _lead(session, itertools.cycle(urls[number % len(urls) :] + urls), number)

        await asyncio.gather(*(lead(number) for number in range(count)))


async def _lead(session: aiohttp.ClientSession, urls, number: int) -> None:
    headers = {"x-telemetry-session": f"labelled {number}"} if number % 2 else {}
    messages: list[dict] = [{"role": "system", "content": f"You are agent {number}"}]
    for said in turns_of(number):
        messages.append({"role": "user", "content": said})
        for step in itertools.count():
            body = {"model": "scripted-1", "messages": messages, "tools": [TOOL]}
            url = f"{next(urls)}/openai/v1/chat/completions"
            async with session.post(url, json=body, headers=headers) as answer:
                assert answer.status == 200
                message = (await answer.json())["choices"][0]["message"]
            messages.append(message)
            if "tool_calls" not in message or step == 4:
                break
            id = message["tool_calls"][0]["id"]
            messages.append({"role": "tool", "tool_call_id": id, "content": f"result {step}"})


TURNS = """
SELECT user_message, stop_reason, rounds, tool_call_count, response_text, tool_calls, tool_results,
       prompt_tokens, completion_tokens, total_tokens, model_used, session_id, turn_id
FROM agent_telemetry WHERE record_type = 'turn_summary'
"""
CALL_ROWS = """
SELECT c.user_message, c.round, c.response_text, c.tool_calls, c.finish_reason, c.chat_history,
       c.session_id, c.turn_id, p.user_message AS parent_message, p.round AS parent_round
FROM agent_telemetry c LEFT JOIN agent_telemetry p ON p.id = c.parent_id
WHERE c.record_type = 'llm_call'
"""


async def judged(fetch) -> tuple[list[tuple], list[tuple]]:
    """Turns and calls as one table has them, without what differs from run to run: ids and times.

    A session and a turn are named by what the user said first in them.
    """
    turns, calls = await fetch(TURNS), await fetch(CALL_ROWS)
    names: dict = {}
    for row in sorted(calls, key=lambda row: (len(row["chat_history"]), row["user_message"])):
        for key in (row["session_id"], row["turn_id"]):
            names.setdefault(key, row["user_message"])
    return sorted(map(repr, _named(turns, names))), sorted(map(repr, _named(calls, names)))


def _named(rows, names: dict) -> list[tuple]:
    found = []
    for row in rows:
        plain = dict(row)
        ids = {name: names.get(plain.pop(name)) for name in ("session_id", "turn_id")}
        results = json.loads(plain.pop("tool_results", None) or "[]")
        for result in results:
            result.pop("latency_ms", None)
        found.append((*sorted(plain.items(), key=lambda item: item[0]), ids, results))
    return found
