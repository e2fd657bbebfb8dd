"""``firmline report``: tables for people, JSON and CSV for what they use."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING

import click

from ivr.cli import Context, cli, shared_options

if TYPE_CHECKING:
    from ivr.report import By, Line, Report

COLUMNS = ("calls", "incidents", "per 1000", "cautioned", "warned", "ended", "pardoned", "safeguard", "failed")


@cli.command()
@click.option("--days", type=click.IntRange(1, 3650), default=28, show_default=True, help="How far back.")
@click.option("--by", type=click.Choice(["day", "week", "month", "queue"]), default="week", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header line.")
@shared_options
@click.pass_obj
def report(context: Context, days: int, by: By, as_json: bool, as_csv: bool) -> None:
    """Incidents and trends from the journal: what callers did, and what was done about it.

    A call counts once in each column: cautioned = asked gently at most; warned = heard a warning; ended = transferred
    or hung up by Firmline; pardoned = spared by a person; safeguard = somebody may have been in danger; failed = a step
    that could not be carried out. Counted by time and queue, never by agent. Periods are cut in local time; entries
    older than journal.retention_days are not there any more.

    \b
    Example:
      firmline report --days 90 --by week
    """
    from datetime import UTC, datetime

    from ivr.clock import wall_s
    from ivr.database import Database, sqlite_path
    from ivr.report import make_report

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    journal = context.config().journal
    until = datetime.fromtimestamp(wall_s(), UTC)
    database = Database(sqlite_path(journal.path))
    made = make_report(database, days=days, by=by, until=until, retention_days=journal.retention_days)
    if as_json:
        click.echo(json.dumps({"by": by, **made.as_json()}))
    elif as_csv:
        _csv(made, by)
    else:
        _table(made, by)
        if journal.retention_days and days > journal.retention_days:
            click.echo(f"entries are kept {journal.retention_days} days (journal.retention_days)")


def _values(line: Line) -> list[object]:
    return [line.per_1000 if name == "per 1000" else getattr(line, name) for name in COLUMNS]


def _table(made: Report, by: By) -> None:
    since, until = (each.astimezone().strftime("%Y-%m-%d %H:%M") for each in (made.since, made.until))
    click.echo(f"{since} to {until}")
    click.echo(f"{by:<12}" + "".join(f"{name:>11}" for name in COLUMNS))
    for line in (*made.lines, made.total):
        click.echo(f"{line.period[:12]:<12}" + "".join(f"{value:>11}" for value in _values(line)))
    for title, counts in (("said in", made.total.categories), ("conduct in", made.total.conduct)):
        if counts:
            click.echo(f"{title}: " + ", ".join(f"{name} {count} calls" for name, count in counts.most_common()))
    click.echo(made.trend())


def _csv(made: Report, by: By) -> None:
    names = sorted({name for line in made.lines for name in line.categories})
    conduct = sorted({name for line in made.lines for name in line.conduct})
    writer = csv.writer(sys.stdout)
    writer.writerow([by, *(name.replace(" ", "_") for name in COLUMNS), *names, *conduct])
    for line in made.lines:
        counts = [line.categories[name] for name in names] + [line.conduct[name] for name in conduct]
        # A queue's name comes from the PBX; a spreadsheet takes a leading = + - @ for a formula.
        name = f"'{line.period}" if line.period[:1] in "=+-@" else line.period
        writer.writerow([name, *_values(line), *counts])
