"""The reader of meaning for a pack, from the sentence model and what was learnt beside it; loaded once a process.

Without the model Firmline judges by words and rules alone, and says so once: fail open, never in silence.
"""

from __future__ import annotations

import io
from functools import lru_cache
from importlib import resources

import numpy as np
import structlog

from ivr.embedding import sentence_model
from ivr.errors import ModelError
from policies.meaning import Head, Meaning, Vectors
from policies.types import Category

log = structlog.get_logger("firmline.meaning")

HEAD_FILE = "head.npz"


@lru_cache(maxsize=1)
def shipped_head() -> tuple[Head, dict[str, Vectors]]:
    """What turns scores into probabilities, and the vectors of the shipped packs' examples by their text.

    How it was trained, on what, and under which licences: ``ivr/training`` and docs/judgement.md.
    """
    stored = (resources.files("ivr") / "data" / "meaning" / HEAD_FILE).read_bytes()
    with np.load(io.BytesIO(stored), allow_pickle=False) as data:
        head = Head(data["rules"].astype(np.float32), float(data["temperature"]))
        texts = bytes(data["texts"]).decode().split("\n")
        known = dict(zip(texts, data["known"].astype(np.float32), strict=True))
    return head, known


def meaning_for(taught: list[tuple[str, Category]]) -> Meaning | None:
    """The reader for a pack that teaches these examples, or ``None`` (with a notice in the log) without a model."""
    try:
        model = sentence_model()
    except ModelError as exc:
        _notice(str(exc))
        return None
    head, known = shipped_head()
    return Meaning(model, head, taught, known)


@lru_cache(maxsize=8)
def _notice(why: str) -> None:
    log.warning("meaning is not read: judging by words and rules alone", detail=why)
