"""A spool that an earlier version left is read as it was meant."""

import shutil
from pathlib import Path

import pytest

from proxy.exchange import Outcome

from .golden import CARRIED, CRASHED, WHOLE
from .samples import body, recorded, totals

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("version", ["v1"])
def test_a_spool_of_each_version_is_read(tmp_path: Path, version: str) -> None:
    root = tmp_path / "spool"
    shutil.copytree(DATA / version, root)
    assert (totals(root).captured, totals(root).stored, totals(root).waiting) == (4, 1, 3)
    found = {delivery.id: delivery.exchange for delivery in recorded(root)}
    assert found.keys() == {WHOLE, CARRIED, CRASHED}
    assert body(found[WHOLE]) == (b"ask", b"yes sir")
    head, end = found[WHOLE].head, found[WHOLE].end
    assert head is not None
    assert end is not None
    assert (head.status, head.headers) == (200, (("content-type", "text/plain"),))
    assert end.outcome is Outcome.COMPLETE
    assert body(found[CARRIED]) == (b"", b"".join(b"%d" % n * 300 for n in range(6)))
    assert body(found[CRASHED]) == (b"half of a", b"")
    assert found[CARRIED].end is None is found[CRASHED].end
    assert (totals(root).stored, totals(root).waiting) == (4, 0)
