"""Peers of the ears bench: the growing buffer's rules by hand-made hypotheses, what a WhisperLive client saw, a peer
that is missing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import ivr.bench_peers as peers
from ivr.bench_agreement import Agreement, GrowingBuffer, Timed
from ivr.bench_peers import PeerMissingError, WhisperLive, outcome_of
from ivr.bench_speech import spoken_lines
from ivr.models import resolve_model


def words(text: str, from_s: float = 0.0) -> list[Timed]:
    """Half a second each."""
    return [Timed(from_s + at / 2, from_s + at / 2 + 0.5, word) for at, word in enumerate(text.split())]


def test_two_hypotheses_that_agree_commit_their_common_beginning() -> None:
    """Marks and case do not part them; the first disagreement ends it."""
    agreement = Agreement()
    assert agreement.insert(words("you are a late")) == []
    assert [word.text for word in agreement.insert(words("You are, the latest"))] == ["You", "are,"]
    assert [word.text for word in agreement.insert(words("You are the latest news"))] == ["the", "latest"]
    assert [word.text for word in agreement.finish()] == ["news"]
    assert " ".join(word.text for word in agreement.committed) == "You are, the latest news"


def test_words_that_repeat_the_committed_end_are_not_committed_twice() -> None:
    """Times wobble from decoding to decoding: "late" again, a little later, is still the same "late"."""
    agreement = Agreement()
    agreement.insert(words("you are late"))
    agreement.insert(words("you are late"))
    again = words("late and rude", from_s=1.45)
    agreement.insert(again)
    assert [word.text for word in agreement.insert(again)] == ["and", "rude"]


@pytest.mark.model
def test_growing_buffer_hears_a_line_and_costs_are_counted() -> None:
    """One sentence through the method, with the real model."""
    line = spoken_lines(5, 1)[-1]
    outcome = GrowingBuffer(resolve_model("tiny.en").path).run(line.samples)
    text = " ".join(each.text for each in outcome.seen[0]).lower()
    assert "speak to a manager" in text
    assert outcome.decode_cpu_ms > 0 and outcome.passes >= 2


def test_client_of_whisper_live_sees_a_segment_once_and_its_last_words_as_final() -> None:
    """Segments are sent again with every message; the one that was never completed is taken as it stood."""
    first = {"start": "0.000", "end": "1.000", "text": " You are", "completed": False}
    done = {"start": "0.000", "end": "1.500", "text": " You are late", "completed": True}
    last = {"start": "1.500", "end": "2.500", "text": " and rude", "completed": False}
    outcome = outcome_of({"messages": [[900, [first]], [1_900, [done, last]], [2_400, [done, last]]], "cpu_s": 2.0})
    assert [(each.t_ms, each.text, each.final) for each in outcome.seen[0]] == [
        (900, "You are", False),
        (1_900, "You are late", True),
        (1_900, "and rude", False),
        (2_400, "and rude", True),
    ]
    assert outcome.decode_cpu_ms == 2_000


def test_peer_that_cannot_be_installed_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The last thing pip said, and nothing is kept as if it were whole."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def refused(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command, b"", b"ERROR: No matching distribution found\n")

    monkeypatch.setattr(peers.subprocess, "run", refused)
    with pytest.raises(PeerMissingError, match="could not be installed: ERROR: No matching distribution"):
        WhisperLive("model", lambda _: None)
    assert not list(tmp_path.rglob(".whole"))
