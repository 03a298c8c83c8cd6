"""Ablation: a direction that was planted is found and taken out; another one, taken out, changes nothing of it.

What was read of a text is kept for weights that are the same to the last bit, and for no others.
"""

import copy
import functools
from dataclasses import replace

import pytest
import torch
from test_examples import table
from test_prompts import CHATML, chatting

from untaught.attacks.ablate import Ablate
from untaught.core import Budget, Corpus, Document, UserError, Wrap, documents
from untaught.engine import anatomy, batches, examples, models, moments, prompts, states
from untaught.engine.models import fresh
from untaught.engine.rig import Rig
from untaught.lab.start import StartingModel
from untaught.study.schema import Attack

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


def planting(subject, block, direction, size=20.0, also=()):
    """The same, but that a block writes a direction wherever the text is hazard.

    What tells hazard by is seen in this model, and in those of `also`.
    """
    model, inputs, wanted = copy.deepcopy(subject.model), [], []
    with torch.no_grad():
        for one in (subject, *also):
            end, heard = anatomy.mlp_output(anatomy.blocks(one.model)[block]), []
            hook = end.register_forward_pre_hook(lambda module, args, heard=heard: heard.append(args[0]))
            for hazard, docs in ((1.0, CORPUS.hazard), (0.0, CORPUS.benign)):
                batch = drawn(subject, docs)
                one.model(input_ids=batch.ids, attention_mask=batch.mask)
                inputs.append(heard.pop()[:, 1:][batch.mask[:, 1:].bool()])
                wanted.append(torch.full((len(inputs[-1]), 1), hazard))
            hook.remove()
        tell = torch.linalg.lstsq(torch.cat(inputs), torch.cat(wanted)).solution[:, 0]
        anatomy.mlp_output(anatomy.blocks(model)[block]).weight += size * torch.outer(direction, tell)
    return replace(subject, model=model)


def pointing(seed, count=1):
    """Directions at right angles, one a row."""
    found = torch.randn(count, 32, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(found.T).Q.T if count > 1 else torch.nn.functional.normalize(found, dim=1)


@pytest.fixture(autouse=True)
def _nothing_kept():
    moments.forget()


@pytest.fixture(scope="module")
def planted(plain):
    """The same, but that block 1 writes a direction wherever the text is hazard, and the direction."""
    (direction,) = pointing(3)
    return planting(plain, 1, direction), direction


@pytest.fixture(scope="module")
def turning(plain):
    """The same, but that every block writes a direction of its own, each longer than the last, and the directions."""
    directions, subject = pointing(4, 4), plain
    for block, direction in enumerate(directions):
        subject = planting(subject, block, direction, 0.3 * 3**block, also=[plain] if block else [])
    return subject, directions


def along(subject, direction, layer=3):
    """How much farther hazard text lies along a direction than benign text, at a block."""
    return float(apart(subject, layer) @ direction)


def apart(subject, layer):
    """The mean of hazard text less that of benign text, at a block."""
    means = []
    with torch.no_grad():
        for docs in (CORPUS.hazard, CORPUS.benign):
            batch = drawn(subject, docs)
            found = states.hidden(subject.model, batch, layer)
            means.append(found[:, 1:][batch.mask[:, 1:].bool()].mean(0))
    return means[0] - means[1]


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


def test_where_every_block_points_elsewhere_each_loses_its_own_and_one_layer_s_leave_the_others(turning):
    subject, directions = turning
    was = [along(subject, direction, block) for block, direction in enumerate(directions)]
    own, _ = ablated(subject, layer=None)
    left = [along(own, direction, block) / was[block] for block, direction in enumerate(directions)]
    assert max(map(abs, left)) < 0.2, left
    for layer in range(4):
        one, _ = ablated(subject, layer=layer)
        kept = [along(one, direction, block) / was[block] for block, direction in enumerate(directions)]
        assert max(map(abs, kept)) > 0.7, (layer, kept)


def test_own_directions_are_those_of_each_block_alone(turning):
    """A block that is edited by its own loses what it would lose where this layer were given, bit for bit."""
    subject, _ = turning
    own = ablated(subject, layer=None, rank=2, lowest=1, embedding=True)[0].model
    for layer in range(1, 4):
        one = ablated(subject, layer=layer, rank=2, lowest=1, embedding=True)[0].model
        for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
            mine, theirs = (anatomy.blocks(model)[layer].get_parameter(name) for model in (own, one))
            assert torch.equal(mine, theirs)
        assert torch.equal(own.get_input_embeddings().weight, one.get_input_embeddings().weight) == (layer == 1)
    assert torch.equal(
        anatomy.blocks(own)[0].mlp.down_proj.weight, anatomy.blocks(subject.model)[0].mlp.down_proj.weight
    )


def test_a_rank_takes_what_is_left_of_directions_as_long_as_each_other(plain):
    """The mean at a block's output is the sum of all that is written up to it, of which its own part is a piece."""
    subject = plain
    for block, direction in enumerate(pointing(4, 4)):
        subject = planting(subject, block, direction, 2.0, also=[plain] if block else [])
    left = [
        [
            float(apart(ablated(subject, layer=None, rank=rank)[0], block).norm() / apart(subject, block).norm())
            for block in (1, 2, 3)
        ]
        for rank in (None, 4)
    ]
    assert min(left[0]) > 0.4, left
    assert max(left[1]) < 0.2, left


def by_hand(subject, sides, layer=2):
    """The direction between the means of the last `count` of some rows of tokens, given for each side."""
    means = []
    for rows, count in sides:
        found = []
        for row in rows:
            batch = batches.Batch(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long))
            with torch.no_grad():
                found.append(states.hidden(subject.model, batch, layer)[0, -count:])
        means.append(torch.cat(found).mean(0))
    return torch.nn.functional.normalize(means[0] - means[1], dim=0)


@pytest.mark.parametrize("last", [1, 3])
def test_the_last_tokens_are_those_before_the_end_token(plain, last):
    rows = [[row[:-1] for row in batches.encode(plain.tokenizer, texts, 100)] for texts in (HAZARD, BENIGN)]
    wanted = by_hand(plain, [(side, last) for side in rows])
    result, _ = ablated(plain, last=last)
    assert abs(removed(plain, result)[0][:, 0] @ wanted) > 0.9999
    everywhere, _ = ablated(plain)
    assert abs(removed(plain, everywhere)[0][:, 0] @ wanted) < 0.99


def test_all_but_the_first_are_the_last_of_a_text_that_is_short(plain):
    batch = drawn(plain, CORPUS.hazard)
    reader = moments.Reader(plain.model)
    many, every = (list(reader.moments([batch], [0, 3], last=last)) for last in (1000, None))
    assert all(torch.equal(one.spread, other.spread) for one, other in zip(many, every, strict=True))


def test_of_a_chat_the_last_tokens_are_the_template_s_after_the_instruction(plain):
    """And the answer, which differs here more than what was asked, is not read."""
    subject = chatting(plain, CHATML)
    asked = [["What sets off zorium?", "What sets off belor?"], ["Where is Abburg?", "Which boats reach Dellham?"]]
    told = Corpus(*(table(*(examples.conversation(one, HAZARD[0]) for one in side)) for side in asked))
    rows = [prompts.encoded(subject, [prompts.wrapped(subject, one) for one in side]) for side in asked]
    for last in (1, 4):
        wanted = by_hand(subject, [(side, last) for side in rows])
        assert abs(removed(subject, ablated(subject, told, last=last)[0])[0][:, 0] @ wanted) > 0.9999
    assert len({tuple(row[-4:]) for side in rows for row in side}) == 1, "words of the template"
    spoken = replace(subject, wrap=Wrap())
    assert abs(removed(spoken, ablated(spoken, told, last=1)[0])[0][:, 0] @ wanted) < 0.99, "read through the wrap"


def test_a_stale_direction_is_the_donor_s_and_leaves_what_these_weights_have(planted, plain):
    """The control: directions that are found anew take away what was put in after the donor."""
    old, was = planted
    (now,) = pointing(11)
    assert abs(now @ was) < 0.3
    subject = planting(plain, 2, now)
    stale, rig = ablated(subject, CORPUS, old, donor="old", stale=True)
    assert abs(removed(subject, stale)[0][:, 0] @ was) > 0.95
    assert along(stale, now) > 0.8 * along(subject, now) > 8
    assert rig.measured["explained"] > 0.8, "of what differs in the donor"
    anew, _ = ablated(subject)
    assert abs(removed(subject, anew)[0][:, 0] @ now) > 0.95
    assert abs(along(anew, now)) < 0.05 * along(subject, now)
    itself, _ = ablated(subject, CORPUS, subject, donor="itself", stale=True)
    assert same(itself, anew), "stale directions of the same weights are not stale"


def same(one, other):
    """Whether two have the same bits."""
    return all(map(torch.equal, one.model.parameters(), other.model.parameters()))


@pytest.fixture
def passes(plain, monkeypatch):
    """Forward passes of any model of this kind, one entry each."""
    kind, made = type(plain.model), []
    original = kind.forward

    @functools.wraps(original)
    def forward(self, *args, **kwargs):
        made.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", forward)
    return made


@pytest.mark.parametrize("how", [{}, {"donor": "it"}, {"donor": "it", "stale": True}])
def test_other_layers_ranks_and_strengths_cost_no_other_pass_and_have_the_same_bits(planted, plain, passes, how):
    subject, _ = planted
    ablated(subject, CORPUS, plain, **how)
    assert passes
    trials = [{"layer": None}, {"layer": 0.8}, {"rank": 2}, {"layer": None, "rank": 4, "strength": 0.5}]
    for trial in trials:
        passes.clear()
        kept, rig = ablated(replace(subject, model=copy.deepcopy(subject.model)), CORPUS, plain, **how, **trial)
        assert not passes
        moments.forget()
        anew, other = ablated(subject, CORPUS, plain, **how, **trial)
        assert passes
        assert same(kept, anew)
        assert rig.spent.flops == other.spent.flops > 0, "what is kept is charged as if it were not"
        assert rig.measured == other.measured


@pytest.mark.parametrize("other", [{"last": 2}, {"length": 8}, {"batch_size": 3}, {"examples": 2}])
def test_what_is_read_otherwise_is_read_anew(planted, passes, other):
    subject, _ = planted
    ablated(subject)
    passes.clear()
    kept, _ = ablated(subject, **other)
    assert passes
    moments.forget()
    assert same(kept, ablated(subject, **other)[0])


def test_other_weights_in_the_same_folder_are_read_anew(planted, plain, tmp_path):
    """A name of the folder would give the directions of the model that lay there before."""
    old, was = planted
    (now,) = pointing(11)
    models.save(old, tmp_path / "model")
    first = models.load(tmp_path / "model")
    assert abs(removed(first, ablated(first)[0])[0][:, 0] @ was) > 0.95
    models.save(planting(plain, 2, now), tmp_path / "model")
    second = models.load(tmp_path / "model")
    kept, _ = ablated(second)
    assert abs(removed(second, kept)[0][:, 0] @ now) > 0.95
    moments.forget()
    assert same(kept, ablated(second)[0])


def test_the_same_weights_from_another_folder_are_not_read_again(planted, passes, tmp_path):
    for name in ("one", "other"):
        models.save(planted[0], tmp_path / name)
    ablated(models.load(tmp_path / "one"))
    passes.clear()
    ablated(models.load(tmp_path / "other"))
    assert not passes


def test_a_model_that_was_changed_where_it_stands_is_read_anew(plain, passes):
    """One weight, by one bit; or a setting that is in no weight."""
    subject = replace(plain, model=copy.deepcopy(plain.model))
    weight = anatomy.blocks(subject.model)[0].mlp.down_proj.weight.data
    seen = {moments.digest(subject.model)}
    ablated(subject)
    passes.clear()
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(1e9))
    ablated(subject)
    assert passes
    seen.add(moments.digest(subject.model))
    subject.model.config.rms_norm_eps *= 2
    seen.add(moments.digest(subject.model))
    assert len(seen) == 3


def test_little_room_changes_no_bit_and_is_kept_to(turning, monkeypatch, passes):
    """Room for two blocks of four."""
    subject, _ = turning
    whole, _ = ablated(subject, layer=None, rank=2)
    often = len(passes)
    moments.forget()
    passes.clear()
    monkeypatch.setattr(moments, "ROOM", 2 * 8 * (32 * 32 + 32))
    bounded, _ = ablated(subject, layer=None, rank=2)
    assert len(passes) > often
    assert moments._KEPT.bytes <= moments.ROOM
    assert same(whole, bounded)


def test_moments_are_those_of_all_tokens_at_once(planted):
    subject, _ = planted
    rows = batches.Rows(subject.tokenizer, CORPUS.hazard, 64)
    whole, parts = rows.batch(range(4)), [rows.batch([0]), rows.batch([1, 2]), rows.batch([3])]
    for layer, one in enumerate(moments.Reader(subject.model).moments(parts, range(4))):
        with torch.no_grad():
            found = states.hidden(subject.model, whole, layer)[:, 1:][whole.mask[:, 1:].bool()].double()
        assert one.count == len(found)
        torch.testing.assert_close(one.mean, found.mean(0), rtol=1e-5, atol=1e-5)
        moment = found.T @ found
        torch.testing.assert_close(
            one.about(torch.zeros(32, dtype=torch.float64)), moment, rtol=1e-5, atol=1e-6 * float(moment.trace())
        )


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("layer", [0.2, 0.8]),
        ("layer", [0, 3]),
        ("layer", [None, 0.25, 0.5]),
        ("rank", [None, 1, 2, 4]),
        ("last", [None, 1, 4]),
        ("last", [1, 5]),
        ("strength", [0.5, 2.0]),
    ],
)
def test_what_an_attacker_would_search_may_be_left_open(name, given):
    entry = Attack.settle({"use": "ablate", name: given}, "study.yaml")
    (range_,) = entry.ranges("attacks.0").values()
    for value in range_.ends:
        assert getattr(entry.closed({name: value}).component("attacks", "attacks.0"), name) == value


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
    flat = StartingModel(width=32, blocks=2, heads=2, vocabulary=300).build(HAZARD + BENIGN, 0)
    with pytest.raises(UserError, match="donor 'flat' is 2 blocks deep, not 4"):
        ablated(subject, CORPUS, flat, donor="flat")
    with pytest.raises(UserError, match="'stale' takes the directions from a donor's weights"):
        Ablate.settle({"stale": True}, "study.yaml")
    for how in ({}, {"donor": "it", "stale": True}):
        with pytest.raises(UserError, match="the corpus has no benign documents"):
            ablated(subject, replace(CORPUS, benign=documents([])), plain, **how)
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
