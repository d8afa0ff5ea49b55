"""Large: exchanges over the servers' limit of a message, in the object store.

An object is written before the message that names it and deleted after that message has been
acknowledged. What a process that died in between leaves behind is found by `sweep`: bytes whose
message is not in the stream and that are older than anybody may need to write one.

The layout is the object store's own, so that its tools read it. The client's `put` is not used:
what it leaves behind when it dies has no name by which it could be found.

    $O.BUCKET.C.ID         the bytes, in pieces
    $O.BUCKET.M.NAME       size, number of pieces, digest; written last
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

import orjson

from proxy.config import Nats
from proxy.errors import StreamUnavailable
from proxy.fleet.connection import Connection, translated
from proxy.fleet.stream import large_bucket
from proxy.fleet.subjects import Subjects

CHUNK_BYTES = 128 * 1024
TRANSFER_S = 60.0
ORPHAN_AGE = timedelta(hours=2)  # more than REWRITE_S of `publisher`, by far


@dataclass(frozen=True, slots=True)
class Large:
    """An object as it was read."""

    id: UUID
    data: bytes
    sequence: int  # of its description; the pieces came before


class LargeStore:
    """The objects of one stream. Everything raises as `translated` does."""

    def __init__(self, connection: Connection, settings: Nats) -> None:
        self._connection = connection
        self._messages = settings.stream
        self._subjects = Subjects(settings.subject_prefix)
        self._bucket = large_bucket(settings)
        self._stream = f"OBJ_{self._bucket}"

    async def put(self, id: UUID, data: bytes) -> None:
        """Write, in the place of what an earlier try may have written."""
        js, pieces = self._connection.js, range(0, len(data), CHUNK_BYTES)
        with translated():
            async with asyncio.timeout(TRANSFER_S):
                await js.purge_stream(self._stream, subject=self._chunks(id))
                for at in pieces:
                    await js.publish(self._chunks(id), data[at : at + CHUNK_BYTES])
                meta = orjson.dumps(self._meta(id, data, len(pieces)))
                await js.publish(self._meta_subject(id), meta, headers={"Nats-Rollup": "sub"})

    async def get(self, id: UUID) -> Large | None:
        """What lies under this id; None: nothing."""
        from nats.js.errors import BadObjectMetaError, DigestMismatchError, NotFoundError

        js = self._connection.js
        with translated():
            try:
                async with asyncio.timeout(TRANSFER_S):
                    meta = await js.get_last_msg(self._stream, self._meta_subject(id))
                    store = await js.object_store(self._bucket)
                    found = await store.get(str(id))
            except (BadObjectMetaError, DigestMismatchError) as error:
                raise StreamUnavailable(f"NATS: object {id}: {type(error).__name__}") from None
            except NotFoundError:
                return None
        return Large(id, found.data or b"", meta.seq or 0)

    async def delete(self, large: Large) -> bool:
        """Forget what was read, and nothing that was written since.

        False: its message is still there. An acknowledgement may be lost on its way; whoever gets
        the message again needs the object.
        """
        if await self._is_named(large.id):
            return False
        await self._purge(large.id, large.sequence)
        return True

    async def sweep(self, now: datetime | None = None) -> int:
        """Delete objects that no message names any more; returns how many."""
        js, swept = self._connection.js, 0
        oldest_needed = (now or datetime.now(UTC)) - ORPHAN_AGE
        with translated():
            info = await js.stream_info(self._stream, subjects_filter=f"$O.{self._bucket}.C.>")
        for subject in info.state.subjects or ():
            id = UUID(subject.rpartition(".")[2])
            with translated():
                last = await js.get_last_msg(self._stream, subject)
            if last.time is None or last.time > oldest_needed or await self._is_named(id):
                continue
            await self._purge(id, (last.seq or 0) + 1)
            swept += 1
        return swept

    async def _is_named(self, id: UUID) -> bool:
        """Whether the message of this object is still in the stream."""
        with translated():
            info = await self._connection.js.stream_info(
                self._messages, subjects_filter=self._subjects.of_object(id)
            )
        return bool(info.state.subjects)

    async def _purge(self, id: UUID, sequence: int) -> None:
        with translated():
            for subject in (self._chunks(id), self._meta_subject(id)):
                await self._connection.js.purge_stream(
                    self._stream, seq=sequence + 1, subject=subject
                )

    def _meta(self, id: UUID, data: bytes, pieces: int) -> dict[str, object]:
        return {
            "name": str(id),
            "bucket": self._bucket,
            "nuid": id.hex,
            "size": len(data),
            "mtime": datetime.now(UTC).isoformat(),
            "chunks": pieces,
            "digest": f"SHA-256={urlsafe_b64encode(sha256(data).digest()).decode()}",
            "options": {"max_chunk_size": CHUNK_BYTES},
        }

    def _chunks(self, id: UUID) -> str:
        return f"$O.{self._bucket}.C.{id.hex}"

    def _meta_subject(self, id: UUID) -> str:
        return f"$O.{self._bucket}.M.{urlsafe_b64encode(str(id).encode()).decode()}"
