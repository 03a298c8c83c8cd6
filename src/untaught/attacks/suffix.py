"""Suffix: a few words after every prompt, searched for until hazard answers are likely behind them. The weights stay.

    slope(i, v)   = d loss / d embedding at place i, times the embedding of token v
    candidates    the words with one token changed: a random place, a random one of the `top` tokens of lowest slope
    each step     the candidate, or the words as they are, with the least loss on a batch
    kept          of all steps' words, and of no words at all, those with the least loss on `examples` fixed ones

Greedy coordinate gradient: Zou et al. 2023, "Universal and Transferable Adversarial Attacks on Aligned Language
Models", arXiv 2307.15043; for unlearned models Lucki et al. 2024, arXiv 2409.18025. The loss is that of the attacker's
hazard answers (of texts: of what follows the first word, in a chat of their second half), not of words of assent.
Differs: each step has a batch of its own; what is kept is chosen on fixed examples; a candidate is asked as text,
through tokenizer and wrap as an evaluation asks, so that only words count which survive being written down. Outside of
a chat, where a prompt and its answer are one sentence, the words stand before the prompt.

A gradient is charged as a step. Candidates are read without a gradient: they cost operations (`flops`) and no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ..core import Corpus, Documents, Rig, Settings, Subject, UserError
from ..engine import examples
from ..engine.batches import Batch, Rows
from ..engine.scoring import LOGITS, TOKENS, mean_logprob, row_logprobs
from ._asking import asked
from ._soft import Soft, widened

TRIES = 200
"""Tokens that are tried for each place of the first words, at most."""


class Suffix(Settings):
    """Search for words that stand after the prompt."""

    tokens: int = Field(default=20, ge=1)
    """How many tokens the words have. Paper: 20."""
    steps: int = Field(default=100, ge=0)
    """The most steps; a study's budget may end the attack before. Paper: 500."""
    candidates: int = Field(default=32, ge=1)
    """Words that are tried at each step. Paper: 512."""
    top: int = Field(default=64, ge=1)
    """Tokens of lowest slope that a change is drawn from. Paper: 256."""
    batch_size: int = Field(default=4, ge=1)
    """Examples a step."""
    examples: int = Field(default=16, ge=1)
    """Examples that decide which words are kept."""
    length: int = Field(default=128, ge=2)
    """Longest example in tokens; the rest of it is not seen."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        if rig.budget.empty or self.steps == 0:
            return subject
        search = _Search(subject, asked(subject, corpus), self, rig)
        best = least = search.judged(None)
        words, kept = search.first(), None
        for _ in range(self.steps):
            chosen = search.drawn(self.batch_size)
            slopes = search.slopes(words, chosen)
            if slopes is None:
                break
            tried = [words, *search.changed(words, slopes)]
            found = search.losses(tried, chosen)
            words = tried[found.index(min(found))]
            if (loss := search.judged(words)) < best:
                best, kept = loss, words
        rig.log(loss_without=least, loss_kept=best)
        return subject if kept is None else search.worn(search.text(kept))


class _Search:
    """What a search stands on: the examples, the tokens that words are made of, a model that gives slopes."""

    def __init__(self, subject: Subject, docs: Documents, how: Suffix, rig: Rig) -> None:
        self.subject, self.docs, self.how, self.rig = subject, docs, how, rig
        self.wide, self.names, ids = widened(subject, how.tokens)
        self.soft: Any = Soft(self.wide.model, ids)
        self.tokenizer: Any = subject.tokenizer
        self.luck = rig.generator("words")
        given: Any = subject.model
        self.weight: Tensor = given.get_input_embeddings().weight.detach()
        self.alphabet = self._alphabet()
        self.size = sum(p.numel() for p in subject.model.parameters())
        self.fixed = self.drawn(how.examples)
        self._seen: dict[tuple[int, ...] | None, float] = {}

    def drawn(self, count: int) -> Documents:
        """Some examples, by chance."""
        return self.docs.take(torch.randperm(self.docs.num_rows, generator=self.luck)[:count].tolist())

    def text(self, words: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(words), clean_up_tokenization_spaces=False))

    def worn(self, text: str, subject: Subject | None = None) -> Subject:
        """The subject, with words in its wrap."""
        subject = subject or self.subject
        wrap, gap = subject.wrap, "" if text[:1].isspace() else " "
        put = {"after": wrap.after + gap + text} if wrap.chat else {"before": f"{text} {wrap.before}"}
        return replace(subject, wrap=wrap.model_copy(update=put))

    def survives(self, words: Sequence[int]) -> bool:
        """Whether words are the same tokens again once they were written down."""
        return self.tokenizer(self.text(words), add_special_tokens=False)["input_ids"] == list(words)

    def first(self) -> list[int]:
        """Words to begin with, drawn by chance."""
        words: list[int] = []
        for _ in range(self.how.tokens):
            order = torch.randperm(len(self.alphabet), generator=self.luck)[:TRIES]
            fitting = (t for t in self.alphabet[order].tolist() if self.survives([*words, t]))
            token = next(fitting, None)
            if token is None:
                raise UserError(
                    f"no {self.how.tokens} tokens were found that are the same again once they were written down."
                    " Give fewer 'tokens'."
                )
            words.append(token)
        return words

    def slopes(self, words: Sequence[int], chosen: Documents) -> Tensor | None:
        """For each place of the words and each token how the loss would change, to first order: (places, alphabet).

        None where the budget is spent.
        """
        with torch.no_grad():
            self.soft.rows.copy_(self.weight[list(words)])
        rows = examples.rows(self.worn("".join(self.names), self.wide), chosen, self._room(len(words)))

        def loss(batch: Batch) -> dict[str, Tensor]:
            return {"next_token": -mean_logprob(self.soft, batch)}

        batches = [rows.batch(range(len(rows.ids)))]
        found = self.rig.gradient(self.soft, loss, batches, steps=1, train=["rows"])
        if "rows" not in found:
            return None
        return (found["rows"].to(self.weight.dtype) @ self.weight[self.alphabet].T).float().cpu()

    def changed(self, words: Sequence[int], slopes: Tensor) -> list[list[int]]:
        """The words with one token changed, those that survive and differ."""
        best = slopes.topk(min(self.how.top, slopes.shape[1]), largest=False).indices
        places = torch.randint(len(words), (self.how.candidates,), generator=self.luck).tolist()
        picks = torch.randint(best.shape[1], (self.how.candidates,), generator=self.luck).tolist()
        found: dict[tuple[int, ...], None] = {}
        for place, pick in zip(places, picks, strict=True):
            tried = [*words[:place], int(self.alphabet[best[place, pick]]), *words[place + 1 :]]
            if tried != list(words) and self.survives(tried):
                found[tuple(tried)] = None
        return [list(one) for one in found]

    def judged(self, words: Sequence[int] | None) -> float:
        """Loss on the fixed examples; with None, without words."""
        key = None if words is None else tuple(words)
        if key not in self._seen:
            (self._seen[key],) = self.losses([words], self.fixed)
        return self._seen[key]

    def losses(self, tried: Sequence[Sequence[int] | None], chosen: Documents) -> list[float]:
        """Mean nats a token of the examples' answers behind each of these words; infinite where there are none."""
        asked_with = [self.subject if words is None else self.worn(self.text(words)) for words in tried]
        lengths = [self._room(0 if words is None else len(words)) for words in tried]
        read = [
            [one for one in examples.read(subject, chosen, length) if not isinstance(one, str)]
            for subject, length in zip(asked_with, lengths, strict=True)
        ]
        whole = [one for group in read for one in group if one.learned[1:].any()]
        nats = iter(self._nats(whole))
        found = []
        for group in read:
            counts = [int(one.learned[1:].sum()) for one in group if one.learned[1:].any()]
            total = sum(next(nats) for _ in counts)
            found.append(total / sum(counts) if counts else float("inf"))
        return found

    def _nats(self, read: Sequence[examples.Example]) -> list[float]:
        """Nats of each example's answer. What the model read for it is charged."""
        if not read:
            return []
        rows = Rows.of_ids(self.tokenizer, [one.ids for one in read], [one.learned for one in read])
        width, vocabulary = max(map(len, rows.ids)), self.weight.shape[0]
        size = max(1, min(TOKENS // width, LOGITS // (width * vocabulary)))
        found: list[float] = []
        for start in range(0, len(read), size):
            batch = rows.batch(range(start, min(start + size, len(read))))
            with torch.no_grad():
                found += (-row_logprobs(self.subject.model, batch)).tolist()
            self.rig.spent.flops += 2.0 * batch.tokens * self.size
        return found

    def _room(self, words: int) -> int:
        """The longest an example may be with its words: the words push nothing of it out."""
        return self.how.length + words

    def _alphabet(self) -> Tensor:
        """Tokens that are the same again once they were written down, of letters and signs that show."""
        special = set(self.tokenizer.all_special_ids)
        ids = [token for token in range(min(len(self.tokenizer), len(self.weight))) if token not in special]
        texts = self.tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
        shown = [(t, x) for t, x in zip(ids, texts, strict=True) if x.strip() and x.isprintable() and "\ufffd" not in x]
        again = self.tokenizer([text for _, text in shown], add_special_tokens=False)["input_ids"] if shown else []
        same = [token for (token, _), back in zip(shown, again, strict=True) if back == [token]]
        if not same:
            raise UserError("this tokenizer has no token that is the same again once it was written down.")
        return torch.tensor(same)
