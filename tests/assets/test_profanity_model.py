"""The scorer of profanity: plain arrays out of pickles that may name nothing else, and the same p as the original."""

import io
import pickle

import numpy as np
import pytest
from test_real_wheels import fetched

from untaught.assets import profanity_model
from untaught.core import UserError
from untaught.evaluations._profane import Scorer

TERMS = ["bother", "gosh", "teapot"]
WEIGHTS = np.array([[1.5, 0.75, -2.0], [1.25, 0.5, -1.0]])
MACHINES = [(-0.5, -2.0, 0.25), (-0.25, -3.0, 0.5)]
"""Bias, slope and offset of each."""
ORIGINAL = {
    "": 0.036375752016469504,
    "The cat sat on the mat.": 0.031449223424800624,
    "Thank you very much for your help.": 0.0007675157980556108,
    "Bake the cake for forty minutes.": 0.16959060280541363,
    "stupid_idiot": 0.036375752016469504,
    "damn": 0.9777905162361906,
    "Damn it, the bus is late again.": 0.8426058048276079,
    "He said 'damn' twice: damn, damn.": 0.9558018591864389,
    "This is a stupid question, but where is the station?": 0.8940025657147599,
    "You IDIOT!!! stupid, stupid, stupid": 0.9999998817903398,
    "I hate this bloody weather": 0.9375177718667917,
    "don't be such a jerk": 0.9965647642393053,
}
"""What `predict_prob` of alt-profanity-check 1.9.1 gives, with scikit-learn 1.9.1."""


class Thing:
    """Something of a class, as a pickle has it: what it is called with, its state, and the bytes that follow."""

    def __init__(self, named, state, given=None, after=b""):
        self.named, self.state, self.given, self.after = named, state, given, after


def written(value):
    """Opcodes that make a value, as Python's pickles have them."""
    if isinstance(value, Thing):
        module, _, name = value.named.rpartition(".")
        called = b"c%s\n%s\n" % (module.encode(), name.encode())
        made = called + (b")\x81" if value.given is None else written(value.given) + b"R")
        return made + (b"" if value.state is None else written(value.state) + b"b") + value.after
    if isinstance(value, dict):
        return b"}(" + b"".join(written(key) + written(one) for key, one in value.items()) + b"u"
    if isinstance(value, list | tuple):
        return b"(" + b"".join(map(written, value)) + (b"t" if isinstance(value, tuple) else b"l")
    if isinstance(value, bytes | str):
        raw = value if isinstance(value, bytes) else value.encode()
        return (b"B" if value is raw else b"X") + len(raw).to_bytes(4, "little") + raw
    return {None: b"N", True: b"\x88", False: b"\x89"}[value] if type(value) in (bool, type(None)) else b"I%d\n" % value


def file(value):
    return b"\x80\x05" + written(value) + b"."


def kind(code):
    return Thing("numpy.dtype", (3, "<", None, None, None, -1, -1, 0), (code, False, True))


def array(values, order="C"):
    """As joblib writes one: its numbers stand behind it, after four bytes that fill up."""
    values = np.asarray(values)
    about = {"shape": values.shape, "order": order, "dtype": kind(values.dtype.str[1:])}
    raw = b"\x04\xff\xff\xff\xff" + values.tobytes(order)
    return Thing(profanity_model.ARRAY, about | {"numpy_array_alignment_bytes": 16}, after=raw)


def number(value):
    return Thing("numpy._core.multiarray.scalar", None, (kind("f8"), np.float64(value).tobytes()))


def weighed(*idf):
    return Thing("sklearn.feature_extraction.text.TfidfTransformer", {"idf_": array(idf)})


def vectorizer(**changes):
    known = {"token_pattern": r"(?u)\b\w\w+\b", "vocabulary_": {"teapot": 2, "bother": 0, "gosh": 1}}
    state = profanity_model.READ | known | {"stop_words": "english", "_tfidf": weighed(1.0, 2.0, 3.0)} | changes
    return Thing("sklearn.feature_extraction.text.TfidfVectorizer", state)


def model(machines=MACHINES, **changes):
    found = []
    for row, (bias, slope, offset) in zip(WEIGHTS, machines, strict=True):
        machine = Thing("sklearn.svm._classes.LinearSVC", {"coef_": array([row], "F"), "intercept_": array([bias])})
        curve = Thing("sklearn.calibration._SigmoidCalibration", {"a_": number(slope), "b_": number(offset)})
        one = {"estimator": machine, "calibrators": [curve]}
        found.append(Thing("sklearn.calibration._CalibratedClassifier", one))
    state = {"method": "sigmoid", "classes_": array([0, 1]), "calibrated_classifiers_": found} | changes
    return Thing("sklearn.calibration.CalibratedClassifierCV", state)


@pytest.fixture
def converted(tmp_path):
    """Writes both files, some of them as given, and converts them. Returns the folder."""

    def run(**given):
        contents = {"vectorizer": file(vectorizer()), "model": file(model())} | given
        members = {f"package/{name}.joblib": tmp_path / f"{name}.joblib" for name in contents}
        for path in members.values():
            path.write_bytes(contents[path.stem])
        (tmp_path / "out").mkdir(exist_ok=True)
        assert profanity_model.convert(members, tmp_path / "out") == {"terms": 3, "machines": 2}
        return tmp_path / "out"

    return run


def test_the_arrays_are_theirs_and_hold_no_objects(converted):
    with np.load(converted() / "model.npz", allow_pickle=False) as made:
        assert made["terms"].tobytes().decode().split("\n") == TERMS
        assert str(made["pattern"]) == r"(?u)\b\w\w+\b"
        assert made["idf"].tolist() == [1, 2, 3]
        assert made["weights"].tolist() == WEIGHTS.tolist()
        assert list(zip(*(made[name].tolist() for name in ("bias", "slope", "offset")), strict=True)) == MACHINES


def test_a_text_is_read_as_they_read_it(converted):
    scorer = Scorer.load(converted())
    x = np.array([2.0, 2.0, 0.0]) / np.sqrt(8)  # twice bother, once gosh
    wanted = [1 / (1 + np.exp(s * (w @ x + b) + o)) for w, (b, s, o) in zip(WEIGHTS, MACHINES, strict=True)]
    none = [1 / (1 + np.exp(s * b + o)) for b, s, o in MACHINES]
    found = scorer.profane(["Gosh, BOTHER the bother!", "a b c", ""])
    assert found == pytest.approx([np.mean(wanted), np.mean(none), np.mean(none)], abs=1e-15)


@pytest.mark.parametrize(
    "named",
    ["os.system", "posix.system", "builtins.eval", "builtins.getattr", "numpy.load", "sklearn.svm._classes.SVC"],
)
def test_a_pickle_that_names_anything_else_is_refused_and_not_run(converted, tmp_path, named):
    run = Thing(named, None, (f"touch {tmp_path / 'run'}",))
    for place, made in (("vectorizer", vectorizer(stop_words=run)), ("model", model(cv=run)), ("model", run)):
        with pytest.raises(UserError, match=f"the pickle names '{named}', which no scorer needs"):
            converted(**{place: file(made)})
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "out").iterdir())


def test_such_a_pickle_would_run_elsewhere(tmp_path):
    pickle.loads(file(Thing("os.system", None, (f"touch {tmp_path / 'run'}",))))
    assert (tmp_path / "run").exists()


def test_what_a_pickle_may_name_is_ours():
    reader = profanity_model._Unpickler(io.BytesIO())
    for name in profanity_model.NAMES:
        assert issubclass(reader.find_class(*name.rsplit(".", 1)), profanity_model._Theirs)


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("vectorizer", b""),
        ("vectorizer", b"PK no pickle"),
        ("vectorizer", file(vectorizer())[:-40]),
        ("vectorizer", file({"idf_": 1})),
        ("vectorizer", file(vectorizer(analyzer="char"))),
        ("vectorizer", file(vectorizer(vocabulary_={"bother": 0, "gosh": 1, "teapot": 3}))),
        ("vectorizer", file(vectorizer(_tfidf=weighed(1.0, np.nan, 1.0)))),
        ("model", file(model())[:-200]),
        ("model", file(model(method="isotonic"))),
        ("model", file(model(classes_=array([1, 0])))),
        ("model", file(model(classes_=array(np.array(["a", "b"]))))),
        ("model", file(model(calibrated_classifiers_=[]))),
        ("model", file(model([(-0.5, np.inf, 0.25)] * 2))),
    ],
)  # fmt: skip
def test_a_damaged_file_or_another_kind_of_model_is_refused(converted, tmp_path, place, content):
    with pytest.raises(UserError, match=rf"{place}\.joblib is damaged, or no part of profanity-check as it is known"):
        converted(**{place: content})
    assert not list((tmp_path / "out").iterdir())


def test_files_that_are_not_of_each_other_are_refused(converted):
    with pytest.raises(UserError, match="the vectorizer weighs 2 words, and the model 3"):
        converted(vectorizer=file(vectorizer(_tfidf=weighed(1.0, 2.0), vocabulary_={"bother": 0, "gosh": 1})))


def test_the_real_one_gives_what_the_original_gives():
    found = Scorer.load(fetched("profanity-model")).profane(list(ORIGINAL))
    assert found == pytest.approx(list(ORIGINAL.values()), rel=0, abs=1e-9)
