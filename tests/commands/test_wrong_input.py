"""Every command with input it cannot use: one line that names it, exit code 1 or 2."""

import pytest
from click.testing import CliRunner

from proxy.cli import main

NOT_UTF8 = "\udcff"  # as Python hands over an argument of other bytes
OUT = ("--out", "{tmp}/x.jsonl")
EXPORT = ("export", "--format", "openai", *OUT)
# Arguments, exit code, what the line must name.
CASES = [
    (("nonsense",), 2, ["nonsense", "--help"]),
    (("--nonsense",), 2, ["--nonsense"]),
    *(((name, "extra"), 2, ["extra", f"{name} --help"]) for name in ("serve", "gateway", "admin")),
    *(((name, "extra"), 2, ["extra"]) for name in ("recorder", "health", "migrate", "dsn")),
    *(((name, "extra"), 2, ["extra"]) for name in ("demo", "tail", "doctor", "check-config")),
    (("health", "--config", "/none.toml"), 2, ["/none.toml", "cannot be read"]),
    (("check-config", "--config", "{tmp}"), 2, ["--config", "is a directory"]),
    (("tail", "--lines", "-1"), 2, ["--lines", "-1"]),
    (("tail", "--lines", "many"), 2, ["--lines", "many"]),
    (("tail", "--lines", "9" * 20), 2, ["--lines", "2147483647"]),
    (("tail", "--session", NOT_UTF8), 2, ["--session", "not UTF-8"]),
    (("replay", NOT_UTF8), 2, ["SESSION", "not UTF-8"]),
    (("report", "--project", NOT_UTF8), 2, ["--project", "not UTF-8"]),
    (("purge", "--session", NOT_UTF8, "--yes"), 2, ["--session", "not UTF-8"]),
    (("replay",), 2, ["SESSION"]),
    (("replay", "nobody"), 1, ["'nobody'", "report sessions"]),
    (("replay", "nobody", "--project", "shop"), 1, ["'nobody'", "'shop'"]),
    (("replay", "nobody", "--turn", "7"), 2, ["--turn", "7", "UUID"]),
    (("report", "nonsense"), 2, ["nonsense", "stop-reasons", "sessions"]),
    (("report", "--since", "yesterday"), 2, ["--since", "yesterday", "24h"]),
    (("report", "--since", "-5h"), 2, ["--since", "-5h"]),
    (("export",), 2, ["--format", "openai"]),
    (("export", "--format", "openai"), 2, ["--out"]),
    (("export", "--format", "xml", *OUT), 2, ["xml", "parquet"]),
    (("export", "--format", "openai", "--out", "{tmp}"), 2, ["--out", "is a directory"]),
    (("export", "--format", "openai", "--out", "/proc/x/y"), 1, ["--out", "/proc/x/y"]),
    ((*EXPORT, "--split", "2"), 2, ["--split", "2"]),
    ((*EXPORT, "--since", "never"), 2, ["--since", "never"]),
    ((*EXPORT, "--until", "never"), 2, ["--until", "never"]),
    ((*EXPORT, "--max-tokens", "0"), 2, ["--max-tokens"]),
    ((*EXPORT, "--min-rounds", "0"), 2, ["--min-rounds"]),
    ((*EXPORT, "--label", f"a={NOT_UTF8}"), 2, ["--label", "not UTF-8"]),
    ((*EXPORT, "--label", "=x"), 2, ["--label", "NAME=VALUE"]),
    ((*EXPORT, "--feedback", "score>=high"), 2, ["--feedback", "'high'", "number"]),
    ((*EXPORT, "--feedback", ">=1"), 2, ["--feedback", "NAME"]),
    ((*EXPORT, "--thoughts", "some"), 2, ["--thoughts", "some", "drop"]),
    ((*EXPORT, "--redact", "some"), 2, ["--redact", "some", "strict"]),
    (("purge",), 2, ["--session", "--project", "--before"]),
    (("purge", "--before", "never"), 2, ["--before", "never"]),
    (("copy",), 2, ["--to"]),
    (("copy", "--to", ""), 2, ["--to", "postgresql://"]),
    (("copy", "--to", "mysql://x"), 2, ["--to", "postgresql://"]),
    (("copy", "--to", "postgresql://u:p@h:port/x"), 2, ["--to", "HOST:PORT"]),
    (("copy", "--to", "postgresql://a.invalid/x"), 1, ["--to", "name is not known"]),
    (("copy", "--to", "postgresql://127.0.0.1:1/x"), 1, ["--to", "does not answer"]),
    (("copy", "--to", "{dsn}"), 1, ["--to", "the database itself"]),
    (("doctor", "--since", "x"), 2, ["--since"]),
    (("recompute", "--since", "x"), 2, ["--since"]),
    (("spool", "nonsense"), 2, ["nonsense"]),
    (("spool", "status", "extra"), 2, ["extra"]),
    (("spool", "quarantine", "--nonsense"), 2, ["--nonsense"]),
    (("decode",), 2, ["FILE"]),
    (("decode", "/none"), 2, ["/none"]),
    (("decode", "{tmp}"), 2, ["is a directory"]),
    (("decode", "{text}"), 1, ["{text}", "no exchange"]),
]
READING = (
    *("tail", "replay s", "report", "report tools", "export --format openai --out {tmp}/x"),
    *("purge --session s --yes", "migrate", "recompute", "spool quarantine"),
)


@pytest.fixture
def run(dsn, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENT_TELEMETRY__DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DATABASE_URL", dsn)
    text = tmp_path / "text"
    text.write_text("hello")
    known = {"tmp": str(tmp_path), "dsn": dsn, "text": str(text)}

    def command(arguments):
        return CliRunner().invoke(main, [each.format(**known) for each in arguments]), known

    return command


@pytest.mark.parametrize(
    ("arguments", "code", "named"), CASES, ids=[" ".join(case[0]) for case in CASES]
)
def test_wrong_input_is_one_line_that_names_it(run, arguments, code, named):
    done, known = run(arguments)
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("agent-telemetry: ")
    assert done.stderr.count("\n") == 1
    for part in named:
        assert part.format(**known) in done.stderr


@pytest.mark.parametrize("command", READING)
def test_a_database_that_is_away_is_named(run, monkeypatch, command):
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/none")
    done, _ = run(command.split())
    assert done.exit_code == 1, done.output
    assert done.stderr.count("\n") == 1
    assert "PostgreSQL does not answer" in done.stderr


WRONG_IN_USE = [
    ("redaction", "rules", '[{name = "x", pattern = "("}]', '[{"name": "x", "pattern": "("}]'),
    ("upstreams.openai", "ca_file", '"/none.pem"', "/none.pem"),
]


@pytest.mark.parametrize(("section", "key", "in_file", "in_variable"), WRONG_IN_USE)
def test_what_only_use_shows_is_named_with_its_source(
    run, monkeypatch, tmp_path, section, key, in_file, in_variable
):
    file = tmp_path / "a.toml"
    file.write_text(f"[{section}]\n{key} = {in_file}\n")
    done, _ = run(["check-config", "--config", str(file)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"agent-telemetry: {file}: {section}.{key}: ")
    variable = f"AGENT_TELEMETRY__{section.upper().replace('.', '__')}__{key.upper()}"
    monkeypatch.setenv(variable, in_variable)
    done, _ = run(["check-config", "--config", str(file)])
    assert done.stderr.startswith(f"agent-telemetry: {variable}: {section}.{key}: ")


def test_nothing_to_purge_asks_nobody(run):
    done, _ = run(["purge", "--session", "nobody"])
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "no rows")


def commands(group, path=()):
    for name, command in group.commands.items():
        yield (*path, name)
        yield from commands(command, (*path, name)) if hasattr(command, "commands") else ()


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_help_fits_the_terminal_and_has_an_example(path):
    done = CliRunner().invoke(main, [*path, "--help"], terminal_width=100)
    assert done.exit_code == 0
    assert "Example:" in done.stdout
    assert f"agent-telemetry {' '.join(path)}" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
