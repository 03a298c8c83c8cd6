"""Models: load, save, copy."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..core import Subject, UserError, Wrap
from . import compute
from .anatomy import linear_layers
from .folders import AGAIN, check_folder, check_memory, free_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load(folder: Path, wrap: Wrap | None = None) -> Subject:
    """A subject from an ordinary `save_pretrained` folder with safetensors weights. Nothing in it is executed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_folder(folder)
    _check_memory(folder)
    safely: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    read: Any = AutoModelForCausalLM.from_pretrained
    try:
        model, found = read(folder, use_safetensors=True, dtype=compute.weights(), output_loading_info=True, **safely)
        tokenizer = AutoTokenizer.from_pretrained(folder, **safely)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} cannot be loaded: {type(error).__name__}: {said}. {AGAIN}") from None
    if lacking := sorted(found["missing_keys"]):  # they would be drawn at random
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UserError(f"{folder} has no weights for {lacking[0]}{more}. {AGAIN}")
    return Subject(model.to(compute.device()).eval(), tokenizer, wrap or Wrap())


def _check_memory(folder: Path) -> None:
    """A `UserError` unless the weights fit: into this machine's memory first, and then into the GPU's."""
    check_memory(folder, compute.now().dtype, free_memory())
    if (place := compute.device()).type == "cuda":
        ours = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
        check_memory(folder, compute.now().dtype, torch.cuda.mem_get_info(place)[0] + ours, f"memory on {place}")


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


def newborn(model: PreTrainedModel, generator: torch.Generator) -> PreTrainedModel:
    """A model of the same shape that has learned nothing: weights as its family draws them for a new one."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with compute.seeded(seed):
        made: Any = type(model)(copy.deepcopy(model.config))
    return made.to(model.device, model.dtype).eval()


def settled(model: Any) -> PreTrainedModel:
    """The model with any LoRA adapters folded into its weights, all trainable, as a copy; a plain model as it is."""
    if not hasattr(model, "merge_and_unload"):
        return model
    return copy.deepcopy(model).merge_and_unload().requires_grad_(True)


def with_lora(
    model: PreTrainedModel, rank: int, generator: torch.Generator, *, alpha: int | None = None, lowest: int = 0
) -> Any:
    """The model with fresh low-rank adapters on every linear layer but the head, and on all experts; only they train.

    W x becomes W x + (alpha / rank) B A x, with A (rank x in) uniform as in Hu et al. 2021 and B (out x rank) zero.
    With `lowest`, only the blocks from that one up have adapters.
    """
    from peft import LoraConfig, get_peft_model

    layers, experts = linear_layers(model, lowest)
    if not layers and not experts:
        raise UserError(
            f"no linear layer was found in a {type(model).__name__}, so adapters have no place. Leave 'rank' out."
        )
    if experts:  # peft renames layers of such families by their last word, so all are named as parameters
        where: dict[str, Any] = {"target_modules": [], "target_parameters": [f"{n}.weight" for n in layers] + experts}
    else:
        where = {"target_modules": layers}
    config = LoraConfig(r=rank, lora_alpha=alpha or rank, task_type="CAUSAL_LM", **where)
    seed = int(torch.randint(2**62, (), generator=generator))
    with compute.seeded(seed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # peft asks by the old name
        warnings.filterwarnings("ignore", ".*fan_in_fan_out is set to False", UserWarning)  # it sets what GPT-2 needs
        return get_peft_model(model, config)
