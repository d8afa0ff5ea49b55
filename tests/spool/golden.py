"""Write the spool that `test_golden.py` reads; once for each version of the format.

python -m tests.spool.golden tests/spool/data/vN
"""

import sys
from pathlib import Path
from uuid import UUID

from proxy.exchange import AnswerHead
from proxy.spool.reader import SpoolReader
from tests.spool.samples import a_start, a_writer, an_end

DONE, WHOLE, CARRIED, CRASHED = (UUID(int=7 << 76 | 2 << 62 | n) for n in range(1, 5))


def main(root: Path) -> None:
    writer, reader = a_writer(root, segment_bytes=700), SpoolReader(root)
    for id in (DONE, CARRIED):
        assert writer.start(a_start(id))
    writer.end(DONE, an_end())
    for number in range(6):
        writer.response(CARRIED, number, b"%d" % number * 300)
        reader.acknowledge(reader.read(9, 2**40))
    reader.close()
    assert writer.start(a_start(WHOLE))
    writer.request(WHOLE, 1, b"ask")
    writer.head(WHOLE, AnswerHead(2, 200, (("content-type", "text/plain"),)))
    writer.response(WHOLE, 3, b"yes ")
    writer.response(WHOLE, 4, b"sir")
    writer.end(WHOLE, an_end())
    assert writer.start(a_start(CRASHED))
    writer.request(CRASHED, 1, b"half of a")
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
