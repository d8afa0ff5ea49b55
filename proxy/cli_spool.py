"""Commands on the spool: status, verify, quarantine. They dispatch and print, no logic."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path

import click

from proxy.environment import load
from proxy.options import print_json, with_config


@click.group()
def spool() -> None:
    """What is waiting between gateway and database.

    \b
    Example:
      agent-telemetry spool status
    """


@spool.command()
@with_config
@click.option("--local", "is_local", is_flag=True, help="This machine's spool only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(config_path: Path | None, is_local: bool, as_json: bool) -> None:
    """What waits, how old, how large; and what was ever captured, stored and lost.

    With spool.transport = "nats" over all gateways and recorders of the fleet.

    \b
    Example:
      agent-telemetry spool status
    """
    config = load(config_path)
    from proxy.spool.totals import read_totals, summed
    from proxy.views import spool as view

    if config.spool.transport == "nats" and not is_local:
        from proxy.fleet_app import read_fleet
        from proxy.views import fleet as fleet_view

        fleet = asyncio.run(read_fleet(config))
        if as_json:
            print_json(fleet_view.as_json(fleet))
        else:
            click.echo(fleet_view.as_text(fleet))
        return
    sums = summed(read_totals(config.spool_dir))
    if as_json:
        print_json(view.as_json(sums))
    else:
        click.echo(view.as_text(sums))


@spool.command()
@with_config
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(config_path: Path | None, as_json: bool) -> None:
    """Read every byte of the spool, check it, and count the calls independently.

    Exits 1 where something is damaged or the count differs from the totals.

    \b
    Example:
      agent-telemetry spool verify
    """
    config = load(config_path)
    from proxy import maintenance
    from proxy.views import spool as view

    checks = maintenance.verify_spool(config)
    if as_json:
        print_json([view.check_as_json(check) for check in checks])
    else:
        click.echo(view.checks_as_text(checks))
    if any(check.problems or not check.is_consistent for check in checks):
        sys.exit(1)


@spool.command()
@with_config
@click.option("--resubmit", is_flag=True, help="Try each again; what is stored leaves the list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def quarantine(config_path: Path | None, resubmit: bool, as_json: bool) -> None:
    """List the calls whose row the database refused, by reason; or try them again.

    \b
    Example:
      agent-telemetry spool quarantine
      agent-telemetry spool quarantine --resubmit
    """
    config = load(config_path)
    from proxy import maintenance
    from proxy.views import spool as view

    if resubmit:
        done = asyncio.run(maintenance.resubmit_all(config))
        if as_json:
            print_json({"stored": done.stored, "refused": done.refused})
        else:
            click.echo(view.resubmitted_as_text(done))
        sys.exit(1 if done.refused else 0)
    found = asyncio.run(maintenance.list_quarantined(config))
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        click.echo(view.quarantined_as_text(found))
