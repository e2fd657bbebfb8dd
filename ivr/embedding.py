"""The sentence model -> a function from sentences to vectors and scores. Only this imports onnxruntime and tokenizers.

all-MiniLM-L6-v2, trained further on what callers say (``ivr.training``; docs/judgement.md says on what), as int8 ONNX.
A model that decides what a caller is told is used only if its hash is the one written beside it when it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ivr.errors import ModelError
from ivr.models import file_sha256
from policies.meaning import CLASSES, Vectors

if TYPE_CHECKING:
    from tokenizers import BertWordPieceTokenizer

MAX_TOKENS = 64
"""A spoken sentence is rarely longer; what comes after is judged as a window of its own."""
WIDTH = 384
FOLDER = Path(__file__).parent / "data" / "meaning"
MODEL, VOCABULARY, HASHES = "sentences.onnx", "vocab.txt", "sha256sums.txt"


class SentenceModel:
    """The model in memory; calling it is safe from several threads (onnxruntime and tokenizers both are)."""

    def __init__(self, model: Path, vocabulary: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._tokenizer = word_pieces(vocabulary)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Shape ``(len(texts), 384 + 6)``: the unit vector and the scores of ``policies.meaning.Embed``.

        One sentence at a time: in company it would share the scale of the int8 activations with the others, and a
        verdict must not depend on what else was read at the time.
        """
        out = np.zeros((len(texts), WIDTH + len(CLASSES)), dtype=np.float32)
        for row, each in zip(out, self._tokenizer.encode_batch([text.lower() for text in texts]), strict=True):
            likeness, scores = self._session.run(["likeness", "scores"], {"ids": np.array([each.ids], dtype=np.int32)})
            row[:WIDTH], row[WIDTH:] = likeness[0], scores[0]
        return out


def word_pieces(vocabulary: Path) -> BertWordPieceTokenizer:
    """The tokenizer that the model was trained with: lower case, word pieces, ``MAX_TOKENS`` at most."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


@lru_cache(maxsize=1)
def sentence_model() -> SentenceModel:
    """The model, loaded once a process.

    Raises:
        ModelError: a file is missing, is not the one we know, or cannot be run here. The text says how to mend it.
    """
    return model_in(FOLDER)


def model_in(folder: Path) -> SentenceModel:
    """The model of a folder with its vocabulary and both hashes, as ``sha256sum`` writes them; raises the same."""
    pairs = (line.split() for line in _read(folder / HASHES).splitlines())
    known = {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
    files = [_file(folder / name, known.get(name, "")) for name in (MODEL, VOCABULARY)]
    try:
        return SentenceModel(*files)
    except Exception as exc:  # whatever its runtime raises: words and rules can still judge
        raise ModelError(f"the sentence model {files[0]} cannot be run here: {exc}") from exc


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ModelError(f"the sentence model is not there: no {path} that can be read; {_FIX}") from None


def _file(path: Path, sha256: str) -> Path:
    if not path.is_file():
        raise ModelError(f"the sentence model is not there: no {path}; {_FIX}")
    found = file_sha256(path)
    if found != sha256:
        raise ModelError(f"the sentence model {path} is not the file we know (sha256 {found}); {_FIX}")
    return path


_FIX = "to fix it: pip install --force-reinstall --no-deps firmline"
