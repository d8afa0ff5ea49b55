"""Install the peers that comparisons can include, once, outside of this program's environment.

    python -m bench.peers

LiteLLM from PyPI in a venv of its own, Portkey's gateway from npm. Both stay in
`~/.cache/agent-telemetry-bench`; nginx comes from the system. Portkey gets the newest Node.js
adapter of Hono with which it can stream: since 1.14, heads of answers that it means to change are
immutable, and each streamed call is answered with 500.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench.targets import PEERS_DIR

_PORTKEY = {"overrides": {"@hono/node-server": "1.13.8"}}


def install() -> None:
    litellm, portkey = PEERS_DIR / "litellm", PEERS_DIR / "portkey"
    PEERS_DIR.mkdir(parents=True, exist_ok=True)
    if not (litellm / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(litellm)], check=True)
        pip = [str(litellm / "bin" / "pip"), "install", "--quiet"]
        subprocess.run([*pip, "litellm[proxy]"], check=True)
    if shutil.which("npm") is None:
        print("npm is not here: Portkey is left out")
    elif not _holds(portkey / "package.json", _PORTKEY):
        shutil.rmtree(portkey, ignore_errors=True)
        portkey.mkdir()
        (portkey / "package.json").write_text(json.dumps(_PORTKEY))
        npm = ["npm", "install", "--silent", "--prefix", str(portkey), "@portkey-ai/gateway"]
        subprocess.run(npm, check=True)


def _holds(file: Path, wanted: dict[str, object]) -> bool:
    return file.exists() and wanted.items() <= json.loads(file.read_text()).items()


if __name__ == "__main__":
    install()
