"""The network that learns what callers mean: all-MiniLM-L6-v2 and two readings of it, trained together.

Scores of the classes come from the last layer (mean, maximum and first token) plus what the rules found; a likeness
vector, kept near the untrained model's by a second loss, comes from the last two layers and serves the pack's examples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModel

from ivr.embedding import WIDTH
from ivr.training.graph import Weights
from policies.meaning import CLASSES, RULE_WIDTH, Vectors

EPOCHS, BATCH, POOL = 4, 32, 24
"""Batches are made of lines of about one length, sorted within a pool of this many batches."""
RATE, WARM_UP, LAYER_DECAY = 1.5e-4, 0.06, 0.85
"""Peak learning rate of the last layer, the share of steps in which it is reached, and what each layer below gets."""
HEAD_RATE, LIKENESS_RATE = 5.0, 2.0
DROPOUT, RULES_UNSEEN, SMOOTHING = 0.1, 0.15, 0.04
"""``RULES_UNSEEN``: share of lines learnt without the rules' findings, so that the model does not lean on them."""
LIKENESS = 5.0
"""Weight of staying near the untrained model's likeness."""
AVERAGED, KEEPING = 0.5, 0.99
"""The weights shipped are a running average over the steps after this share of them (Polyak and Juditsky 1992)."""

Progress = Callable[[int, int], None]
Rows = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Learnt:
    """Lines as the network takes them: token ids, rule features, class numbers, weights."""

    ids: Sequence[Sequence[int]]
    rules: Vectors
    labels: Rows
    weights: Vectors


class Network(torch.nn.Module):  # type: ignore[misc]  # torch has no types where it is not installed
    """``base`` is a folder with the untrained model's weights (transformers' layout)."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.enc = AutoModel.from_pretrained(base, attn_implementation="eager")
        self.enc.embeddings.requires_grad_(False)
        self.layers = int(self.enc.config.num_hidden_layers)
        self.like = torch.nn.Linear(2 * WIDTH, WIDTH)
        self.like.weight.data = torch.cat([torch.zeros(WIDTH, WIDTH), torch.eye(WIDTH)], 1)
        self.cls = torch.nn.Linear(3 * WIDTH, len(CLASSES))
        torch.nn.init.normal_(self.cls.weight, std=0.02)
        self.rul = torch.nn.Linear(RULE_WIDTH, len(CLASSES), bias=False)
        for zeroed in (self.like.bias, self.cls.bias, self.rul.weight):
            torch.nn.init.zeros_(zeroed)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores without the rules' part, shape ``(n, 6)``; likeness, shape ``(n, 384)``, not yet of unit length."""
        inner, last = self.enc(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-3::2]
        there = mask[..., None].to(last.dtype)
        means = [(states * there).sum(1) / there.sum(1) for states in (inner, last)]
        pooled = torch.cat([means[1], (last + (there - 1) * 1e4).max(1).values, last[:, 0]], 1)
        return self.cls(F.dropout(pooled, DROPOUT, self.training)).float(), self.like(torch.cat(means, 1)).float()


def train(network: Network, lines: Learnt, seed: int, progress: Progress) -> None:
    """Learn ``lines`` in place; one thread, bfloat16 where the processor has it (4 ms a line and epoch)."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    before = likeness_of(network, lines.ids)
    groups = list(_groups(network))
    optimiser = torch.optim.AdamW(groups, fused=True)
    steps = EPOCHS * math.ceil(len(lines.ids) / BATCH)
    average: dict[str, torch.Tensor] = {}
    network.train()
    for step, rows in enumerate(rows for _ in range(EPOCHS) for rows in _shuffled(lines.ids, random)):
        share = min(1.0, (step + 1) / (WARM_UP * steps)) * (1 - step / steps)
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * share
        optimiser.zero_grad()
        loss = _loss(network, lines, rows, before)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if step > AVERAGED * steps:
            _blend(average, network)
        progress(step + 1, steps)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.copy_(average.get(name, weight))
    network.eval()


def scores_of(network: Network, lines: Learnt) -> Vectors:
    """Scores with the rules' part, shape ``(n, 6)``, in the lines' order."""
    out = np.zeros((len(lines.ids), len(CLASSES)), dtype=np.float32)
    network.eval()
    with torch.no_grad():
        for rows in _sorted(lines.ids):
            scores, _ = network(*_padded(lines.ids, rows))
            out[rows] = (scores + network.rul(torch.from_numpy(lines.rules[rows]))).numpy()
    return out


def likeness_of(network: Network, ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """Unit vectors, shape ``(n, 384)``."""
    out = torch.zeros(len(ids), WIDTH)
    network.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for rows in _sorted(ids):
            out[rows] = F.normalize(network(*_padded(ids, rows))[1])
    return out


def weights_of(network: Network) -> Weights:
    """Everything by name, for ``ivr.training.graph``."""
    return {name: weight.numpy().astype(np.float32) for name, weight in network.state_dict().items()}


def _loss(network: Network, lines: Learnt, rows: Rows, before: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, likeness = network(*_padded(lines.ids, rows))
    seen = (torch.rand(len(rows), 1) > RULES_UNSEEN).float()
    scores = scores + network.rul(torch.from_numpy(lines.rules[rows]) * seen)
    wanted = F.one_hot(torch.from_numpy(lines.labels[rows]), len(CLASSES)) * (1 - SMOOTHING) + SMOOTHING / len(CLASSES)
    wrong = -(F.log_softmax(scores, 1) * wanted).sum(1)
    drift = 1 - (F.normalize(likeness) * before[rows]).sum(1)
    return (wrong * torch.from_numpy(lines.weights[rows])).mean() + LIKENESS * drift.mean()


def _groups(network: Network) -> Iterator[dict[str, object]]:
    """One parameter group a weight: layers nearer to the input learn more slowly (Howard and Ruder 2018)."""
    for name, weight in network.named_parameters():
        if not weight.requires_grad:
            continue
        layer = re.search(r"encoder\.layer\.(\d+)\.", name)
        rate = HEAD_RATE if not name.startswith("like") else LIKENESS_RATE
        if name.startswith("enc."):
            rate = LAYER_DECAY ** (network.layers - 1 - (int(layer[1]) if layer else -1))
        yield {"params": [weight], "peak": RATE * rate, "weight_decay": 0.01 if weight.ndim > 1 else 0.0}


def _blend(average: dict[str, torch.Tensor], network: Network) -> None:
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            here = weight.detach()
            average[name] = average[name] * KEEPING + here * (1 - KEEPING) if name in average else here.clone()


def _shuffled(ids: Sequence[Sequence[int]], random: np.random.Generator) -> Iterator[Rows]:
    order, batches = random.permutation(len(ids)), []
    for first in range(0, len(order), BATCH * POOL):
        pool = sorted(order[first : first + BATCH * POOL].tolist(), key=lambda at: len(ids[at]))
        batches += [np.array(pool[at : at + BATCH]) for at in range(0, len(pool), BATCH)]
    for at in random.permutation(len(batches)):
        yield batches[at]


def _sorted(ids: Sequence[Sequence[int]]) -> Iterator[Rows]:
    order = np.array(sorted(range(len(ids)), key=lambda at: len(ids[at])), dtype=np.int64)
    return (order[at : at + 2 * BATCH] for at in range(0, len(order), 2 * BATCH))


def _padded(ids: Sequence[Sequence[int]], rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    some = [ids[at] for at in rows.tolist()]
    out = torch.zeros(len(some), max(map(len, some)), dtype=torch.long)
    mask = torch.zeros_like(out)
    for row, each in enumerate(some):
        out[row, : len(each)], mask[row, : len(each)] = torch.tensor(each), 1
    return out, mask
