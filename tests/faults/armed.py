"""Armed: the whole program with what `site` puts into it: kill points, small limits, poison."""

from pathlib import Path

from tests.e2e.stack import Stack

SITE = Path(__file__).parent / "site"


def armed(directory: Path, upstream: str) -> Stack:
    """A stack whose data, and the files that arm points, lie in `directory`."""
    stack = Stack(directory / "data", upstream)
    stack.environment |= {"PYTHONPATH": str(SITE), "FAULTS_ARMED": str(directory)}
    return stack
