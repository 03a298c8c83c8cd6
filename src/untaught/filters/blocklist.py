r"""Blocklist: count the distinct listed terms a document contains, and drop it from two upwards.

    score = number of distinct terms that stand in the text;  kept when score < distinct

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
words and keeps all hits. With `match: substring` a document is flagged exactly when theirs is: text and terms are
lower-cased (`str.lower`) and nothing else, and a term stands wherever it is contained; all hits are still kept, and
there is no early exit. Their candidates come from a language model asked for terms rare in ordinary text; ours are
all n-grams, most of them ordinary, so `lift`, which compares *rates* and is blind to how large the sides are, stands
beside `share`, which with raw counts lists `the` as soon as the sides are of equal size.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from ..core import (
    FINDINGS,
    SPAN,
    Corpus,
    Documents,
    Finding,
    Findings,
    Mask,
    Rig,
    Settings,
    UserError,
    findings,
    require,
)
from ..corpus.writing import write_atomically
from ._words import WORD, lowered, normalise, placed, texts

if TYPE_CHECKING:
    from ._scanner import Hits, Scanner

Match = Literal["words", "substring"]
SMALL = 4 * 2**20
"""Bytes of text that a scorer reads plainly before the scanner is worth its start, a second or more."""
COVERAGES = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.0)
"""Lists that are tried when a policy chooses among several."""
PARTED = re.compile(r"[^\W_]+(?: [^\W_]+)*")
"""Words parted by nothing but one space: where candidates are taken from."""


class Blocklist(Settings):
    """Whole-word blocklist, given or made from the labelled pool."""

    thresholds: ClassVar[tuple[str, ...]] = ("distinct",)
    lock_free: ClassVar[bool] = True

    terms: tuple[str, ...] | str | None = None
    """The terms, or the path of a UTF-8 file with one a line (blank lines are skipped). None: make the list."""
    distinct: int = Field(default=2, ge=1)
    """Distinct terms from which a document is dropped. Paper: 2."""
    match: Match = "words"
    """`words`: a term ends where its words end. `substring`: the paper's rule, lower-cased and contained anywhere."""
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
        return self.model_copy(update={"terms": spelled(_lines(folder / self.terms), self.terms, self.match)})

    def fit(self, pool: Corpus, rig: Rig) -> BlocklistScorer:
        if self.terms is None:
            terms = self._made(pool.need("hazard", "benign"))
        elif isinstance(self.terms, str):
            terms = spelled(_lines(self.terms), self.terms, self.match)
        else:
            terms = spelled(self.terms, "blocklist.terms", self.match)
        rig.log(terms=len(terms))
        return BlocklistScorer(terms, self.distinct, self.match)

    def frozen(self, scorer: BlocklistScorer, folder: Path) -> Blocklist:
        """With the terms that were found, so that no pool is needed to fit again."""
        return self.model_copy(update={"terms": scorer.terms})

    def choices(self, pool: Corpus) -> Iterator[Blocklist]:
        """The same with each list that a `coverage` gives, from short to long; only one where `coverage` is set.

        Which of them is best, documents must tell that no list was made from: a term that a few thousand benign
        documents do not have may well be in every tenth of millions.
        """
        settled = self.terms is not None or "coverage" in self.model_fields_set
        candidates = self._candidates(pool.need("hazard", "benign")) if self.terms is None else None
        seen: object = None
        for coverage in (self.coverage,) if settled else COVERAGES:
            made = self.model_copy(update={"coverage": coverage})
            terms = self.terms if candidates is None else made._listed(candidates)
            if terms and terms != seen:
                yield made.model_copy(update={"terms": terms})
                seen = terms

    def _made(self, pool: Corpus) -> tuple[str, ...]:
        """The list that the labelled pool gives."""
        terms = self._listed(self._candidates(pool))
        if not terms:
            raise UserError(
                f"blocklist: no term of the labelled pool ({pool.hazard.num_rows} hazard, {pool.benign.num_rows} benign"
                " documents) passes. Label more documents, lower 'lift', 'documents' or 'coverage', or give 'terms'."
            )
        return terms

    def _candidates(self, pool: Corpus) -> Candidates:
        """What occurs often enough in hazard documents, counted on both sides."""
        hazard = {term: h for term, h in self._counts(pool.hazard).items() if h >= self.documents}
        benign = self._counts(pool.benign, hazard.keys())
        return Candidates(hazard, benign, pool.hazard.num_rows, pool.benign.num_rows)

    def _listed(self, found: Candidates) -> tuple[str, ...]:
        """The candidates that pass, without those in which a shorter one stands."""
        floor = max(self.documents, self.coverage * found.all_hazard)

        def fits(term: str) -> bool:
            h, b = found.hazard[term], found.benign[term]
            often = h * found.all_benign > self.lift * b * found.all_hazard
            return h >= floor and h > self.share * (h + b) and often

        listed: set[str] = set()
        for term in sorted(filter(fits, found.hazard), key=lambda term: (term.count(" "), term)):
            if not any(part in listed for part in _grams(term.split(" "), self.ngrams)):
                listed.add(term)
        return tuple(sorted(listed))

    def _counts(self, side: Documents, among: Set[str] | None = None) -> Counter[str]:
        """In how many documents each candidate occurs; with `among`, only those are counted."""
        counts: Counter[str] = Counter()
        for text in texts(side):
            spans = PARTED.findall(normalise(text))
            grams = {gram for span in spans for gram in _grams(span.split(" "), self.ngrams)}
            counts.update(grams if among is None else grams & among)
        return counts


@dataclass(frozen=True)
class Candidates:
    """Candidates for a list: in how many documents of a side each occurs, and how many documents a side has."""

    hazard: Mapping[str, int]
    benign: Counter[str]
    all_hazard: int
    all_benign: int


@dataclass(frozen=True)
class BlocklistScorer:
    """Terms in their one spelling and the count from which a document is dropped."""

    terms: tuple[str, ...]
    distinct: int
    match: Match = "words"

    def measure(self, batch: Documents) -> Findings:
        column = require(batch, ["text"], "the batch of documents")["text"]
        self._read[0] += column.nbytes
        if column.null_count or self._read[0] < SMALL:
            return self.plain(batch)
        return tabled(self.terms, len(column), self._scanner.hits(column))

    def keep(self, findings: Findings) -> Mask:
        return findings["score"].to_numpy() < self.distinct

    def plain(self, batch: Documents) -> Findings:
        """The same findings, read off the definition: what `measure` is held to."""
        return findings(map(self._found, texts(batch)))

    def _found(self, text: str) -> Finding:
        if self.match == "words":
            spelled, spell = normalise(text), placed
            candidates = self._candidates(spelled)
        else:
            spelled, spell = text.lower(), lowered
            candidates = self.terms
        places = {term: found for term in candidates if (found := list(self._places(term, spelled)))}
        terms = sorted(places)
        _, starts, stops = spell(text) if terms else ("", [], [])
        spans = {
            (starts[at], stops[at + len(term) - 1], number) for number, term in enumerate(terms) for at in places[term]
        }
        return Finding(
            float(len(terms)), reason(len(terms)), tuple(terms), tuple((t, a, b) for a, b, t in sorted(spans))
        )

    def _places(self, term: str, text: str) -> Iterator[int]:
        """Everywhere in a text that a term matches, both in their one spelling."""
        at = text.find(term)
        while at >= 0:
            if self.match == "substring" or stands(text, at, at + len(term)):
                yield at
            at = text.find(term, at + 1)

    def _candidates(self, text: str) -> Iterable[str]:
        """The terms whose words follow each other in a normalised text, and those without words.

        They do in any text that the term stands in; and looking them up costs the same however long the list is.
        """
        lengths, by_words, wordless = self._index
        words, seen = WORD.findall(text), set()
        for start, word in enumerate(words):
            if word in lengths:
                seen.update(" ".join(words[start : start + length]) for length in lengths[word])
        return {*wordless, *(term for key in seen if key in by_words for term in by_words[key])}

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

    @functools.cached_property
    def _scanner(self) -> Scanner:
        from ._scanner import Scanner  # noqa: PLC0415 - compiles: only who scans waits for it

        return Scanner(self.terms, substring=self.match == "substring")

    @functools.cached_property
    def _read(self) -> list[int]:
        """Bytes of text that were measured so far."""
        return [0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON: a table that a policy can hold as its settings."""
        table = {"terms": self.terms, "distinct": self.distinct, "match": self.match}
        write_atomically(path, json.dumps(table, ensure_ascii=False) + "\n")

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
        return cls(spelled(settings.terms, str(path), settings.match), settings.distinct, settings.match)


def tabled(terms: tuple[str, ...], documents: int, hits: Hits) -> Findings:
    """Findings from hits, in columns and not a document at a time. `terms` are sorted, and so is what a row has."""
    pairs, which = np.unique(hits.document * len(terms) + hits.term, return_inverse=True)
    counts = np.bincount(pairs // len(terms), minlength=documents)
    ends = np.concatenate([[0], np.cumsum(counts)])
    span_ends = np.searchsorted(hits.document, np.arange(documents + 1))
    places = [which - ends[hits.document], hits.start, hits.stop]
    spans = pa.StructArray.from_arrays([pa.array(place, pa.int32()) for place in places], fields=list(SPAN))
    found = pa.array(terms, pa.string()).take(pa.array(pairs % len(terms)))
    reasons = pa.array([reason(count) for count in range(counts.max(initial=0) + 1)], pa.string())
    columns = [
        pa.array(counts, pa.float64()),
        reasons.take(pa.array(counts)),
        pa.ListArray.from_arrays(pa.array(ends, pa.int32()), found),
        pa.ListArray.from_arrays(pa.array(span_ends, pa.int32()), spans),
    ]
    return pa.table(columns, schema=FINDINGS)


def reason(count: int) -> str:
    return f"{count} distinct term{'' if count == 1 else 's'}"


def stands(text: str, start: int, stop: int) -> bool:
    """Whether a piece of a normalised text has a word's edge wherever it ends in a word."""
    before, after = text[start - 1 : start], text[stop : stop + 1]
    return not (text[start].isalnum() and before.isalnum()) and not (text[stop - 1].isalnum() and after.isalnum())


def spelled(terms: Iterable[str], where: str, match: Match) -> tuple[str, ...]:
    """Terms in their one spelling, sorted, each once; a `UserError` when one, or the list, is empty."""
    spellings = [normalise(term) if match == "words" else term.lower() for term in terms]
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
