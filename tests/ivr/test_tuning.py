"""``firmline tune``: labelled words and calls in, figures and differences out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from audio.wavio import write_wav
from ivr.config import parse_config
from ivr.errors import ConfigError
from ivr.tuneplot import draw_comparison, figures
from ivr.tuning import compare, load_labels, steps_of
from tests.ivr.calls import silence, speech
from tests.ivr.test_commands import firmline

CONFIG = parse_config("", "defaults")
LABELS = """text,label,call
you useless idiot,1,a
you stupid moron,1,a
you fucking liar,1,a
where is my parcel please,0,b
"this damn router, honestly",0,b
this damn router has gone again,0,b
this damn thing,0,b
thank you very much,0,
you are an idiot,insult,
"""


def _labels(tmp_path: Path, text: str = LABELS) -> Path:
    file = tmp_path / "calls.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_tune_counts_strikes_warnings_and_endings(tmp_path: Path) -> None:
    """Standard warns and ends the abusive call and leaves the swearing at a thing alone; strict does not."""
    rows, steps = load_labels(_labels(tmp_path)), list[int]()
    found = compare(rows, ["standard", "strict"], CONFIG, lambda: steps.append(1))
    standard, strict = found.reports
    assert len(steps) == steps_of(rows, 2) == 8
    assert (standard.precision, standard.recall) == (1.0, 1.0)
    assert standard.false_warnings_per_1000_calls == standard.false_endings_per_1000_calls == 0.0
    assert strict.precision is not None and strict.precision < 1.0
    assert strict.false_warnings_per_1000_calls == 500.0
    [differs] = found.differ
    assert differs["call"] == "b" and not differs["abusive"]
    assert differs["standard"]["did"] == "left alone" and differs["strict"]["did"] == "ended"
    assert any("damn" in why for why in differs["strict"]["why"])


def test_tune_shadow_is_run_as_if_it_acted(tmp_path: Path) -> None:
    """To see what a pack would do is what tune is for."""
    found = compare(load_labels(_labels(tmp_path)), ["standard", "shadow"], CONFIG, lambda: None)
    assert found.differ == []


def test_tune_curve_trades_recall_for_precision(tmp_path: Path) -> None:
    """A lower bar never strikes less."""
    report = compare(load_labels(_labels(tmp_path)), ["standard"], CONFIG, lambda: None).reports[0]
    recalls = [point[2] for point in report.curve]
    assert recalls == sorted(recalls, reverse=True)


@pytest.mark.parametrize("suffix", [".png", ".html"])
def test_tune_draws(tmp_path: Path, suffix: str) -> None:
    """The same comparison as a picture or a page."""
    found = compare(load_labels(_labels(tmp_path)), ["standard", "strict"], CONFIG, lambda: None)
    out = tmp_path / f"curve{suffix}"
    draw_comparison(found, out, title="calls")
    starts = b"<!doctype html>" if suffix == ".html" else b"\x89PNG"
    assert out.read_bytes().startswith(starts) and out.stat().st_size > 5_000
    assert [row["pack"] for row in figures(found)] == ["standard", "strict"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("words,label\nhi,0\n", ":1: needs a column text or file"),
        ("text,label\nhi,maybe\n", ":2: label: found 'maybe'; allowed:"),
        ("text,label\n,1\n", ":2: neither text nor file"),
        ("file,label\ngone.wav,1\n", ":2: file: no such recording: "),
        ("text,label\n", "no rows"),
        ("", "needs a column"),
    ],
)
def test_tune_bad_labels_name_the_line(tmp_path: Path, text: str, said: str) -> None:
    """A clear error, and nothing else."""
    with pytest.raises(ConfigError, match="calls.csv") as caught:
        load_labels(_labels(tmp_path, text))
    assert said in str(caught.value)


@pytest.mark.model
def test_tune_hears_recordings_as_a_live_call_does(tmp_path: Path) -> None:
    """An insult and a complaint as WAV files: one call warned, one left alone, no figure about words."""
    for name in ("pat_insult", "kim_angry"):
        said = np.concatenate([silence(500), speech(name), silence(1_500)])
        (tmp_path / f"{name}.wav").write_bytes(write_wav(said, 8_000))
    rows = load_labels(_labels(tmp_path, "file,label\npat_insult.wav,1\nkim_angry.wav,0\n"))
    steps = list[int]()
    found = compare(rows, ["standard"], CONFIG, lambda: steps.append(1))
    [report] = found.reports
    assert len(steps) == steps_of(rows, 1) == report.calls == 2
    assert (report.missed_calls, report.false_warnings_per_1000_calls) == (0, 0.0)
    assert report.precision is None and figures(found)[0]["precision"] == "–"
    draw_comparison(found, tmp_path / "curve.html", title="recordings")
    assert "–" in (tmp_path / "curve.html").read_text(encoding="utf-8")


def test_tune_command_prints_figures_and_differences(tmp_path: Path) -> None:
    """The contract's spelling: --packs A B."""
    _labels(tmp_path)
    done = firmline("tune", "--labels", "calls.csv", "--packs", "standard", "strict", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "false warnings / 1,000 calls" in done.stdout and "1 calls differ" in done.stdout
    done = firmline("tune", "--labels", "calls.csv", "--packs", "standard", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["packs"][0]["pack"] == "standard"
    done = firmline("tune", "--labels", "none.csv", "--packs", "standard", cwd=tmp_path)
    assert done.returncode == 2 and "none.csv" in done.stderr and "Traceback" not in done.stderr
