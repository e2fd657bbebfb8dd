"""A replay drawn as a timeline: who spoke when, what counted, what was played, how the ladder moved.

matplotlib (extra ``plot``) draws it; ``.html`` is the same drawing as SVG above a table of every line.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ivr.errors import ConfigError, FirmlineError

LANES = {"agent": 0, "caller": 1, "strike": 2, "rung": 3, "action": 4}
DETAIL = ("side", "track", "to", "action", "prompt", "kind")
"""What the table under the drawing shows of a row, besides its words and reasons."""
COLOURS = {"agent": "#9aa5b1", "caller": "#3e6fb0", "strike": "#c0572c", "rung": "#7a5195", "action": "#2f7d6b"}


def check_plot_path(path: Path) -> None:
    """Refuse what could not be written, before the long work.

    Raises:
        ConfigError: neither .png nor .html, or the folder is not there.
    """
    if path.suffix.lower() not in (".png", ".html"):
        raise ConfigError(f"--plot {path}: the name must end in .png or .html")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--plot {path}: folder {path.parent} is not there")


def draw(rows: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """Write the timeline of a replay's rows to ``path`` (.png or .html).

    Raises:
        FirmlineError: matplotlib is not installed.
    """
    write_figure(_figure(rows, title), path, lambda svg: _page(title, svg, rows))


def new_figure(width_in: float, height_in: float) -> Any:
    """An empty matplotlib figure.

    Raises:
        FirmlineError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise FirmlineError("--plot needs matplotlib: pip install 'firmline[plot]'") from None
    return Figure(figsize=(width_in, height_in), layout="constrained")


def write_figure(figure: Any, path: Path, page: Callable[[str], str]) -> None:
    """Write ``figure`` to ``path``: as .png, or as the HTML that ``page`` makes around its SVG."""
    if path.suffix.lower() == ".png":
        figure.savefig(path, dpi=110)
        return
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    drawing = svg.getvalue()
    path.write_text(page(drawing[drawing.index("<svg") :]), encoding="utf-8")


def _figure(rows: Sequence[dict[str, Any]], title: str) -> Any:
    figure = new_figure(13, 4.2)
    axes = figure.subplots()
    for row in rows:
        _draw_row(axes, row)
    axes.set_yticks(list(LANES.values()), list(LANES))
    axes.set_ylim(-0.6, len(LANES) - 0.2)
    axes.set_xlim(0, max((row["t_ms"] for row in rows), default=1_000) / 1000)
    axes.set_xlabel("seconds into the call")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="x", alpha=0.25)
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    return figure


def _draw_row(axes: Any, row: dict[str, Any]) -> None:
    t_s, event = row["t_ms"] / 1000, row["event"]
    if event == "utterance":
        side = row["side"]
        start_s = row["start_ms"] / 1000
        width_s = max(0.05, (row["end_ms"] - row["start_ms"]) / 1000)
        alpha = 0.3 if row.get("dropped") or row.get("over_prompt") else 0.9
        axes.barh(LANES[side], width_s, left=start_s, height=0.5, color=COLOURS[side], alpha=alpha)
        return
    if event not in LANES:
        return
    label = str(row.get("prompt") or (event == "rung" and row.get("to")) or row.get("track") or row.get("action") or "")
    axes.plot([t_s], [LANES[event]], marker="v", color=COLOURS[event], markersize=9)
    axes.annotate(label, (t_s, LANES[event] + 0.18), fontsize=7.5, rotation=20, ha="left")


def _page(title: str, svg: str, rows: Sequence[dict[str, Any]]) -> str:
    body = []
    for row in rows:
        words = row.get("words") or row.get("why") or ""
        detail = " ".join(str(row[k]) for k in DETAIL if row.get(k))
        cells = (
            f"{row['t_ms'] / 1000:.2f}",
            row["event"],
            detail,
            words if isinstance(words, str) else "; ".join(words),
        )
        body.append("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in cells) + "</tr>")
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>body{{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem}}
svg{{max-width:100%;height:auto}}table{{border-collapse:collapse;width:100%}}
td,th{{padding:.25rem .6rem;border-bottom:1px solid #8884;text-align:left;vertical-align:top}}
td:first-child{{text-align:right;font-variant-numeric:tabular-nums}}</style>
<h1>{html.escape(title)}</h1>
{svg}
<table><thead><tr><th>s</th><th>event</th><th></th><th>words, reasons</th></tr></thead>
<tbody>{"".join(body)}</tbody></table></html>
"""
