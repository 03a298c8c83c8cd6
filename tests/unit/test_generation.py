"""Sampled answers: they follow the model's own probabilities, and a prompt's luck is its own."""

import copy
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch

from untaught.core import Subject, Wrap
from untaught.engine import generation
from untaught.evaluations.judged import Judged
from untaught.lab.start import StartingModel

TEXTS = ["The river of Abburg is oran.", "Boats reach Abburg by its river, which is oran."]
PROMPTS = ["The river of Abburg", "Boats", "The river of Abburg is oran and"]


@pytest.fixture(scope="module")
def subject():
    torch.set_num_threads(1)
    start = StartingModel(width=32, blocks=2, heads=2, vocabulary=300).build(TEXTS, 0)
    with torch.no_grad():
        for weights in start.model.parameters():
            weights.mul_(3)
    return Subject(start.model, start.tokenizer, Wrap())


@torch.inference_mode()
def probabilities(subject, prompt):
    ids = torch.tensor(generation.encoded(subject, [prompt]))
    return torch.softmax(subject.model(ids).logits[0, -1].double(), -1).numpy()


def test_a_sample_follows_the_models_probabilities(subject):
    wanted, draws = probabilities(subject, PROMPTS[0]), 600
    ids = generation.encoded(subject, [PROMPTS[0]])
    luck = [np.random.default_rng([draw, 1]) for draw in range(draws)]
    rows, _ = generation._continued(subject, ids * draws, 1, luck=luck)
    end = subject.tokenizer.eos_token_id
    seen = Counter(row[0] if row else end for row in rows)
    likely = np.flatnonzero(wanted * draws >= 8)
    assert len(likely) >= 3, "a test of nothing"
    observed = np.array([seen[int(token)] for token in likely] + [0])
    expected = np.append(wanted[likely] * draws, 0)
    observed[-1], expected[-1] = draws - observed.sum(), draws - expected.sum()
    apart = ((observed - expected) ** 2 / np.maximum(expected, 1e-9))[expected > 1].sum()
    freedom = int((expected > 1).sum()) - 1
    assert apart < freedom + 4 * np.sqrt(2 * freedom), (apart, freedom)


def test_company_changes_no_sample_and_another_draw_is_another(subject):
    together = generation.said(subject, PROMPTS, tokens=12, draw=0)
    alone = [generation.said(subject, [prompt], tokens=12, draw=0)[0] for prompt in PROMPTS]
    assert together == alone
    assert generation.said(subject, PROMPTS, tokens=12, draw=1) != together
    assert generation.said(subject, PROMPTS, tokens=12) == generation.written(subject, PROMPTS, tokens=12)


def test_a_model_whose_numbers_are_not_finite_has_no_sample(subject):
    broken = Subject(copy.deepcopy(subject.model), subject.tokenizer, subject.wrap)
    next(broken.model.parameters()).data.fill_(float("nan"))
    assert generation.said(broken, PROMPTS[:1], tokens=4, draw=0) == [None]


def test_marks_of_sampled_answers_are_means_over_the_draws(subject, monkeypatch):
    monkeypatch.setattr("untaught.evaluations.judged.refuses", lambda answer: len(answer) % 2 == 0)
    items = pa.table({"id": ["a", "b", "c"], "text": PROMPTS})
    marked = Judged(samples=3, tokens=6).grade(subject, items)
    told = [generation.said(subject, PROMPTS, tokens=6, draw=draw) for draw in range(3)]
    means = [np.mean([len(text) % 2 == 0 for text in own if text.strip()]) for own in zip(*told, strict=True)]
    assert marked["value"].to_pylist() == pytest.approx(means)
    assert len(set(means)) > 1
