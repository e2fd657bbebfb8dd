"""``firmline doctor``: findings for people, or as JSON lines."""

from __future__ import annotations

import asyncio
import json

import click

from ivr.cli import Context, cli, shared_options
from ivr.cli_output import show_finding
from ivr.errors import ConfigError


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a finding: level, name, what, next_step.")
@click.option("--quiet", is_flag=True, help="Only what is not well.")
@shared_options
@click.pass_obj
def doctor(context: Context, as_json: bool, quiet: bool) -> None:
    """Why does it not work? Looks for the common causes and says the next step.

    Cores, open files, clock; journal and disk; model, pack, prompts, certificates; ports; the registrar and the address
    it sees (one-way audio), a call from this machine to itself; all of `pbx-check`; webhook receivers. Harmless
    beside a running service. Run it as the service's user. Ends 1 when there is a FAULT, 2 when the settings cannot be
    read.

    \b
    Example:
      sudo -u firmline firmline doctor -c /etc/firmline/config.yaml
    """
    from ivr.doctor import examine
    from ivr.doctor_finding import Level
    from ivr.log import configure_logging

    try:
        config = context.config()
    except ConfigError as exc:
        if as_json:
            step = "mend the lines named; a running service keeps its old settings meanwhile"
            click.echo(json.dumps({"level": "fault", "name": "config", "what": str(exc), "next_step": step}))
        raise
    configure_logging("error", json=False, pii=False)
    found = asyncio.run(examine(config))
    for finding in found:
        if quiet and finding.level is Level.OK:
            continue
        if as_json:
            click.echo(json.dumps(finding.as_json()))
        else:
            show_finding(finding)
    faults = sum(finding.level is Level.FAULT for finding in found)
    if not as_json:
        click.echo(f"{faults} faults" if faults else "nothing wrong found")
    if faults:
        raise SystemExit(1)
