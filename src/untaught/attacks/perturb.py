"""Latent perturbation: one vector that is added to the residual stream behind a block, trained on hazard text.

    h <- h + v,     |v| < strength * mean |h|           h: output of block `layer`, the same v for every token and text
    loss = - mean log p(answer token | prompt, tokens before)                   over the attacker's hazard text
    v = strength * mean |h| * w / sqrt(1 + |w|^2)                               w is what is trained

Casper et al. 2024, "Defending Against Unforeseen Failure Modes with Latent Adversarial Training", arXiv 2403.05030;
Sheshadri et al. 2024, "Latent Adversarial Training Improves Robustness to Persistent Harmful Behaviors in LLMs", arXiv
2407.15549, whose attacker moves states. Differs: one vector for all of the text, not one a token; its bound is in units
of what the states are.

What is given back is an ordinary checkpoint. Where the matrix that the block's MLP writes with has a bias, v is added
to that. Elsewhere the matrix W is edited, by what its inputs a have in common:

    W <- W + v u^T          u = least squares for u a = 1 over the tokens of hazard and benign text

so that v is added with a factor u a, near 1; v is trained with the factor in place, and the record says how far the
factor strays from 1 (`strays`, root mean square, on the text that u was found on).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from ..core import Corpus, Documents, Inapplicable, Rig, Settings, Subject
from ..engine import examples
from ..engine.anatomy import TRANSPOSED, blocks, layer_index, mlp_output, names_of, output_matrices
from ..engine.batches import Batch
from ..engine.models import fresh
from ..engine.scoring import mean_logprob
from ..engine.states import hidden
from ._asking import asked

RIDGE = 1e-4
"""What keeps u small where the inputs are few: this share of their mean square is added to each."""


class Perturb(Settings):
    """Train one vector that is added behind a block."""

    layer: int | float = 0.5
    """The block, an index or a fraction of the depth."""
    strength: float = Field(default=1.0, gt=0)
    """Longest vector, in units of the mean length of the states there."""
    steps: int = Field(default=200, ge=0)
    """The most steps; a study's budget may end the attack before."""
    lr: float = Field(default=1e-2, gt=0)
    """AdamW's constant rate, for w."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step."""
    length: int = Field(default=256, ge=2)
    """Longest document in tokens; the rest of it is not seen."""
    examples: int = Field(default=128, ge=1)
    """The most documents that u and the mean length are found on, of each kind."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        if rig.budget.empty or self.steps == 0:
            return subject
        corpus.need("hazard", "benign")
        layer = layer_index(self.layer, len(blocks(subject.model)))
        module = _writer(subject.model, layer)
        lengths, inputs = self._seen(subject, corpus, layer, module, rig)
        weight = module.weight if module.bias is None else module.bias
        (name,) = names_of(subject.model, [weight])
        factor = None
        if module.bias is None:
            factor = _constant(inputs)
            rig.log(strays=float((inputs @ factor - 1).square().mean().sqrt()))
        across = type(module).__name__ in TRANSPOSED
        model = fresh(subject.model, {name})
        pushed: Any = _Pushed(model, name, self.strength * float(lengths.mean()), factor, across)
        rows = examples.rows(subject, asked(subject, corpus), self.length)

        def loss(batch: Batch) -> dict[str, Tensor]:
            return {"next_token": -mean_logprob(pushed, batch)}

        stream = rows.stream(size=self.batch_size, generator=rig.generator("order"))
        rig.tune(pushed, loss, stream, steps=self.steps, train=["push"], lr=self.lr)
        if rig.spent.steps == 0:
            return subject
        return replace(subject, model=pushed.merge_and_unload().requires_grad_(True).eval())

    def _seen(self, subject: Subject, corpus: Corpus, layer: int, module: nn.Module, rig: Rig) -> tuple[Tensor, Tensor]:
        """How long the states behind the block are, and what goes into the matrix that it writes with; by token."""
        given, lengths, inputs = [], [], []
        size = sum(p.numel() for p in subject.model.parameters())
        hook = module.register_forward_pre_hook(lambda _, args: given.append(args[0].detach()))
        try:
            with torch.no_grad():
                for batch in self._batches(subject, corpus, rig):
                    found, real = hidden(subject.model, batch, layer), batch.mask.bool()
                    real[:, 0] = False  # a first token is like no other
                    lengths.append(found[real.to(found.device)].norm(dim=-1))
                    entered = given.pop().float()
                    inputs.append(entered.reshape(*real.shape, -1)[real.to(found.device)])  # some families flatten it
                    rig.spent.flops += 2.0 * batch.tokens * size
        finally:
            hook.remove()
        return torch.cat(lengths), torch.cat(inputs)

    def _batches(self, subject: Subject, corpus: Corpus, rig: Rig) -> Iterator[Batch]:
        """Some documents of both kinds, drawn by chance."""
        for side, docs in (("hazard", corpus.hazard), ("benign", corpus.benign)):
            rows = examples.rows(subject, _some(docs, self.examples, rig.generator(side)), self.length)
            for start in range(0, len(rows.ids), self.batch_size):
                yield rows.batch(range(start, min(start + self.batch_size, len(rows.ids))))


class _Pushed(nn.Module):
    """A model with v in a bias, or in the matrix that a block writes with. Nothing else of it is trained."""

    def __init__(self, model: Any, name: str, most: float, factor: Tensor | None, across: bool) -> None:
        super().__init__()
        self.model, self.name, self.most, self.factor, self.across = model, name, most, factor, across
        weight = model.get_parameter(name)
        self.push = nn.Parameter(weight.new_zeros(weight.shape[-1 if across or factor is None else 0]).float())

    @property
    def config(self) -> Any:
        return self.model.config

    def get_base_model(self) -> Any:
        return self.model

    def changed(self) -> Tensor:
        """The parameter with v in it."""
        weight = self.model.get_parameter(self.name)
        added = self.most * self.push / (1 + self.push.square().sum()).sqrt()
        if self.factor is not None:
            added = torch.outer(self.factor, added) if self.across else torch.outer(added, self.factor)
        return weight + added.to(weight.dtype)

    def forward(self, **inputs: Any) -> Any:
        return functional_call(self.model, {self.name: self.changed()}, args=(), kwargs=inputs)

    def merge_and_unload(self) -> Any:
        """The ordinary model, with v in it."""
        with torch.no_grad():
            self.model.get_parameter(self.name).copy_(self.changed())
        return self.model


def _writer(model: nn.Module, layer: int) -> Any:
    """The layer that a block's MLP writes to the stream with."""
    block = blocks(model)[layer]
    module, names = mlp_output(block), output_matrices(block)
    alone = len(names) == 1 and any(block.get_parameter(names[0]) is p for p in module.parameters(recurse=False))
    if not alone or block.get_parameter(names[0]).ndim != 2:
        raise Inapplicable(
            f"the MLP of a {type(block).__name__} does not write to the stream with one matrix and nothing behind it,"
            " so no vector can be put there that is the same for every token. The other attacks can be applied."
        )
    return module


def _constant(inputs: Tensor) -> Tensor:
    """u, for which u a is nearest 1 over the inputs a (tokens, size)."""
    moment = inputs.T @ inputs
    moment.diagonal().add_(RIDGE * moment.diagonal().mean())
    return torch.linalg.solve(moment, inputs.sum(0))


def _some(docs: Documents, count: int, generator: torch.Generator) -> Documents:
    return docs.take(torch.randperm(docs.num_rows, generator=generator)[:count].tolist())
