"""What each intervention costs on a GPU, beside a plain Trainer step on the same texts.

    python benchmarks/gpu/interventions.py [--shapes 135M 1B] [--steps N] [--device cuda]

Random weights in the shape of SmolLM2-135M and of a Llama of 1.2 billion parameters; 16 texts of 512 tokens a step,
the same for all. Each contender runs in a process of its own: seconds of a step are the median after the first few,
`tokens` counts what a step trains on (of both kinds, where there are two), memory is the most that CUDA held.

    trainer       transformers.Trainer, full fine-tuning, its own bf16 mixed precision: the peer
    full          finetune, all weights
    top_half      finetune, blocks of the upper half: what the lower half makes of a text is kept
    lora          finetune, LoRA of rank 16
    rmu           the three matrices at a quarter of the depth, with all that is kept
    grad_diff     all weights, a hazard and a benign batch

Without a CUDA device it says so and does nothing. `--device cpu --shapes tiny` runs through all of it in a minute, for
whoever changes this file. The last numbers are in interventions.json beside it, where a GPU was at hand.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from untaught.core import Budget, Compute, Corpus, Document, Subject, documents
from untaught.corpus.writing import write_atomically
from untaught.engine import compute
from untaught.engine.batches import Rows
from untaught.engine.rig import Rig
from untaught.lab.compounds import Compounds
from untaught.lab.start import StartingModel
from untaught.training.finetune import Finetune
from untaught.unlearning.grad_diff import GradDiff
from untaught.unlearning.rmu import Rmu

KEPT = Path(__file__).with_suffix(".json")
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 2_000,
    },
    "135M": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49_152,
    },
    "1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128_256,
    },
}  # fmt: skip
SIZE, LENGTH, TEXTS, WARM = 16, 512, 48, 4
SAME = {"batch_size": SIZE, "length": LENGTH, "steps": 10**6}
OURS = {
    "full": Finetune(lr=1e-5, **SAME),
    "top_half": Finetune(lr=1e-5, lowest=0.5, **SAME),
    "lora": Finetune(lr=1e-4, rank=16, **SAME),
    "rmu": Rmu(lr=1e-4, **SAME),
    "grad_diff": GradDiff(lr=1e-5, **SAME),
}
CONTENDERS = ("trainer", *OURS)


def given(shape: str) -> tuple[Subject, Corpus]:
    """A model with random weights and long texts."""
    world = Compounds().build(0)
    sentences = world.documents["text"].to_pylist()
    tokenizer = StartingModel().build(sentences, 0).tokenizer

    def side(first: int) -> Any:
        whole = (" ".join(sentences[(first + 7 * i + j) % len(sentences)] for j in range(60)) for i in range(TEXTS))
        return documents(Document(f"{first}-{i}", text) for i, text in enumerate(whole))

    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, max_position_embeddings=2048)
    with torch.device(compute.device()):
        model = LlamaForCausalLM(config).to(compute.weights()).eval()
    return Subject(model, tokenizer), Corpus(side(0), side(1000))


class Watched(Rig):
    """A rig that notes when each step ended."""

    def report(self, *rest: Any) -> None:
        _wait()
        self.__dict__.setdefault("ends", []).append(time.perf_counter())
        super().report(*rest)


def ours(name: str, subject: Subject, corpus: Corpus, steps: int) -> tuple[list[float], int]:
    """Seconds of each step of a component, and the tokens of one step."""
    rig = Watched(0, name, budget=Budget(steps=steps))
    OURS[name].apply(subject, corpus, rig)
    ends = rig.__dict__["ends"]
    return [after - before for before, after in zip(ends, ends[1:], strict=False)], rig.spent.tokens // steps


def trainer(subject: Subject, corpus: Corpus, steps: int) -> tuple[list[float], int]:
    """The same for transformers' Trainer on the same rows."""
    rows = [row for row in Rows(subject.tokenizer, corpus.everything(), LENGTH).ids if len(row) == LENGTH]
    ends: list[float] = []

    class Note(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            _wait()
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        how = TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=SIZE, learning_rate=1e-5, report_to=[],
            bf16=compute.now().dtype == "mixed", use_cpu=compute.device().type == "cpu", save_strategy="no",
            disable_tqdm=True, logging_strategy="no", seed=0,
        )  # fmt: skip
        data: Any = [{"input_ids": row, "labels": row, "attention_mask": [1] * LENGTH} for row in rows]
        Trainer(model=subject.model, args=how, train_dataset=data, callbacks=[Note()]).train()
    return [after - before for before, after in zip(ends, ends[1:], strict=False)], SIZE * LENGTH


def _wait() -> None:
    if compute.device().type == "cuda":
        torch.cuda.synchronize()


def one(name: str, shape: str, steps: int, device: str) -> dict[str, Any]:
    """Run a contender in this process."""
    compute.begin(Compute(device=device))
    if compute.device().type == "cuda":
        torch.use_deterministic_algorithms(False)  # the peer does not ask for it either
    subject, corpus = given(shape)
    before = _held()
    seconds, tokens = trainer(subject, corpus, steps) if name == "trainer" else ours(name, subject, corpus, steps)
    step = statistics.median(seconds[min(WARM, len(seconds) - 1) :])
    return {
        "seconds_a_step": step, "tokens_a_step": tokens, "tokens_a_second": tokens / step,
        "bytes_before": before, "peak_bytes": _most(),
        "device": torch.cuda.get_device_name() if compute.device().type == "cuda" else "cpu",
        "dtype": compute.now().dtype,
    }  # fmt: skip


def _held() -> int:
    return torch.cuda.memory_allocated() if compute.device().type == "cuda" else _status("VmRSS")


def _most() -> int:
    return torch.cuda.max_memory_allocated() if compute.device().type == "cuda" else _status("VmHWM")


def _status(line: str) -> int:
    found = re.search(rf"{line}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    """Run every contender on every shape, print, keep."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--shapes", nargs="+", choices=SHAPES, default=["135M", "1B"])
    asked.add_argument("--steps", type=int, default=24)
    asked.add_argument("--device", default="cuda")
    asked.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    how = asked.parse_args()
    if how.only:
        print(json.dumps(one(how.only, how.shapes[0], how.steps, how.device)))
        return
    if how.device.startswith("cuda") and not torch.cuda.is_available():
        print("There is no CUDA device here, so nothing was measured.", file=sys.stderr)
        return
    found: dict[str, dict[str, Any]] = {}
    for shape in how.shapes:
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--only", name, "--shapes", shape, "--steps", str(how.steps)]
            run = subprocess.run([*command, "--device", how.device], check=False, capture_output=True, text=True)
            if run.returncode:
                raise SystemExit(f"{name} on {shape} failed:\n{run.stderr[-3000:]}")
            found.setdefault(shape, {})[name] = json.loads(run.stdout.splitlines()[-1])
            print(f"{shape} {name}: {found[shape][name]}", file=sys.stderr)
        for measures in found[shape].values():
            peer = found[shape]["trainer"]
            measures["speed_against_trainer"] = measures["tokens_a_second"] / peer["tokens_a_second"]
            measures["memory_against_trainer"] = measures["peak_bytes"] / peer["peak_bytes"]
    print(json.dumps(found, indent=1))
    if how.device.startswith("cuda"):
        write_atomically(KEPT, json.dumps({"torch": torch.__version__, "shapes": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
