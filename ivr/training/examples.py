"""Writes ``ivr/data/meaning/head.npz``: what stands beside the sentence model, with the vectors of the pack's examples.

    python -m ivr.training.examples

after a change to the examples of ``standard``, where the model itself need not learn them; a test asks for it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ivr.embedding import FOLDER, MODEL, VOCABULARY, SentenceModel
from ivr.judge import load_pack
from ivr.meaning import HEAD_FILE, shipped_head
from policies.meaning import CLASSES, Head
from policies.pack import Pack


def save_head(head: Head, pack: Pack, out: Path) -> None:
    """Rules' weights, temperature, and the examples' vectors by the very model file in ``out``."""
    texts = [text for text, _ in pack.taught()]
    known = SentenceModel(out / MODEL, FOLDER / VOCABULARY)(texts)[:, : -len(CLASSES)]
    np.savez_compressed(
        out / HEAD_FILE,
        rules=head.rules,
        temperature=np.float32(head.temperature),
        texts=np.frombuffer("\n".join(texts).encode(), dtype=np.uint8),
        known=known.astype(np.float16),
    )


if __name__ == "__main__":
    save_head(shipped_head()[0], load_pack("standard", meaning=False), FOLDER)
