"""How commands talk: JSON lines, tables that can go into the documentation as they are, progress on stderr, logging."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from typing import Any

import click

from ivr.cli import Context
from ivr.config import Config
from ivr.doctor_finding import Finding, Level

MARKS = {Level.OK: "ok   ", Level.WARN: "LOOK ", Level.FAULT: "FAULT"}
_INDENT = " " * 19


def emit(row: dict[str, Any]) -> None:
    """One object as one line of JSON."""
    click.echo(json.dumps(row, ensure_ascii=False))


def table(result: dict[str, Any], as_json: bool) -> None:
    """A result as one JSON object, or as Markdown: its ``rows`` side by side, without them one value a line."""
    if as_json:
        emit(result)
        return
    rows = result.get("rows")
    if rows:
        click.echo("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
        for row in rows:
            click.echo("| " + " | ".join(str(value) for value in row.values()) + " |")
        return
    click.echo("| measure | value |\n|---|---|")
    for key, value in result.items():
        text = ", ".join(f"{k} {v:g}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        click.echo(f"| {key} | {text} |")


def progress(text: str) -> None:
    """How long work goes on, on stderr."""
    click.echo(text, err=True)


def tenths(length: int, of: str) -> Callable[[int], None]:
    """A progress bar for a log: told how many steps were done, says each tenth of ``length`` on stderr."""
    done = 0

    def step(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if before * 10 // length != done * 10 // length:
            progress(f"{done} of {length} {of}")

    return step


def show_finding(finding: Finding) -> None:
    """What was found, and under it what to do next; lines to paste (indented ones) stay as they are."""
    click.echo(f"{MARKS[finding.level]} {finding.name:<12} {finding.what}")
    for line in finding.next_step.splitlines():
        whole = line if line.startswith(" ") else textwrap.fill(line, 91)
        click.echo(textwrap.indent(whole, _INDENT))


def set_logging(config: Config) -> None:
    """As the settings say."""
    from ivr.log import configure_logging

    configure_logging(config.log.level, json=config.log.format == "json", pii=config.log.pii)


def quiet_logging(context: Context) -> None:
    """Errors only: the command's own output is what is to be read."""
    config = context.config()
    set_logging(config.model_copy(update={"log": config.log.model_copy(update={"level": "error"})}))
