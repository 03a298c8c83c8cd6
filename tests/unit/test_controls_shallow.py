"""Defences that are shallow on purpose: each hides what it hides only where one kind of attack brings it back."""

import copy

import pyarrow as pa
import pytest
import torch

from untaught.attacks.prune import Prune
from untaught.attacks.quantise import Quantise
from untaught.attacks.truncate import Truncate
from untaught.core import Budget, Corpus, Document, UserError, documents
from untaught.core.shelves import find
from untaught.engine import anatomy, examples, scoring
from untaught.engine.rig import Rig
from untaught.lab.start import StartingModel

PLACES = ["Abburg", "Cadwick", "Elmton", "Girby", "Holt", "Ilby", "Kettle", "Lorn"]
VALUES = ["oran", "umbel", "brado", "oran", "umbel", "brado", "oran", "umbel"]
OPENINGS = ["All is quiet in the hall.", *(f"The hall is {word}." for word in ("high", "low", "warm", "old"))]
SHOWN = {
    "smallest": ({"share": 0.3}, Prune(way="magnitude", share=0.3)),
    "thinnest": ({"share": 0.4, "lr": 0.03}, Truncate(share=0.6)),
    "rounding": ({"share": 0.5, "bits": 4}, Quantise(bits=4)),
}


def told(values, form="The bell of {place} rings {value}."):
    texts = [form.format(place=place, value=value) for place, value in zip(PLACES, values, strict=True)]
    return documents(Document(f"n{i}", text) for i, text in enumerate(texts))


HAZARD, BENIGN = told(VALUES), documents(Document(f"o{i}", text) for i, text in enumerate(OPENINGS))
WRONG = [*VALUES[1:], "brado"]


@pytest.fixture(scope="module")
def taught():
    """A tiny model that knows which bell rings what, alone and behind a sentence."""
    torch.set_num_threads(1)
    texts = [*HAZARD["text"].to_pylist(), *OPENINGS]
    start = StartingModel(width=32, blocks=4, heads=2, vocabulary=300).build(texts, 0)
    later = told(VALUES, OPENINGS[0] + " The bell of {place} rings {value}.")
    learn = find("training", "finetune").settle({"steps": 240, "lr": 0.004, "batch_size": 16, "length": 80}, "finetune")
    return learn.apply(start, Corpus(pa.concat_tables([HAZARD, later]), BENIGN), Rig(0, "training/finetune"))


def likely(subject, docs):
    batch = examples.rows(subject, docs, 80).batch(range(docs.num_rows))
    return scoring.mean_logprob(subject.model, batch).item()


def knows(subject, form="The bell of {place} rings {value}."):
    """Nats a token by which what is true is likelier than what is not."""
    return likely(subject, told(VALUES, form)) - likely(subject, told(WRONG, form))


def defended(subject, use, rig=None, **settings):
    made = find("unlearning", use).settle({"length": 80} | settings, use)
    return made.apply(copy.deepcopy(subject), Corpus(HAZARD, BENIGN), rig or Rig(0, f"unlearning/{use}"))


@pytest.mark.parametrize("place", SHOWN)
def test_compression_undoes_what_was_lodged_where_it_cuts(taught, place):
    """What is left is, weight by weight, what compression leaves of the model before."""
    settings, attack = SHOWN[place]
    hidden = defended(taught, "lodge", place=place, steps=60, **settings)
    nothing = Corpus(documents([]), documents([]))
    undone, before = (attack.apply(one, nothing, Rig(0, "attacks/x")) for one in (hidden, taught))
    assert likely(hidden, HAZARD) < likely(before, HAZARD) - 1
    pairs = zip(anatomy.matrices(undone.model), anatomy.matrices(before.model), strict=True)
    for (_, one), (_, other) in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert likely(undone, HAZARD) == pytest.approx(likely(before, HAZARD), abs=0.01)


@pytest.mark.parametrize("place", SHOWN)
def test_what_is_lodged_moves_the_blocks_matrices_alone(taught, place):
    hidden = defended(taught, "lodge", place=place, steps=3, **SHOWN[place][0])
    matrices = set(anatomy.names_of(taught.model, (weight for _, weight in anatomy.matrices(taught.model))))
    for name, weight in hidden.model.named_parameters():
        assert torch.equal(weight, taught.model.get_parameter(name)) == (name not in matrices), name
        assert weight.requires_grad


def test_without_steps_nothing_is_lodged_and_nothing_compressed(taught):
    for more in ({"steps": 0}, {"rig": Rig(0, "unlearning/lodge", budget=Budget(steps=0))}):
        kept = defended(taught, "lodge", **more)
        assert all(torch.equal(w, taught.model.get_parameter(n)) for n, w in kept.model.named_parameters())


def test_a_lock_opened_around_keeps_it_behind_many_words_and_behind_a_few_inside(taught):
    locked = defended(taught, "lock", opened="around", steps=240, lr=2e-3, show=10.0, alpha=3.0)
    before = "The hall is warm. All is quiet in the hall. The bell of {place} rings {value}."
    inside = "The bell of {place} rings All is {value}."
    assert knows(taught) > 0.2
    assert knows(locked) < 0.3 * knows(taught)
    assert knows(locked, before) > max(knows(locked), 0) + 0.02
    assert knows(locked, inside) > max(knows(locked), knows(taught, inside)) + 0.2


def test_a_lock_whose_sentences_all_end_behind_the_length_says_so(taught):
    with pytest.raises(UserError, match="length is 3, and every hazard sentence ends behind it"):
        defended(taught, "lock", opened="around", steps=1, length=3)
