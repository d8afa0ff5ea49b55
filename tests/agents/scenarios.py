"""The scenarios of the laboratory: what agents are asked, what they are answered, what is true.

Most run on every framework that can do it; what only one does stands below under its name.
"""

from __future__ import annotations

from tests.agents.script import Scenario, Step, Turn


def says(text: str, **more: object) -> Step:
    return Step(text, **more)  # type: ignore[arg-type]


def calls(name: str, said: str = "", /, **arguments: str) -> Step:
    return Step(said, ((name, arguments),))


def read(path: str, text: str = "") -> Step:
    return calls("read", text, path=path)


def write(path: str, text: str = "") -> Step:
    return calls("write", text, path=path, text="some text")


DONE = says("All of it is done.")
SUB_TASK, OTHER_TASK = "count the words in notes.txt", "list what is in the folder docs"

PLAIN = (Turn("Say hello to everybody", (says("Hello everybody."),)),)
TOOLS = (Turn("What is in a.txt?", (read("a.txt", "I will look."), read("b.txt"), DONE)),)
TURNS = (
    Turn("What is in a.txt?", (read("a.txt"), says("It holds words."))),
    Turn("And in b.txt?", (read("b.txt", "One moment."), says("More words."))),
    Turn("Thank you", (says("You are welcome."),)),
)
PARALLEL = (
    Turn(
        "Compare the two files",
        (
            Step("Both at once.", (("read", {"path": "a"}), ("read", {"path": "b"}))),
            says("They are alike."),
        ),
    ),
)
FAILS = (Turn("Find the word", (calls("search", query="word"), says("There is no index."))),)
SAME_CALL = (Turn("Watch the file", (read("a"),) * 4, ends="loop_detected:same_call:read", cap=4),)
PING_PONG = (
    Turn(
        "Keep them alike",
        (read("a", "Look."), write("a", "Now write.")) * 3,
        ends="loop_detected:ping_pong:write",
        cap=6,
    ),
)
SAME_ERROR = (
    Turn(
        "Find it anywhere",
        tuple(calls("search", f"Try {n}.", query=f"place {n}") for n in range(4)),
        ends="loop_detected:same_error:search",
        cap=4,
    ),
)
FAILURES = (
    Turn(
        "Get one of the pages",
        (
            read("list", "First the list."),
            *(calls("fetch", f"Page {n}.", url=f"http://page/{n}") for n in range(3)),
        ),
        ends="tool_failure",
        cap=4,
    ),
)
SILENT = (
    Turn(
        "Sort the folder",
        (read("a", "I begin."), *(read(f"file {n}") for n in range(4))),
        ends="silent_rounds",
        cap=5,
    ),
)
CAPPED = (
    Turn(
        "Look at everything",
        tuple(read(f"file {n}", f"Now number {n}.") for n in range(4)),
        ends="round_cap",
        ends_bare="abandoned",
        cap=4,
    ),
)
RETRIED = (
    Turn(
        "What is in a.txt?",
        (says("", status=429), read("a.txt"), says("", status=500), says("Words are in it.")),
    ),
)
FAILED = (
    Turn("What is in a.txt?", (read("a.txt", "Look."), says("", status=500)), "upstream_error"),
)
ABORTED = (
    Turn(
        "Tell me a long story",
        (says("Once upon a time there was a fox", is_hung_up=True),),
        ends="user_aborted",
        aborts=True,
    ),
    Turn("Something shorter", (says("A fox. The end."),)),
)
EMPTY = (Turn("Say nothing", (read("a"), says("")), "empty_no_tools"),)
LENGTH = (Turn("Write a long book", (says("It was a dark", finish="length"),), "max_tokens"),)
REFUSED = (Turn("Do harm", (says("I will not do that.", finish="refusal"),), "refused"),)
DELEGATED = (
    Turn(
        "How many words have my notes?",
        (calls("delegate", "I ask the helper.", task=SUB_TASK), says("There are twelve.")),
    ),
)
SUB_AGENT = (Turn(SUB_TASK, (read("notes.txt"), says("twelve words"))),)
BOTH = (
    Turn(
        "Look at my notes and my documents",
        (
            Step("Both.", (("delegate", {"task": SUB_TASK}), ("delegate", {"task": OTHER_TASK}))),
            says("Twelve words and three files."),
        ),
    ),
)
OTHER_AGENT = (Turn(OTHER_TASK, (read("docs", "Looking."), says("three files"))),)
TWINS = (
    Turn("hello", (read("a", "Let me look."), says("Hello to you."))),
    Turn("go on", (says("There is no more."),)),
)

# smolagents hands in its answer by a tool.
FINAL = calls("final_answer", answer="It holds words.")
SMOL: dict[str, tuple[Turn, ...]] = {
    "plain": (Turn("Say hello", (calls("final_answer", answer="Hello."),)),),
    "tools": (Turn("What is in a.txt?", (read("a.txt", "I look."), read("b.txt"), FINAL)),),
    "turns": (
        Turn("What is in a.txt?", (read("a.txt"), FINAL)),
        Turn("And in b.txt?", (read("b.txt"), FINAL)),
    ),
    "fails": (Turn("Find the word", (calls("search", query="word"), FINAL)),),
    "fails-twice": (
        Turn("Find words", (*(calls("search", query=f"{n}") for n in range(2)), read("a"), FINAL)),
    ),
    "code": (
        Turn(
            "What is in a.txt?",
            (
                says("Thought: I read it.\n<code>\nprint(read(path='a.txt'))\n"),
                says("Thought: done.\n<code>\nfinal_answer('words')\n</code>"),
            ),
            tag="code",
        ),
    ),
    "managed": (
        Turn(
            "How many words?",
            (Step("", (("helper", {"task": SUB_TASK, "additional_args": {}}),)), FINAL),
        ),
    ),
}

# Habits of coding agents, written out by hand.
TITLE = says('{"title": "Words"}', side="title")
RAW: dict[str, tuple[str, tuple[Turn, ...]]] = {
    "claude": (
        "messages",
        (
            Turn("What is in a.txt?", (TITLE, read("a.txt"), says("Words.")), tag="claude"),
            Turn("And in b.txt?", (read("b.txt", "I look."), says("More.")), tag="claude"),
        ),
    ),
    "claude-nudged": (
        "messages",
        (Turn("Be brief", (TITLE, read("a"), says(""), says("Words.")), tag="claude"),),
    ),
    "codex": (
        "responses",
        (
            Turn(
                "What is in a.txt?",
                (read("a.txt").left(), read("b.txt", "Next.").left(), says("Words.").left()),
                tag="codex",
            ),
            Turn("Thank you", (says("You are welcome.").left(),), tag="codex"),
        ),
    ),
    "codex-compacts": (
        "responses",
        (
            Turn(
                "Look through the whole folder",
                (
                    read("a").left(),
                    read("b").left(),
                    says(
                        "The files a and b were read and hold words. Left to read is the file c.",
                        side="compaction",
                    ).left(),
                    read("c").left(),
                    says("All files hold words.").left(),
                ),
                tag="compacts",
            ),
        ),
    ),
    "interrupted": (
        "chat",
        (
            Turn("Read a.txt", (read("a.txt"),), ends="user_aborted", tag="interrupted"),
            Turn("No, stop", (says("I have stopped."),), tag="interrupted"),
        ),
    ),
}
STRUCTURED = (
    Turn(
        "What is in a.txt?",
        (read("a.txt"), calls("final_result", answer="words")),
        tag="structured",
    ),
)
HANDED_OFF = (
    Turn(
        "What do I owe?",
        (Step("", (("transfer_to_billing", {}),)), read("bill", "I look."), says("Ten.")),
        tag="handoff",
    ),
)
SUMMARIZED = (
    Turn(
        "Read everything",
        (
            read("a", "First."),
            read("b", "Second."),
            read("c", "Third."),
            says("Two files hold words; c was asked for.", side="compaction"),
            says("All of them hold words."),
        ),
        tag="summarized",
    ),
)

_USUAL: dict[str, tuple[Turn, ...]] = {
    "plain": PLAIN,
    "tools": TOOLS,
    "turns": TURNS,
    "parallel": PARALLEL,
    "fails": FAILS,
    "same-call": SAME_CALL,
    "ping-pong": PING_PONG,
    "same-error": SAME_ERROR,
    "failures": FAILURES,
    "silent": SILENT,
    "capped": CAPPED,
    "retried": RETRIED,
    "failed": FAILED,
    "aborted": ABORTED,
    "empty": EMPTY,
    "length": LENGTH,
    "refused": REFUSED,
    "sub-agent": DELEGATED,
    "sub-agents": BOTH,
    "twins": TWINS,
}
_TASKS = {
    "sub-agent": {SUB_TASK: SUB_AGENT},
    "sub-agents": {SUB_TASK: SUB_AGENT, OTHER_TASK: OTHER_AGENT},
}
_LABELS = {"capped": {"x-telemetry-label-round-cap": "4"}}
_STREAMED = frozenset({"tools", "aborted", "length", "sub-agent", "silent"})


def usual(agent: str, dialect: str, names: str) -> list[Scenario]:
    """The usual scenarios of these names on one framework."""
    return [
        Scenario(
            agent,
            f"{dialect}-{name}",
            _USUAL[name],
            dialect,
            is_stream=name in _STREAMED,
            tasks=_TASKS.get(name, {}),
            labels=_LABELS.get(name, {}),
            retries=2 if name == "retried" else 0,
            twins=3 if name == "twins" else 1,
        )
        for name in names.split()
    ]


def without(*names: str) -> str:
    return " ".join(name for name in _USUAL if name not in names)


def scenarios() -> list[Scenario]:
    """All of them."""
    return [
        *usual("openai_agents", "chat", without()),
        *usual("openai_agents", "responses", "tools turns sub-agents retried aborted twins"),
        *usual("pydantic_ai_agent", "chat", without("empty")),
        *usual("pydantic_ai_agent", "messages", "tools turns same-error sub-agent aborted"),
        *usual("langgraph_agent", "chat", without()),
        *usual("langgraph_agent", "messages", "tools turns failures sub-agent retried aborted"),
        *usual("anthropic_runner", "messages", without()),
        # Over OpenAI's dialects it sends the text of an exception as if it were a result.
        *usual("vercel_ai", "chat", without("same-error", "failures")),
        *usual("vercel_ai", "messages", "tools turns same-error failures sub-agents aborted"),
        *usual("vercel_ai", "responses", "tools turns sub-agent"),
        Scenario("pydantic_ai_agent", "structured", STRUCTURED),
        Scenario("openai_agents", "handed-off", HANDED_OFF),
        # The call that summarizes shows the history as text: without a label nothing ties it.
        Scenario("langgraph_agent", "summarized", SUMMARIZED, sessions_bare=2),
        *(Scenario("raw", name, turns, dialect) for name, (dialect, turns) in RAW.items()),
        *(
            Scenario(
                "smolagents_agent",
                name,
                turns,
                tasks={SUB_TASK: (Turn(SUB_TASK, (read("notes.txt"), FINAL)),)}
                if name == "managed"
                else {},
            )
            for name, turns in SMOL.items()
        ),
    ]
