"""``firmline demo`` as a user runs it: exit code, JSON lines, and recordings that hold what they should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from audio.wavio import read_wav
from ivr.demo.recordings import find_prompt
from ivr.prompts import load_catalogue

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.sip
@pytest.mark.model
@pytest.mark.timeout(240)
def test_demo_ends_0_with_the_warning_in_the_callers_ear_and_not_in_the_agents(tmp_path: Path) -> None:
    """The main job: two live calls, judged by what the phones recorded; nothing is left running."""
    done = subprocess.run(
        [sys.executable, "-m", "ivr", "demo", "--json", "--speed", "4", "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=220,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    summary = rows[-1]
    assert summary["event"] == "summary" and summary["ok"] is True
    assert {item["what"]: item["ok"] for item in summary["calls"]["abusive"]}["exactly two strikes"]
    assert [reaction["prompt"] for reaction in summary["reactions"]] == ["warning", "closing_transfer"]
    warning = load_catalogue().samples("warning", 8_000)
    for call, ear, expected in (
        ("abusive", "caller_heard", 1),
        ("abusive", "agent_heard", 0),
        ("abusive", "supervisor_heard", 0),
        ("upset", "caller_heard", 0),
        ("upset", "agent_heard", 0),
    ):
        heard = read_wav((tmp_path / "out" / call / f"{ear}.wav").read_bytes(), ear).channels[0]
        assert len(find_prompt(heard, warning, 8_000)) == expected, (call, ear)
    words = " ".join(row["row"]["data"]["words"] for row in rows if row.get("row", {}).get("event") == "utterance")
    assert "idiot" in words and "angry" in words
