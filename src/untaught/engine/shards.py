"""Weights in shards: each of several processes keeps its part only of what is trained (FSDP2).

`fully_shard` of torch (Zhao et al. 2023, arXiv 2304.11277, in its second version) cuts the weights that move, their
gradients and the optimiser's averages in parts, and puts a block's weights together while the block is at work. Weights
that do not move stay whole: they are the same memory as those of the model that was given. Afterwards, and for every
snapshot on the way, the model is an ordinary one again: what is saved shows nothing of the shards.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from . import parallel
from .anatomy import blocks
from .compute import device, now


class Shards:
    """A model whose moving weights are in shards, until they are put together again."""

    def __init__(self, model: nn.Module, moving: Collection[str]) -> None:
        self.model = model
        self._moving = {name: weight for name, weight in model.named_parameters() if name in moving}
        self._plain = _portrait(model)
        _shard(model, set(model.parameters()) - set(self._moving.values()))
        self._let_go()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Meanwhile, an ordinary model. All processes must come here together."""
        self._gather()
        cut = _portrait(self.model)
        _restore(self._plain)
        try:
            yield
        finally:
            _restore(cut)
            self._let_go()

    def join(self) -> None:
        """An ordinary model from now on."""
        from torch.distributed._composable_state import _module_state_mapping

        self._gather()
        _restore(self._plain)
        for module in self.model.modules():
            _module_state_mapping.pop(module, None)  # else it could not be cut a second time

    def _gather(self) -> None:
        parts = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, weight in self._moving.items():
                weight.data = whole(parts[name])

    def _let_go(self) -> None:
        """The memory of what is in shards now."""
        for weight in self._moving.values():
            weight.data = weight.data.new_empty(0)


@contextlib.contextmanager
def sharded(model: nn.Module, moving: Collection[str]) -> Iterator[Shards | None]:
    """The model's moving weights are in shards in this block, where that is asked for and there is whom to share with.

    A model that was at work when something failed is left as it is.
    """
    if parallel.world() == 1 or not now().shard:
        yield None
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)  # of in-place work on what it returns
        shards = Shards(model, moving)
        yield shards
        shards.join()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be in shards. All processes must come here together."""
    from torch.distributed.tensor import DTensor

    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def alike(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor, in shards where a pattern of the same shape is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(pattern, DTensor) or tensor.shape != pattern.shape:
        return tensor
    return distribute_tensor(tensor.to(device()), pattern.device_mesh, pattern.placements)


def _shard(model: nn.Module, fixed: set[nn.Parameter]) -> None:
    """Cut each block that has something to train, and then what else of the model moves."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device().type, (parallel.world(),))
    for part in (*blocks(model), model):
        if part is model or any(weight not in fixed for weight in part.parameters()):
            fully_shard(part, mesh=mesh, ignored_params=fixed, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # gradients are summed: a part's terms add up to the whole's
            module.set_force_sum_reduction_for_comms(True)


_Portrait = list[tuple[nn.Module, type, dict[str, Any]]]


def _portrait(model: nn.Module) -> _Portrait:
    """What each module is: its class, and its attributes with their tables."""
    return [
        (module, type(module), {k: copy.copy(v) if isinstance(v, dict) else v for k, v in vars(module).items()})
        for module in model.modules()
    ]


def _restore(portrait: _Portrait) -> None:
    for module, kind, attributes in portrait:
        module.__class__ = kind
        vars(module).clear()
        vars(module).update({k: copy.copy(v) if isinstance(v, dict) else v for k, v in attributes.items()})
