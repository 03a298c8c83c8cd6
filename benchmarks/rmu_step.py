"""What a step of RMU costs, beside the same update done plainly: full forward passes, and a frozen one each step.

    python benchmarks/rmu_step.py [--steps N] [--rounds N]

The model has the shape of SmolLM2-135M (30 blocks, width 576, 49,152 tokens) and random weights; 8 hazard and 8 benign
texts a step. Both sides draw the same batches, start from the same weights and take the same AdamW steps on the same
three matrices; their losses are compared at every step. `plain` is what a first implementation does, and what the
authors' code does: a second copy of the model, both run to the logits, the frozen one on every batch. `ours` is the
component `rmu` through the rig, meter and checks included.

    first     every text is new: what the blocks below the trained ones make of it has to be computed
    kept      every text was seen before: that is kept, and so is the frozen model's answer

Seconds are medians of rounds that alternate in one process; a ratio is of the two in the same round. Memory is the
most a process of its own held above what it held once it had the model it was given.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from untaught.core import Budget, Compute, Corpus, Subject
from untaught.corpus.world import split
from untaught.corpus.writing import write_atomically
from untaught.engine.anatomy import blocks
from untaught.engine.batches import Batch
from untaught.engine.compute import begin
from untaught.engine.examples import paired
from untaught.engine.rig import Rig
from untaught.lab.compounds import Compounds
from untaught.lab.start import StartingModel
from untaught.unlearning.rmu import Rmu

KEPT = Path(__file__).parent / "rmu_step.json"
FASTER, SMALLER, EQUAL = 5.0, 0.60, 1e-5
"""What the project promises: times the speed, share of the memory, difference of losses."""
TEXTS = 32
METHOD = Rmu(layer=7, steps=10**6, lr=1e-3, alpha=100.0, batch_size=8, length=64)


def given() -> tuple[Subject, Corpus]:
    """The model, and as many texts of each side that a few steps see all of them."""
    world = Compounds().build(0)
    sides = split(world.documents)
    tokenizer = StartingModel().build(world.documents["text"].to_pylist(), 0).tokenizer
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=8192,
    )  # fmt: skip
    torch.manual_seed(0)
    corpus = Corpus(sides.hazard.slice(0, TEXTS), sides.benign.slice(0, TEXTS))
    return Subject(LlamaForCausalLM(config).eval(), tokenizer), corpus


class Watched(Rig):
    """A rig that keeps the losses and the time of every step."""

    def report(self, step: int, steps: int, terms: dict[str, float], *rest: Any) -> None:
        self.__dict__.setdefault("trail", []).append((time.perf_counter(), terms))
        super().report(step, steps, terms, *rest)


def ours(subject: Subject, corpus: Corpus, steps: int) -> list[tuple[float, dict[str, float]]]:
    """Seconds and losses of each step of the component."""
    rig = Watched(0, "unlearning/rmu", budget=Budget(steps=steps))
    began = time.perf_counter()
    METHOD.apply(subject, corpus, rig)
    return _between(began, rig.__dict__["trail"])


def plain(subject: Subject, corpus: Corpus, steps: int) -> list[tuple[float, dict[str, float]]]:
    """Seconds and losses of each step, done without any saving."""
    rig, layer = Rig(0, "unlearning/rmu"), METHOD.layer
    began = time.perf_counter()
    frozen, model = subject.model, copy.deepcopy(subject.model)
    trained = [block.mlp.down_proj.weight for block in blocks(model)[layer - 2 : layer + 1]]
    model.requires_grad_(False)
    for weight in trained:
        weight.requires_grad_(True)
    optimiser = torch.optim.AdamW(trained, lr=METHOD.lr, weight_decay=0.0, betas=(0.9, 0.95))
    direction = torch.randn(model.config.hidden_size, generator=rig.generator("direction"))
    direction /= direction.norm()
    _, _, batches = paired(subject, corpus, rig, size=METHOD.batch_size, length=METHOD.length)
    norm, trail = None, []
    for _, (hazard, benign) in zip(range(steps), batches, strict=False):
        with torch.no_grad():
            held = _hidden(frozen, benign, layer)
            if norm is None:
                norm = _mean(_hidden(frozen, hazard, layer).norm(dim=-1), hazard)
        pull = (_hidden(model, hazard, layer) - METHOD.steer * norm * direction).square().sum(-1)
        drift = (_hidden(model, benign, layer) - held).square().sum(-1) / held.square().sum(-1)
        terms = {"forget": _mean(pull, hazard) / norm**2, "retain": METHOD.alpha * _mean(drift, benign)}
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        trail.append((time.perf_counter(), {name: float(term.detach()) for name, term in terms.items()}))
    return _between(began, trail)


def _hidden(model: Any, batch: Batch, layer: int) -> torch.Tensor:
    found: list[torch.Tensor] = []
    hook = blocks(model)[layer].register_forward_hook(lambda module, args, output: found.append(output))
    model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    hook.remove()
    return found[0]


def _mean(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    mask = batch.mask[:, 1:]
    return (values[:, 1:] * mask).sum() / mask.sum()


def _between(began: float, trail: list[tuple[float, dict[str, float]]]) -> list[tuple[float, dict[str, float]]]:
    ends = [began, *(at for at, _ in trail)]
    return [(after - before, terms) for before, after, (_, terms) in zip(ends, ends[1:], trail, strict=False)]


SIDES: dict[str, Callable[..., Any]] = {"plain": plain, "ours": ours}


def memory(side: str) -> int:
    """Bytes that a process of its own held at most above what the given model took."""
    command = [sys.executable, __file__, "--memory-of", side]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def held_at_most(side: str) -> int:
    """The same for this process."""
    begin(Compute(device="cpu"))
    subject, corpus = given()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    SIDES[side](subject, corpus, 3)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak[1]) * 1024 - before if peak else 0


def measured(steps: int, rounds: int) -> dict[str, Any]:
    """Everything there is to say."""
    begin(Compute(device="cpu"))
    subject, corpus = given()
    fill = TEXTS // METHOD.batch_size
    taken: dict[str, list[list[float]]] = {"plain": [], "ours": []}
    apart = 0.0
    for _ in range(rounds):
        trails = {side: run(subject, corpus, steps) for side, run in SIDES.items()}
        for (_, one), (_, other) in zip(*trails.values(), strict=True):
            apart = max(apart, *(abs(one[name] - other[name]) / max(1.0, abs(one[name])) for name in one))
        for side, trail in trails.items():
            taken[side].append([seconds for seconds, _ in trail])
    phases = {"first": slice(0, fill), "kept": slice(fill, None), "whole": slice(None)}
    seconds = {
        side: {phase: statistics.median(statistics.mean(r[cut]) for r in rounds_) for phase, cut in phases.items()}
        for side, rounds_ in taken.items()
    }
    faster = {
        phase: sorted(statistics.mean(p[cut]) / statistics.mean(o[cut]) for p, o in zip(*taken.values(), strict=True))
        for phase, cut in phases.items()
    }
    held = {side: memory(side) for side in SIDES}
    weights = sum(p.nbytes for p in subject.model.parameters())
    return {
        "steps": steps, "rounds": rounds, "seconds_a_step": seconds, "times_faster": faster, "loss_difference": apart,
        "given_weights_bytes": weights, "bytes_above_it": held,
        "memory_share": (weights + held["ours"]) / (weights + held["plain"]), "torch": torch.__version__,
    }  # fmt: skip


def main() -> None:
    """Measure, print, keep."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--steps", type=int, default=12)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    how = asked.parse_args()
    if how.memory_of:
        print(held_at_most(how.memory_of))
        return
    found = measured(how.steps, how.rounds)
    found["kept"] = {
        "faster": statistics.median(found["times_faster"]["kept"]) >= FASTER,
        "smaller": found["memory_share"] <= SMALLER,
        "equal": found["loss_difference"] <= EQUAL,
    }
    print(json.dumps(found, indent=1))
    write_atomically(KEPT, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
