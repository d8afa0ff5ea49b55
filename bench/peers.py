"""Install the peers that comparisons can include, once, outside of this program's environment.

    python -m bench.peers

LiteLLM from PyPI in a venv of its own, Portkey's gateway from npm. Both stay in
`~/.cache/agent-telemetry-bench`; nginx comes from the system.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from bench.targets import PEERS_DIR


def install() -> None:
    litellm, portkey = PEERS_DIR / "litellm", PEERS_DIR / "portkey"
    PEERS_DIR.mkdir(parents=True, exist_ok=True)
    if not (litellm / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(litellm)], check=True)
        pip = [str(litellm / "bin" / "pip"), "install", "--quiet"]
        subprocess.run([*pip, "litellm[proxy]"], check=True)
    if shutil.which("npm") is None:
        print("npm is not here: Portkey is left out")
    elif not (portkey / "node_modules" / "@portkey-ai" / "gateway").exists():
        npm = ["npm", "install", "--silent", "--prefix", str(portkey), "@portkey-ai/gateway"]
        subprocess.run(npm, check=True)


if __name__ == "__main__":
    install()
