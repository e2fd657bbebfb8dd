"""Makes ``ivr/data/vocabulary/spoken_en.txt``: which tokens of Whisper's English vocabulary are ever said.

    python -m ivr.spoken_tokens MODEL_FOLDER WORDS... > ivr/data/vocabulary/spoken_en.txt

``WORDS`` are text files; the first word of each line is taken, the commonest lines of a frequency list first (at most
30,000 a file). The shipped list was made from the frequency list of the package ``symspellpy`` 6.10 (MIT;
``frequency_dictionary_en_82_765.txt``). Packs and rules of judgement add their own words. Kept are, with and without a
capital, the tokens in which these words are written (the 5,000 commonest after a hyphen, too), every number, every name
and abbreviation among the first 32,000 tokens, and the first 2,000 tokens, which spell anything.

A development tool: nothing at run time calls it.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

import tokenizers

from audio.vocabulary import Keep, format_keep

MOST_WORDS = 30_000
HYPHENED_WORDS = 5_000
FIRST_TOKENS = 2_000
NAMES_UNTIL = 32_000
_NAME = re.compile("Ġ[A-Z][a-z]+|Ġ?[A-Z]{1,5}")
_NUMBER = re.compile("Ġ?[0-9]+")
_OURS = ("packs/standard.yaml", "packs/strict.yaml", "packs/patient.yaml", "lexicon.py", "directed.py")


def main(folder: Path, lists: Iterable[Path]) -> str:
    """The text of the list."""
    vocabulary = (folder / "vocabulary.txt").read_bytes()
    tokens = vocabulary.decode().splitlines()
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    kept = set(range(FIRST_TOKENS)) | set(_names(tokens[:NAMES_UNTIL], set(tokens)))
    kept |= {at for at, token in enumerate(tokens) if _NUMBER.fullmatch(token)}
    common = [_first_words(path) for path in lists]
    words = [*(word for found in common for word in found), *sorted(_our_words())]
    written = [*(f" {word}" for word in words), *(f" {word.capitalize()}" for word in words)]
    written += [" £5", "£5", " €5", "€5", " ½", "°"]
    written += [f"-{word}" for found in common for word in found[:HYPHENED_WORDS]]
    for each in tokenizer.encode_batch(written, add_special_tokens=False):
        kept |= set(each.ids)
    remark = f"Tokens of Whisper's English vocabulary that are said on a telephone: {len(kept)} of {len(tokens)}.\n"
    keep = Keep(hashlib.sha256(vocabulary).hexdigest(), frozenset(kept))
    return format_keep(keep, len(tokens), remark + "Made by ivr/spoken_tokens.py; audio/vocabulary.py reads it.")


def _names(tokens: list[str], everything: set[str]) -> Iterator[int]:
    """What is written with a capital only."""
    for at, token in enumerate(tokens):
        if _NAME.fullmatch(token) and "Ġ" + token[1:].lower() not in everything:
            yield at


def _first_words(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [line.split()[0] for line in lines if line.split()][:MOST_WORDS]


def _our_words() -> set[str]:
    texts = (resources.files("policies").joinpath(name).read_text(encoding="utf-8") for name in _OURS)
    return {word.lower() for text in texts for word in re.findall(r"[A-Za-z']+", text)}


if __name__ == "__main__":
    sys.stdout.write(main(Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]]))
