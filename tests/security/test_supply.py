"""The lock: complete, with hashes, of allowed licences, and nothing in it runs by itself."""

import re
import tomllib

import pytest

from tests.security.supply import LOCK, ROOT, is_allowed, pins, problems, sbom

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BUILD = ROOT / "requirements-build.lock"


def version_of(text):
    return tuple(int(part) for part in re.findall(r"\d+", text))


@pytest.mark.parametrize("lock", [LOCK, BUILD], ids=lambda lock: lock.name)
def test_each_locked_distribution_has_hashes_and_no_place_of_its_own(lock):
    found = pins(lock)
    assert found
    assert [pin.name for pin in found if not pin.hashes] == []
    assert not re.search(r"https?://|index-url|find-links|@ ", lock.read_text(encoding="utf-8"))


def test_the_lock_has_what_the_project_needs():
    """Run `make lock` where this fails."""
    locked = {pin.name: version_of(pin.version) for pin in pins()}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + extras["uvloop"] + extras["otel"] + extras["nats"]
    for requirement in wanted:
        name, least = re.match(r"([A-Za-z0-9._-]+)(?:\[\w+\])?>=([0-9.]+)", requirement).groups()
        assert locked[name.lower()] >= version_of(least), requirement
    built = {pin.name: version_of(pin.version) for pin in pins(BUILD)}
    (least,) = PROJECT["build-system"]["requires"]
    assert built["setuptools"] >= version_of(least)


def test_the_image_installs_what_is_locked_and_nothing_else():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    installs = [
        step for step in re.split(r"&&|\n(?=[A-Z])", text) if "pip" in step and "install" in step
    ]
    assert installs
    for step in installs:
        assert "--require-hashes --only-binary" in step or "--no-deps --no-index" in step, step
    assert "'*.pth'" in text


def test_what_is_installed_is_allowed_and_runs_nothing_by_itself():
    assert list(problems()) == []


def test_the_bill_of_materials_names_every_pin():
    names = [component["name"] for component in sbom()["components"]]
    assert names == [pin.name for pin in pins()]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("MIT", True),
        ("Apache-2.0 AND BSD-2-Clause", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("MIT AND GPL-3.0-only", False),
        ("GNU Affero General Public License v3", False),
        ("", False),
    ],
)
def test_licences(text, verdict):
    assert is_allowed(text) is verdict
