"""A speech model with only the tokens that people say: each decoded token costs a sixth less, and no word is lost.

Every step of the decoder multiplies its state with all the 51,864 rows of Whisper's vocabulary: in ``tiny`` those are
two thirds of all weights read for a token. A quarter of the rows are for what nobody says on a telephone: source code,
other scripts, rare syllables, time stamps. So the rows of the tokens that are said are copied to a smaller model before
it is loaded. Which ones is data (``ivr/data/vocabulary``). Every rarer word stays sayable, in pieces: the vocabulary
is one of byte pairs (Sennrich et al. 2016), and the pieces of what is kept are kept. But a model writes a word as it
was taught to, and one whose token is gone comes out misspelt: measured, with 22,000 tokens decoding costs a third less
and one or two points of WER; with the 40,000 that are kept, a tenth less and nothing. So the list is generous.

Pure: from the files of a model, as bytes, to those of the smaller one. The owner reads and loads them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

NEEDED = ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")
"""Files of a CTranslate2 model whose vocabulary can be made smaller."""

_FORMAT = 6


class VocabularyError(ValueError):
    """The files are not laid out as known; the model can still be used whole."""


@dataclass(slots=True)
class _Reader:
    """Reads the little-endian fields of ``model.bin`` one after the other."""

    raw: memoryview
    at: int = 0

    def number(self, code: str) -> int:
        (found,) = struct.unpack_from("<" + code, self.raw, self.at)
        self.at += struct.calcsize(code)
        return int(found)

    def bytes(self, count: int) -> memoryview:
        if self.at + count > len(self.raw):
            raise VocabularyError("model.bin is cut short")
        found = self.raw[self.at : self.at + count]
        self.at += count
        return found

    def text(self) -> memoryview:
        return self.bytes(self.number("H"))


@dataclass(frozen=True, slots=True)
class Keep:
    """Tokens to keep of one vocabulary, which is known by the SHA-256 of its ``vocabulary.txt``."""

    sha256: str
    tokens: frozenset[int]


def parse_keep(text: str) -> Keep:
    """The list as it is shipped: lines with ``#`` are remarks, the first other line is the vocabulary's hash, the rest
    is one hexadecimal number whose bits, the highest first, say of each token whether it is kept.

    :raises VocabularyError: it is none.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(lines[1:])), np.uint8))
        return Keep(lines[0], frozenset(int(at) for at in np.flatnonzero(bits)))
    except (ValueError, IndexError) as error:
        raise VocabularyError(f"not a list of tokens: {error}") from error


def format_keep(keep: Keep, tokens: int, remark: str) -> str:
    """What :func:`parse_keep` reads. ``tokens``: how many the whole vocabulary has."""
    bits = np.zeros(tokens, np.uint8)
    bits[sorted(keep.tokens)] = 1
    digits = np.packbits(bits).tobytes().hex()
    rows = [digits[at : at + 112] for at in range(0, len(digits), 112)]
    return "\n".join([*(f"# {line}" for line in remark.splitlines()), keep.sha256, *rows, ""])


def smaller(files: Mapping[str, bytes], keep: Keep) -> dict[str, bytes]:
    """The same model with the tokens of ``keep``, its special tokens, and the pieces that they are merged from.

    :param files: at least :data:`NEEDED`.
    :raises VocabularyError: a file is missing or laid out in another way, or the list is for another vocabulary.
    """
    missing = [name for name in NEEDED if name not in files]
    if missing:
        raise VocabularyError(f"no {', '.join(missing)}")
    if hashlib.sha256(files["vocabulary.txt"]).hexdigest() != keep.sha256:
        raise VocabularyError("the list of tokens is for another vocabulary")
    tokens = files["vocabulary.txt"].decode().splitlines()
    try:
        tokenizer, config = json.loads(files["tokenizer.json"]), json.loads(files["config.json"])
        special = {each["id"] for each in tokenizer["added_tokens"]}
        kept = _closed(keep.tokens | special, tokens, tokenizer["model"]["merges"])
        new = {old: at for at, old in enumerate(kept)}
        made = {
            "model.bin": _fewer_rows(files["model.bin"], len(tokens), kept),
            "config.json": json.dumps(_renumbered(config, new)).encode(),
            "tokenizer.json": json.dumps(_tokenizer(tokenizer, new)).encode(),
            "vocabulary.txt": "".join(f"{tokens[at]}\n" for at in kept).encode(),
        }
    except (KeyError, TypeError, AttributeError, IndexError, json.JSONDecodeError, struct.error) as error:
        raise VocabularyError(f"{type(error).__name__}: {error}") from error
    return {**files, **made}


def _pairs(merges: list[Any]) -> Iterator[tuple[str, str]]:
    for merge in merges:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        yield first, second


def _closed(keep: frozenset[int], tokens: list[str], merges: list[Any]) -> list[int]:
    """With the pieces that the kept ones are merged from, so that text can be encoded as before."""
    index = {token: at for at, token in enumerate(tokens)}
    kept = set(keep)
    # The last merges first: their pieces are merges of earlier ones.
    for first, second in reversed(list(_pairs(merges))):
        if index[first + second] in kept:
            kept |= {index[first], index[second]}
    return sorted(kept)


def _tokenizer(tokenizer: dict[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    model = tokenizer["model"]
    vocabulary = {token: new[at] for token, at in model["vocab"].items() if at in new}
    merges = [
        merge
        for merge, (first, second) in zip(model["merges"], _pairs(model["merges"]), strict=True)
        if {first, second, first + second} <= vocabulary.keys()
    ]
    added = [{**each, "id": new[each["id"]]} for each in tokenizer["added_tokens"] if each["id"] in new]
    return {
        **tokenizer,
        "model": {**model, "vocab": vocabulary, "merges": merges},
        "added_tokens": added,
        # Only for text with its special tokens round it, which nobody here asks for.
        "post_processor": None,
    }


def _renumbered(config: dict[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    lists = ("suppress_ids", "suppress_ids_begin", "lang_ids")
    return config | {name: [new[at] for at in config[name] if at in new] for name in lists if name in config}


def _fewer_rows(raw: bytes, rows: int, keep: list[int]) -> bytes:
    """``model.bin`` of CTranslate2 (model_spec.py, version 6) with these rows only of whatever has one a token."""
    reader = _Reader(memoryview(raw))
    version = reader.number("I")
    if version != _FORMAT:
        raise VocabularyError(f"model.bin has version {version}, known is {_FORMAT}")
    out: list[Any] = [struct.pack("<I", version)]
    name, revision, count = reader.text(), reader.number("I"), reader.number("I")
    out += [struct.pack("<H", len(name)), name, struct.pack("<II", revision, count)]
    found = 0
    for _ in range(count):
        variable = reader.text()
        shape = [reader.number("I") for _ in range(reader.number("B"))]
        kind, size = reader.number("B"), reader.number("I")
        data: Any = reader.bytes(size)
        if shape and shape[0] == rows:
            data = np.frombuffer(data, np.uint8).reshape(rows, -1)[keep].tobytes()
            shape[0] = len(keep)
            found += 1
        out += [struct.pack("<H", len(variable)), variable, struct.pack(f"<B{len(shape)}I", len(shape), *shape)]
        out += [struct.pack("<BI", kind, len(data)), data]
    if not found:
        raise VocabularyError(f"model.bin has nothing with {rows} rows")
    return b"".join([*out, reader.raw[reader.at :]])
