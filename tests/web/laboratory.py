"""A laboratory's day: thousands of calls of scripted agents, written and linked as they would be.

Everything follows from a seed, but for the day, which ends at the moment of writing. Turns end in
every way there is; there are sub-agents, side calls, retries and compactions.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count

from proxy.enrich.facts import link_of
from proxy.environment import load
from proxy.linker import Linker
from proxy.record import Beside, TelemetryRecord
from proxy.store.links import LinkStore
from proxy.store.postgres import Store
from tests.database import connected
from tests.turns.scripts import DIGESTS, Talk

SEED = 20261126
PROJECTS = ("checkout", "search", "support-bot", "data-pipeline", None)
MODELS = {
    # name: provider, client, input and output price per million tokens, ms per output token
    "claude-sonnet-4-5": ("anthropic", "claude-code/2.1.0", 3.0, 15.0, 14),
    "gpt-5": ("openai", "codex/0.52", 1.25, 10.0, 9),
    "gpt-5-mini": ("openai", "openai-python/2.1", 0.25, 2.0, 5),
    "gemini-2.5-pro": ("gemini", "gemini-cli/0.9", 1.25, 10.0, 11),
    "llama-3.3-70b": ("groq", "langchain/0.3", 0.59, 0.79, 3),
}
SYSTEM = """You are a coding agent working in a user's repository.
Work step by step. Read before you write. Run the tests before you say that you are done.

# Rules
- Keep changes small and explain each of them.
- Never touch files outside of the repository.
- Ask when a request is unclear."""
TASKS = (
    ("The checkout test fails on CI but not here, can you find out why?", "the clock of the test"),
    ("Add pagination to the orders endpoint, keyset please, not offset", "keyset pagination"),
    ("Why is the nightly import four times slower since Tuesday?", "a missing index"),
    ("Rename Customer.mail to Customer.email everywhere, with a migration", "the rename"),
    ("Write a test that shows the double charge when the client retries", "an idempotency key"),
    ("Explain what this regular expression does and whether it can blow up", "the expression"),
    ("Our docker image is 2.1 GB. Make it smaller without changing what it runs", "the image"),
    ("Customers in Iceland see the wrong currency on the invoice, fix it", "the locale"),
    ("Move the feature flags from environment variables to the settings file", "the flags"),
    ("Give me a summary of the last ten incidents and what they have in common", "incidents"),
    ("Users report that search ignores accents, e.g. Zürich. Please repair", "normalisation"),
    ("Upgrade the HTTP client and look through its changelog for traps", "the upgrade"),
)
FILES = ("src/orders/api.py", "src/orders/models.py", "tests/test_checkout.py", "Dockerfile")
CODE = '''def charge(order: Order, key: str) -> Receipt:
    """Charge once, however often it is asked for."""
    if (known := receipts.get(key)) is not None:
        return known
    receipt = provider.charge(order.total, idempotency_key=key)
    receipts[key] = receipt
    return receipt
'''
THOUGHT = (
    "The failure only shows up on CI, so something about the environment differs. The likely ones "
    "are time zone, locale and parallel runs. I will look at the test first, then at how it is run."
)
FAILURES = (
    "Error: no such file or directory: src/orders/service.py",
    'Traceback (most recent call last):\n  File "run.py", line 3\nModuleNotFoundError: orders',
    "Exit code: 1\n2 failed, 41 passed in 3.2 s",
)

_numbers = count(1)


class Agent:
    """One scripted agent with its conversation."""

    def __init__(self, rng: random.Random, at: datetime) -> None:
        self.rng, self.model = rng, rng.choices(list(MODELS), (5, 3, 4, 2, 1))[0]
        provider, client, *_ = MODELS[self.model]
        self.columns = {
            "project_id": rng.choices(PROJECTS, (5, 3, 4, 2, 1))[0],
            "provider": provider,
            "client": client,
            "model_used": self.model,
            "endpoint": "chat.completions",
            "streamed": True,
            "status": 200,
            "system_prompt": SYSTEM,
            "request_params": {"tools": _tools(), "temperature": 0.2, "stream": True},
        }
        self.talk = Talk(session=f"{rng.getrandbits(48):012x}-{next(_numbers)}", at=at)

    def say(self, text: str) -> Agent:
        self.talk.user(text)
        return self

    def answer(self, text: str | None = None, tools: tuple = (), **columns) -> Agent:
        self.talk.call(text, tools, **{**self.columns, **self._measured(text, tools), **columns})
        return self

    def back(self, *outputs: str) -> Agent:
        self.talk.results(*outputs)
        return self

    def fail(self, outcome: str, status: int | None, error: str, **columns) -> Agent:
        more = {"outcome": outcome, "status": status, "error": error, "finish_reason": None}
        self.talk.call(None, (), **{**self.columns, **self._measured("x", ()), **more, **columns})
        return self

    def _measured(self, text: str | None, tools: tuple) -> dict:
        rng = self.rng
        _, _, price_in, price_out, ms = MODELS[self.model]
        prompt = 1800 + sum(len(str(message)) for message in self.talk.messages) // 4
        completion = 20 + len(text or "") // 4 + 30 * len(tools) + rng.randint(0, 200)
        cached = int(prompt * rng.uniform(0.6, 0.95)) if len(self.talk.messages) > 2 else 0
        first = int(rng.lognormvariate(6.3, 0.45))
        cost = (prompt - cached * 0.9) * price_in / 1e6 + completion * price_out / 1e6
        return {
            "seconds": (first + completion * ms) / 1000,
            "ttft_ms": first,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "cached_tokens": cached,
            "usage_source": "provider",
            "cost_usd": Decimal(f"{cost:.6f}"),
        }


def _tools() -> list[dict]:
    names = {"read": "Read a file", "run": "Run a command", "edit": "Change a file", "agent": "…"}
    return [
        {"type": "function", "function": {"name": name, "description": text, "parameters": {}}}
        for name, text in names.items()
    ]


def _opened(agent: Agent) -> str:
    text, topic = agent.rng.choice(TASKS)
    agent.say(text)
    return topic


def _works(agent: Agent, rounds: int, *, fails: bool = False) -> None:
    for number in range(rounds):
        file = agent.rng.choice(FILES)
        thoughts = THOUGHT if agent.rng.random() < 0.4 else None
        text = f"Let me look at {file}." if agent.rng.random() < 0.6 else None
        command = {"command": f"pytest -q {file}", "timeout_s": 60 + number}
        call = ("read", {"path": file, "line": number}) if number % 2 == 0 else ("run", command)
        agent.answer(text, (call,), response_thoughts=thoughts)
        agent.talk.wait(agent.rng.uniform(0.1, 4))
        failure = fails or agent.rng.random() < 0.08
        agent.back(agent.rng.choice(FAILURES) if failure else f"{CODE}\n# {file}, part {number}")


def completed(agent: Agent) -> None:
    topic = _opened(agent)
    _works(agent, agent.rng.randint(1, 9))
    agent.answer(f"Done: it was {topic}. I changed two files, and all 43 tests pass now.")
    if agent.rng.random() < 0.4:
        agent.talk.wait(agent.rng.uniform(20, 90))
        agent.say("Good. Please write the commit message.")
        agent.answer(f"Fix {topic}\n\nThe test now uses a clock that stands still.")


def chatted(agent: Agent) -> None:
    topic = _opened(agent)
    agent.answer(f"In short: {topic}. Here is why.\n\n1. What it does\n2. What it costs\n\n{CODE}")


def abandoned(agent: Agent) -> None:
    _opened(agent)
    _works(agent, agent.rng.randint(1, 3))
    agent.answer("Now I run all tests.", (("run", {"command": "make test"}),))


def looped(agent: Agent) -> None:
    _opened(agent)
    for _ in range(4):
        agent.answer(
            "I read the file again.", (("read", {"path": FILES[0]}),), response_thoughts=None
        )
        agent.back(CODE)
    agent.answer(None, (("read", {"path": FILES[0]}),))


def failed_tools(agent: Agent) -> None:
    _opened(agent)
    _works(agent, 3, fails=True)
    agent.answer(None)


def overloaded(agent: Agent) -> None:
    _opened(agent)
    _works(agent, 2)
    message = "overloaded_error: the service is busy, try again later"
    agent.fail("upstream_error", 529, message)
    if agent.rng.random() < 0.6:
        agent.answer("After a second try: the index is there, the import is quick again.")
    else:
        agent.fail("upstream_error", 529, message)


def hung_up(agent: Agent) -> None:
    _opened(agent)
    _works(agent, agent.rng.randint(0, 2))
    agent.answer("I would first", outcome="client_disconnected", finish_reason=None, is_kept=False)


def too_long(agent: Agent) -> None:
    _opened(agent)
    agent.answer(f"Here is the whole file:\n{CODE * 6}", finish_reason="length")


def delegated(agent: Agent) -> Iterator[Agent]:
    """A sub-agent with a task of its own, while the main agent waits."""
    topic = _opened(agent)
    task = f"Find every place in the repository that depends on {topic} and list them with a reason"
    agent.answer("I let a helper search.", (("agent", {"prompt": task}),))
    helper = Agent(agent.rng, agent.talk.at)
    helper.model, helper.columns = agent.model, agent.columns
    helper.talk.session = agent.talk.session
    helper.say(task)
    _works(helper, 3)
    helper.answer("Three places: src/orders/api.py, src/orders/models.py, Dockerfile.")
    agent.talk.at = helper.talk.at + timedelta(seconds=1)
    agent.back("Three places: src/orders/api.py, src/orders/models.py, Dockerfile.")
    agent.answer("The helper found three places; I changed all of them.")
    yield helper


def titled(agent: Agent) -> Iterator[Agent]:
    """A side call that gives the conversation a title."""
    side = Agent(agent.rng, agent.talk.at)
    side.model, side.columns = agent.model, {**agent.columns, "request_params": {"stream": True}}
    side.talk.session = agent.talk.session
    side.say("Write a title of at most five words for this conversation")
    side.answer("Flaky checkout test")
    completed(agent)
    yield side


KINDS = {
    completed: 46,
    chatted: 16,
    abandoned: 6,
    looped: 4,
    failed_tools: 5,
    overloaded: 6,
    hung_up: 6,
    too_long: 3,
    delegated: 5,
    titled: 3,
}


def day(calls: int, end: datetime, *, hours: float = 23) -> list[TelemetryRecord]:
    """At least so many calls, in order of time, the last of them before `end`."""
    rng = random.Random(SEED)
    records: list[TelemetryRecord] = []
    while len(records) < calls:
        at = end - timedelta(hours=hours * rng.random() ** 1.3, minutes=20)
        agent = Agent(rng, at)
        script = rng.choices(list(KINDS), list(KINDS.values()))[0]
        others = list(script(agent) or ())
        for each in (agent, *others):
            records += each.talk.records
    records = [replace(record, id=_uuid7(record, rng)) for record in records]
    return sorted((r for r in records if r.created_at < end), key=lambda r: (r.created_at, r.id))


def _uuid7(record: TelemetryRecord, rng: random.Random):
    from uuid import UUID

    ms = int(record.created_at.timestamp() * 1000)
    return UUID(int=ms << 80 | 7 << 76 | rng.getrandbits(12) << 64 | 2 << 62 | rng.getrandbits(62))


_COPY = r"""
INSERT INTO {table} ({columns})
SELECT {values} FROM {table} r CROSS JOIN generate_series(1, $1::integer) n
"""
# An id with another version than any, and the number of the copy at its end.
_ANEW = (
    "regexp_replace({}::text, '([0-9a-f]{{8}}-[0-9a-f]{{4}}-)[0-9a-f]"
    "([0-9a-f]{{3}}-[0-9a-f]{{4}}-[0-9a-f]{{10}})[0-9a-f]{{2}}', "
    "'\\1e\\2' || lpad(to_hex(n), 2, '0'), 'g')::{}"
)
_CHANGED = {
    **{name: _ANEW.format(name, "uuid") for name in ("id", "turn_id", "parent_id", "call_id")},
    **{name: _ANEW.format(name, "jsonb") for name in ("capture", "placement")},
    "created_at": "created_at - n * INTERVAL '11 minutes'",
    "session_id": "session_id || '-' || n",
    "conversation": "NULL",
}


async def multiply(dsn: str, times: int) -> None:
    """Copy all rows and links so often that there are `times` of each, in other conversations."""
    async with connected(dsn) as connection:
        for table in ("agent_telemetry", "agent_links"):
            found = await connection.fetch(
                "SELECT attname AS name FROM pg_attribute WHERE attrelid = $1::text::regclass "
                "AND attnum > 0 AND NOT attisdropped",
                table,
            )
            columns = [row["name"] for row in found]
            values = ", ".join(_CHANGED.get(name, f'r."{name}"') for name in columns)
            statement = _COPY.format(table=table, columns=", ".join(columns), values=values)
            await connection.execute(statement, times - 1)
        await connection.execute("ANALYZE")


async def fill(dsn: str, records: list[TelemetryRecord], *, now: datetime | None = None) -> None:
    """Write and link them as the recorder and the linker do, then let all idle turns end."""
    async with Store(dsn) as store, LinkStore(dsn) as links:
        linker = Linker(load(None, {"HOME": "/"}), links, None)
        for start in range(0, len(records), 500):
            batch = records[start : start + 500]
            beside = {record.id: Beside(link=link_of(record, DIGESTS)) for record in batch}
            await store.write(batch, beside)
            await linker.step(batch[-1].created_at)
        await linker.settle(now or datetime.now(UTC))
