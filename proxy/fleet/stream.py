"""Stream: what has to exist on the NATS servers, made and checked like the schema of the database.

STREAM                 work queue on disk: a message is there until a recorder has acknowledged
                       it. When it is full it refuses, and calls wait in the sidecars' spools.
consumer recorders-v1  what all recorders together take their messages from, one for each
                       version of messages
STREAM_large           object store: exchanges over the servers' limit of a message
STREAM_fleet           key-value: what each gateway and recorder says of itself
STREAM_set_aside       key-value: captured calls that were set aside, by id, with the reason
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from proxy.config import Nats
from proxy.errors import StreamMisconfigured
from proxy.fleet.connection import Connection, translated
from proxy.fleet.subjects import KNOWN, Subjects

if TYPE_CHECKING:
    from nats.js.api import ConsumerConfig, StreamConfig

WAITING_PULLS_MAX = 16_384
_UNLIMITED = -1
_TOO_FEW = frozenset({10005, 10023, 10047, 10074})  # servers, disk space, or no cluster
_FIXED = ("retention", "storage", "discard", "subjects")
_MOVABLE = ("num_replicas", "max_bytes", "duplicate_window")


def large_bucket(settings: Nats) -> str:
    return f"{settings.stream}_large"


def fleet_bucket(settings: Nats) -> str:
    return f"{settings.stream}_fleet"


def set_aside_bucket(settings: Nats) -> str:
    return f"{settings.stream}_set_aside"


def consumer_name(version: int) -> str:
    return f"recorders-v{version}"


async def ensure(connection: Connection, settings: Nats) -> list[str]:
    """Make what is missing, change what may be changed; returns what was made or changed.

    Raises StreamUnavailable or StreamMisconfigured.
    """
    done = [name for name in (await _ensured(connection, _stream(settings)),) if name]
    for config in (
        _object_store(large_bucket(settings), settings),
        _key_values(fleet_bucket(settings), settings),
        _key_values(set_aside_bucket(settings), settings),
    ):
        done += [name for name in (await _ensured(connection, config),) if name]
    for version in KNOWN:
        with translated():
            await connection.js.add_consumer(settings.stream, _consumer(version, settings))
    return done


async def check(connection: Connection, settings: Nats) -> None:
    """Raises StreamMisconfigured where `ensure` would have something to make or to refuse."""
    with translated():
        info = await connection.js.stream_info(settings.stream)
        for version in KNOWN:
            await connection.js.consumer_info(settings.stream, consumer_name(version))
    _refuse_other(info.config, _stream(settings))


async def _ensured(connection: Connection, config: StreamConfig) -> str | None:
    """The name, where something was made or changed."""
    from nats.js.errors import NotFoundError

    js, moved = connection.js, {name: getattr(config, name) for name in _MOVABLE}
    with translated():
        try:
            found = (await js.stream_info(str(config.name))).config
            _refuse_other(found, config)
            if all(getattr(found, name) == value for name, value in moved.items()):
                return None
            await js.update_stream(replace(found, **moved))
        except NotFoundError:
            await _made(connection, config)
    return config.name


async def _made(connection: Connection, config: StreamConfig) -> None:
    """Two may do so at the same time, and make it once."""
    from nats.js.errors import APIError

    try:
        await connection.js.add_stream(config)
    except APIError as error:
        if error.err_code not in _TOO_FEW:
            raise
        raise StreamMisconfigured(
            f"nats.replicas = {config.num_replicas}, nats.max_bytes: NATS has no place for "
            f"{config.name}: {error.description}"
        ) from None


def _refuse_other(found: StreamConfig, wanted: StreamConfig) -> None:
    for name in _FIXED:
        has, wants = _plain(getattr(found, name)), _plain(getattr(wanted, name))
        if has != wants:
            raise StreamMisconfigured(
                f"nats.stream: {wanted.name} exists with {name} {has} where {wants} is needed; "
                "choose another name, or delete it when it is empty"
            )


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def _stream(settings: Nats) -> StreamConfig:
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

    return StreamConfig(
        name=settings.stream,
        subjects=[Subjects(settings.subject_prefix).everything],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        num_replicas=settings.replicas,
        max_bytes=settings.max_bytes,
        duplicate_window=settings.duplicate_window_s,
    )


def _consumer(version: int, settings: Nats) -> ConsumerConfig:
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

    return ConsumerConfig(
        name=consumer_name(version),
        durable_name=consumer_name(version),
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=settings.ack_wait_s,
        max_deliver=_UNLIMITED,
        max_ack_pending=_UNLIMITED,  # each recorder limits what it holds
        max_waiting=WAITING_PULLS_MAX,
        filter_subject=Subjects(settings.subject_prefix).of_version(version),
    )


def _object_store(bucket: str, settings: Nats) -> StreamConfig:
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

    return StreamConfig(
        name=f"OBJ_{bucket}",
        subjects=[f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        num_replicas=settings.replicas,
        max_bytes=_UNLIMITED,
        duplicate_window=settings.duplicate_window_s,
        allow_rollup_hdrs=True,
        allow_direct=True,
    )


def _key_values(bucket: str, settings: Nats) -> StreamConfig:
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

    return StreamConfig(
        name=f"KV_{bucket}",
        subjects=[f"$KV.{bucket}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_msgs_per_subject=1,
        num_replicas=settings.replicas,
        max_bytes=_UNLIMITED,
        duplicate_window=settings.duplicate_window_s,
        allow_rollup_hdrs=True,
        deny_delete=True,
        allow_direct=True,
    )
