"""Configuration: sources, precedence, secrets, and one clear line for whatever is wrong."""

import tomllib
from pathlib import Path

import pytest

from proxy.config import Config, effective, is_loopback, load, mask_dsn, split_listen
from proxy.errors import ConfigError

ROOT = Path(__file__).parents[2]
HOME = {"HOME": "/home/someone"}


def test_no_file_and_no_environment_is_a_valid_configuration():
    config = load(None, HOME)
    assert config.gateway.listen == "127.0.0.1:8080"
    assert config.data_dir == Path("/home/someone/.local/state/agent-telemetry")
    assert config.spool_dir == config.data_dir / "spool"
    assert config.dsn is None
    assert config.upstreams["anthropic"].key_header == "x-api-key"


def test_the_example_file_holds_every_key_with_its_default():
    text = (ROOT / "config.example.toml").read_text()
    from_example = effective(load(ROOT / "config.example.toml", HOME))
    assert from_example == effective(load(None, HOME))
    # Keys without a default stand commented out: with them uncommented, no key is missing.
    documented = {
        line.lstrip("# ").partition(" =")[0] for line in text.splitlines() if " =" in line
    }
    for section in (Config, *(f.default_factory for f in Config.model_fields.values())):
        for key in getattr(section, "model_fields", {}):
            if key not in Config.model_fields or key == "data_dir":
                assert key in documented, key
    assert set(tomllib.loads(text)) <= set(Config.model_fields)


def test_the_environment_wins_over_the_file(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('[gateway]\nlisten = "127.0.0.1:1"\nworkers = 3\n')
    config = load(file, HOME | {"AGENT_TELEMETRY__GATEWAY__LISTEN": "127.0.0.1:2"})
    assert (config.gateway.listen, config.gateway.workers) == ("127.0.0.1:2", 3)


def test_the_file_can_be_named_by_the_environment(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("[store]\nbatch_rows = 7\n")
    assert load(None, HOME | {"AGENT_TELEMETRY_CONFIG": str(file)}).store.batch_rows == 7


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [
        ("UPSTREAMS__MY_VLLM__URL", "http://h:1/x/", lambda c: c.upstreams["my-vllm"].url),
        ("GATEWAY__CLIENT_TOKENS", "a,http://h:1/x", lambda c: c.gateway.client_tokens[1]),
        ("REDACTION__PII", '["email"]', lambda c: "http://h:1/x" if c.redaction.pii else ""),
    ],
)
def test_lists_and_upstream_names_come_from_the_environment(variable, value, read):
    found = read(load(None, HOME | {f"AGENT_TELEMETRY__{variable}": value}))
    assert getattr(found, "get_secret_value", lambda: found)() == "http://h:1/x"


def test_secrets_come_from_files_and_are_masked(tmp_path):
    for name, text in (("dsn", "postgresql://me:hunter2@h/d"), ("key", "sk-1234"), ("t", "a\nb\n")):
        (tmp_path / name).write_text(text)
    environ = {
        "AGENT_TELEMETRY__STORE__DSN_FILE": str(tmp_path / "dsn"),
        "AGENT_TELEMETRY__UPSTREAMS__OPENAI__API_KEY_FILE": str(tmp_path / "key"),
        "AGENT_TELEMETRY__GATEWAY__CLIENT_TOKENS_FILE": str(tmp_path / "t"),
    }
    config = load(None, HOME | environ)
    assert config.dsn == "postgresql://me:hunter2@h/d"
    assert config.upstreams["openai"].api_key.get_secret_value() == "sk-1234"
    assert len(config.gateway.client_tokens) == 2
    shown = str(effective(config))
    assert "hunter2" not in shown
    assert "sk-1234" not in shown


BAD_FILES = [
    ("[gatway]\n", "gatway: unknown key"),
    ("[gateway]\nlisten = 5\n", "gateway.listen"),
    ('[gateway]\nlisten = "nowhere"\n', "HOST:PORT"),
    ('[gateway]\nlisten = "0.0.0.0:80"\n', "set client_tokens"),
    ("[gateway]\nworkers = 0\n", "gateway.workers"),
    ('[store]\ndsn = "mysql://x"\n', "postgresql://USER"),
    ('[store]\ndsn = "postgresql://u@h:port/d"\n', "store.dsn"),
    ('[upstreams.t]\nurl = "http://h"\n', "reserved"),
    ('[upstreams.Bad_Name]\nurl = "http://h"\n', "upstreams.Bad_Name"),
    ("[upstreams.mine]\n", "upstreams.mine.url: is missing"),
    ('[upstreams.mine]\nurl = "ftp://h"\n', "http://HOST"),
    ('[upstreams.mine]\nurl = "http://u:p@h"\n', "api_key"),
    ('[upstreams]\nmine = "http://h"\n', "[upstreams.NAME]"),
    ('[upstreams.mine]\nurl = "http://h"\nhttp_proxy = "socks5://h"\n', "http://HOST:PORT"),
    ("[store]\nretention_days = 0\n", "store.retention_days"),
    ("[store]\nretention_days = 9\npayload_retention_days = 9\n", "less than retention_days (9)"),
    ("[store]\npartitions = true\n", 'store.partitions: needs history = "shared"'),
    ('[admin]\nlisten = "0.0.0.0:81"\n', "admin.token"),
    ('[admin]\ntoken_file = "/does/not/exist"\n', "admin.token_file"),
    ("a = [\n", "is not valid TOML"),
]


@pytest.mark.parametrize(("text", "said"), BAD_FILES)
def test_a_bad_file_gives_one_line_with_file_key_and_remedy(tmp_path, text, said):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, HOME)
    message = str(caught.value)
    assert str(file) in message
    assert said in message
    assert "\n" not in message


def _wrong_tables():
    """Every key of every section with a value of no use, and a key that no section has."""
    for section, info in Config.model_fields.items():
        keys = getattr(info.default_factory, "model_fields", {})
        for key in keys:
            for value in ("[[1], [2]]", "{ surely = { not = 1 } }"):
                yield f"{section}.{key}", f"[{section}]\n{key} = {value}\n"
        if keys:
            yield f"{section}.surely_not", f"[{section}]\nsurely_not = 1\n"


WRONG_TABLES = list(_wrong_tables())


@pytest.mark.parametrize(("key", "text"), WRONG_TABLES)
def test_every_key_refuses_what_it_cannot_be(tmp_path, key, text):
    assert len(WRONG_TABLES) >= 100
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, HOME)
    message = str(caught.value)
    assert key in message
    assert "\n" not in message


def test_a_bad_variable_is_named():
    with pytest.raises(ConfigError, match="AGENT_TELEMETRY__SPOOL__MAX_BYTES"):
        load(None, HOME | {"AGENT_TELEMETRY__SPOOL__MAX_BYTES": "lots"})
    with pytest.raises(ConfigError, match="is a value, not a section"):
        load(None, {"AGENT_TELEMETRY__DATA_DIR": "/x", "AGENT_TELEMETRY__DATA_DIR__Y": "1"})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml", HOME)


@pytest.mark.parametrize(
    ("dsn", "masked"),
    [
        ("postgresql://u:p:w@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d?user=u&password=p", "postgresql://h/d?user=u&password=***"),
    ],
)
def test_passwords_are_masked(dsn, masked):
    assert mask_dsn(dsn) == masked


@pytest.mark.parametrize(
    ("listen", "parts", "local"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80), True),
        ("localhost:80", ("localhost", 80), True),
        ("[::1]:80", ("::1", 80), True),
        ("[::]:80", ("::", 80), False),
        ("example.org:80", ("example.org", 80), False),
        ("unix:/run/x.sock", Path("/run/x.sock"), True),
    ],
)
def test_listen_addresses(listen, parts, local):
    assert split_listen(listen) == parts
    assert is_loopback(listen) is local
