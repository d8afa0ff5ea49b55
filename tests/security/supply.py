"""Supply: what the locked dependencies are, as a table, an SBOM, and a verdict.

    python -m tests.security.supply [build/sbom.json]

Checks the installed distributions that `requirements.lock` names: licences that allow what we do,
and no `.pth` file, which Python would execute at every start. Vulnerabilities are pip-audit's to
tell, where its database can be reached.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
# Licences under which we may use and pass on a dependency; none asks for our own source.
ALLOWED = (
    "MIT",
    "BSD",
    "Apache",
    "PSF",
    "Python Software Foundation",
    "MPL",
    "Mozilla",
    "CNRI",
    "ISC",
)
_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)")


@dataclass(frozen=True, slots=True)
class Pin:
    """One locked distribution."""

    name: str
    version: str
    hashes: tuple[str, ...]


def pins(lock: Path = LOCK) -> list[Pin]:
    found = []
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if pin := _PIN.match(line):
            hashes = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
            found.append(Pin(pin[1], pin[2], hashes))
    return found


def installed(pin: Pin) -> importlib.metadata.Distribution | None:
    """The distribution, or None where its platform is not this one."""
    try:
        return importlib.metadata.distribution(pin.name)
    except importlib.metadata.PackageNotFoundError:
        return None


def licence(distribution: importlib.metadata.Distribution) -> str:
    """The expression, else the classifiers, else the first line of the text."""
    metadata = distribution.metadata
    classified = [
        classifier.rpartition(" :: ")[2]
        for classifier in metadata.get_all("Classifier") or []
        if classifier.startswith("License")
    ]
    text = (metadata.get("License") or "").partition("\n")[0]
    return metadata.get("License-Expression") or " / ".join(classified) or text


def is_allowed(text: str) -> bool:
    """Whether every part of the licence is one of those that are allowed."""
    parts = re.split(r"\s+(?:AND|OR|/)\s+|[()]", text)
    return bool(text) and all(any(known in part for known in ALLOWED) for part in parts if part)


def path_files(distribution: importlib.metadata.Distribution) -> list[str]:
    return [str(file) for file in distribution.files or [] if file.suffix == ".pth"]


def problems() -> Iterator[str]:
    for pin in pins():
        if not pin.hashes:
            yield f"{pin.name}: no hash"
        if (distribution := installed(pin)) is None:
            continue
        if not is_allowed(licence(distribution)):
            yield f"{pin.name}: licence {licence(distribution)!r} is not on the list"
        for file in path_files(distribution):
            yield f"{pin.name}: {file} would be executed at every start"


def sbom() -> dict[str, object]:
    """CycloneDX 1.5."""
    components = []
    for pin in pins():
        distribution = installed(pin)
        component: dict[str, object] = {
            "type": "library",
            "name": pin.name,
            "version": pin.version,
            "purl": f"pkg:pypi/{pin.name}@{pin.version}",
        }
        if distribution is not None:
            component["licenses"] = [{"license": {"name": licence(distribution)}}]
        components.append(component)
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}


def vulnerabilities() -> tuple[str, bool]:
    """What pip-audit says, and whether that is good."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(LOCK), "--require-hashes"]
    options = ["--disable-pip", "--progress-spinner=off", "--format=json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return f"pip-audit could not run, so nothing was audited: {reason}", False
    audited = [each for each in found if "skip_reason" not in each]
    hit = [f"{each['name']} {v['id']}" for each in audited for v in each["vulns"]]
    if len(audited) < len(found):
        missing = len(found) - len(audited)
        return f"its database did not know {missing} of {len(found)} packages: not audited", False
    return ", ".join(hit) or f"none known in {len(audited)} packages", not hit


def main() -> None:
    for pin in pins():
        distribution = installed(pin)
        print(f"{pin.name:<24}{pin.version:<14}{licence(distribution) if distribution else '-'}")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).parent.mkdir(exist_ok=True)
        Path(sys.argv[1]).write_text(json.dumps(sbom(), indent=1), encoding="utf-8")
    found = list(problems())
    for problem in found:
        print(f"PROBLEM {problem}")
    said, is_good = vulnerabilities()
    print(f"vulnerabilities: {said}")
    sys.exit(bool(found) or not is_good)


if __name__ == "__main__":
    main()
