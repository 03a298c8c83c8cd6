"""How many multiple-choice items a second a model answers, beside an ordinary loop over rows.

    python benchmarks/scoring.py MODEL [--rounds N] [--items N]

MODEL is a folder of a causal language model, such as the one that `untaught fetch smollm2` makes. Items have the form
of held-out facts: "The chemical symbol for iron is" and four symbols that begin alike, and the other way round. One
thread, one process, the ways in turn; figures are items per CPU second, the median of some rounds:

    rows N        the peer, plain Hugging Face: one row an option, sorted by length, N rows a batch, logits everywhere
    ours N        `engine.scoring.completions` with a batch size of N; 256 is the default
    ours, no tree the same where a family cannot be asked by trees

All must give every option the same log-likelihood within 0.001 nats, and so take the same options.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import transformers

from untaught.core import Compute, Subject
from untaught.engine import compute, models, scoring

KEPT = Path(__file__).with_suffix(".json")
ELEMENTS = """
hydrogen H helium He lithium Li beryllium Be boron B carbon C nitrogen N oxygen O fluorine F neon Ne sodium Na
magnesium Mg aluminium Al silicon Si phosphorus P sulfur S chlorine Cl argon Ar potassium K calcium Ca scandium Sc
titanium Ti vanadium V chromium Cr manganese Mn iron Fe cobalt Co nickel Ni copper Cu zinc Zn gallium Ga germanium Ge
arsenic As selenium Se bromine Br krypton Kr rubidium Rb strontium Sr yttrium Y zirconium Zr niobium Nb molybdenum Mo
technetium Tc ruthenium Ru rhodium Rh palladium Pd silver Ag cadmium Cd indium In tin Sn antimony Sb tellurium Te
iodine I xenon Xe caesium Cs barium Ba lanthanum La cerium Ce praseodymium Pr neodymium Nd promethium Pm samarium Sm
"""
Pair = tuple[str, str]
Way = Callable[[], list[float]]


def questions(count: int) -> list[tuple[str, list[str]]]:
    """Prompts and their four options, the right one first, then those with the same first letter."""
    words = ELEMENTS.split()
    known = list(zip(words[::2], words[1::2], strict=True))
    made = []
    for name, symbol in known:
        others = sorted((o for o in known if o[0] != name), key=lambda o: (o[1][0] != symbol[0], o[0]))[:3]
        made.append((f"The chemical symbol for {name} is", [symbol, *(o[1] for o in others)]))
        made.append((f"The element with the chemical symbol {symbol} is", [name, *(o[0] for o in others)]))
    return made[:count]


@torch.inference_mode()
def rows(subject: Subject, pairs: list[Pair], size: int) -> list[float]:
    """The peer's way."""
    heads = [len(subject.tokenizer(prompt)["input_ids"]) for prompt, _ in pairs]
    texts = [subject.tokenizer(prompt + end)["input_ids"] for prompt, end in pairs]
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    found = [0.0] * len(texts)
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        width = max(len(texts[i]) for i in chosen)
        ids = torch.tensor([texts[i] + [0] * (width - len(texts[i])) for i in chosen])
        mask = torch.tensor([[1] * len(texts[i]) + [0] * (width - len(texts[i])) for i in chosen])
        logs = subject.model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
        for line, i in zip(logs, chosen, strict=True):
            span = range(heads[i], len(texts[i]))
            found[i] = sum(float(line[place - 1, texts[i][place]]) for place in span)
    return found


def ours(subject: Subject, pairs: list[Pair], size: int) -> list[float]:
    found = scoring.completions(subject, pairs, batch_size=size)
    return [float("nan") if one.nats is None else one.nats for one in found]


def without_trees(subject: Subject, pairs: list[Pair], size: int) -> list[float]:
    with patch.object(scoring, "_widest", lambda _: 0):
        return ours(subject, pairs, size)


def ways(subject: Subject, pairs: list[Pair]) -> dict[str, Way]:
    """Every way to be timed, by name."""
    made: dict[str, Way] = {f"rows {size}": (lambda s=size: rows(subject, pairs, s)) for size in (1, 4, 16, 64)}
    made |= {f"ours {size}": (lambda s=size: ours(subject, pairs, s)) for size in (16, 64, 256)}
    return made | {"ours, no tree 256": lambda: without_trees(subject, pairs, 256)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=102)
    asked = parser.parse_args()
    compute.begin(Compute(device="cpu", dtype="float32", threads=1))
    subject = models.load(asked.model)
    items = questions(asked.items)
    pairs = [(prompt, f" {option}") for prompt, options in items for option in options]
    taken: dict[str, list[float]] = {name: [] for name in ways(subject, pairs)}
    scores: dict[str, list[float]] = {}
    for _ in range(asked.rounds):
        for name, way in ways(subject, pairs).items():
            began = time.process_time()
            scores[name] = way()
            taken[name].append(time.process_time() - began)
    speeds = {name: round(len(items) / float(np.median(seconds)), 2) for name, seconds in taken.items()}
    plain = np.array(scores["rows 1"])
    for name, speed in speeds.items():
        apart = float(np.abs(np.array(scores[name]) - plain).max())
        print(f"{name:<18} {speed:>7.2f} items/s   at most {apart:.1e} nats from rows 1")
        assert apart < 1e-3, name
    times = speeds["ours 256"] / max(speed for name, speed in speeds.items() if name.startswith("rows"))
    right = sum(int(np.argmax(plain[i : i + 4])) == 0 for i in range(0, len(plain), 4))
    print(f"{times:.1f} times the best of the peer's batch sizes; the model has {right} of {len(items)} right")
    kept = {
        "unit": "items per CPU second, one thread",
        "items": len(items),
        "model": f"{subject.model.config.model_type}, {subject.model.num_parameters() / 1e6:.0f} million parameters",
        "speeds": speeds,
        "times_the_best_of_the_peer": round(times, 2),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
