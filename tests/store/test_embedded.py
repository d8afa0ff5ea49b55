"""The embedded server starts from whatever it finds, and nothing is left behind by a kill."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import asyncpg
import pytest

from proxy.errors import StoreMisconfigured, StoreUnavailable
from proxy.store import binaries, embedded, leftovers
from proxy.store.embedded import EmbeddedServer, dsn
from tests.conftest import FAST
from tests.database import connected

OWNER = """
import sys
from pathlib import Path
from proxy.store import embedded
if "unsupervised" in sys.argv:  # as on a system that cannot end a child with its parent
    embedded._end_with_parent = lambda: None
server = embedded.EmbeddedServer(Path(sys.argv[1]), {"fsync": "off"})
server.start()
print(server.pid, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data directory with a cluster, to copy."""
    directory = tmp_path_factory.mktemp("made")
    server = EmbeddedServer(directory, FAST)
    server.start()
    server.stop()
    return directory


@pytest.fixture
def data_dir(made, tmp_path):
    """A data directory of a server that was stopped. As root, the copy belongs to root."""
    copied = tmp_path / "data"
    shutil.copytree(made, copied)
    return copied


@pytest.fixture
def server(data_dir):
    made = EmbeddedServer(data_dir, FAST)
    yield made
    made.stop()


@pytest.fixture
def owner(data_dir):
    """Start a process that owns the server; returns it and the server's pid."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, data_dir, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def query(connection_string, text="SELECT 1"):
    async def run():
        async with connected(connection_string) as connection:
            return await connection.fetchval(text)

    return asyncio.run(run())


def wait_until(condition, limit_s=30):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen"


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that nobody has reaped yet has ended.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_first_start_makes_a_database(tmp_path):
    server = EmbeddedServer(tmp_path / "new" / "data", FAST)
    assert not server.is_running
    try:
        found = server.start()
        assert found == dsn(tmp_path / "new" / "data")
        assert query(found, "SELECT current_database() || ' ' || current_user") == (
            "agent_telemetry agent_telemetry"
        )
        assert query(found, "SHOW server_encoding") == "UTF8"
        assert query(found, "SHOW data_checksums") == "on"
        assert query(found, "SHOW listen_addresses") == ""
        assert (server.is_running, server.is_owner, server.poll()) == (True, True, None)
        pid = server.pid
        assert server.start() == found
        assert server.pid == pid
    finally:
        server.stop()
    assert not is_alive(pid)
    assert not server.is_owner


@pytest.mark.skipif(not shutil.which("psql"), reason="psql is not installed")
def test_the_connection_string_works_in_psql(server):
    said = subprocess.run(
        ["psql", server.start(), "-Atc", "SELECT 40 + 2"], capture_output=True, text=True
    )
    assert said.stdout == "42\n"


def test_only_the_owner_reaches_the_socket(server, data_dir):
    server.start()
    assert (data_dir / "postgres").stat().st_mode & 0o077 == 0
    assert (data_dir / "postgres" / ".s.PGSQL.5432").stat().st_mode & 0o077 == 0
    assert (data_dir / "postgres.log").stat().st_mode & 0o077 == 0


def test_a_killed_server_is_started_again_with_its_rows(server):
    found = server.start()
    query(found, "CREATE TABLE kept AS SELECT 7 AS n")
    query(found, "CHECKPOINT")
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.is_running)
    assert server.poll() == -signal.SIGKILL
    assert server.start() == found
    assert query(found, "SELECT n FROM kept") == 7
    before = server.pid
    assert server.restart() == found
    assert server.pid != before
    assert query(found, "SELECT n FROM kept") == 7


def test_stop_ends_a_server_with_open_connections(server):
    found = server.start()

    async def run():
        connection = await asyncpg.connect(found)
        await connection.execute("BEGIN")
        server.stop()
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await connection.execute("SELECT 1")
        connection.terminate()

    asyncio.run(run())
    assert not server.is_owner


def test_a_second_owner_only_connects_until_the_first_is_gone(server, owner):
    process, pid = owner()
    assert query(server.start()) == 1
    assert (server.is_owner, server.is_running, server.pid) == (False, True, None)
    server.stop()
    assert server.restart() == server.start()
    assert query(server.start()) == 1
    process.kill()
    process.wait()
    wait_until(lambda: not server.is_running)
    assert query(server.start()) == 1
    assert server.is_owner
    assert not is_alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_the_server_ends_when_its_owner_is_killed(owner):
    process, pid = owner()
    assert is_alive(pid)
    process.kill()
    process.wait()
    wait_until(lambda: not is_alive(pid))


def test_a_server_without_an_owner_is_ended_by_the_next_one(server, owner):
    process, pid = owner("unsupervised")
    query(dsn(server._data_dir), "CREATE TABLE kept AS SELECT 7 AS n")
    process.kill()
    process.wait()
    assert is_alive(pid)
    found = server.start()
    assert not is_alive(pid)
    assert query(found, "SELECT n FROM kept") == 7


def test_backends_of_a_killed_server_are_ended_before_the_next_start(server):
    found = server.start()

    async def run():
        connection = await asyncpg.connect(found)
        backend = connection.get_server_pid()
        os.kill(backend, signal.SIGSTOP)  # it cannot notice that its server is gone
        os.kill(server.pid, signal.SIGKILL)
        server._process.wait()
        monkeypatch = pytest.MonkeyPatch()
        monkeypatch.setattr(embedded, "STOP_S", 0.1)
        server.start()
        monkeypatch.undo()
        connection.terminate()
        return backend

    assert not is_alive(asyncio.run(run()))
    assert query(found) == 1


@pytest.mark.parametrize(
    "content",
    ["", "no number\n", "999999\n/elsewhere\n", "{pid}\n{cluster}\n0\n5432\n.\n\n0 0\nready\n"],
    ids=["empty", "garbage", "dead", "reused"],
)
def test_a_stale_pid_file_stops_nobody(server, data_dir, content):
    cluster = data_dir / "postgres"
    written = content.format(pid=os.getpid(), cluster=cluster)
    (cluster / "postmaster.pid").write_text(written)
    assert query(server.start()) == 1


def test_half_a_cluster_is_made_anew(tmp_path):
    (tmp_path / "postgres.new" / "base").mkdir(parents=True)
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    server = EmbeddedServer(tmp_path, FAST)
    try:
        assert query(server.start()) == 1
        assert not (tmp_path / "postgres.new").exists()
    finally:
        server.stop()


def test_a_half_made_cluster_that_is_still_written_is_not_in_the_way(tmp_path):
    """As the children of a killed owner do, until the signal of its death has reached them."""
    old = tmp_path / "postgres.new"
    over = threading.Event()

    def write():
        for number in itertools.takewhile(lambda _: not over.is_set(), itertools.count()):
            with contextlib.suppress(OSError):  # removed at this moment
                (old / "base").mkdir(parents=True, exist_ok=True)
                (old / "base" / str(number % 1000)).touch()

    writer = threading.Thread(target=write)
    writer.start()
    server = EmbeddedServer(tmp_path, FAST)
    try:
        assert query(server.start()) == 1
    finally:
        over.set()
        writer.join()
        server.stop()
    assert query(server.start()) == 1
    assert not old.exists()
    server.stop()


def test_a_kill_while_the_cluster_is_made_leaves_nothing_half(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    wait_until(lambda: any(tmp_path.glob("postgres.new*/base")))
    process.kill()
    process.communicate()
    assert not (tmp_path / "postgres").exists()
    server = EmbeddedServer(tmp_path, FAST)
    try:
        assert query(server.start()) == 1
    finally:
        server.stop()


def test_data_of_another_major_version_names_the_remedy(server, data_dir):
    (data_dir / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(StoreMisconfigured, match="install PostgreSQL 9, or choose another data"):
        server.start()


@pytest.mark.parametrize("names", [["a-rather-long-name"] * 6, ["two,names"]], ids=len)
def test_a_path_that_a_socket_cannot_have_gets_another(made, tmp_path, names):
    deep = tmp_path.joinpath(*names)
    shutil.copytree(made, deep)
    server = EmbeddedServer(deep, FAST)
    found = server.start()
    link = Path(found.partition("host=")[2].partition("&")[0])
    try:
        assert len(str(link)) < 60
        assert query(found) == 1
        assert server.restart() == found
        assert query(found) == 1
        server.stop()
        assert not os.path.lexists(link)
        link.mkdir()
        with pytest.raises(StoreMisconfigured, match="is in the way"):
            dsn(deep)
        with pytest.raises(StoreMisconfigured, match="is in the way"):
            server.start()
        link.rmdir()
    finally:
        server.stop()
        link.unlink(missing_ok=True)


def test_a_directory_with_odd_characters_works(made, tmp_path):
    odd = tmp_path / "with blank & % é ?#"
    shutil.copytree(made, odd)
    server = EmbeddedServer(odd, FAST)
    try:
        assert query(server.start()) == 1
    finally:
        server.stop()


def test_the_environment_is_neither_heeded_nor_handed_on(server, monkeypatch):
    for name, value in {"PGPORT": "1", "PGDATA": "/nowhere", "PGOPTIONS": "-c bad=1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SOME_API_KEY", "canary")
    found = server.start()
    monkeypatch.undo()
    assert query(found, "SHOW port") == "5432"
    environ = Path(f"/proc/{server.pid}/environ")
    if environ.exists():
        assert b"PATH=" in environ.read_bytes()
        assert b"canary" not in environ.read_bytes()


def test_the_log_quotes_no_values_and_stays_small(server, data_dir):
    log = data_dir / "postgres.log"
    log.write_bytes(b"x" * (embedded.LOG_BYTES_MAX + 1))
    found = server.start()
    query(found, "CREATE TABLE t (n INT PRIMARY KEY, text TEXT, j JSONB)")
    for statement in (
        "INSERT INTO t VALUES (1, 'canary'), (1, 'canary')",
        """INSERT INTO t VALUES (2, '', '{"a": "canary\\u0000"}')""",
        "INSERT INTO t VALUES (NULL, 'canary')",
    ):
        with pytest.raises(asyncpg.PostgresError):
            query(found, statement)
    server.stop()
    said = log.read_text()
    assert "ERROR" in said
    assert "canary" not in said
    assert len(said) < 10_000


def test_a_server_that_does_not_start_says_why(data_dir):
    server = EmbeddedServer(data_dir, FAST | {"max_connections": "many"})
    with pytest.raises(StoreUnavailable, match=r'PostgreSQL ended: .*"max_connections"'):
        server.start()
    assert not server.is_owner
    (data_dir / "postgres.log").write_text("")
    assert "see postgres.log" in embedded._last_line(data_dir)


def test_a_server_that_is_never_ready_is_ended(server, monkeypatch):
    monkeypatch.setattr(embedded, "START_S", 0)
    with pytest.raises(StoreUnavailable, match="is not ready after"):
        server.start()
    assert server.pid is None


def test_a_directory_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    server = EmbeddedServer(tmp_path / "file" / "data")
    assert not server.is_running
    with pytest.raises(StoreMisconfigured, match="file/data: Not a directory; choose"):
        server.start()


def test_a_failing_initdb_says_why(tmp_path, monkeypatch):
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "initdb").write_text("#!/bin/sh\necho broken library >&2\nexit 1\n")
    (fake / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 18.1'\n")
    for program in fake.iterdir():
        program.chmod(0o755)
    monkeypatch.setattr(binaries, "_directories", lambda: iter([fake]))
    monkeypatch.setattr(binaries, "is_open_to_others", lambda path: True)
    monkeypatch.setattr(embedded, "_account", lambda cluster: None)
    with pytest.raises(StoreMisconfigured, match=r"initdb failed in .*: broken library"):
        EmbeddedServer(tmp_path / "data").start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give the data to another user")
def test_root_gives_a_copied_cluster_to_the_servers_user(server, data_dir):
    assert (data_dir / "postgres").stat().st_uid == 0
    assert query(server.start()) == 1
    uid = (data_dir / "postgres").stat().st_uid
    assert uid != 0
    assert (data_dir / "postgres" / "base").stat().st_uid == uid
    assert data_dir.stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="all other tests run as an ordinary user already")
def test_an_ordinary_user_has_a_server_of_its_own(made, tmp_path_factory):
    """Forked, since the interpreter itself may lie where that user cannot start it."""
    base = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    os.chown(base, 65534, 65534)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            server = EmbeddedServer(base / "data", FAST)
            result = query(server.start(), "SELECT 1")
            assert server.is_owner
            server.stop()
            os._exit(0 if result == 1 else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (base / "data" / "postgres").stat().st_uid == 65534
    server = EmbeddedServer(base / "data", FAST)  # root uses it later, as that user
    assert query(server.start()) == 1
    server.stop()
    assert (base / "data" / "postgres").stat().st_uid == 65534
    shutil.rmtree(base)


def test_an_older_server_has_to_be_able_to_reach_its_directory():
    older, newer = (binaries.Binaries(Path("/bin"), major) for major in (15, 16))
    with tempfile.TemporaryDirectory() as directory:
        data_dir = Path(directory)
        cluster = data_dir / "inner" / "postgres"
        cluster.mkdir(parents=True, mode=0o700)
        account = (65534, 65534)
        assert embedded._seen_inside(cluster, older, None) == str(cluster)
        with pytest.raises(StoreMisconfigured, match="closed to other users: choose another"):
            embedded._seen_inside(cluster, older, account)
        data_dir.chmod(0o711)
        cluster.parent.chmod(0o700)
        assert embedded._seen_inside(cluster, older, account) == str(cluster)
        assert cluster.parent.stat().st_mode & 0o777 == 0o701
        if sys.platform == "linux":
            assert embedded._seen_inside(cluster, newer, account) == "/proc/self/cwd"


def test_without_an_account_root_is_told_what_to_do(tmp_path, monkeypatch):
    def unknown(name):
        raise KeyError(name)

    monkeypatch.setattr(embedded.os, "geteuid", lambda: 0)
    monkeypatch.setattr(embedded.pwd, "getpwnam", unknown)
    with pytest.raises(StoreMisconfigured, match="as an ordinary user"):
        embedded._account(tmp_path / "postgres")


def test_without_proc_the_pid_file_and_ps_are_asked(server, data_dir, monkeypatch):
    server.start()
    cluster = data_dir / "postgres"
    assert set(leftovers._by_pid_file(cluster)) <= {server.pid}
    (tmp := data_dir / "other").mkdir()
    (tmp / "postmaster.pid").write_text(f"{os.getpid()}\n")
    assert list(leftovers._by_pid_file(tmp)) == []
    assert list(leftovers._by_pid_file(data_dir)) == []
