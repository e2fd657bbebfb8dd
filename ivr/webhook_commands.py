"""``firmline webhooks``: try the endpoints, see what waits, send dead letters again."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING

import click

from ivr.cli import Context, cli, shared_options
from ivr.errors import FirmlineError

if TYPE_CHECKING:
    from ivr.webhook_outbox import Outbox


@cli.group()
def webhooks() -> None:
    """Systems that are told what happens: try them, see what waits or was given up, send it again."""


@webhooks.command("test")
@click.option("--name", metavar="NAME", help="Only this endpoint.  [default: all]")
@shared_options
@click.pass_obj
def webhooks_test(context: Context, name: str | None) -> None:
    """Send one signed event of the type firmline.test to each endpoint, once, and say what it answered.

    Needs no running service. Ends 1 when an endpoint did not take it.

    \b
    Example:
      firmline webhooks test --name crm
    """
    from ivr.clock import wall_iso
    from ivr.parts import webhook_hooks
    from ivr.webhook_events import message_body
    from ivr.webhook_sender import Outcome, new_client, post

    config = context.config()
    hooks = [hook for hook in webhook_hooks(config) if name in (None, hook.name)]
    if not hooks:
        known = ", ".join(each.name for each in config.webhooks.endpoints) or "none"
        raise FirmlineError(f"no such endpoint in webhooks.endpoints; there are: {known}")

    async def send() -> list[Outcome]:
        body = message_body(
            "firmline.test", wall_iso(), {"detail": "a test of the connection; nothing happened"}, False
        )
        async with new_client() as client:
            return [
                await post(client, hook, f"msg_{uuid.uuid4().hex}", body, config.webhooks.timeout_ms) for hook in hooks
            ]

    outcomes = asyncio.run(send())
    for hook, outcome in zip(hooks, outcomes, strict=True):
        click.echo(f"{hook.name:<12} {'ok   ' if outcome.taken else 'FAULT'} {outcome.detail}")
    if not all(outcome.taken for outcome in outcomes):
        raise FirmlineError("not every endpoint took it; `answered 401` or 400 mostly means another secret there")


def _outbox(context: Context) -> Outbox:
    from ivr.database import Database, sqlite_path
    from ivr.webhook_outbox import Outbox

    return Outbox(Database(sqlite_path(context.config().journal.path)))


@webhooks.command("list")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, bodies included.")
@shared_options
@click.pass_obj
def webhooks_list(context: Context, as_json: bool) -> None:
    """What waits for its receiver, and dead letters that no receiver took; oldest first, at most 200.

    \b
    Example:
      firmline webhooks list
    """
    from dataclasses import asdict
    from datetime import UTC, datetime

    letters = _outbox(context).letters()
    for letter in letters:
        if as_json:
            click.echo(json.dumps(asdict(letter), ensure_ascii=False))
            continue
        made = datetime.fromtimestamp(letter.created_ms / 1000, UTC).isoformat(timespec="seconds")
        state = "dead" if letter.dead else "waiting"
        tries = f"{letter.attempts} tries"
        click.echo(
            f"{made}  {letter.endpoint:<12} {letter.event:<13} {state:<7} {tries:<9} {letter.error or ''}".rstrip()
        )
    if not letters and not as_json:
        click.echo("nothing waits, nothing was given up")


@webhooks.command("resend")
@shared_options
@click.pass_obj
def webhooks_resend(context: Context) -> None:
    """Make every dead letter due again; a running service sends them at its next look, within ten minutes.

    \b
    Example:
      firmline webhooks resend
    """
    click.echo(f"{_outbox(context).resend()} dead letters are due again")
