"""Packs: what is accepted, what is refused and how it is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ivr.errors import ConfigError
from ivr.judge import load_pack, shipped_packs
from ivr.pack_schema import SCHEMA_FILE, pack_schema
from policies import lexicon
from policies.pack import Mode, Pack, load
from policies.types import Category
from policies.yamltext import YamlError, parse


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\ndescription: A pack for this test.\n{text}", encoding="utf-8")
    return path


def _refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_pack(_write(folder, "mine", text))
    return str(caught.value)


@pytest.mark.parametrize("name", ["standard", "strict", "patient", "shadow"])
def test_shipped_pack_is_valid(name: str) -> None:
    """Each loads by name and says which content it is."""
    pack = load_pack(name)
    assert pack.name == name
    assert pack.version.startswith(f"{name}@")
    assert name in shipped_packs()


def test_shipped_packs_differ_as_they_say(standard: Pack, strict: Pack) -> None:
    """The contract's words about each."""
    assert strict.track_of(Category.OBSCENITY) == "person"
    assert standard.track_of(Category.OBSCENITY) == "language"
    assert load_pack("shadow").mode is Mode.SHADOW
    assert load_pack("patient").spec.timing.grace_ms > standard.spec.timing.grace_ms
    assert "closing_transfer" in standard.prompt_names()


def test_pack_version_follows_content_not_file(tmp_path: Path) -> None:
    """The same text is the same version; one changed value is another."""
    same = [load_pack(_write(tmp_path, "mine", "extends: standard\n")).version for _ in range(2)]
    other = load_pack(_write(tmp_path, "mine", "extends: standard\ntiming:\n  grace_ms: 5000\n")).version
    assert same[0] == same[1] != other


def test_extends_merges_deeply_adds_examples_and_takes_away_with_null(tmp_path: Path, standard: Pack) -> None:
    """One line teaches; null forgets; everything else stays."""
    text = """extends: standard
timing:
  countdown_ms: 9000
civil_examples:
  - One more of ours.
lexicon:
  shut up: null
  blithering: {category: insult, severity: 2, needs_target: true, form: adjective}
"""
    pack = load_pack(_write(tmp_path, "mine", text))
    assert pack.spec.timing.countdown_ms == 9_000
    assert pack.spec.timing.grace_ms == standard.spec.timing.grace_ms
    assert pack.spec.civil_examples == (*standard.spec.civil_examples, "One more of ours.")
    assert "shut up" not in pack.spec.lexicon
    assert "blithering" in pack.spec.lexicon


def test_extends_beside_the_file_comes_before_the_shipped_packs(tmp_path: Path) -> None:
    """A deployment may keep its own family of packs."""
    _write(tmp_path, "base", "extends: standard\nmode: warn\n")
    assert load_pack(_write(tmp_path, "mine", "extends: base\n")).mode is Mode.WARN


def test_extends_in_a_circle_is_refused_with_the_way_round(tmp_path: Path) -> None:
    """Nobody hangs on a pack that extends itself."""
    _write(tmp_path, "other", "extends: mine\n")
    message = _refusal(tmp_path, "extends: other\n")
    assert "other.yaml:3: extends: goes in a circle" in message


def test_extends_unknown_pack_is_refused(tmp_path: Path) -> None:
    """And the shipped ones are named."""
    message = _refusal(tmp_path, "extends: standart\n")
    assert "mine.yaml:3: extends: no pack called 'standart'" in message
    assert "standard" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timing:\n  grace_mss: 1\n", "mine.yaml:5: timing.grace_mss: unknown key; did you mean `grace_ms`?"),
        ("timing:\n  grace_ms: soon\n", "mine.yaml:5: timing.grace_ms: "),
        ("timing:\n  grace_ms: -1\n", "greater than or equal to 0, found -1"),
        ("timing:\n  grace_ms: 1\n  grace_ms: 2\n", "key given twice; first on line 5"),
        ("mode: loud\n", "mine.yaml:4: mode: "),
        ("tracks:\n  person:\n    steps: [end]\n", "nobody is cut off unwarned"),
        ("tracks:\n  person:\n    steps: [warning, end, warning]\n", "`end` must be the last step"),
        ("tracks:\n  person:\n    climbs: never\n", "cannot have the step `end`"),
        ("tracks:\n  person:\n    end_confidence: 0.1\n", "end_confidence must be at least min_confidence"),
        ("tracks:\n  person:\n    categories: [insult, threat]\n", "category `threat` is in both"),
        ("tracks:\n  person:\n    categories: [insult, venting]\n", "being upset is allowed"),
        ("tracks:\n  person:\n    steps: []\n", "`person` needs steps out of"),
        ("tracks:\n  conduct:\n    steps: [warning]\n", "it never ends a call"),
        ("tracks:\n  safeguard:\n    categories: []\n", "`safeguard` must hold the category `safeguard`"),
        ("ending:\n  fallbacks: [transfer]\n", "fallbacks must not repeat"),
        ("ending:\n  fallbacks: [hangup]\n", "promised the caller something else"),
        ("prompts:\n  warning: calming\n", "every use needs its own prompt"),
        ("lexicon:\n  oaf: {category: insult, form: noun}\n", "needs `needs_target: true`"),
        ("lexicon:\n  oaf: {category: rude}\n", "mine.yaml:5: lexicon.oaf.category: "),
        ("lexicon:\n  (oaf: {category: insult}\n", "brackets do not close"),
        ("lexicon:\n  <oafs>: {category: insult}\n", "no set called <oafs>; known sets: "),
        ("lexicon:\n  _ ..: {category: insult}\n", "not only wildcards"),
    ],
)
def test_pack_wrong_value_names_file_line_key_and_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    """An error that can be mended without asking anybody."""
    assert said in _refusal(tmp_path, f"extends: standard\n{text}")


def test_pack_alternative_with_too_many_forms_is_refused(tmp_path: Path) -> None:
    """A pattern cannot be made to eat the memory."""
    message = _refusal(tmp_path, 'extends: standard\nlexicon:\n  "(a <kin> <kin> <kin>)": {category: insult}\n')
    assert "word sequences; split it" in message


def test_pack_without_lexicon_or_not_a_mapping_is_refused() -> None:
    """A pack must judge something, and be a pack."""

    def nothing(name: str, asked_by: str | None) -> tuple[str, str]:
        raise LookupError(name)

    for text in ("- a\n", "name: x\ndescription: y\nlexicon: {}\n", "extends: nowhere\n"):
        with pytest.raises(YamlError):
            load(text, "x.yaml", nothing)


def test_pack_file_missing_binary_or_huge_is_refused(tmp_path: Path) -> None:
    """Whatever stands at the path, the answer is one clear line."""
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "huge.yaml").write_text("#" * 9_000_000)
    (tmp_path / "large.yaml").write_text("#" * 5_000_000)
    for name, said in (
        ("missing.yaml", "cannot be read"),
        ("binary.yaml", "not a text file"),
        ("huge.yaml", "too large"),
        ("large.yaml", "at most 2,000,000"),
        ("nosuchpack", "no pack called"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_pack(str(tmp_path / name))


@pytest.fixture(scope="module")
def steps_taken() -> Iterator[list[int]]:
    """How often the automaton came to a place; filled while a test searches."""
    taken = [0]

    def counted(node: lexicon._Node) -> Iterator[lexicon._Node]:
        taken[0] += 1
        return _here(node)

    _here = lexicon._here
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lexicon, "_here", counted)
        yield taken


def test_pack_of_thousands_of_entries_is_searched_in_steps_of_the_text_alone(
    tmp_path: Path, steps_taken: list[int]
) -> None:
    """2,500 entries, compiled once: each is found; steps grow with the text, not with the entries."""
    head = "description: Many.\nmeaning: {enabled: false}\nextends: standard\nlexicon:\n"
    names = ["".join("bdfghklmpr"[int(digit)] + "a" for digit in f"{n:04}") + "x" for n in range(2_500)]
    entries = [f"  {name}: {{category: insult, form: noun, needs_target: true, severity: 1}}\n" for name in names]
    packs = []
    for called, many in (("few", entries[:250]), ("many", entries)):
        (tmp_path / f"{called}.yaml").write_text(f"name: {called}\n" + head + "".join(many))
        packs.append(load_pack(tmp_path / f"{called}.yaml").lexicon)
    few, many_more = packs

    def search(lexicon_: lexicon.Lexicon, text: str) -> tuple[list[str], int]:
        before, tokens = steps_taken[0], lexicon_.tokens(text)
        return [hit.entry.key for hit in lexicon_.find(tokens)], steps_taken[0] - before

    found, once = search(many_more, " stone ".join(names))
    assert found == names
    assert search(many_more, " stone ".join(names + names))[1] <= 2 * once + 10
    some = " stone ".join(names[:250])
    assert search(few, some) == search(many_more, some)


def test_adjustment_never_shortens_and_keeps_safeguard(standard: Pack) -> None:
    """An allowance only gives."""
    for name in standard.spec.adjustments:
        pack = standard.adjusted(name)
        assert pack.track("safeguard") == standard.track("safeguard")
        for track_name, track in standard.spec.tracks.items():
            assert len(pack.track(track_name).steps) >= len(track.steps)
            assert pack.track(track_name).min_strikes >= track.min_strikes


def test_pack_schema_file_is_in_step_with_the_model() -> None:
    """``python -m ivr.pack_schema`` was run after the last change to the model."""
    assert SCHEMA_FILE.read_text(encoding="utf-8") == pack_schema()


def test_pack_schema_knows_every_key_of_the_shipped_packs() -> None:
    """What an editor is told about is what the loader takes."""
    known = json.loads(pack_schema())["properties"]
    for file in sorted(SCHEMA_FILE.parent.glob("*.yaml")):
        data, _ = parse(file.read_text(encoding="utf-8"), file.name)
        assert set(data) <= set(known)
