"""`python -m proxy` is the program `agent-telemetry`."""

from proxy.cli import main

if __name__ == "__main__":
    main()
