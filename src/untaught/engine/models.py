"""Models: load, save, copy."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..core import Subject, UserError, Wrap
from . import compute

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNSAFE = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
"""Files that run code when they are loaded."""


def load(folder: Path, wrap: Wrap | None = None) -> Subject:
    """A subject from an ordinary `save_pretrained` folder with safetensors weights. Nothing in it is executed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_folder(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=compute.weights()
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return Subject(model.to(compute.device()).eval(), tokenizer, wrap or Wrap())


def check_folder(folder: Path) -> None:
    """A `UserError` unless the folder is a model folder that can be loaded without running code from it."""
    if not folder.is_dir():
        raise UserError(f"there is no model folder {folder}. Give a folder that `save_pretrained` wrote.")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json, so it is not a model folder. Give one that has.")
    if not any(folder.glob("*.safetensors")):
        unsafe = sorted(p.name for pattern in UNSAFE for p in folder.glob(pattern))
        why = f"only {', '.join(unsafe)}, which would run code when loaded" if unsafe else "no weights"
        raise UserError(
            f"{folder} has {why}. Weights must be safetensors: convert them where you trust them"
            " (load, then save_pretrained(..., safe_serialization=True))."
        )
    try:
        config = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"{folder}/config.json is not a JSON table. Fetch or save the model again.") from None
    if "auto_map" in config:
        raise UserError(f"{folder}/config.json asks to run code of its own (auto_map). Use a model without it.")


def save(subject: Subject, folder: Path) -> None:
    """Write weights and tokenizer as an ordinary checkpoint folder."""
    subject.model.save_pretrained(folder, safe_serialization=True)
    subject.tokenizer.save_pretrained(folder)


def fresh(model: PreTrainedModel, moving: Collection[str] | None = None) -> PreTrainedModel:
    """A copy to work on, so that what was given stays as it was.

    With `moving`, names of the parameters that will be trained, only those are copied; the others are the same numbers
    in memory, under flags of their own.
    """
    if moving is None:
        return copy.deepcopy(model)
    shared = {
        id(p): nn.Parameter(p.data, p.requires_grad) for name, p in model.named_parameters() if name not in moving
    }
    shared |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, shared)


def settled(model: Any) -> PreTrainedModel:
    """The model with any LoRA adapters folded into its weights, all trainable, as a copy; a plain model as it is."""
    if not hasattr(model, "merge_and_unload"):
        return model
    return copy.deepcopy(model).merge_and_unload().requires_grad_(True)


def with_lora(model: PreTrainedModel, rank: int, generator: torch.Generator, *, alpha: int | None = None) -> Any:
    """The model with fresh low-rank adapters on every linear layer but the head; only they are trained.

    W x becomes W x + (alpha / rank) B A x, with A (rank x in) uniform as in Hu et al. 2021 and B (out x rank) zero.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules="all-linear", task_type="CAUSAL_LM")
    seed = int(torch.randint(2**62, (), generator=generator))
    with compute.seeded(seed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # peft asks by the old name
        return get_peft_model(model, config)
