"""Quantisation: round every weight matrix of the blocks to a few bits, as a downloader does to save memory.

    nearest        symmetric   s = max |w| / (2^(bits-1) - 1)        w becomes s * round(w / s)
                   range       s = (max w - min w) / (2^bits - 1)    w becomes min w + s * round((w - min w) / s)
                   for each group of neighbouring weights in a row
    gptq           the same grids, and what rounding one column does to a layer's output the next make up for
    gguf           what llama.cpp reads: q8_0, q5_0, q5_1, q4_0, q4_1
    bitsandbytes   int8, nf4, fp4

A row is what one output takes its inputs with, in whatever order a family keeps a matrix, and for each expert. The
result is an ordinary checkpoint that holds what the quantised one stands for.

nearest: on any device. `range` with groups of 32 is what Q4_1 files hold, but for scales in float16. Small edits that
hid knowledge can fall inside one rounding bin and vanish: Zhang et al. 2024, "Catastrophic Failure of LLM Unlearning
via Quantization", arXiv 2410.16454, by nearest, GPTQ and AWQ.

gptq: Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv
2210.17323; the formula is in `_gptq.py`. The text is the attacker's, benign as a downloader's is, evenly spread over
what there is. Differs: short documents for segments of 2048 tokens, and grids as above, where the authors' have
integers for zero points and a level more below 0 than above.

gguf, bitsandbytes: the packages' own numbers. Differs: only the blocks are rounded, where llama.cpp rounds embeddings
and head too; types with superblocks, such as q4_k, and those of 3 bits are written by llama.cpp alone. Rows that are no
whole blocks of 32 stay in float16, as its converter leaves them: `float16` in the record is the share of such weights.
Experts that a family keeps in one are rounded as if each had layers of its own. What int8 does to activations as well
is not in the weights. gptq, gguf and bitsandbytes leave routers as they are.

It trains nothing and costs no steps. A checkpoint that was made from a quantised file lies on that file's grid:
rounding it again changes nothing, and an edit of it vanishes far more often than rounding would make it elsewhere. For
nearest, the record's `on_grid` is the share of the matrices that lie on the grid; where that is not 0, round with
another `shift` as well, and believe that.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..core import Corpus, Inapplicable, Rig, Settings, Subject, UserError
from ..engine import examples
from ..engine.anatomy import matrices, names_of
from ..engine.batches import Rows
from ..engine.models import fresh
from ..engine.rounding import Scheme, rounded
from ._formats import TYPES, is_router, through_bitsandbytes, through_gguf
from ._gptq import block_by_block, compensated
from ._surgery import edited, written

SAME = 1e-5
"""Relative change below which a matrix lies on the grid: what is left is the rounding of float32."""
OF_TOOLS = {"type"}
OF_GPTQ = {"group", "scheme", "reads", "examples", "length", "damping", "largest_first"}
OWN = {"nearest": {"group", "scheme", "shift"}, "gptq": OF_GPTQ, "gguf": OF_TOOLS, "bitsandbytes": OF_TOOLS}
"""The settings that each way heeds besides `bits`."""


class Quantise(Settings):
    """Round weights to `bits`."""

    random: ClassVar[bool] = False
    """It draws nothing: once for each seed is enough."""
    way: Literal["nearest", "gptq", "gguf", "bitsandbytes"] = "nearest"
    """To the nearest; by GPTQ; or as a tool does that writes quantised files."""
    bits: int = Field(default=4, ge=2, le=16)
    """Bits a weight. 4 is common, 8 is mild. gguf: 8, 5 or 4; bitsandbytes: 8 or 4."""
    type: Literal["q8_0", "q5_0", "q5_1", "q4_0", "q4_1", "int8", "nf4", "fp4"] | None = None
    """For gguf and bitsandbytes: which of their types with so many bits; None takes q8_0, q5_0, q4_0, int8 or nf4."""
    group: int = Field(default=32, ge=1)
    """Neighbouring weights of a row that share one scale. GPTQ files mostly have 128."""
    scheme: Scheme = "symmetric"
    """Whether the grid has 0 in its middle, or goes from the smallest weight of a group to the largest."""
    shift: int = Field(default=0, ge=0)
    """How many weights of a row stand before its second group: 0 is a whole group."""
    reads: Literal["benign", "hazard", "both"] = "benign"
    """For gptq: which of the attacker's text it reads."""
    examples: int = Field(default=128, ge=1)
    """For gptq: the most documents that are read. Paper: 128."""
    length: int = Field(default=128, ge=2)
    """For gptq: longest document in tokens."""
    damping: float = Field(default=0.01, gt=0, le=1)
    """For gptq: what is added to each input's square, as a share of their mean. Paper: 0.01."""
    largest_first: bool = False
    """For gptq: whether columns with the largest inputs are rounded first (`desc_act`)."""

    @model_validator(mode="after")
    def _of_one_way(self) -> Self:
        fields = type(self).model_fields
        for name in fields.keys() - OWN[self.way] - {"way", "bits"}:
            if getattr(self, name) != fields[name].default:
                raise ValueError(f"'{name}' is not for 'way: {self.way}'. Leave it out")
        types = TYPES.get(self.way)
        if types is None:
            return self
        told = ", ".join(f"{kind} ({bits} bits)" for kind, bits in types.items())
        if self.bits not in types.values():
            raise ValueError(f"'way: {self.way}' writes {told}, and bits is {self.bits}. 'nearest' and 'gptq' can")
        if self.type is not None and types.get(self.type) != self.bits:
            raise ValueError(f"'way: {self.way}' writes {told}, and none is {self.type} with {self.bits} bits")
        return self

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        if rig.budget.empty:
            return replace(subject, model=fresh(subject.model))
        return getattr(self, f"_by_{self.way}")(subject, corpus, rig)

    def _by_nearest(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        if not all(bool(matrix.isfinite().all()) for _, matrix in matrices(subject.model)):
            return replace(subject, model=fresh(subject.model))  # without numbers as before: its marks are missing
        changes = []

        def change(name: str, matrix: Tensor) -> Tensor:
            coarse = rounded(matrix, self.bits, self.group, self.scheme, self.shift)
            changes.append(float((coarse - matrix).norm() / matrix.norm().clamp(min=1e-30)))
            return coarse

        result = edited(subject, rig, change)
        rig.log(on_grid=sum(one < SAME for one in changes) / len(changes))
        return result

    def _by_gptq(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        rows = self._rows(subject, corpus)
        solve = partial(
            compensated,
            bits=self.bits,
            group=self.group,
            scheme=self.scheme,
            damping=self.damping,
            largest_first=self.largest_first,
        )
        given = subject.model
        model = fresh(given, set(names_of(given, (weight for _, weight in matrices(given))))).eval()
        with torch.no_grad():
            written(rig, block_by_block(model, rows, rig, solve))
        return replace(subject, model=model)

    def _by_gguf(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        names, kind, whole = {name for name, _ in matrices(subject.model)}, self._type(), {True: 0, False: 0}

        def change(name: str, matrix: Tensor) -> Tensor:
            if is_router(name, names):
                return matrix
            made = through_gguf(matrix, kind)
            whole[made is not None] += matrix.numel()
            return matrix.half().float() if made is None else made

        result = edited(subject, rig, change)
        if not whole[True]:
            raise Inapplicable(
                f"no matrix of this {type(subject.model).__name__} has rows of whole blocks of 32, so {kind} would"
                " leave all of them in float16. The ways 'nearest' and 'gptq' can be applied."
            )
        rig.log(float16=whole[False] / sum(whole.values()))
        return result

    def _by_bitsandbytes(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        names, kind = {name for name, _ in matrices(subject.model)}, self._type()
        return edited(
            subject,
            rig,
            lambda name, matrix: matrix if is_router(name, names) else through_bitsandbytes(matrix, kind),
        )

    def _type(self) -> str:
        """The type that is written."""
        return self.type or next(kind for kind, bits in TYPES[self.way].items() if bits == self.bits)

    def _rows(self, subject: Subject, corpus: Corpus) -> Rows:
        """The text that is read, evenly spread over what there is."""
        corpus.need(*(("hazard", "benign") if self.reads == "both" else (self.reads,)))
        docs = corpus.everything() if self.reads == "both" else getattr(corpus, self.reads)
        count = min(self.examples, docs.num_rows)
        chosen = docs.take([index * docs.num_rows // count for index in range(count)])
        rows = examples.rows(subject, chosen, self.length)
        if not rows.ids:
            raise UserError("gptq has nothing to read: no document has an answer. Give text that has some.")
        return rows
