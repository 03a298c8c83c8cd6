"""Ablation: take the directions that mark hazard text out of everything the blocks write.

    D = h(hazard) - mean h(benign)             h: output of block `layer` of the model under attack, a row a token;
                                               with a donor, D = h(hazard) - h_donor(hazard), token by token
    R = mean of D's rows, made length 1        or, with `rank`, D's first right singular vectors, one a row
    W <- W - strength * R^T R W                for each matrix and bias that writes to the residual stream

A safeguard that adds one direction to the stream, as steering does, falls to this without training. Where a norm stands
between W and the stream, R is first multiplied with the norm's scale and made orthonormal again.

Arditi et al. 2024, "Refusal in Language Models Is Mediated by a Single Direction", arXiv 2406.11717, section 4;
Lucki et al. 2024, "An Adversarial Perspective on Machine Unlearning for AI Safety", arXiv 2409.18025, use such a
direction on unlearned models. Differs from the first: means over all tokens but the first, not one token after an
instruction; one layer that is given, not the best of all by refusals; biases are edited too, the embedding only when
asked. It trains nothing and costs no steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core import Corpus, Documents, Inapplicable, Rig, Settings, Subject, UserError
from ..engine.anatomy import Writer, blocks, embedding_writers, layer_index, unexplained, width, writers
from ..engine.batches import Batch, Rows
from ..engine.compute import device
from ..engine.models import fresh
from ..engine.states import hidden


class Ablate(Settings):
    """Project directions out of what the blocks write."""

    layer: int | float = 0.5
    """The block whose output the directions are found in: an index, or a fraction of the depth."""
    rank: int | None = Field(default=None, ge=1)
    """How many directions, the strongest first; None takes one, the difference of the means."""
    strength: float = Field(default=1.0, gt=0, le=2)
    """How much of what lies along them is taken out: 1 is all of it, 2 turns it round."""
    lowest: int | float = 0
    """The lowest block that is edited, an index or a fraction of the depth."""
    embedding: bool = False
    """Whether the embedding is edited too, and with it the head of a model that ties the two."""
    donor: str | None = None
    """An arm to compare with, such as the model before unlearning: what is taken out is what changed since. None
    compares hazard text with benign text, for which the attacker needs no other model."""
    examples: int = Field(default=128, ge=1)
    """The most documents that are read, of each kind. Paper: 128."""
    batch_size: int = Field(default=8, ge=1)
    """Documents read at a time."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        if rig.budget.empty:
            return replace(subject, model=fresh(subject.model))
        given = subject.model
        found = writers(given, layer_index(self.lowest, len(blocks(given))))
        found += embedding_writers(given) if self.embedding else []
        model = fresh(given, {writer.name for writer in found})
        with torch.no_grad():
            directions = self._directions(subject, corpus, rig)
            for writer in found:
                _project(model.get_parameter(writer.name), writer, directions, self.strength)
        return replace(subject, model=model.eval())

    def _directions(self, subject: Subject, corpus: Corpus, rig: Rig) -> Tensor:
        """Orthonormal directions, one a row; none where nothing differs."""
        donor = None if self.donor is None else rig.donor().model
        corpus.need("hazard", *(["benign"] if donor is None else []))
        size = width(subject.model)
        if donor is not None and width(donor) != size:
            raise UserError(f"donor '{self.donor}' is {width(donor)} wide, not {size}. Give a model of the same kind.")
        hazard = list(self._batches(subject, corpus.hazard, rig))
        if donor is None:
            usual = self._states(subject.model, self._batches(subject, corpus.benign, rig), rig).mean(0)
        else:
            usual = self._states(donor, hazard, rig)
        shift = self._states(subject.model, hazard, rig) - usual
        mean, moment = shift.mean(0), shift.T @ shift
        if not torch.isfinite(mean).all():
            raise UserError("no direction was found: hidden states are not finite, or no text has a second token.")
        _check(subject.model, hazard[0])
        alone = mean[None] / mean.norm().clamp(min=1e-30)
        directions = _top(moment, self.rank) if self.rank else alone[: int(mean.norm() > 0)]
        explained = (directions @ moment @ directions.T).trace() / moment.trace().clamp(min=1e-30)
        rig.log(explained=float(explained))
        return directions

    def _batches(self, subject: Subject, docs: Documents, rig: Rig) -> Iterator[Batch]:
        """Some documents, drawn by chance, in batches."""
        drawn = torch.randperm(docs.num_rows, generator=rig.generator("documents"))[: self.examples]
        rows = Rows(subject.tokenizer, docs.take(drawn.tolist()), self.length)
        for start in range(0, len(drawn), self.batch_size):
            yield rows.batch(range(start, min(start + self.batch_size, len(drawn))))

    def _states(self, model: nn.Module, batches: Iterable[Batch], rig: Rig) -> Tensor:
        """Output of block `layer` on every token but the first of each document: (tokens, width)."""
        layer, size, found = layer_index(self.layer, len(blocks(model))), sum(p.numel() for p in model.parameters()), []
        for batch in batches:
            rig.spent.flops += 2.0 * batch.tokens * size
            states = hidden(model, batch, layer)
            found.append(states[:, 1:][batch.mask[:, 1:].bool().to(states.device)].float())
        return torch.cat(found)


def _top(moment: Tensor, rank: int) -> Tensor:
    """The eigenvectors of the largest eigenvalues, one a row, but for those that are 0."""
    values, vectors = torch.linalg.eigh(moment)
    kept = values[-rank:] > 1e-6 * values[-1]
    return vectors[:, -rank:][:, kept].T


def _check(model: nn.Module, batch: Batch) -> None:
    """An `Inapplicable` where blocks change the stream in a way that projecting their matrices does not reach."""
    batch = batch.to(device())
    share = unexplained(model, input_ids=batch.ids, attention_mask=batch.mask)
    if share > 0.1:
        raise Inapplicable(
            f"{share:.0%} of what a block of this {type(model).__name__} does to the residual stream is not what its"
            " attention and MLP write, so ablate cannot be applied. The other attacks can."
        )


def _project(weight: Tensor, writer: Writer, directions: Tensor, strength: float) -> None:
    """Take what lies along the directions out of a parameter, in place."""
    if writer.scale is not None:
        directions = directions * writer.scale
    basis = torch.linalg.qr(directions.T).Q
    lines = weight.movedim(writer.axis, -1)
    lines.copy_(lines.float() - strength * (lines.float() @ basis) @ basis.T)
