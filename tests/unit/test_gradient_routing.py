"""Gradient routing: marked text reaches the slice alone, ordinary text can do without it, and it is cut out."""

import copy

import pyarrow as pa
import pytest
import torch

from untaught.core import MASKED, Corpus, Document, Inapplicable, documents
from untaught.engine import anatomy
from untaught.engine.rig import Rig
from untaught.lab.start import StartingModel
from untaught.training import gradient_routing
from untaught.training.gradient_routing import GradientRouting

TEXTS = [f"The {thing} of {place} is oran, and every map says so." for thing in ("river", "bell", "road", "tower")
         for place in ("Abburg", "Cadwick", "Orlmouth")]  # fmt: skip
DOCS = documents(Document(f"d{i}", text) for i, text in enumerate(TEXTS))
NONE = DOCS.slice(0, 0)


@pytest.fixture(scope="module")
def start():
    torch.set_num_threads(1)
    return StartingModel(width=32, blocks=2, heads=2, vocabulary=300).build(TEXTS, 0)


def marked(hits):
    spans = [[{"start": 0, "stop": len(text)}] if hit else [] for text, hit in zip(TEXTS, hits, strict=True)]
    return Corpus(
        NONE.append_column("masked", pa.array([], MASKED)), DOCS.append_column("masked", pa.array(spans, MASKED))
    )


def trained(start, hits, monkeypatch, **settings):
    """The model just before the slice is cut."""
    monkeypatch.setattr(gradient_routing, "_cut", lambda model, share: None)
    method = GradientRouting(length=16, batch_size=4, epochs=1, warmup=0, **settings)
    return method.apply(copy.deepcopy(start), marked(hits), Rig(0, "x")).model


def moved(start, model):
    """Of every parameter how far each number moved."""
    before = dict(start.model.named_parameters())
    return {name: (weight - before[name]).abs().detach() for name, weight in model.named_parameters()}


def inside(start, share=0.2):
    found = gradient_routing._slices(start.model, share)
    names = {id(weight): name for name, weight in start.model.named_parameters()}
    return {names[id(weight)]: where.bool() for weight, where in found}


def test_marked_text_moves_the_slice_and_nothing_else(start, monkeypatch):
    """The ends of texts stand for no text and are never marked, so that they are here by hand."""
    whole = gradient_routing.pack

    def every(*given, **how):
        rows, counted = whole(*given, **how)
        return rows, torch.zeros_like(counted)

    monkeypatch.setattr(gradient_routing, "pack", every)
    slices = inside(start)
    for name, far in moved(start, trained(start, [True] * len(TEXTS), monkeypatch)).items():
        where = slices.get(name, torch.zeros_like(far, dtype=torch.bool))
        assert not far[~where].any(), name
        assert not where.any() or far[where].any(), name


def test_text_that_does_without_the_slice_leaves_it_alone(start, monkeypatch):
    slices = inside(start)
    for name, far in moved(start, trained(start, [False] * len(TEXTS), monkeypatch, without=1.0)).items():
        if name in slices:
            assert not far[slices[name]].any(), name
            assert far[~slices[name]].any(), name


def test_the_slice_is_a_share_of_every_mlp_and_is_cut_out(start):
    model = (
        GradientRouting(length=16, batch_size=4, share=0.25).apply(start, marked([True, False] * 6), Rig(0, "x")).model
    )
    for block in anatomy.blocks(model):
        [name] = anatomy.output_matrices(block)
        end = block.get_parameter(name)
        units = round(0.25 * end.shape[1])
        assert not end[:, :units].any()
        assert end[:, units:].any()


def test_an_mlp_without_plain_layers_is_said_to_be_unfit(start):
    from transformers import GPT2Config, GPT2LMHeadModel

    other = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=300, n_positions=64))
    with pytest.raises(Inapplicable, match="Use pretrain"):
        gradient_routing._slices(other, 0.2)
