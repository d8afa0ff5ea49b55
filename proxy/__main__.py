"""The program: `python -m proxy` and the console script `agent-telemetry`.

What supervises is this program too, started again by `proxy/launch.py`: it imports the little it
needs, and not the command line.
"""

import sys


def run() -> None:
    """Everything is imported in here, so that an interrupt meanwhile is no error to print."""
    try:
        from proxy.crash import be_discreet
        from proxy.environment import handed_over

        be_discreet()
        plan = handed_over()
        if plan is None:
            from proxy.cli import main

            main()
        else:
            from proxy.supervise import supervise

            supervise(plan)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
