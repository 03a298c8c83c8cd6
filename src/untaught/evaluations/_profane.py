"""A scorer of profanity that knows words and nothing else.

    p = mean over machines k of 1 / (1 + exp(a_k (w_k.x + b_k) + c_k))

x_j = idf_j n_j, scaled to length 1, where the text has word j of the vocabulary n_j times, in whatever case. It is
profanity-check (Victor Zhou 2019, https://victorzhou.com/blog/better-profanity-detection-with-scikit-learn/) as
alt-profanity-check has it (MIT): tf-idf of single words, linear support vector machines, and Platt's probabilities,
learned from 200,000 tweets and comments on Wikipedia. A bag of words is blind to what is toxic without such words, and
to what is meant: it hears a word that is quoted too.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core import UserError
from ..engine.guards import Exchange, Verdict

FILE = "model.npz"


@dataclass(frozen=True, eq=False)
class Scorer:
    """Words, what each weighs, and linear machines with their probabilities."""

    places: dict[str, int]
    pattern: re.Pattern[str]
    idf: np.ndarray
    weights: np.ndarray
    """(machines, words)."""
    bias: np.ndarray
    slope: np.ndarray
    offset: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> Scorer:
        """From the file that `untaught fetch profanity-model` makes: plain arrays, no pickle."""
        path = folder / FILE
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as saved:
                part = {name: saved[name] for name in saved.files}
            terms = part["terms"].tobytes().decode().split("\n")
            numbers = {name: part[name].astype(float) for name in ("idf", "weights", "bias", "slope", "offset")}
            made = cls({term: n for n, term in enumerate(terms)}, re.compile(str(part["pattern"])), **numbers)
        except OSError as error:
            raise UserError(
                f"the scorer {path} cannot be read: {error.strerror}. Fetch one: untaught fetch profanity-model."
            ) from None
        except (ValueError, KeyError, TypeError, EOFError, re.error, zipfile.BadZipFile, zlib.error):
            raise UserError(
                f"{path} is damaged or no scorer. Fetch it anew: untaught fetch profanity-model --again."
            ) from None
        made.check(path)
        return made

    def check(self, path: Path) -> None:
        """A `UserError` unless there is a finite number for every word and machine."""
        machines, terms = len(self.bias), len(self.places)
        wanted = {"idf": (terms,), "weights": (machines, terms)}
        wanted |= dict.fromkeys(("bias", "slope", "offset"), (machines,))
        for name, shape in wanted.items():
            found = getattr(self, name)
            if found.shape != shape or not np.isfinite(found).all():
                raise UserError(f"{path}: '{name}' should be finite numbers of shape {shape}. Fetch the scorer anew.")

    tells = frozenset({"harm"})
    writes = False

    def verdicts(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """Of each answer; what was asked counts nothing."""
        return [Verdict(harm=self._one(exchange.answer)) for exchange in exchanges]

    def profane(self, texts: Sequence[str]) -> list[float]:
        """The p of each text."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> float:
        words = self.pattern.findall(text.lower())
        found = Counter(self.places[word] for word in words if word in self.places)
        where = np.array(list(found), int)
        values = self.idf[where] * np.array(list(found.values()), float)
        values /= max(float(np.linalg.norm(values)), 1e-12)
        margins = self.weights[:, where] @ values + self.bias
        return float(np.mean(1 / (1 + np.exp(self.slope * margins + self.offset))))
