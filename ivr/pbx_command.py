"""``firmline pbx-check``: what is right and wrong at the Asterisk, and what to paste where."""

from __future__ import annotations

import asyncio

import click

from ivr.cli import Context, cli, shared_options
from ivr.cli_output import emit, quiet_logging, show_finding
from ivr.errors import ConfigError


@cli.command("pbx-check")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a finding: level, name, what, next_step.")
@shared_options
@click.pass_obj
def pbx_check(context: Context, as_json: bool) -> None:
    """Is the Asterisk (or FreePBX) ready for Firmline? Says what is missing, and what to paste where.

    Logs in to the manager interface and asks, with the rights that it has: version, permissions, whether events arrive,
    modules, Firmline's own phone and its codec, extensions for transfers, the agents, keys on their phones, queues.
    Touches no call and may run beside the service. Ends 1 when there is a FAULT; LOOK works, but somebody should look.

    \b
    Example:
      firmline pbx-check -c /etc/firmline/config.yaml
    """
    from ivr.parts import asterisk_options
    from ivr.pbx.check import examine

    config = context.config()
    if config.pbx.kind != "asterisk":
        raise ConfigError("pbx.kind: found 'direct', so there is no Asterisk to ask: try firmline check")
    quiet_logging(context)
    targets = (config.pbx.transfer_to, *config.pbx.asterisk.fallbacks)
    findings = asyncio.run(examine(asterisk_options(config), targets))
    for finding in findings:
        if as_json:
            emit(finding.as_json())
        else:
            show_finding(finding)
    faults = sum(finding.level == "fault" for finding in findings)
    if not as_json:
        click.echo(f"{faults} faults" if faults else "ready")
    if faults:
        raise SystemExit(1)
