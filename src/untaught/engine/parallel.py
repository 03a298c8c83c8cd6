"""Several processes that a launcher started, `torchrun` or `accelerate launch`, and that do the same work together.

All go through the same steps in the same order. In training each takes its part of every batch; gradients and logged
numbers are summed, so that all hold the same weights and come to the same decisions. What is done once, such as writing
a file, the first does while the others wait. With one process all of this is nothing.

Importing this needs no torch.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core import Compute, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells the processes that it starts."""
PATIENCE = datetime.timedelta(days=7)
"""How long processes wait for the one that works. A launcher ends them all when one fails."""
BUCKET = 2**24
"""Numbers of gradients that are added up in one message."""

_busy = False


def world() -> int:
    """How many processes there are."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in LAUNCHED) else 1


def rank() -> int:
    """Which of them this is; 0 is the first."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def placed(compute: Compute) -> Compute:
    """With the GPU that is this process's own. A `UserError` in processes that have not joined."""
    if world() == 1:
        return compute
    import torch.distributed

    if not torch.distributed.is_initialized():
        raise UserError("only `untaught run` works in several processes. Leave out torchrun or accelerate launch.")
    own = f"cuda:{os.environ['LOCAL_RANK']}" if compute.device == "cuda" else compute.device
    return compute.model_copy(update={"device": own})


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Processes that compute on `cpu` or `cuda` can talk to each other in this block."""
    import torch
    import torch.distributed

    backend = "gloo"
    if device == "cuda":
        own, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= there:
            raise UserError(f"there are {there} GPUs here, and more processes. Start as many as there are GPUs.")
        torch.cuda.set_device(own)
        backend = "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(backend, store=_board(), rank=rank(), world_size=world(), timeout=PATIENCE)
    yield
    torch.distributed.destroy_process_group()  # not after a failure: it could wait for a process that is gone


def _board() -> Any:
    """Where processes leave word of how to reach them; on one machine, a fresh one each time torchrun starts them anew.

    Torch keeps one for all times, and then some find word of processes that are gone.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store = next(iter(rendezvous("env://", rank(), world(), timeout=PATIENCE)))[0]
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    time = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if one_machine else "0"
    return PrefixStore(f"untaught/{time}", store)


def first(work: Callable[[], Any]) -> Any:
    """The first process does the work, and all come to the same end: what it returns, plain data, or its failure.

    Within such work, it does more of it without telling.
    """
    global _busy  # noqa: PLW0603
    if world() == 1 or _busy:
        return work()
    if rank() > 0:
        told = _heard({})
        if "failed" in told:
            raise UserError(told["failed"])
        return told["made"]
    _busy = True
    try:
        made = work()
    except Exception as error:
        _heard({"failed": str(error)})
        raise
    finally:
        _busy = False
    return _heard({"made": made})["made"]


def _heard(said: Mapping[str, Any]) -> dict[str, Any]:
    """What the first process says, in every process."""
    import torch
    from torch.distributed import broadcast

    letters = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
    length = torch.tensor([len(letters)])
    broadcast(length, 0)
    letters = letters if rank() == 0 else torch.empty(int(length), dtype=torch.uint8)
    broadcast(letters, 0)
    return json.loads(bytes(letters.tolist()))


def summed(values: Mapping[str, float]) -> dict[str, float]:
    """The same names in every process: their sums."""
    if world() == 1:
        return dict(values)
    import torch
    from torch.distributed import all_reduce

    numbers = torch.tensor(list(values.values()), dtype=torch.float64)
    all_reduce(numbers)
    return dict(zip(values, numbers.tolist(), strict=True))


def sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Each gradient becomes the sum over all processes."""
    if world() == 1:
        return
    import torch
    from torch.distributed import all_reduce

    reached = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
    all_reduce(reached)
    grads: list[Tensor] = []
    for parameter, processes in zip(parameters, reached.tolist(), strict=True):
        if processes and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad is not None:
            grads.append(parameter.grad)
    for bucket in _buckets(grads):
        flat = torch.cat([grad.flatten() for grad in bucket])
        all_reduce(flat)
        for grad, total in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
            grad.copy_(total.view_as(grad))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type, up to about `BUCKET` numbers together."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(one.numel() for one in bucket) + tensor.numel() > BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
