"""Checkpoints inside a step, so that a run that was killed goes on where it was, to the same last bit.

A component is started anew and does again what it did before and between its descents. In each descent that a
checkpoint tells of, weights, optimisers, meter and random state are put back, and the batches that led there are drawn
and passed by, so that streams stand where they stood. Written are only the weights that move:

    0.safetensors        the component's first descent as it was last seen: weights, averages, random state; in the
                         header the step, what was spent and measured, and a digest of all this
    0-at-20.safetensors  the weights at its snapshot after 20 steps

Each file is there whole or not at all. One that is damaged, or was written by another step, is as if it were not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core import Spent
from . import parallel
from .compute import device
from .shards import alike, whole

if TYPE_CHECKING:
    from .rig import Rig

Weights = Mapping[str, nn.Parameter]
Optimisers = Sequence[torch.optim.Optimizer]

SHARE = 20
"""Saving takes at most one part in this many of the time."""


@dataclass(frozen=True)
class _Saved:
    """What a file holds."""

    told: dict[str, Any]
    tensors: dict[str, Tensor]

    def fits(self, moving: Weights) -> bool:
        """Whether it is of these weights."""
        shapes = {f"weight.{name}": (weight.shape, weight.dtype) for name, weight in moving.items()}
        return shapes == {n: (t.shape, t.dtype) for n, t in self.tensors.items() if n.startswith("weight.")}


class Checkpoints:
    """Checkpoints of one step of a study, in a folder of their own, written every so many seconds."""

    def __init__(self, folder: Path, identity: str, seconds: float) -> None:
        self.folder, self.identity, self.seconds = folder, identity, seconds
        self._saved_at, self._took = time.perf_counter(), 0.0
        self._stops: dict[int, dict[str, Tensor]] = {}
        """Weights at snapshots that are not written yet."""
        self._spent: dict[int, Spent] = {}
        """What was spent up to each snapshot of this descent."""

    def resume(self, rig: Rig, moving: Weights, optimisers: Optimisers, take: Callable[[], Any] | None) -> int:
        """Put a descent back where its checkpoint has it. Returns how many steps are behind it: 0 without one."""
        self._stops, self._spent = {}, {}
        found = self._read(rig, moving)
        if int(parallel.summed({"found": float(found is not None)})["found"]) < parallel.world() or found is None:
            return 0
        state, stops = found
        for stop, at in stops.items():
            _put(moving, at.tensors)
            if take is not None:
                self._spent[stop] = Spent(**at.told["spent"])
                rig.snapshots[stop] = (take(), replace(self._spent[stop]))
        _put(moving, state.tensors)
        _put_averages(optimisers, state.tensors)
        _put_random(state.tensors)
        rig.restore(Spent(**state.told["spent"]), state.told["measured"])
        return state.told["step"]

    def offer(self, rig: Rig, step: int, moving: Weights, optimisers: Optimisers) -> None:
        """Save a descent as it is after a step, if it is time."""
        stop = rig.spent.steps
        if stop in rig.snapshots and stop not in self._spent:
            taken, self._spent[stop] = rig.snapshots[stop]
            own = dict(taken.named_parameters())
            self._stops[stop] = {n: own[n].detach() if n in own else whole(p).clone() for n, p in moving.items()}
        now = time.perf_counter()
        wait = max(self.seconds, SHARE * self._took) if self.seconds else 0.0
        if parallel.first(lambda: now - self._saved_at >= wait):
            self._save(rig, step, moving, optimisers)
            self._saved_at = time.perf_counter()
            self._took = self._saved_at - now

    def _save(self, rig: Rig, step: int, moving: Weights, optimisers: Optimisers) -> None:
        tensors = {f"weight.{name}": whole(weight) for name, weight in moving.items()}
        tensors |= {name: whole(average) for name, average in _averages(optimisers).items()} | _random()
        told = {
            "step": step,
            "spent": asdict(replace(rig.spent, seconds=rig.elapsed)),
            "measured": rig.measured,
            "stops": sorted(self._spent),
        }
        with contextlib.suppress(OSError, SafetensorError):  # no room for it, say: the step itself may come to its end
            for stop, weights in self._stops.items():
                at = {f"weight.{name}": weight for name, weight in weights.items()}
                self._write(f"{rig.tunes}-at-{stop}", {"spent": asdict(self._spent[stop])}, at)
            self._stops = {}
            self._write(str(rig.tunes), told, tensors)

    def _write(self, name: str, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a file aside and put it in its place."""
        if parallel.rank() > 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        here = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        words = json.dumps({"identity": self.identity, "name": name, **told})
        path = self.folder / f"{name}.safetensors"
        aside = path.with_suffix(f".{os.getpid()}")
        save_file(here, aside, {"told": words, "digest": _digest(words, here)})
        aside.replace(path)

    def _read(self, rig: Rig, moving: Weights) -> tuple[_Saved, dict[int, _Saved]] | None:
        """What is saved of a descent, and of its snapshots; None unless all of it is good and of these weights."""
        state = self._file(str(rig.tunes))
        if state is None:
            return None
        stops = {stop: self._file(f"{rig.tunes}-at-{stop}") for stop in state.told["stops"]}
        if not state.fits(moving):
            return None
        good = {stop: at for stop, at in stops.items() if at is not None and at.fits(moving)}
        return (state, good) if good.keys() == stops.keys() else None

    def _file(self, name: str) -> _Saved | None:
        try:
            with safe_open(self.folder / f"{name}.safetensors", "pt") as file:
                header = file.metadata()
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no table
            told = json.loads(header["told"])
            good = (told["identity"], told["name"], header["digest"]) == (
                self.identity, name, _digest(header["told"], tensors)
            )  # fmt: skip
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        return _Saved(told, tensors) if good else None


def _digest(words: str, tensors: Mapping[str, Tensor]) -> str:
    whole = hashlib.sha256(words.encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


@torch.no_grad()
def _put(moving: Weights, tensors: Mapping[str, Tensor]) -> None:
    for name, weight in moving.items():
        weight.copy_(alike(tensors[f"weight.{name}"], weight))


def _averages(optimisers: Optimisers) -> dict[str, Tensor]:
    """What the optimisers remember, by optimiser, parameter and what it is."""
    return {
        f"average.{place}.{index}.{key}": value
        for place, optimiser in enumerate(optimisers)
        for index, kept in optimiser.state_dict()["state"].items()
        for key, value in kept.items()
    }


def _put_averages(optimisers: Optimisers, tensors: Mapping[str, Tensor]) -> None:
    for place, optimiser in enumerate(optimisers):
        weights = [weight for group in optimiser.param_groups for weight in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, *at = name.split(".", 3)
            if kind == "average" and at[0] == str(place):
                index = int(at[1])
                state.setdefault(index, {})[at[2]] = alike(tensor, weights[index])
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _random() -> dict[str, Tensor]:
    """The states of the global generators, which dropout draws from."""
    here = device()
    found = {"random.cpu": torch.get_rng_state()}
    return found | ({"random.cuda": torch.cuda.get_rng_state(here)} if here.type == "cuda" else {})


def _put_random(tensors: Mapping[str, Tensor]) -> None:
    if parallel.rank() > 0:
        return  # what was kept is the first process's
    torch.set_rng_state(tensors["random.cpu"])
    if device().type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], device())
