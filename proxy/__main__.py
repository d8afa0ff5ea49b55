"""The program: `python -m proxy` and the console script `agent-telemetry`."""

import sys


def run() -> None:
    """Everything is imported in here, so that an interrupt meanwhile is no error to print."""
    try:
        from proxy.cli import main
        from proxy.crash import be_discreet

        be_discreet()
        main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
