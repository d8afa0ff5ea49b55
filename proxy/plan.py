"""Plan: what a supervisor has to know of a configuration. Pure.

It is handed from process to process in the environment, so it holds no secret: of a database only
whether it is ours.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LogPlan:
    """How to log; the keys of `log` in the configuration."""

    format: str
    level: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Which processes to run, on which sockets (open descriptors), and what to tell of them."""

    process_name: str  # what the system calls the process; '' where that cannot be told
    config_path: str | None
    data_dir: str
    metrics_dir: str
    has_database: bool
    has_forwarder: bool
    workers: int
    drain_timeout_s: float
    gateway_fd: int
    admin_fd: int | None  # of a sidecar None: it has neither admin listener nor recorder
    base_urls: dict[str, str]
    gateway_url: str
    admin_url: str | None
    log: LogPlan

    def as_json(self) -> str:
        """In ASCII, whatever paths are made of."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `as_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(**(values | {"log": LogPlan(**values["log"])}))
