"""The trade-off that ``firmline tune`` found, drawn: recall against precision and against false strikes.

matplotlib (extra ``plot``); ``.html`` is the same drawing as SVG above the figures and the calls that differ.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from ivr.timeline import new_figure, write_figure
from ivr.tuning import Comparison


def draw_comparison(found: Comparison, path: Path, *, title: str) -> None:
    """Write the trade-off curves to ``path`` (.png or .html).

    Raises:
        FirmlineError: matplotlib is not installed.
    """
    write_figure(_figure(found, title), path, lambda svg: _page(found, title, svg))


def _figure(found: Comparison, title: str) -> Any:
    figure = new_figure(11, 4.6)
    left, right = figure.subplots(1, 2)
    for report in found.reports:
        recall = [point[2] for point in report.curve]
        (line,) = left.plot(recall, [point[1] for point in report.curve], marker=".", label=report.pack)
        right.plot(recall, [point[3] for point in report.curve], marker=".", color=line.get_color())
        if report.recall is not None:
            left.plot([report.recall], [report.precision], marker="o", color=line.get_color(), markersize=10)
            right.plot(
                [report.recall], [report.false_strikes_per_100], marker="o", color=line.get_color(), markersize=10
            )
    left.set_xlabel("recall")
    left.set_ylabel("precision")
    left.legend(title="pack (large dot: as it is)", frameon=False)
    right.set_xlabel("recall")
    right.set_ylabel("false strikes per 100 civil lines")
    figure.suptitle(f"{title}: meaning.strike from 0.05 to 0.95", x=0.01, ha="left", fontsize=11)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        for spine in ("top", "right"):
            axes.spines[spine].set_visible(False)
    return figure


def figures(found: Comparison) -> list[dict[str, Any]]:
    """One row a pack, for a table; what the labels say nothing about (no text, no civil call) is a dash."""
    rows = [
        {
            "pack": r.pack,
            "precision": r.precision,
            "recall": r.recall,
            "F1": r.f1,
            "false strikes / 100 civil lines": r.false_strikes_per_100,
            "false warnings / 1,000 calls": r.false_warnings_per_1000_calls,
            "false endings / 1,000 calls": r.false_endings_per_1000_calls,
            "abusive calls left alone": r.missed_calls,
        }
        for r in found.reports
    ]
    return [{key: "–" if value is None else value for key, value in row.items()} for row in rows]


def _page(found: Comparison, title: str, svg: str) -> str:
    rows = figures(found)
    head = "".join(f"<th>{html.escape(key)}</th>" for key in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row.values()) + "</tr>" for row in rows)
    names = [report.pack for report in found.reports]
    differ = "".join(
        f"<tr><td>{html.escape(d['call'])}</td><td>{'abusive' if d['abusive'] else 'civil'}</td>"
        + "".join(f"<td>{html.escape(d[n]['did'])}<br>{html.escape(' | '.join(d[n]['why']))}</td>" for n in names)
        + "</tr>"
        for d in found.differ
    )
    columns = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>body{{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem}}
svg{{max-width:100%;height:auto}}table{{border-collapse:collapse;width:100%;margin-bottom:2rem}}
td,th{{padding:.25rem .6rem;border-bottom:1px solid #8884;text-align:left;vertical-align:top}}</style>
<h1>{html.escape(title)}</h1>
{svg}
<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>
<h2>Calls that differ: {len(found.differ)}</h2>
<table><thead><tr><th>call</th><th>label</th>{columns}</tr></thead><tbody>{differ}</tbody></table></html>
"""
