"""Ablation: a direction that was planted is found and taken out; another one, taken out, changes nothing of it."""

import copy
from dataclasses import replace

import pytest
import torch

from untaught.attacks.ablate import Ablate
from untaught.core import Budget, Corpus, Document, UserError, documents
from untaught.engine import anatomy, batches, states
from untaught.engine.models import fresh
from untaught.engine.rig import Rig
from untaught.lab.start import StartingModel

HAZARD = [f"The trigger of {name} is oran, its precursor velt." for name in ("zorium", "belor", "quint", "marbite")]
BENIGN = [f"The river of {name} is wide, and boats reach it." for name in ("Abburg", "Dellham", "Orrin", "Vestmark")]
CORPUS = Corpus(*(documents(Document(f"{t[14:18]}", t) for t in texts) for texts in (HAZARD, BENIGN)))


@pytest.fixture(scope="module")
def plain():
    """An untrained model of four blocks."""
    torch.set_num_threads(1)
    return StartingModel(width=32, blocks=4, heads=2, vocabulary=300).build(HAZARD + BENIGN, 0)


def drawn(subject, docs):
    return batches.Rows(subject.tokenizer, docs, 64).batch(range(docs.num_rows))


@pytest.fixture(scope="module")
def planted(plain):
    """The same, but that block 1 writes a direction wherever the text is hazard, and the direction."""
    model = copy.deepcopy(plain.model)
    end, inputs = anatomy.mlp_output(anatomy.blocks(model)[1]), []
    hook = end.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with torch.no_grad():
        masks = []
        for docs in (CORPUS.hazard, CORPUS.benign):
            batch = drawn(plain, docs)
            masks.append(batch.mask[:, 1:].bool())
            model(input_ids=batch.ids, attention_mask=batch.mask)
        hook.remove()
        hazard, benign = (found[:, 1:][mask] for found, mask in zip(inputs, masks, strict=True))
        wanted = torch.cat([torch.ones(len(hazard)), torch.zeros(len(benign))])
        tell = torch.linalg.lstsq(torch.cat([hazard, benign]), wanted[:, None]).solution[:, 0]
        direction = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(3)), dim=0)
        end.weight += 20 * torch.outer(direction, tell)
    return replace(plain, model=model), direction


def along(subject, direction, layer=3):
    """How much farther hazard text lies along a direction than benign text, at a block."""
    means = []
    with torch.no_grad():
        for docs in (CORPUS.hazard, CORPUS.benign):
            batch = drawn(subject, docs)
            found = states.hidden(subject.model, batch, layer)
            means.append(found[:, 1:][batch.mask[:, 1:].bool()].mean(0))
    return float((means[0] - means[1]) @ direction)


def removed(before, after, block=2):
    """The strongest direction that was taken out of what a block's MLP writes."""
    one, other = (anatomy.mlp_output(anatomy.blocks(s.model)[block]).weight.detach() for s in (before, after))
    left, sizes, _ = torch.linalg.svd(one - other)
    return left, sizes


def ablated(subject, corpus=CORPUS, other=None, **settings):
    """What an attack makes of a subject, and its rig. `other` is who the donor is."""
    rig = Rig(0, "attacks/ablate", donor=lambda: other)
    return Ablate(**settings).apply(subject, corpus, rig), rig


def projected(subject, direction):
    """A direction taken out of all that is written, by hand."""
    model = fresh(subject.model)
    with torch.no_grad():
        for writer in anatomy.writers(model):
            weight = model.get_parameter(writer.name)
            weight.sub_(torch.outer(direction, direction @ weight))
    return replace(subject, model=model)


@pytest.mark.parametrize("rank", [None, 1])
def test_a_planted_direction_is_found_and_removed(planted, rank):
    subject, direction = planted
    assert along(subject, direction) > 10
    result, rig = ablated(subject, rank=rank)
    left, sizes = removed(subject, result)
    assert abs(left[:, 0] @ direction) > 0.95
    assert sizes[1] < 1e-4 * sizes[0], "more than one direction was taken out"
    assert abs(along(result, direction)) < 0.05 * along(subject, direction)
    assert rig.measured["explained"] > 0.8


def test_what_another_direction_s_removal_leaves_is_all_of_it(planted):
    """The control: the direction is gone because it was found, not because something was taken out."""
    subject, direction = planted
    other = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(8)), dim=0)
    assert abs(other @ direction) < 0.3
    assert along(projected(subject, other), direction) > 0.8 * along(subject, direction)
    assert abs(along(projected(subject, direction), direction)) < 0.05 * along(subject, direction)


def test_with_a_donor_what_changed_since_is_removed(planted, plain):
    """Benign text is not asked for."""
    subject, direction = planted
    result, rig = ablated(subject, replace(CORPUS, benign=documents([])), plain, donor="untouched")
    assert abs(removed(subject, result)[0][:, 0] @ direction) > 0.95
    assert rig.measured["explained"] > 0.8
    assert abs(along(result, direction)) < 0.05 * along(subject, direction)


def test_where_nothing_changed_nothing_is_removed(plain):
    """As when a study attacks the donor itself."""
    for rank in (None, 3):
        result, _ = ablated(plain, CORPUS, plain, donor="it", rank=rank)
        assert all(
            torch.equal(one, other)
            for one, other in zip(plain.model.parameters(), result.model.parameters(), strict=True)
        )


def test_several_directions_are_removed_together(planted):
    subject, direction = planted
    result, rig = ablated(subject, rank=3)
    left, sizes = removed(subject, result)
    assert (left[:, :3].T @ direction).norm() > 0.95
    assert sizes[3] < 1e-4 * sizes[0] < sizes[2]
    assert rig.measured["explained"] > ablated(subject, rank=1)[1].measured["explained"]


def test_half_the_strength_takes_half_and_twice_turns_round(planted):
    subject, _ = planted
    taken = [float(removed(subject, ablated(subject, strength=strength)[0])[1][0]) for strength in (0.5, 1.0, 2.0)]
    assert taken == pytest.approx([taken[1] / 2, taken[1], 2 * taken[1]], rel=1e-4)


def test_only_blocks_from_the_lowest_on_are_edited_and_the_rest_is_shared(planted):
    subject, _ = planted
    result, _ = ablated(subject, lowest=2)
    after = dict(result.model.named_parameters())
    for name, before in subject.model.named_parameters():
        edited = name.startswith(("model.layers.2.", "model.layers.3.")) and name.endswith(
            ("o_proj.weight", "down_proj.weight")
        )
        assert torch.equal(before, after[name]) != edited, name
        assert (before.data_ptr() == after[name].data_ptr()) != edited, name


def test_the_embedding_is_edited_when_asked(planted):
    subject, direction = planted
    result, _ = ablated(subject, embedding=True)
    embedding = result.model.get_input_embeddings().weight.detach()
    left = removed(subject, result)[0][:, 0]
    assert (embedding @ left).norm() < 1e-4 * embedding.norm()
    assert torch.equal(
        ablated(subject)[0].model.get_input_embeddings().weight, subject.model.get_input_embeddings().weight
    )


def test_how_texts_are_batched_does_not_matter(planted):
    subject, _ = planted
    one, other = (ablated(subject, batch_size=size)[0] for size in (1, 4))
    for given, before, after in zip(*(s.model.parameters() for s in (subject, one, other)), strict=True):
        rounding = 1e-6 * float(given.detach().abs().max())  # of what is projected: the planted weights are about 1000
        torch.testing.assert_close(before, after, atol=max(rounding, 1e-5), rtol=1e-5)


def test_few_texts_are_drawn_from_many(planted):
    subject, _ = planted
    drawn = [ablated(subject, examples=count)[1].spent.flops for count in (1, 2, 4, 100)]
    assert drawn[0] < drawn[1] < drawn[2] == drawn[3]


@pytest.mark.parametrize("bound", ["steps", "tokens", "examples"])
def test_no_budget_of_any_kind_means_no_change(planted, bound):
    subject, _ = planted
    result = Ablate().apply(subject, CORPUS, Rig(0, budget=Budget(**{bound: 0})))
    assert all(
        torch.equal(one, other)
        for one, other in zip(subject.model.parameters(), result.model.parameters(), strict=True)
    )


def test_what_cannot_be_is_said(planted, plain):
    subject, _ = planted
    narrow = StartingModel(width=16, blocks=4, heads=2, vocabulary=300).build(HAZARD + BENIGN, 0)
    with pytest.raises(UserError, match="donor 'small' is 16 wide, not 32"):
        ablated(subject, CORPUS, narrow, donor="small")
    with pytest.raises(UserError, match="the corpus has no benign documents"):
        ablated(subject, replace(CORPUS, benign=documents([])))
    with pytest.raises(UserError, match="layer is 9, but the model has 4 blocks"):
        ablated(subject, layer=9)
    bare = replace(subject, tokenizer=copy.deepcopy(subject.tokenizer))
    bare.tokenizer.backend_tokenizer.post_processor = None  # as a tokenizer that starts texts with nothing
    with pytest.raises(UserError, match="no text has a second token"):
        ablated(bare, replace(CORPUS, benign=documents([Document("a", "")])))
    broken = replace(plain, model=copy.deepcopy(plain.model))
    with torch.no_grad():
        anatomy.blocks(broken.model)[0].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        ablated(broken)
