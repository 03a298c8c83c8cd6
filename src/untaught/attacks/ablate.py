"""Ablation: take the directions that mark hazard text out of everything the blocks write.

    D = h(hazard) - mean h(benign)             h: output of block `layer` of the model under attack, a row a token;
                                               with a donor, D = h(hazard) - h_donor(hazard), token by token
    R = mean of D's rows, made length 1        or, with `rank`, D's first right singular vectors, one a row
    W <- W - strength * R^T R W                for each matrix and bias that writes to the residual stream

A safeguard that adds one direction to the stream, as steering does, falls to this without training. Where a norm stands
between W and the stream, R is first multiplied with the norm's scale and made orthonormal again. Without a `layer`, W
of each block loses the directions that are found at that block's own output: a safeguard that points elsewhere in
every block.

Directions are found in the very weights that are attacked. What was read of a text is kept, under a digest of all
weights and never under a path, and serves any `layer`, `rank` and `strength` that is tried next. The price is that of
reading all the same: an attacker pays it once, and which attack is the first must not matter. `stale`, which takes the
directions from other weights, is a weak control: where it fails, nothing is shown.

Arditi et al. 2024, "Refusal in Language Models Is Mediated by a Single Direction", arXiv 2406.11717, section 4;
Lucki et al. 2024, "An Adversarial Perspective on Machine Unlearning for AI Safety", arXiv 2409.18025, use such a
direction on unlearned models; own directions for each block as in Weidmann 2025, https://github.com/p-e-w/heretic.
Differs from the first: means over all tokens but the first unless `last` is given, which reads what they read; one
layer and one set of tokens that are given, or searched by what comes back, not by refusals; biases are edited too,
the embedding only when asked. It trains nothing and costs no steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..core import Corpus, Documents, Inapplicable, Rig, Settings, Subject, UserError
from ..engine import examples
from ..engine.anatomy import Writer, blocks, embedding_writers, layer_index, width, writers
from ..engine.batches import Batch, Rows
from ..engine.models import fresh
from ..engine.moments import Moments, Reader


class Ablate(Settings):
    """Project directions out of what the blocks write."""

    layer: int | float | None = 0.5
    """The block whose output the directions are found in: an index, or a fraction of the depth. None finds every block
    its own; the embedding, where it is edited, then loses those of the lowest."""
    last: int | None = Field(default=None, ge=1)
    """How many tokens at the end of each text are read, the end token and the first not among them; of a conversation,
    at the end of what stands before its last answer: the words of the template after the instruction. None reads all
    but the first of a text, or of a whole conversation."""
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
    stale: bool = False
    """A weak control, which must never decide a verdict: the directions are those of the donor's weights alone, hazard
    against benign text, as from a file that was written before the model was trained on."""
    examples: int = Field(default=128, ge=1)
    """The most documents that are read, of each kind. Paper: 128."""
    batch_size: int = Field(default=8, ge=1)
    """Documents read at a time."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    @model_validator(mode="after")
    def _stale_of_a_donor(self) -> Self:
        if self.stale and self.donor is None:
            raise ValueError("'stale' takes the directions from a donor's weights. Give 'donor', or leave 'stale' out")
        return self

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        if rig.budget.empty:
            return replace(subject, model=fresh(subject.model))
        given = subject.model
        stack = blocks(given)
        lowest = layer_index(self.lowest, len(stack))
        found = writers(given, lowest)
        found += embedding_writers(given) if self.embedding else []
        home = {id(weight): index for index, block in enumerate(stack) for weight in block.parameters()}
        homes = [home.get(id(given.get_parameter(writer.name)), lowest) for writer in found]
        model = fresh(given, {writer.name for writer in found})
        layers = range(lowest, len(stack)) if self.layer is None else [layer_index(self.layer, len(stack))]
        with torch.no_grad():
            directions = dict(zip(layers, self._directions(subject, corpus, rig, layers), strict=True))
            for writer, own in zip(found, homes, strict=True):
                at = own if self.layer is None else layers[0]
                _project(model.get_parameter(writer.name), writer, directions[at], self.strength)
        return replace(subject, model=model.eval())

    def _directions(self, subject: Subject, corpus: Corpus, rig: Rig, layers: Sequence[int]) -> list[Tensor]:
        """Orthonormal directions of each block, one a row; none where nothing differs."""
        donor = None if self.donor is None else rig.donor().model
        corpus.need("hazard", *(["benign"] if donor is None or self.stale else []))
        if donor is not None:
            self._check_donor(donor, subject.model)
        hazard = self._batches(subject, corpus.hazard, rig)
        if donor is None or self.stale:
            reader = Reader(subject.model if donor is None else donor)
            benign = self._batches(subject, corpus.benign, rig)
            usual = list(reader.moments(benign, layers, last=self.last, spread=False))
            _charge(rig, benign, reader)
        else:
            reader, usual = Reader(subject.model, donor), None
        _charge(rig, hazard, reader)
        found, explained = [], []
        for index, moments in enumerate(reader.moments(hazard, layers, last=self.last)):
            directions, share = self._of(moments, None if usual is None else usual[index])
            found.append(directions.float())
            explained.append(share)
        _check(reader if reader.model is subject.model else Reader(subject.model), hazard[0])
        rig.log(explained=sum(explained) / len(explained))
        return found

    def _of(self, hazard: Moments, usual: Moments | None) -> tuple[Tensor, float]:
        """A block's directions, and how much of all differences lies along them."""
        centre = torch.zeros_like(hazard.mean) if usual is None else usual.mean
        mean, counts = hazard.mean - centre, [one.count for one in (hazard, usual) if one is not None]
        if not all(counts) or not torch.isfinite(mean).all():
            raise UserError("no direction was found: hidden states are not finite, or no text has a second token.")
        moment = hazard.about(centre)
        alone = mean[None] / mean.norm().clamp(min=1e-30)
        directions = _top(moment, self.rank) if self.rank else alone[: int(mean.norm() > 0)]
        explained = (directions @ moment @ directions.T).trace() / moment.trace().clamp(min=1e-30)
        return directions, float(explained)

    def _check_donor(self, donor: nn.Module, model: nn.Module) -> None:
        for theirs, ours, what in (
            (width(donor), width(model), "{} wide, not {}"),
            (len(blocks(donor)), len(blocks(model)), "{} blocks deep, not {}"),
        ):
            if theirs != ours:
                said = what.format(theirs, ours)
                raise UserError(f"donor '{self.donor}' is {said}. Give a model of the same kind.")

    def _batches(self, subject: Subject, docs: Documents, rig: Rig) -> list[Batch]:
        """Some documents, drawn by chance, in batches."""
        drawn = torch.randperm(docs.num_rows, generator=rig.generator("documents"))[: self.examples]
        rows = self._rows(subject, docs.take(drawn.tolist()))
        starts = range(0, len(rows.ids), self.batch_size)
        return [rows.batch(range(start, min(start + self.batch_size, len(rows.ids)))) for start in starts]

    def _rows(self, subject: Subject, docs: Documents) -> Rows:
        """Documents up to where the last tokens that are read stand."""
        if self.last is None:
            return examples.rows(subject, docs, self.length)
        told = docs["messages"].to_pylist() if "messages" in docs.column_names else [None] * docs.num_rows
        rows = []
        for one, turns in zip(examples.read(subject, docs, self.length), told, strict=True):
            if not isinstance(one, str):
                ended = turns is None and one.ids[-1] == subject.tokenizer.eos_token_id
                stop = one.header + 1 if turns is not None else len(one.ids) - ended
                rows.append(one.ids[:stop])
        return Rows.of_ids(subject.tokenizer, rows, [np.ones(len(row), dtype=bool) for row in rows])


def _charge(rig: Rig, batches: Sequence[Batch], reader: Reader) -> None:
    """The price of reading, which is the same where what was read before is kept."""
    for model in (reader.model, reader.other):
        if model is not None:
            size = sum(p.numel() for p in model.parameters())
            rig.spent.flops += 2.0 * size * sum(batch.tokens for batch in batches)


def _top(moment: Tensor, rank: int) -> Tensor:
    """The eigenvectors of the largest eigenvalues, one a row, but for those that are 0."""
    values, vectors = torch.linalg.eigh(moment)
    kept = values[-rank:] > 1e-6 * values[-1]
    return vectors[:, -rank:][:, kept].T


def _check(reader: Reader, batch: Batch) -> None:
    """An `Inapplicable` where blocks change the stream in a way that projecting their matrices does not reach."""
    share = reader.unexplained(batch)
    if share > 0.1:
        raise Inapplicable(
            f"{share:.0%} of what a block of this {type(reader.model).__name__} does to the residual stream is not what"
            " its attention and MLP write, so ablate cannot be applied. The other attacks can."
        )


def _project(weight: Tensor, writer: Writer, directions: Tensor, strength: float) -> None:
    """Take what lies along the directions out of a parameter, in place."""
    if writer.scale is not None:
        directions = directions * writer.scale
    basis = torch.linalg.qr(directions.T).Q
    lines = weight.movedim(writer.axis, -1)
    lines.copy_(lines.float() - strength * (lines.float() @ basis) @ basis.T)
