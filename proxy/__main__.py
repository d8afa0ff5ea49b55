"""The program: `python -m proxy` and the console script `agent-telemetry`."""

from proxy.cli import main
from proxy.crash import be_discreet


def run() -> None:
    be_discreet()
    main()


if __name__ == "__main__":
    run()
