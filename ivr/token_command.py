"""``firmline token``: who may use the API."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import click

from ivr.cli import Context, cli, shared_options

_SPAN = re.compile(r"^([1-9][0-9]{0,4})([hdw])$")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@cli.group()
def token() -> None:
    """Who may use the API and the pages: make, list and remove access tokens.

    Kept as hashes in the file `api.tokens`; a running service notices a change by itself. While there is none, the API
    is open to whoever is on this machine, and to nobody else.
    """


@token.command("add")
@click.option("--role", type=click.Choice(["agent", "supervisor", "ops"]), required=True, help="What it may do.")
@click.option("--ext", help="The extension: must for an agent; for a supervisor, where `transfer to me` goes.")
@click.option("--name", default="", help="Whose it is, for the list and the journal; up to 80 characters.")
@click.option(
    "--expires",
    metavar="WHEN",
    help="12h, 30d, 8w, or a date (2027-01-31, the last day it works).  [default: never]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@shared_options
@click.pass_obj
def token_add(context: Context, role: str, ext: str | None, name: str, expires: str | None, as_json: bool) -> None:
    """Make a token and print it: this once, it is kept nowhere.

    agent: the calls of one extension, and nothing of others. supervisor: all calls, keys and incidents. ops:
    everything, metrics and faults of the configuration too.

    \b
    Examples:
      firmline token add --role agent --ext 201 --name "Jo Bloggs" --expires 90d
      firmline token add --role supervisor --ext 299
      curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8080/api/me
    """
    from ivr.clock import wall_s
    from ivr.tokens import Role, TokenFile, utc

    now = utc(wall_s())
    until = None if expires is None else expiry(expires, now)
    path = Path(context.config().api.tokens)
    secret = TokenFile(path).add(Role(role), ext, name, until, now)
    if as_json:
        click.echo(json.dumps({"token": secret, "role": role, "ext": ext, "name": name}))
        return
    click.echo(secret)
    click.echo(f"kept in {path} as a hash; the token itself is shown only now", err=True)


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a token.")
@shared_options
@click.pass_obj
def token_list(context: Context, as_json: bool) -> None:
    """Every token: id, role, extension, name, since when and until when. The tokens themselves are kept nowhere.

    \b
    Example:
      firmline token list
    """
    from ivr.clock import wall_s
    from ivr.tokens import TokenFile

    path = Path(context.config().api.tokens)
    tokens = TokenFile(path).read()
    if as_json:
        for each in tokens:
            click.echo(json.dumps(each.model_dump(mode="json", exclude={"sha256"})))
        return
    if not tokens:
        click.echo(f"no tokens in {path}: the API is open on this machine, and closed to any other", err=True)
    for each in tokens:
        until = "never expires" if each.expires_at is None else f"until {each.expires_at:%Y-%m-%d %H:%M} UTC"
        note = "  EXPIRED" if each.expired(wall_s()) else ""
        ext, name = each.ext or "-", each.name or "-"
        click.echo(f"{each.id}  {each.role:<10} {ext:<8} {name:<24} made {each.created_at:%Y-%m-%d}, {until}{note}")


@token.command("remove")
@click.argument("token_id", metavar="ID")
@shared_options
@click.pass_obj
def token_remove(context: Context, token_id: str) -> None:
    """Take a token's access away, at once: open pages and streams of it are closed too.

    \b
    Example:
      firmline token remove 1f0c9a2e
    """
    from ivr.tokens import TokenFile

    file = TokenFile(Path(context.config().api.tokens))
    removed = file.remove(token_id)
    click.echo(f"removed {removed.id} ({removed.role} {removed.ext or removed.name})".rstrip(), err=True)
    if not file.read():
        click.echo("that was the last one: on this machine the API is open again, to any other closed", err=True)


def expiry(text: str, now: datetime) -> datetime:
    """When a token ends: after a span, or with the end of a day, local time.

    Raises:
        click.BadParameter: neither, or past.
    """
    if found := _SPAN.match(text):
        return now + timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        day = datetime.strptime(text, "%Y-%m-%d")
    except ValueError:
        raise click.BadParameter(
            f"expected 12h, 30d, 8w or 2027-01-31, found {text!r}", param_hint="--expires"
        ) from None
    until = (day + timedelta(days=1)).astimezone(now.tzinfo)
    if until <= now:
        raise click.BadParameter(f"{text} is past", param_hint="--expires")
    return until
