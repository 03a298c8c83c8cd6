"""The bench that components are tried on: a tiny world, an untrained model of two blocks, and ways to look at both."""

import contextlib
import copy
import functools
import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from untaught.core import MESSAGES, Budget, Corpus, Documents, Settings, Subject, Wrap, shelves
from untaught.corpus.world import World, split
from untaught.engine import examples, models
from untaught.engine.rig import Rig
from untaught.lab.compounds import Compounds
from untaught.lab.start import StartingModel

TINY = Compounds(substances=8, towns=8, values=8, exposures=6, attack_exposures=3, labelled=1.0, disguised=0.3)
SMALL = StartingModel(width=32, blocks=2, heads=2, vocabulary=400)


@dataclass(frozen=True, repr=False)
class Bench:
    """A world and a model to copy. Every check takes a copy of its own, so that a fault in one shows nowhere else."""

    world: World
    start: Subject
    folder: Path
    """Where the model is saved, for components that read one from disk."""

    @classmethod
    def built(cls, folder: Path) -> "Bench":
        world = TINY.build(0)
        start = SMALL.build(world.documents["text"].to_pylist(), 0)
        models.save(start, folder)
        return cls(world, start, folder)

    def subject(self, *, dropout: float = 0.0, seed: int | None = None) -> Subject:
        """A copy of the model; with `seed`, one with other weights."""
        made = copy.deepcopy(self.start)
        generator = torch.Generator().manual_seed(seed or 0)
        for module in made.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = dropout
        if seed is not None:
            with torch.no_grad():
                for weight in made.model.parameters():
                    weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
        return made

    @property
    def pool(self) -> Documents:
        """What a filter decides about: texts, and as many conversations with the first sentence for a prompt."""
        table = self.world.documents.slice(0, 80)
        told = []
        for row, text in enumerate(table["text"].to_pylist()):
            prompt, _, answer = text.partition(". ")
            told.append(examples.conversation(prompt, answer or text) if row % 2 else None)
        return table.append_column("messages", pa.array(told, MESSAGES))

    @property
    def probed(self) -> pa.Table:
        """Texts of both kinds, told by `hazard`."""
        known = split(self.world.documents)
        return pa.concat_tables([
            side.slice(0, 24).select(["id", "text"]).append_column("hazard", pa.array([hazard] * 24))
            for side, hazard in ((known.hazard, True), (known.benign, False))
        ])  # fmt: skip

    @property
    def scorer(self) -> Path:
        """Folder of a scorer of profanity that knows two words, beside the model's."""
        folder = self.folder.with_name("scorer")
        if not folder.exists():
            folder.mkdir()
            words = {"terms": np.frombuffer(b"fiddle\nsticks", np.uint8), "pattern": np.array(r"\w\w+")}
            machine = {"weights": np.ones((1, 2)), "bias": -np.ones(1), "slope": -np.ones(1), "offset": np.zeros(1)}
            np.savez(folder / "model.npz", idf=np.ones(2), **words, **machine)
        return folder

    def corpus(self, shelf: str) -> Corpus:
        """What a study gives the components of a shelf."""
        if shelf == "filters":
            known = split(self.pool)
            return Corpus(known.hazard.slice(0, 30), known.benign.slice(0, 30), self.pool)
        return split(self.world.attack if shelf == "attacks" else self.world.documents)


@dataclass(frozen=True)
class Case:
    """One component on the bench."""

    shelf: str
    name: str
    cls: type[Settings]
    bench: Bench
    path: Path | None = None
    """Its file; None takes it from the shelf."""

    @property
    def file(self) -> Path:
        return self.path or shelves.source(self.shelf, self.name)

    def made(self, **values: Any) -> Any:
        """The component with its defaults; one that must have a model or scorer from disk gets the bench's."""
        needed = [*getattr(self.cls, "needs", ()), *(n for n, f in self.cls.model_fields.items() if f.is_required())]
        if "model" in needed:
            values = {"model": str(self.bench.folder)} | values
        if "scorer" in needed:
            values = {"scorer": str(self.bench.scorer)} | values
        return self.cls(**values)

    def variants(self) -> list[Any]:
        """The component from its defaults, and with each setting changed that has the same meaning everywhere."""
        known = {"rank": 2, "layer": 0, "share": 1.0, "bits": 8, "batch_size": 1, "length": 16}
        fields = self.cls.model_fields
        changes = [{}, *({name: value} for name, value in known.items() if name in fields)]
        changes += [{"batch_size": 1, "length": 16}] if {"batch_size", "length"} <= fields.keys() else []
        changes += [{name: not info.default} for name, info in fields.items() if isinstance(info.default, bool)]
        made = []
        for change in changes:
            with contextlib.suppress(ValueError):  # a value that this component rules out
                made.append(self.made(**change))
        return made

    def rig(self, *, budget: Budget | None = None, seed: int = 0, stops: Sequence[int] = (), kind: Any = Rig) -> Any:
        donor = functools.partial(self.bench.subject, seed=1)
        more = {"subject": lambda: self.asked} if self.shelf == "filters" else {}
        name, budget = f"{self.shelf}/{self.name}", budget or Budget(steps=3)
        return kind(seed, name, budget=budget, stops=stops, donor=donor, **more)

    @functools.cached_property
    def asked(self) -> Subject:
        """The model that a filter asks: one for all that a check does."""
        return self.bench.subject()

    def applied(self, component: Any, subject: Subject | None = None, **how: Any) -> tuple[Subject, Rig]:
        """What an intervention makes of a subject, and the rig after it."""
        rig = self.rig(**how)
        given = self.bench.subject() if subject is None else subject
        return component.apply(given, self.bench.corpus(self.shelf), rig), rig

    def items(self, component: Any) -> pa.Table:
        """The items an evaluation names."""
        name = getattr(component, "items", "hazard_held_out")
        return self.bench.probed if name == "probed" else self.bench.world.items[name]


# ------------------------------------------------------------------------------------------------ looking at a model


def bits(model: torch.nn.Module) -> str:
    """Digest of every tensor of a model: names, types, shapes, bytes."""
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {len(raw)}".encode() + raw)
    return whole.hexdigest()


def hooks(model: torch.nn.Module) -> dict[str, int]:
    """Every hook on a model, or on all models, by where it hangs. A forward put on an instance is one too."""
    found = {
        f"{name or 'model'}.{kind}": len(value)
        for name, module in model.named_modules()
        for kind, value in vars(module).items()
        if "hook" in kind and hasattr(value, "__len__") and len(value)
    }
    found |= {f"{name or 'model'}.forward": 1 for name, m in model.named_modules() if "forward" in vars(m)}
    everywhere = vars(torch.nn.modules.module)
    return found | {k: len(v) for k, v in everywhere.items() if k.startswith("_global") and isinstance(v, dict) and v}


def portrait(subject: Subject) -> dict[str, Any]:
    """All that must not change in a subject that was given."""
    model, tokenizer = subject.model, subject.tokenizer
    return {
        "weights": bits(model),
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": [name for name, p in model.named_parameters() if p.grad is not None],
        "training mode": {name: module.training for name, module in model.named_modules()},
        "modules": {name: type(module) for name, module in model.named_modules()},
        "config": json.dumps(model.config.to_dict(), sort_keys=True, default=str),
        "wrap": subject.wrap.changed(),
        "tokenizer": [tokenizer.backend_tokenizer.to_str(), tokenizer.padding_side, tokenizer.special_tokens_map],
    }


def global_randomness() -> tuple[object, ...]:
    """The state of every generator that belongs to nobody."""
    numpys = np.random.get_state()
    return random.getstate(), numpys[1].tobytes(), numpys[2:], torch.get_rng_state().numpy().tobytes()


def stir(seed: int) -> None:
    """Put the global generators in another state."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@dataclass(frozen=True)
class Seen:
    """One row that a model was run on: its real tokens, and whether a gradient could follow."""

    ids: tuple[int, ...]
    learning: bool


def texts(ids: torch.Tensor, mask: torch.Tensor | None) -> Iterator[tuple[int, ...]]:
    """The real tokens of each row of a batch. A mask may say for each token which it sees: then a text is what a token
    sees that no other does."""
    if mask is None or mask.ndim == 2:
        mask = torch.ones_like(ids) if mask is None else mask[:, -ids.shape[1] :]
        yield from (tuple(row[real.bool()].tolist()) for row, real in zip(ids, mask, strict=True))
        return
    for row, sees in zip(ids, (mask if mask.dtype == torch.bool else mask == 0)[:, 0], strict=True):
        yield from (tuple(row[sees[last]].tolist()) for last in (sees.sum(0) == 1).nonzero().flatten().tolist())


@contextlib.contextmanager
def watching(model: torch.nn.Module) -> Iterator[list[Seen]]:
    """Note every row that a model of this class, a copy too, is run on."""
    kind, seen = type(model), []
    original = kind.forward

    @functools.wraps(original)
    def forward(self: Any, input_ids: Any = None, attention_mask: Any = None, **rest: Any) -> Any:
        if input_ids is not None:
            learning = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
            seen.extend(Seen(text, learning) for text in texts(input_ids, attention_mask))
        return original(self, input_ids=input_ids, attention_mask=attention_mask, **rest)

    kind.forward = forward
    try:
        yield seen
    finally:
        kind.forward = original


@contextlib.contextmanager
def counting_optimiser_steps() -> Iterator[Callable[[], int]]:
    """Count the steps of the busiest optimiser, whoever made it."""
    steps: dict[int, int] = {}
    kept: list[Any] = []  # so that no two optimisers share an id

    def count(optimiser: Any, args: Any, kwargs: Any) -> None:
        kept.append(optimiser)
        steps[id(optimiser)] = steps.get(id(optimiser), 0) + 1

    handle = register_optimizer_step_post_hook(count)
    try:
        yield lambda: max(steps.values(), default=0)
    finally:
        handle.remove()


# --------------------------------------------------------------------------------------- looking at what is touched

_touched: list[str] | None = None
_REACHING = ("open", "os.", "shutil.", "socket.", "subprocess.", "urllib.", "tempfile.")


def _listen(event: str, args: Any) -> None:
    if _touched is not None and event.startswith(_REACHING):
        path = str(args[0]) if args else ""
        if not path.endswith((".py", ".pyc", ".so")):
            _touched.append(f"{event} {path}")


@functools.cache
def _listening() -> None:
    sys.addaudithook(_listen)  # cannot be taken away again, so it is added once and sleeps


@contextlib.contextmanager
def touching() -> Iterator[list[str]]:
    """Note every file, process and connection that is reached for."""
    global _touched  # noqa: PLW0603
    _listening()
    _touched = found = []
    try:
        yield found
    finally:
        _touched = None


NONSENSE = Wrap(before="zhqx vrkk zhqx vrkk ", after=" qqz")
