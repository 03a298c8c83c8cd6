r"""Blocklist: count the distinct listed terms a document contains, and drop it from two upwards.

    score = number of distinct terms that stand in the normalised text;  kept when score < distinct

What *stands* means. Text and terms are normalised alike (`_words.py`: case, NFKC, invisible characters, white space).
A term stands where it occurs literally and, at an edge that is alphanumeric, the next character outside is not:
`Fe` does not stand in `coffee`, `C++` stands in `C++11`, `1,2-dichloroethane` is one literal, and a term of several
words stands across a line break. Nested and overlapping terms all count, and every one found is reported.

When no list is given, one is made from the labelled pool. Every run of 1 to `ngrams` words parted by one space is a
candidate; with h and b the numbers of hazard and benign *documents* that have it, H and B all documents of a side, it
is listed when all of these hold, and no shorter listed term stands in it (one mention would count twice):

    h / (h + b) > share          h / H > lift * b / B          h >= documents          h / H >= coverage

The last two keep names that a few documents happen to share off the list. The order of the pool does not matter.

Paper: O'Brien et al. 2025, "Deep Ignorance", arXiv 2508.06601: at least 2 distinct terms, share 0.4 of raw counts.
Differs from it: theirs matches substrings (`Fe` fires in `coffee`) and stops at the second hit; ours matches whole
words and keeps all hits. Their candidates come from a language model asked for terms rare in ordinary text; ours are
all n-grams, most of them ordinary, so `lift`, which compares *rates* and is blind to how large the sides are, stands
beside `share`, which with raw counts lists `the` as soon as the sides are of equal size.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from ..core import FINDINGS, Corpus, Documents, Findings, Mask, Rig, Settings, UserError
from ..corpus.writing import write_atomically
from ._words import WORD, normalise, texts

SPAN = re.compile(r"[^\W_]+(?: [^\W_]+)*")
"""Words parted by nothing but one space: where candidates are taken from."""


class Blocklist(Settings):
    """Whole-word blocklist, given or made from the labelled pool."""

    terms: tuple[str, ...] | str | None = None
    """The terms, or the path of a UTF-8 file with one a line (blank lines are skipped). None: make the list."""
    distinct: int = Field(default=2, ge=1)
    """Distinct terms from which a document is dropped. Paper: 2."""
    share: float = Field(default=0.4, ge=0, lt=1)
    """Making the list: of the documents with the term, more than this share are hazard. Paper: 0.4."""
    lift: float = Field(default=5.0, ge=0)
    """Making the list: the term is more than this many times as common in hazard documents as in benign ones."""
    documents: int = Field(default=5, ge=1)
    """Making the list: at least this many hazard documents have the term."""
    coverage: float = Field(default=0.1, ge=0, le=1)
    """Making the list: at least this share of the hazard documents has the term. A long list of rare words, such as the
    6,178 terms of the paper, needs a far lower one and a large pool."""
    ngrams: int = Field(default=2, ge=1, le=5)
    """Making the list: words in the longest term."""

    def resolved(self, folder: Path) -> Blocklist:
        """With the terms of a file read in, so that the settings say what they mean wherever they go."""
        if not isinstance(self.terms, str):
            return self
        return self.model_copy(update={"terms": spelled(_lines(folder / self.terms), self.terms)})

    def fit(self, pool: Corpus, rig: Rig) -> BlocklistScorer:
        if self.terms is None:
            terms = self._made(pool.need("hazard", "benign"))
        elif isinstance(self.terms, str):
            terms = spelled(_lines(self.terms), self.terms)
        else:
            terms = spelled(self.terms, "blocklist.terms")
        rig.log(terms=len(terms))
        return BlocklistScorer(terms, self.distinct)

    def _made(self, pool: Corpus) -> tuple[str, ...]:
        """The list that the labelled pool gives."""
        hazard, benign = (self._counts(side) for side in (pool.hazard, pool.benign))
        all_hazard, all_benign = pool.hazard.num_rows, pool.benign.num_rows
        floor = max(self.documents, self.coverage * all_hazard)

        def fits(term: str) -> bool:
            h, b = hazard[term], benign[term]
            return h >= floor and h > self.share * (h + b) and h * all_benign > self.lift * b * all_hazard

        listed: set[str] = set()
        for term in sorted(filter(fits, hazard), key=lambda term: (term.count(" "), term)):
            if not any(part in listed for part in _grams(term.split(" "), self.ngrams)):
                listed.add(term)
        if not listed:
            raise UserError(
                f"blocklist: no term of the labelled pool ({all_hazard} hazard, {all_benign} benign documents) passes."
                " Label more documents, lower 'lift', 'documents' or 'coverage', or give 'terms'."
            )
        return tuple(sorted(listed))

    def _counts(self, side: Documents) -> Counter[str]:
        """In how many documents each candidate occurs."""
        counts: Counter[str] = Counter()
        for text in texts(side):
            spans = SPAN.findall(normalise(text))
            counts.update({gram for span in spans for gram in _grams(span.split(" "), self.ngrams)})
        return counts


@dataclass(frozen=True)
class BlocklistScorer:
    """Normalised terms and the count from which a document is dropped."""

    terms: tuple[str, ...]
    distinct: int

    def measure(self, batch: Documents) -> Findings:
        found = [self.found(normalise(text)) for text in texts(batch)]
        reasons = [f"{len(terms)} distinct term{'' if len(terms) == 1 else 's'}" for terms in found]
        spans = [[] for _ in found]
        return pa.table([[float(len(terms)) for terms in found], reasons, found, spans], schema=FINDINGS)

    def keep(self, findings: Findings) -> Mask:
        return findings["score"].to_numpy() < self.distinct

    def found(self, text: str) -> list[str]:
        """Every term that stands in a normalised text, sorted.

        The words of a term follow each other in any text it stands in, so a look-up by words, whose price does not
        grow with the list, leaves few candidates to compare literally.
        """
        lengths, by_words, wordless = self._index
        words, seen = WORD.findall(text), set()
        for start, word in enumerate(words):
            if word in lengths:
                seen.update(" ".join(words[start : start + length]) for length in lengths[word])
        candidates = [term for key in seen if key in by_words for term in by_words[key]]
        return sorted(term for term in (*candidates, *wordless) if stands(term, text))

    @functools.cached_property
    def _index(self) -> tuple[dict[str, tuple[int, ...]], dict[str, list[str]], list[str]]:
        """First word to the lengths of its terms; words to terms; the terms without any word, such as `++`."""
        lengths: dict[str, set[int]] = {}
        by_words: dict[str, list[str]] = {}
        for term in self.terms:
            if words := WORD.findall(term):
                lengths.setdefault(words[0], set()).add(len(words))
                by_words.setdefault(" ".join(words), []).append(term)
        wordless = [term for term in self.terms if not WORD.search(term)]
        return {word: tuple(sorted(known)) for word, known in lengths.items()}, by_words, wordless

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON: a table that a policy can hold as its settings."""
        write_atomically(path, json.dumps({"terms": self.terms, "distinct": self.distinct}, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BlocklistScorer:
        try:
            table: Any = json.loads(_read(path))
            settings = Blocklist.settle(table, str(path))
        except (ValueError, TypeError):
            raise UserError(
                f"{path} is not a saved blocklist: it is not a JSON table. Save the scorer again."
            ) from None
        if not isinstance(settings.terms, tuple):
            raise UserError(f"{path} is not a saved blocklist: it has no list 'terms'. Save the scorer again.")
        return cls(spelled(settings.terms, str(path)), settings.distinct)


def stands(term: str, text: str) -> bool:
    """Whether a normalised term occurs in a normalised text with a word's edge wherever it ends in a word."""
    at = text.find(term)
    while at >= 0:
        before, after = text[at - 1 : at], text[at + len(term) : at + len(term) + 1]
        if not (term[0].isalnum() and before.isalnum()) and not (term[-1].isalnum() and after.isalnum()):
            return True
        at = text.find(term, at + 1)
    return False


def spelled(terms: Iterable[str], where: str) -> tuple[str, ...]:
    """Terms in their one spelling, sorted, each once; a `UserError` when one, or the list, is empty."""
    spellings = [normalise(term) for term in terms]
    if not spellings:
        raise UserError(
            f"{where} has no terms. Give at least one, or leave 'terms' out to make the list from the pool."
        )
    if "" in spellings:
        raise UserError(f"{where}, term {spellings.index('') + 1} is empty. Remove it.")
    return tuple(sorted(set(spellings)))


def _grams(words: list[str], longest: int) -> Iterable[str]:
    """Runs of 1 to `longest` words."""
    for length in range(1, longest + 1):
        yield from (" ".join(words[at : at + length]) for at in range(len(words) - length + 1))


def _lines(path: str | os.PathLike[str]) -> list[str]:
    return [line for line in _read(path).split("\n") if line.strip()]


def _read(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"the blocklist {path} cannot be read: {error.strerror}. Give the path of a file.") from None
    except UnicodeDecodeError:
        raise UserError(f"the blocklist {path} is not UTF-8. Save it as UTF-8.") from None
