"""The scorer of profanity-check, out of scikit-learn's pickles into plain arrays: `model.npz`.

    terms             the words, in UTF-8, one after another with a line feed between
    pattern           the regular expression that finds words in a text in lower case
    idf               (terms): what a word weighs each time that the text has it
    weights, bias     (machines, terms), (machines): linear machines, shown the words' weights scaled to length 1
    slope, offset     (machines): p = 1 / (1 + exp(slope * machine + offset)); the scorer's p is the mean of these

Stop words are in no vocabulary, so they need no list; a text is otherwise read as `READ` says, or the file is refused.

A pickle can name anything to be called. Ours knows the names in `NAMES` and refuses others, and every one of these
stands for a class of ours that keeps what it is given and does nothing: nothing of scikit-learn, joblib or NumPy is
called by the file. joblib writes the numbers of an array behind its description, out of the pickle's sight.
"""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..core import UserError
from ..corpus.writing import write_atomically

FILE = "model.npz"
ARRAY = "joblib.numpy_pickle.NumpyArrayWrapper"
NAMES = (
    "sklearn.feature_extraction.text.TfidfVectorizer",
    "sklearn.feature_extraction.text.TfidfTransformer",
    "sklearn.calibration.CalibratedClassifierCV",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.svm._classes.LinearSVC",
    "numpy.dtype",
    "numpy.float64",
    "numpy.ndarray",
    "numpy._core.multiarray.scalar",
    ARRAY,
)
NUMBERS = ("<f8", "<i8")
"""Types of the arrays."""
READ = {
    "input": "content", "strip_accents": None, "preprocessor": None, "tokenizer": None, "analyzer": "word",
    "lowercase": True, "ngram_range": (1, 1), "binary": False, "norm": "l2", "use_idf": True, "sublinear_tf": False,
}  # fmt: skip
"""How the words of a text are found, counted and weighed."""
BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    MemoryError,
)
"""What comes of a file that is damaged or holds something else."""


def convert(members: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Write the arrays. Returns how many words and machines there are."""
    arrays: dict[str, Any] = {}
    for name, read in (("vectorizer.joblib", _words), ("model.joblib", _machines)):
        (path,) = (path for path in members.values() if path.name == name)
        try:
            arrays |= read(_Unpickler(io.BytesIO(path.read_bytes())).load().state)
        except BROKEN as error:
            raise UserError(
                f"{path} is damaged, or no part of profanity-check as it is known ({type(error).__name__}). Download it"
                " again."
            ) from None
    machines, terms = arrays["weights"].shape
    if arrays["idf"].shape != (terms,):
        raise UserError(
            f"the vectorizer weighs {arrays['idf'].size} words, and the model {terms}. Download them again."
        )
    whole = io.BytesIO()
    np.savez(whole, allow_pickle=False, **arrays)
    write_atomically(folder / FILE, whole.getvalue())
    return {"terms": terms, "machines": machines}


def _words(vectorizer: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The vocabulary, and what each word weighs."""
    if (otherwise := {name: vectorizer[name] for name in READ}) != READ:
        raise ValueError(otherwise)
    places = vectorizer["vocabulary_"]
    terms = sorted(places, key=places.__getitem__)
    idf = _finite(vectorizer["_tfidf"].state["idf_"].state)
    if [places[term] for term in terms] != list(range(len(idf))):
        raise ValueError("another place than the words' own")
    listed = np.frombuffer("\n".join(terms).encode(), np.uint8)
    return {"terms": listed, "pattern": np.array(vectorizer["token_pattern"], str), "idf": idf}


def _machines(model: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Weights, and what makes probabilities of them."""
    if model["method"] != "sigmoid" or model["classes_"].state.tolist() != [0, 1]:
        raise ValueError("another calibration, or other classes")
    found: dict[str, list[Any]] = {name: [] for name in ("weights", "bias", "slope", "offset")}
    for one in model["calibrated_classifiers_"]:
        machine, (curve,) = one.state["estimator"].state, one.state["calibrators"]
        found["weights"].append(machine["coef_"].state.reshape(-1))
        found["bias"].append(machine["intercept_"].state.item())
        found["slope"].append(_number(curve.state["a_"]))
        found["offset"].append(_number(curve.state["b_"]))
    return {name: _finite(np.stack(values)) for name, values in found.items()}


def _finite(values: np.ndarray) -> np.ndarray:
    if values.dtype != np.float64 or not np.isfinite(values).all():
        raise ValueError("numbers that are not finite")
    return values


class _Theirs:
    """Stands in for each of their classes and functions: it keeps what it is given."""

    def __init__(self, *given: Any) -> None:
        self.given = given

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Knows `NAMES` and no other."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)

        class Array(_Theirs):
            """Reads its numbers as soon as it is told of them, where the file stands then."""

            def __setstate__(self, state: Any) -> None:
                self.state = _array(file, state)

        self.array = Array

    def find_class(self, module: str, name: str, /) -> type[_Theirs]:
        called = f"{module}.{name}"
        if called not in NAMES:
            raise UserError(f"the pickle names {called[:80]!r}, which no scorer needs. Nothing of it was run or kept.")
        return self.array if called == ARRAY else _Theirs


def _array(file: BinaryIO, about: Mapping[str, Any]) -> np.ndarray:
    """An array as joblib writes it: how many bytes fill up to a round place, in a byte; these; the numbers."""
    kind = _kind(about["dtype"])
    if about["numpy_array_alignment_bytes"] is not None:
        file.seek(file.read(1)[0], os.SEEK_CUR)
    found = np.frombuffer(file.read(math.prod(about["shape"]) * kind.itemsize), kind)
    return found.reshape(about["shape"], order=about["order"])


def _number(scalar: _Theirs) -> float:
    """A number that the pickle itself holds."""
    kind, raw = scalar.given
    return np.frombuffer(raw, _kind(kind)).item()


def _kind(about: _Theirs) -> np.dtype:
    """A type of numbers, by its code and the order of its bytes."""
    code = f"{about.state[1]}{about.given[0]}"
    return np.dtype(NUMBERS[NUMBERS.index(code)])
