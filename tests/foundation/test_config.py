"""Configuration: sources, precedence, secrets, and one clear line for whatever is wrong."""

import tomllib
from pathlib import Path

import pytest

from proxy.config import Config, effective, is_loopback, split_listen
from proxy.environment import load
from proxy.errors import ConfigError
from proxy.forms import mask_url

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


def test_the_environment_wins_over_a_secret_file_that_the_file_names(tmp_path):
    (tmp_path / "old").write_text("old")
    (tmp_path / "new").write_text("new")
    file = tmp_path / "a.toml"
    file.write_text(f'[admin]\ntoken_file = "{tmp_path}/old"\n')
    for variable, value in (("TOKEN", "new"), ("TOKEN_FILE", str(tmp_path / "new"))):
        config = load(file, HOME | {f"AGENT_TELEMETRY__ADMIN__{variable}": value})
        assert config.admin.token.get_secret_value() == "new"


def test_what_is_wrong_in_a_secret_file_names_it(tmp_path):
    file = tmp_path / "secret"
    dsn = HOME | {"DATABASE_URL": "postgresql://h/d", "AGENT_TELEMETRY__STORE__DSN_FILE": str(file)}
    file.write_text("mysql://h")
    with pytest.raises(ConfigError, match=rf"^{file}: store\.dsn: write it as"):
        load(None, dsn)
    file.write_text("\n")
    for variable in ("STORE__DSN", "GATEWAY__CLIENT_TOKENS", "UPSTREAMS__OPENAI__API_KEY"):
        name = f"AGENT_TELEMETRY__{variable}_FILE"
        with pytest.raises(ConfigError, match=f"^{name}: .*{file}: is empty"):
            load(None, HOME | {name: str(file)})


def test_a_secret_set_to_nothing_is_unset():
    names = ("UPSTREAMS__OPENAI__API_KEY", "ADMIN__TOKEN", "STORE__DSN", "GATEWAY__CLIENT_TOKENS")
    assert load(None, HOME | {f"AGENT_TELEMETRY__{name}": "" for name in names}) == load(None, HOME)


def test_a_scheme_in_capitals_is_still_encrypted():
    """A connection is encrypted where the address begins with https, written so."""
    config = load(None, HOME | {"AGENT_TELEMETRY__UPSTREAMS__OPENAI__URL": "HTTPS://h/"})
    assert config.upstreams["openai"].url == "https://h"


def test_names_of_hosts_are_compared_in_small_letters():
    config = load(None, HOME | {"AGENT_TELEMETRY__ADMIN__HOSTS": "Telemetry.Example,[::1]"})
    assert config.admin.hosts == ("telemetry.example", "::1")


def test_several_hosts_of_a_database_are_accepted():
    dsn = "postgresql://u:p@h1:5432,h2:5433/d?target_session_attrs=read-write"
    assert load(None, HOME | {"DATABASE_URL": dsn}).dsn == dsn


def test_paths_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_text("sk-1")
    file = tmp_path / "a.toml"
    file.write_text('data_dir = "~/data"\n[upstreams.openai]\napi_key_file = "~/key"\n')
    config = load(file, HOME)
    assert config.data_dir == tmp_path / "data"
    assert config.upstreams["openai"].api_key.get_secret_value() == "sk-1"


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, "/.local/state/agent-telemetry"),
        ({"HOME": ""}, "/.local/state/agent-telemetry"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/x"}, "/x/agent-telemetry"),
        ({"HOME": "/h", "XDG_STATE_HOME": "relative"}, "/h/.local/state/agent-telemetry"),
    ],
)
def test_the_state_directory_is_never_relative(environ, found):
    assert load(None, environ).data_dir == Path(found)


def test_the_password_of_an_egress_proxy_is_masked():
    name = "AGENT_TELEMETRY__UPSTREAMS__OPENAI__HTTP_PROXY"
    shown = str(effective(load(None, HOME | {name: "http://me:hunter2@proxy:3128"})))
    assert "hunter2" not in shown
    assert "http://me:***@proxy:3128" in shown


@pytest.mark.parametrize(
    ("variable", "project"),
    [("PROJECTS__SHOP__CONTENT", "shop"), ("PROJECTS__My_Shop__CONTENT", "My_Shop")],
)
def test_names_of_projects_are_not_changed_but_for_capitals(variable, project):
    """A project that is not known by its name would have its content kept."""
    config = load(None, HOME | {f"AGENT_TELEMETRY__{variable}": "metadata"})
    assert {name: each.content for name, each in config.projects.items()} == {project: "metadata"}


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
    ("gateway = 5\n", "gateway: write a table"),
    ("data_dir = 5\n", "data_dir: write a path"),
    ('[gateway]\nclient_tokens = "abc"\n', "gateway.client_tokens: write a list"),
    ('[projects]\nshop = "metadata"\n', "projects.shop: write a table"),
    ('[gateway]\nlisten = "http://127.0.0.1:80"\n', "HOST:PORT"),
    ('[gateway]\nlisten = "127.0.0.1 :80"\n', "HOST:PORT"),
    ('[gateway]\nclient_tokens = [""]\n', "gateway.client_tokens: holds an empty token"),
    ('[upstreams.mine]\nurl = "http://h/a b"\n', "percent-encode"),
    ('[upstreams.mine]\nurl = "http://h/ü"\n', "percent-encode"),
    ('[upstreams.openai]\napi_key = "a\\nb: c"\n', "upstreams.openai.api_key: holds a line break"),
    ('[upstreams.openai]\napi_key_header = "a b"\n', "upstreams.openai.api_key_header: write"),
    ('[upstreams.openai]\napi_key_header = "Host"\n', "upstreams.openai.api_key_header: write"),
    ('[upstreams.openai]\nhttp_proxy = "http://"\n', "http://HOST:PORT"),
    ('[upstreams.openai]\nhttp_proxy = "http://h:x"\n', "http://HOST:PORT"),
    ('[upstreams.openai]\nca_file = ""\n', "upstreams.openai.ca_file: is empty"),
    ('data_dir = ""\n', "data_dir: is empty"),
    ('[spool]\ndir = ""\n', "spool.dir: is empty"),
    ('[store]\ndsn = "postgresql://h:1,h:x/d"\n', "postgresql://USER"),
    ("[store]\nretention_days = 99999999999\n", "store.retention_days"),
    ("[prices.m]\ninput = inf\noutput = 1\n", "prices.m.input"),
    ('[admin]\nhosts = ["http://x"]\n', "admin.hosts: write names"),
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


def test_a_list_of_tokens_that_is_no_json_is_refused():
    name = "AGENT_TELEMETRY__GATEWAY__CLIENT_TOKENS"
    with pytest.raises(ConfigError, match=f"^{name}: is no JSON: write A,B"):
        load(None, HOME | {name: "['a', 'b']"})


def test_what_is_wrong_in_a_list_names_its_variable():
    with pytest.raises(ConfigError, match=r"^AGENT_TELEMETRY__REDACTION__PII: redaction\.pii\.1: "):
        load(None, HOME | {"AGENT_TELEMETRY__REDACTION__PII": "email,face"})


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "a.toml"
    file.write_bytes(b"\xef\xbb\xbf[gateway]\r\nworkers = 3\r\n")
    assert load(file, HOME).gateway.workers == 3


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml", HOME)


@pytest.mark.parametrize(
    ("dsn", "masked"),
    [
        ("postgresql://u:p:w@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d?user=u&password=p", "postgresql://h/d?user=u&password=***"),
        ("postgresql://h/d?sslpassword=p&x=1", "postgresql://h/d?sslpassword=***&x=1"),
        ("postgresql://u:p@h1:1,h2:2/d", "postgresql://u:***@h1:1,h2:2/d"),
    ],
)
def test_passwords_are_masked(dsn, masked):
    assert mask_url(dsn) == masked


@pytest.mark.parametrize(
    ("listen", "parts", "local"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80), True),
        ("localhost:80", ("localhost", 80), True),
        ("LOCALHOST:80", ("LOCALHOST", 80), True),
        ("[::1]:80", ("::1", 80), True),
        ("[::]:80", ("::", 80), False),
        ("example.org:80", ("example.org", 80), False),
        ("unix:/run/x.sock", Path("/run/x.sock"), True),
    ],
)
def test_listen_addresses(listen, parts, local):
    assert split_listen(listen) == parts
    assert is_loopback(listen) is local
