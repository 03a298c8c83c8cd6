"""Models: load, save, copy, and the one place that knows where blocks and matrices are."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ..core import Subject, UserError, Wrap

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNSAFE = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
"""Files that run code when they are loaded."""


def load(folder: Path, wrap: Wrap | None = None) -> Subject:
    """A subject from an ordinary `save_pretrained` folder with safetensors weights. Nothing in it is executed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_folder(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return Subject(model.eval(), tokenizer, wrap or Wrap())


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


def fresh(model: PreTrainedModel) -> PreTrainedModel:
    """A copy to work on, so that what was given stays as it was."""
    return copy.deepcopy(model)


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
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # peft asks by the old name
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return get_peft_model(model, config)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder blocks, first to last, of any causal language model whose blocks are one module list."""
    depth = cast(Any, model).config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return list(module)
    raise UserError(f"no list of {depth} blocks was found in a {type(model).__name__}; its layers cannot be chosen.")


def layer_index(layer: int | float, depth: int) -> int:
    """A block's index from an index, or from a fraction of the depth.

    >>> layer_index(0.25, 32), layer_index(0.25, 4), layer_index(-1, 4), layer_index(0.999, 2)
    (8, 1, 3, 1)
    """
    index = int(layer * depth) if isinstance(layer, float) else layer
    if isinstance(layer, float) and not 0 <= layer < 1:
        raise UserError(f"layer is {layer}: a fraction of the depth is from 0 to less than 1.")
    if not -depth <= index < depth:
        raise UserError(f"layer is {layer}, but the model has {depth} blocks, numbered 0 to {depth - 1}.")
    return index % depth


def output_matrices(block: nn.Module) -> list[str]:
    """Names, within a block, of the matrices that its MLP writes to the residual stream with."""
    names = [name for name, m in block.named_modules() if isinstance(m, nn.Linear) and "mlp" in name.split(".")]
    if not names:
        raise UserError(f"no MLP was found in a {type(block).__name__}; choose another method or layer.")
    return [f"{names[-1]}.weight"]


def matrices(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every weight matrix of the blocks: what rounding, merging and low-rank edits work on."""
    for index, block in enumerate(blocks(model)):
        for name, parameter in block.named_parameters():
            if parameter.ndim == 2:
                yield f"{index}.{name}", parameter
