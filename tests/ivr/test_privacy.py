"""Nothing but the call is talked to: no library of ours reports home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_sentence_model_leaves_no_telemetry_behind(tmp_path: Path) -> None:
    """onnxruntime writes an id of the machine and a queue of events below the home folder unless told not to."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    code = "import ivr.embedding as e; e.sentence_model(); import faster_whisper.vad as v; v.get_vad_model()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**env, "HOME": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {"model-hashes.json"}, "only our own note of verified models may stay"
