"""The demo for the eye: live transcript, the ladder as steps, one table at the end. ``--json`` prints lines instead."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import click
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ivr.demo.scene import SceneEvent, SceneEventKind
from ivr.demo.service import Row
from ivr.demo.story import Reaction, Verdict

STEPS = ("clear", "cautioned", "warned", "final", "ending", "ended")
STYLES = {"sam": "cyan", "alex": "magenta", "pat": "yellow", "kim": "yellow", "firmline": "bold green"}
KEEP_LINES = 14


class Show(Protocol):
    """Where the demo's progress goes."""

    def note(self, text: str) -> None: ...
    def scene(self, name: str, title: str) -> None: ...
    def row(self, row: Row, rung: str) -> None: ...
    def stage(self, event: SceneEvent) -> None: ...
    def done(self, summary: dict[str, Any], verdicts: dict[str, list[Verdict]], reactions: list[Reaction]) -> None: ...
    def close(self) -> None: ...


class JsonShow:
    """One JSON object a line; the last one is the summary."""

    def note(self, text: str) -> None:
        self._emit({"event": "note", "text": text})

    def scene(self, name: str, title: str) -> None:
        self._emit({"event": "scene", "name": name, "title": title})

    def row(self, row: Row, rung: str) -> None:
        self._emit({"event": "journal", "row": row})

    def stage(self, event: SceneEvent) -> None:
        self._emit({"event": event.kind.value, "who": event.who, "text": event.text})

    def done(self, summary: dict[str, Any], verdicts: dict[str, list[Verdict]], reactions: list[Reaction]) -> None:
        self._emit(summary)

    def close(self) -> None:
        """Nothing is open."""

    def _emit(self, data: dict[str, Any]) -> None:
        click.echo(json.dumps(data, ensure_ascii=False))


class TerminalShow:
    """Lines as they come, and on a real terminal the ladder under them."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._rung, self._title = "clear", ""
        self._lines: deque[Text] = deque(maxlen=KEEP_LINES)
        self._live: Live | None = None

    def note(self, text: str) -> None:
        self._console.print(text, style="dim", soft_wrap=True)

    def scene(self, name: str, title: str) -> None:
        self.close()
        self._rung, self._title = "clear", title
        self._lines.clear()
        if self._console.is_terminal:
            self._live = Live(self._picture(), console=self._console, refresh_per_second=8)
            self._live.start()
        else:
            self._console.print(f"\n{title}", style="bold")

    def row(self, row: Row, rung: str) -> None:
        moved, self._rung = rung != self._rung, rung
        data = row["data"]
        if row["event"] == "utterance" and data.get("words"):
            self._put("heard", f"caller: {data['words']}", "green")
        elif row["event"] == "strike":
            why = data.get("why") or []
            self._put("firmline", f"strike ({data.get('category', 'key')}): {'; '.join(why)}", "bold green")
        elif row["event"] == "action_requested":
            what = data.get("prompt") or data["action"]
            self._put("firmline", f"{'plays' if 'prompt' in data else 'asks for'} {what}", "bold green")
        elif moved:
            self._put("firmline", f"ladder: {rung}", "bold green")

    def stage(self, event: SceneEvent) -> None:
        if event.kind is SceneEventKind.SAYS:
            self._put(event.who, event.text, STYLES.get(event.who, ""))
        elif event.kind is SceneEventKind.CUE_MISSING:
            self._put("demo", f"waited for {event.text!r} in vain", "bold red")

    def done(self, summary: dict[str, Any], verdicts: dict[str, list[Verdict]], reactions: list[Reaction]) -> None:
        self.close()
        self._console.print()
        self._console.print(_verdict_table(verdicts))
        self._console.print(_reaction_table(reactions))
        self._console.print(f"What each party heard: {summary['recordings']}", soft_wrap=True)
        good = bool(summary["ok"])
        text = "Everything that should have happened did." if good else "Not everything happened as it should."
        self._console.print(text, style="bold green" if good else "bold red")

    def close(self) -> None:
        """Leave the live picture as it is and go on below it."""
        if self._live is not None:
            self._live.update(self._picture())
            self._live.stop()
            self._live = None

    def _put(self, who: str, text: str, style: str) -> None:
        line = Text.assemble((f"{who:>9}  ", f"{style} dim" if style else "dim"), (text, style))
        self._lines.append(line)
        if self._live is not None:
            self._live.update(self._picture())
        else:
            self._console.print(line, soft_wrap=True)

    def _picture(self) -> Group:
        steps = Text("  ")
        for step in STEPS:
            steps.append(f" {step} ", "reverse bold" if step == self._rung else "dim")
            steps.append(" > " if step != STEPS[-1] else "", "dim")
        return Group(Panel(Group(*self._lines), title=self._title, title_align="left"), steps)


def _verdict_table(verdicts: dict[str, list[Verdict]]) -> Table:
    table = Table(title="What should have happened, by what the phones recorded", title_justify="left")
    for column in ("call", "", "", ""):
        table.add_column(column)
    for name, items in verdicts.items():
        for item in items:
            mark = Text("yes", "green") if item.ok else Text("NO", "bold red")
            table.add_row(name, item.what, mark, item.detail)
    return table


def _reaction_table(reactions: Sequence[Reaction]) -> Table:
    table = Table(title="Reaction, milliseconds", title_justify="left")
    table.add_column("prompt")
    for column in ("words end to first packet", "of it: heard to decided", "decided to first packet"):
        table.add_column(column, justify="right")
    for r in reactions:
        table.add_row(r.prompt, str(r.words_to_rtp_ms), str(r.heard_to_decided_ms), str(r.decided_to_rtp_ms))
    return table
