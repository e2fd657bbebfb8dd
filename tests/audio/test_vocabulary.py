"""The model without the tokens that nobody says: the same words, at less cost, or the model whole."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from audio.transcribe import prepare
from audio.types import Pcm, Segment
from audio.vocabulary import NEEDED, Keep, VocabularyError, format_keep, parse_keep, smaller
from audio.whisper import Decoded, ShortContextWhisper, Task
from ivr.asr_worker import SPOKEN_TOKENS
from ivr.models import ResolvedModel

TEXTS = (
    "You people are completely useless.",
    "I have been waiting for forty minutes and nobody has called me back.",
    "My broadband has been down since last Tuesday, can you please check the order?",
    "This shitty toaster is from Manchester.",
)


@pytest.fixture(scope="module")
def files(speech_model: ResolvedModel) -> dict[str, bytes]:
    """Those of the shipped model."""
    return {name: (Path(speech_model.path) / name).read_bytes() for name in NEEDED}


@pytest.fixture(scope="module")
def keep() -> Keep:
    """The shipped list."""
    return parse_keep(resources.files("ivr").joinpath(SPOKEN_TOKENS).read_text())


@pytest.mark.model
def test_model_without_unsaid_tokens_hears_what_the_whole_one_hears(
    speech_model: ResolvedModel, files: dict[str, bytes], keep: Keep, say: Callable[..., Pcm], tmp_path: Path
) -> None:
    """Text, scores and word times; with a sentence before it, too, which has to be encoded."""
    segments = [Segment(samples, 8000, 0, 0, 0) for samples in map(say, TEXTS)]
    heard: dict[str, list[Decoded]] = {}
    sizes = {}
    for name, raw in smaller(files, keep).items():
        (tmp_path / name).write_bytes(raw)
    for name, folder in {"whole": speech_model.path, "spoken": str(tmp_path)}.items():
        whisper = ShortContextWhisper(folder, initial_prompt="This is a rotten service.")
        assert whisper.fallback is None
        sizes[name] = whisper.tokens
        heard[name] = whisper.decode([Task(prepare(each), timed=True) for each in segments])
    assert sizes["spoken"] < 0.8 * sizes["whole"]
    for whole, spoken in zip(heard["whole"], heard["spoken"], strict=True):
        assert spoken.text == whole.text
        assert spoken.avg_logprob == pytest.approx(whole.avg_logprob, abs=0.1)
        assert spoken.no_speech_prob == pytest.approx(whole.no_speech_prob, abs=0.05)
        assert [word.text for word in spoken.words] == [word.text for word in whole.words]
        assert [word.end_ms for word in spoken.words] == pytest.approx([word.end_ms for word in whole.words], abs=60)


def test_every_rarer_word_can_still_be_written(files: dict[str, bytes], keep: Keep) -> None:
    """In pieces: nothing becomes unsayable, and the tokens keep their order, special ones last."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_buffer(smaller(files, keep)["tokenizer.json"])
    for text in (" Siobhan's Llanfairpwll fibromyalgia – naïve 日本", " 47,112.60"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text
    special = [tokenizer.token_to_id(f"<|{name}|>") for name in ("endoftext", "startoftranscript", "notimestamps")]
    assert special == sorted(special)
    assert special[0] == len(json.loads(smaller(files, keep)["tokenizer.json"])["model"]["vocab"]) - 1


def test_suppressed_tokens_stay_suppressed_under_their_new_numbers(files: dict[str, bytes], keep: Keep) -> None:
    """The same tokens by name, as far as they are still there."""
    before, after = files["vocabulary.txt"].decode().splitlines(), smaller(files, keep)
    left = after["vocabulary.txt"].decode().splitlines()
    old, new = json.loads(files["config.json"]), json.loads(after["config.json"])
    for name in ("suppress_ids", "suppress_ids_begin"):
        assert [left[at] for at in new[name]] == [before[at] for at in old[name] if before[at] in set(left)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vocabulary.txt": b"a\nb\n"}, "another vocabulary"),
        ({"model.bin": struct.pack("<I", 9)}, "version 9"),
        ({"model.bin": b""}, "unpack"),
        ({"tokenizer.json": b"{}"}, "added_tokens"),
        ({"tokenizer.json": b"["}, "JSON"),
    ],
)
def test_model_laid_out_in_another_way_is_left_whole(
    files: dict[str, bytes], keep: Keep, change: dict[str, bytes], says: str
) -> None:
    """An error for the owner, who then loads the folder as it is."""
    with pytest.raises(VocabularyError, match=says):
        smaller({**files, **change}, keep)


def test_model_cut_short_is_refused(files: dict[str, bytes], keep: Keep) -> None:
    """Half a file must not become a model of noise."""
    with pytest.raises(VocabularyError, match="cut short"):
        smaller({**files, "model.bin": files["model.bin"][:1_000_000]}, keep)
    with pytest.raises(VocabularyError, match=r"no tokenizer\.json"):
        smaller({name: raw for name, raw in files.items() if name != "tokenizer.json"}, keep)


def test_list_of_tokens_is_read_as_written() -> None:
    """Also where the number of tokens is no multiple of eight."""
    keep = Keep("ab" * 32, frozenset({0, 7, 8, 900}))
    assert parse_keep(format_keep(keep, 901, "why\nand how")) == keep
    for wrong in ("", "# only a remark", "abc\nxyz"):
        with pytest.raises(VocabularyError):
            parse_keep(wrong or "\n")
