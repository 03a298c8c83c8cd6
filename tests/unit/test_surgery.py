"""Surgery: each edit is its formula, worked out by hand; nothing else is touched; what is saved has the same bits."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from test_families import SIDES, every, made, subject
from torch import nn

from untaught.attacks._inputs import Inputs
from untaught.attacks.extrapolate import Extrapolate
from untaught.attacks.interpolate import Interpolate
from untaught.attacks.merge import Merge
from untaught.attacks.noise import Noise
from untaught.attacks.prune import Prune
from untaught.attacks.truncate import Truncate
from untaught.core import Budget, Corpus, Document, UserError, documents
from untaught.engine import anatomy, batches, models, states
from untaught.engine.rig import Rig
from untaught.lab.start import StartingModel

HAZARD = [f"The trigger of {name} is oran, its precursor velt." for name in ("zorium", "belor", "quint", "marbite")]
BENIGN = [f"The river of {name} is wide, and boats reach it." for name in ("Abburg", "Dellham", "Orrin", "Vestmark")]
CORPUS = Corpus(*(documents(Document(f"{t[14:18]}", t) for t in texts) for texts in (HAZARD, BENIGN)))
NOTHING = documents([])
PLAIN = [Truncate(), Noise(), Prune(), Prune(way="wanda"), Prune(way="difference", share=0.1)]
MIXING = [
    *(Merge(way=way) for way in ("linear", "slerp", "task_arithmetic", "ties", "dare")),
    Extrapolate(),
    Extrapolate(past="subject"),
    Interpolate(),
]


@pytest.fixture(scope="module")
def plain():
    """An untrained model of four blocks."""
    torch.set_num_threads(1)
    return StartingModel(width=32, blocks=4, heads=2, vocabulary=300).build(HAZARD + BENIGN, 0)


@pytest.fixture(scope="module")
def other(plain):
    """A model of the same kind with other weights."""
    return moved(plain, 5)


def moved(given, seed, size=0.05):
    model, generator = models.fresh(given.model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(size * torch.randn(weight.shape, generator=generator))
    return replace(given, model=model)


def attacked(component, given, donor=None, corpus=CORPUS, seed=0, base=None, **budget):
    rig = Rig(seed, "attacks/x", donor=lambda: donor, base=lambda: base, budget=Budget(**budget))
    return component.apply(given, corpus, rig), rig


def weights(one):
    """Every parameter as a numpy array of doubles."""
    return {name: weight.detach().double().numpy() for name, weight in one.model.named_parameters()}


def rows(one):
    """Every matrix of the blocks, (experts, outputs, inputs), by name."""
    names = [name for name, _ in anatomy.matrices(one.model)]
    lines = (line.detach().double().numpy() for line in anatomy.lines(one.model))
    return {name: line if line.ndim == 3 else line[None] for name, line in zip(names, lines, strict=True)}


def near(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-6, rtol=1e-5, err_msg=name)


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))


# ------------------------------------------------------------------------------------------------- with a donor


def by_hand(way, w, d, share, density=0.2):
    """A merge of two arrays."""
    if way in ("linear", "task_arithmetic"):
        return w + share * (d - w)
    if way == "slerp":
        cosine = (w * d).sum() / np.sqrt((w * w).sum() * (d * d).sum()) if w.any() and d.any() else 1.0
        angle = np.arccos(np.clip(cosine, -1, 1))
        if np.sin(angle) < 1e-6:
            return w + share * (d - w)
        return (np.sin((1 - share) * angle) * w + np.sin(share * angle) * d) / np.sin(angle)
    task = (d - w).ravel()
    kept = np.argsort(-np.abs(task), kind="stable")[: max(1, round(density * task.size))]
    trimmed = np.zeros_like(task)
    trimmed[kept] = task[kept]
    return w + share * trimmed.reshape(w.shape)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("way", ["linear", "slerp", "task_arithmetic", "ties"])
def test_a_merge_is_its_formula(plain, other, way, share):
    result, rig = attacked(Merge(way=way, share=share), plain, other)
    one, two = weights(plain), weights(other)
    near(weights(result), {name: by_hand(way, one[name], two[name], share) for name in one})
    assert same(result, plain) == (share == 0)
    if share == 1 and way in ("linear", "slerp"):
        assert same(result, other)
    assert rig.measured["changed"] == pytest.approx(0 if share == 0 else 0.2 if way == "ties" else 1, abs=0.001)


def test_slerp_keeps_the_length_that_a_straight_line_loses(plain):
    """Between weights at right angles and of one length."""
    far = moved(plain, 6, size=0)
    with torch.no_grad():
        for weight in far.model.parameters():
            weight.copy_(weight.flip(0) if weight.ndim == 2 else weight)
    name = "0.mlp.down_proj.weight"
    lengths = [
        np.linalg.norm(rows(attacked(Merge(way=way), plain, far)[0])[name]) / np.linalg.norm(rows(plain)[name])
        for way in ("slerp", "linear")
    ]
    assert lengths == pytest.approx([1, 0.71], abs=0.03)


def test_what_lies_on_one_line_is_merged_along_it(plain):
    """Where there is no arc, at no angle and at the opposite, there is no division by 0."""
    for factor in (1.0, 2.0, -1.0, 0.0):
        far = moved(plain, 0, size=0)
        with torch.no_grad():
            for weight in far.model.parameters():
                weight.mul_(factor)
        result, _ = attacked(Merge(way="slerp", share=0.25), plain, far)
        near(weights(result), {name: w * (0.75 + 0.25 * factor) for name, w in weights(plain).items()})


def test_dare_drops_by_chance_and_makes_up_for_it(plain, other):
    """What is left of the task vector is 1 / density as long, and the mean over many draws is all of it."""
    component, name = Merge(way="dare", share=1.0, density=0.25), "0.mlp.down_proj.weight"
    task = rows(other)[name] - rows(plain)[name]
    draws = [rows(attacked(component, plain, other, seed=seed)[0])[name] - rows(plain)[name] for seed in range(20)]
    for draw in draws:
        kept = draw != 0
        assert 0.2 < kept.mean() < 0.3
        np.testing.assert_allclose(draw[kept], 4 * task[kept], atol=2e-6, rtol=1e-4)
    assert np.abs(np.mean(draws, 0) - task).mean() < 0.4 * np.abs(task).mean()
    assert (draws[0] != draws[1]).any()
    assert (draws[0] == rows(attacked(component, plain, other)[0])[name] - rows(plain)[name]).all()
    whole, _ = attacked(Merge(way="dare", share=1.0, density=1.0), plain, other)
    near(weights(whole), weights(other))


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_ties_with_a_base_elects_a_sign_for_what_both_have_learned(plain, other, share):
    """By hand, a weight at a time; task arithmetic with the base is the sum of what both have learned."""
    base = moved(plain, 9)
    result, _ = attacked(Merge(way="ties", share=share, density=0.3, base="b"), plain, other, base=base)
    summed, _ = attacked(Merge(way="task_arithmetic", share=share, base="b"), plain, other, base=base)
    start, one, two = weights(base), weights(plain), weights(other)
    for name, found in weights(result).items():
        tasks = [kept_of(side[name] - start[name], 0.3) for side in (one, two)]
        expected = start[name].copy()
        for place in np.ndindex(expected.shape):
            both = [float(task[place]) for task in tasks]
            sign = np.sign(sum(both))
            agreeing = [entry for entry in both if entry and np.sign(entry) == sign]
            expected[place] += share * np.mean(agreeing) if agreeing else 0
        np.testing.assert_allclose(found, expected, atol=2e-6, err_msg=name)
        whole = start[name] + share * (one[name] + two[name] - 2 * start[name])
        np.testing.assert_allclose(weights(summed)[name], whole, atol=2e-6, err_msg=name)


def kept_of(task, density):
    """A task vector with all but its largest entries 0."""
    largest = np.argsort(-np.abs(task), axis=None, kind="stable")[: max(1, round(density * task.size))]
    trimmed = np.zeros(task.size, task.dtype)
    trimmed[largest] = task.ravel()[largest]
    return trimmed.reshape(task.shape)


def test_dare_with_a_base_drops_from_both_and_all_of_it_is_their_sum(plain, other):
    base = moved(plain, 9)
    whole, _ = attacked(Merge(way="dare", share=1.0, density=1.0, base="b"), plain, other, base=base)
    one, two, start = weights(plain), weights(other), weights(base)
    near(weights(whole), {name: one[name] + two[name] - start[name] for name in start})
    half, _ = attacked(Merge(way="dare", share=1.0, density=0.5, base="b"), plain, other, base=base)
    name = "0.mlp.down_proj.weight"
    assert 0.2 < (rows(half)[name] == rows(base)[name]).mean() < 0.3


def test_a_base_is_for_task_vectors_and_of_the_same_kind(plain, other):
    with pytest.raises(ValueError, match="'slerp' mixes two models and has no base"):
        Merge(way="slerp", base="b")
    wider = StartingModel(width=48, blocks=4, heads=2, vocabulary=300).build(HAZARD + BENIGN, 0)
    with pytest.raises(UserError, match="base 'b' has another shape at"):
        attacked(Merge(way="ties", base="b"), plain, other, base=wider)
    with pytest.raises(UserError, match="needs a base: name another arm"):
        Merge(way="ties", base="b").apply(plain, CORPUS, Rig(0, "attacks/x", donor=lambda: other))


def test_extrapolation_goes_past_either_end(plain, other):
    w, d = weights(plain), weights(other)
    result, rig = attacked(Extrapolate(share=0.4), plain, other)
    near(weights(result), {name: d[name] + 0.4 * (d[name] - w[name]) for name in w})
    apart = np.sqrt(sum(((d[name] - w[name]) ** 2).sum() for name in w) / sum((w[name] ** 2).sum() for name in w))
    assert rig.measured["moved"] == pytest.approx(1.4 * apart, rel=1e-4)
    result, _ = attacked(Extrapolate(share=0.4, past="subject"), plain, other)
    near(weights(result), {name: w[name] + 0.4 * (w[name] - d[name]) for name in w})


def test_extrapolation_turns_a_defence_round(plain):
    """What a defence took from one direction, going on past the donor puts there twice."""
    edit = 0.3 * torch.randn(32, generator=torch.Generator().manual_seed(1))
    defended = moved(plain, 0, size=0)
    with torch.no_grad():
        anatomy.blocks(defended.model)[1].mlp.down_proj.weight[:, 3] -= edit
    result, _ = attacked(Extrapolate(share=1.0), defended, plain)
    added = rows(result)["1.mlp.down_proj.weight"] - rows(plain)["1.mlp.down_proj.weight"]
    np.testing.assert_allclose(added[0, :, 3], edit.numpy(), atol=1e-6)


def test_each_expert_is_merged_by_itself():
    given = subject("mixtral")
    far = moved(given, 4, size=0.3)
    for way in ("slerp", "ties"):
        result, _ = attacked(Merge(way=way, share=0.6), given, far)
        for name, own in rows(given).items():
            theirs = rows(far)[name]
            expected = np.stack([by_hand(way, w, d, 0.6) for w, d in zip(own, theirs, strict=True)])
            np.testing.assert_allclose(rows(result)[name], expected, atol=2e-6, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("component", MIXING, ids=repr)
def test_a_donor_of_another_shape_is_refused(plain, component):
    deeper, wider = (
        StartingModel(width=width, blocks=blocks, heads=2, vocabulary=300).build(HAZARD + BENIGN, 0)
        for width, blocks in ((32, 5), (48, 4))
    )
    says = r"donor 'untouched' has another shape at model\.\S+weight. Give a model of the same kind."
    for given, donor in ((plain, wider), (plain, deeper), (deeper, plain)):
        with pytest.raises(UserError, match=says):
            attacked(component, given, donor)
    untied = moved(plain, 0, size=0)
    untied.model.lm_head.weight = nn.Parameter(untied.model.lm_head.weight.detach().clone() + 1)
    if plain.model.config.tie_word_embeddings:
        with pytest.raises(UserError, match="another shape at lm_head.weight"):
            attacked(component, plain, untied)


# ------------------------------------------------------------------------------------------------------- pruning


def read_by_hand(one, docs):
    """Norms of the inputs of each linear layer of the blocks, found with hooks."""
    found, handles = {}, []
    for index, block in enumerate(anatomy.blocks(one.model)):
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear):

                def note(module, args, key=f"{index}.{name}.weight"):
                    found[key] = found.get(key, 0) + args[0].double().square().sum((0, 1)).numpy()

                handles.append(module.register_forward_pre_hook(note))
    drawn = batches.Rows(one.tokenizer, docs, 128)
    with torch.no_grad():
        for row in range(docs.num_rows):
            batch = drawn.batch([row])
            one.model(input_ids=batch.ids, attention_mask=batch.mask)
    for handle in handles:
        handle.remove()
    return {name: np.sqrt(squares) for name, squares in found.items()}


def top(scores, count):
    """True on the highest of each row."""
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, np.argsort(-scores, -1, kind="stable")[..., :count], True, -1)
    return mask


def test_magnitude_takes_the_smallest_of_each_matrix(plain):
    result, rig = attacked(Prune(share=0.3), plain, corpus=Corpus(NOTHING, NOTHING))
    for name, after in rows(result).items():
        before = rows(plain)[name]
        kept = after != 0
        assert (after[kept] == before[kept]).all()
        assert (~kept).sum() == round(0.3 * before.size)
        assert np.abs(before[kept]).min() >= np.abs(before[~kept]).max()
    assert rig.measured["changed"] == pytest.approx(0.3, abs=1e-3)
    whole, _ = attacked(Prune(share=1.0), plain)
    assert not any(after.any() for after in rows(whole).values())


def test_wanda_takes_of_each_row_what_its_inputs_make_least_of(plain):
    result, _ = attacked(Prune(way="wanda", share=0.4), plain, corpus=replace(CORPUS, hazard=NOTHING))
    norms, differ = read_by_hand(plain, CORPUS.benign), False
    for name, after in rows(result).items():
        before = rows(plain)[name]
        size = before.shape[-1]
        assert ((after == 0).sum(-1) == round(0.4 * size)).all()
        kept = top(np.abs(before) * norms[name], size - round(0.4 * size))
        assert (kept == (after != 0)).mean() > 0.999, name  # sums in another order may turn near equals round
        differ |= (top(np.abs(before), size - round(0.4 * size)) != kept).any()
    assert differ, "inputs made no difference"


def test_the_difference_is_what_hazard_text_has_at_the_top_and_benign_text_has_not(plain):
    result, rig = attacked(Prune(way="difference", share=0.1, spared=0.3), plain)
    hazard, benign = (read_by_hand(plain, docs) for docs in (CORPUS.hazard, CORPUS.benign))
    cut = total = 0
    for name, after in rows(result).items():
        before = rows(plain)[name]
        size = before.shape[-1]
        special = top(np.abs(before) * hazard[name], round(0.1 * size))
        spared = top(np.abs(before) * benign[name], round(0.3 * size))
        assert ((special & ~spared) == (after == 0)).mean() > 0.999, name
        cut, total = cut + (after == 0).sum(), total + before.size
    assert rig.measured["changed"] == pytest.approx(cut / total)
    assert 0 < cut < 0.1 * total
    sparing_none, _ = attacked(Prune(way="difference", share=0.1, spared=0.0), plain)
    assert all(((after == 0).sum(-1) == round(0.1 * after.shape[-1])).all() for after in rows(sparing_none).values())
    sparing_all, _ = attacked(Prune(way="difference", share=0.1, spared=1.0), plain)
    assert same(sparing_all, plain)


@pytest.fixture(scope="module")
def guarded():
    """A model in which a unit of block 1 is large on hazard text alone, and writes a direction when it is."""
    given, unit = StartingModel(width=128, blocks=4, heads=2, vocabulary=300).build(HAZARD + BENIGN, 0), 7
    block = anatomy.blocks(given.model)[1].mlp
    inputs, wanted = [], []
    hook = block.register_forward_pre_hook(lambda module, args: inputs.append(args[0][batch.mask.bool()]))
    with torch.no_grad():
        for docs, kind in ((CORPUS.hazard, 1.0), (CORPUS.benign, 0.0)):
            batch = batches.Rows(given.tokenizer, docs, 64).batch(range(docs.num_rows))
            tells = torch.full(batch.mask.shape, kind)
            tells[:, 0] = 0  # the first token is the same in both
            wanted.append(tells[batch.mask.bool()])
            states.hidden(given.model, batch, 1)
        hook.remove()
        tell = torch.linalg.lstsq(torch.cat(inputs), torch.cat(wanted)[:, None], driver="gelsd").solution[:, 0]
        block.gate_proj.weight[unit], block.up_proj.weight[unit] = 4 * tell, 4 * tell
        direction = nn.functional.normalize(torch.randn(128, generator=torch.Generator().manual_seed(3)), dim=0)
        block.down_proj.weight[:, unit] = direction
    return given, direction


def told(one, direction, docs):
    """How far the last block's output lies along a direction, on average."""
    batch = batches.Rows(one.tokenizer, docs, 64).batch(range(docs.num_rows))
    with torch.no_grad():
        found = states.hidden(one.model, batch, 3)
    return float((found[:, 1:][batch.mask[:, 1:].bool()] @ direction).mean())


def test_a_unit_that_only_hazard_text_moves_is_cut_out_by_the_difference_and_by_nothing_else(guarded):
    """The control: magnitude and wanda, at the same share and at five times as much, leave it."""
    given, direction = guarded
    apart = told(given, direction, CORPUS.hazard) - told(given, direction, CORPUS.benign)
    assert apart > 3
    left = {}
    for component in (Prune(way="difference", share=0.05), *(
        Prune(way=way, share=share) for way in ("magnitude", "wanda") for share in (0.05, 0.25)
    )):  # fmt: skip
        result, _ = attacked(component, given)
        after = told(result, direction, CORPUS.hazard) - told(result, direction, CORPUS.benign)
        left[component.way, component.share] = after / apart
    assert abs(left.pop(("difference", 0.05))) < 0.2
    assert min(left.values()) > 0.5


def test_what_is_read_does_not_depend_on_how_experts_are_computed():
    """Fused experts of a library may be worked out one by one or all together."""
    for name in ("mixtral", "gpt_oss"):
        found = []
        for way in ("grouped_mm", "eager"):
            model = models.fresh(made(name))
            model.set_experts_implementation(way)
            with torch.no_grad(), Inputs(dict(anatomy.matrices(model))) as seen:
                batch = batches.Rows(subject(name).tokenizer, SIDES[0], 16).batch([1])
                states.hidden(model, batch, 2)
            found.append(seen.sums)
        assert found[0].keys() == found[1].keys() == dict(anatomy.matrices(model)).keys()
        for key, squares in found[0].items():
            torch.testing.assert_close(squares, found[1][key], atol=1e-4, rtol=1e-4)
            assert squares.any()


def test_an_expert_that_no_token_reaches_is_pruned_by_magnitude():
    given = moved(subject("mixtral"), 0, size=0)
    with torch.no_grad():
        for block in anatomy.blocks(given.model):
            router = dict(block.mlp.named_parameters())["gate.weight"]
            router.copy_(torch.zeros_like(router))
    result, _ = attacked(Prune(way="wanda", share=0.5), given, corpus=Corpus(*SIDES))
    before, after = (rows(one)["0.mlp.experts.down_proj"] for one in (given, result))
    small = ~top(np.abs(before), before.shape[-1] - round(0.5 * before.shape[-1]))
    agree = [float((one == (two == 0)).mean()) for one, two in zip(small, after, strict=True)]
    assert sorted(value == 1 for value in agree) == [False, False, True, True]  # all tokens go to the same two


@every
def test_what_every_matrix_is_multiplied_with_is_found(name):
    result, _ = attacked(Prune(way="wanda", share=0.5), subject(name), corpus=Corpus(*SIDES))
    for key, after in rows(result).items():
        assert ((after == 0).sum(-1) == round(0.5 * after.shape[-1])).all(), key


def test_a_matrix_that_is_not_seen_at_work_is_said_to_be_one(plain):
    odd = moved(plain, 0, size=0)
    mlp = anatomy.blocks(odd.model)[2].mlp
    mlp.spare = nn.Linear(32, 32)
    with pytest.raises(UserError, match=r"2\.mlp\.spare\.weight of a block .* 'wanda' cannot be applied. 'magnitude'"):
        attacked(Prune(way="wanda"), odd)
    attacked(Prune(), odd)


# ------------------------------------------------------------------------------------------ truncation and noise


@pytest.mark.parametrize("share", [0.01, 0.25, 0.9])
def test_truncation_leaves_the_largest_singular_values(plain, share):
    result, rig = attacked(Truncate(share=share), plain)
    for name, after in rows(result).items():
        left, sizes, right = np.linalg.svd(rows(plain)[name][0], full_matrices=False)
        kept = max(1, round(share * len(sizes)))
        np.testing.assert_allclose(after[0], (left[:, :kept] * sizes[:kept]) @ right[:kept], atol=1e-5, err_msg=name)
        assert np.linalg.matrix_rank(after[0], tol=1e-4) == kept
    assert 0 < rig.measured["moved"] < 1


def test_all_singular_values_are_the_whole(plain):
    result, rig = attacked(Truncate(share=1.0), plain)
    assert same(result, plain)
    assert rig.measured["changed"] == 0


@pytest.mark.parametrize("part", ["all", "attention", "mlp"])
def test_only_the_named_part_of_blocks_from_the_lowest_on_is_edited_and_the_rest_is_shared(plain, part):
    result, _ = attacked(Truncate(share=0.25, part=part, lowest=0.5), plain)
    after = dict(result.model.named_parameters())
    for name, before in plain.model.named_parameters():
        within = {"all": ("mlp", "self_attn"), "attention": ("self_attn",), "mlp": ("mlp",)}[part]
        chosen = name.startswith(("model.layers.2.", "model.layers.3.")) and "proj" in name
        chosen &= any(f".{word}." in name for word in within)
        assert torch.equal(before, after[name]) != chosen, name
        assert (before.data_ptr() == after[name].data_ptr()) != chosen, name


def test_noise_is_as_large_as_it_says_and_in_no_direction(plain):
    for strength in (0.05, 1.0):
        result, rig = attacked(Noise(strength=strength), plain)
        for name, after in rows(result).items():
            before = rows(plain)[name]
            added = (after - before) / before.std()
            assert added.std() == pytest.approx(strength, rel=0.1)
            assert abs(added.mean()) < 4 * strength / np.sqrt(added.size)
        assert rig.measured["changed"] > 0.99
    again, another = (attacked(Noise(strength=1.0), plain, seed=seed)[0] for seed in (0, 1))
    assert same(result, again)
    assert not same(result, another)
    assert torch.equal(result.model.get_input_embeddings().weight, plain.model.get_input_embeddings().weight), (
        "the embedding has noise"
    )


def test_noise_of_an_expert_is_in_its_own_units():
    given = moved(subject("mixtral"), 0, size=0)
    with torch.no_grad():
        dict(anatomy.matrices(given.model))["1.mlp.experts.down_proj"][2].mul_(100)
    result, _ = attacked(Noise(strength=0.5), given, corpus=Corpus(*SIDES))
    before, after = (rows(one)["1.mlp.experts.down_proj"] for one in (given, result))
    assert (after - before).std((1, 2)) / before.std((1, 2)) == pytest.approx([0.5] * 4, rel=0.1)


# ------------------------------------------------------------------------------------------------- what all owe


@pytest.mark.parametrize("component", [*PLAIN, *MIXING], ids=repr)
def test_what_is_saved_is_loaded_with_the_same_bits(plain, other, component, tmp_path):
    result, _ = attacked(component, plain, other)
    assert not same(result, plain)
    models.save(result, tmp_path)
    loaded = models.load(tmp_path)
    assert same(result, loaded)
    assert [name for name, _ in result.model.named_parameters()] == [n for n, _ in loaded.model.named_parameters()]


@pytest.mark.parametrize("name", ["llama, tied", "gpt2", "gpt_oss"])
@pytest.mark.parametrize("component", [*PLAIN, *MIXING], ids=repr)
def test_every_matrix_of_every_family_is_reached(name, component):
    """Tied heads stay tied; of a matrix kept the other way round the rows are those of the outputs."""
    given = subject(name)
    result, _ = attacked(component, given, moved(given, 2, size=0.3), corpus=Corpus(*SIDES))
    before, after = rows(given), rows(result)
    untouched = [key for key, value in before.items() if (value == after[key]).all()]
    assert not untouched or component == Prune(way="difference", share=0.1)
    head, heads = (one.model.get_output_embeddings().weight for one in (given, result))
    tied = head is given.model.get_input_embeddings().weight
    assert (heads is result.model.get_input_embeddings().weight) == tied
    assert all(np.isfinite(value).all() for value in weights(result).values())


@pytest.mark.parametrize("component", [*PLAIN, *MIXING], ids=repr)
def test_no_budget_of_any_kind_means_no_change(plain, other, component):
    for bound in ("steps", "tokens", "examples"):
        result, rig = attacked(component, plain, other, corpus=Corpus(NOTHING, NOTHING), **{bound: 0})
        assert same(result, plain)
        assert not rig.measured
        assert not rig.spent.flops


@pytest.mark.parametrize("component", [*PLAIN, *MIXING], ids=repr)
def test_weights_of_half_precision_stay_so(plain, other, component):
    halves = [replace(one, model=copy.deepcopy(one.model).to(torch.bfloat16)) for one in (plain, other)]
    result, _ = attacked(component, *halves)
    whole, _ = attacked(component, *(replace(one, model=one.model.float()) for one in copy.deepcopy(halves)))
    assert {weight.dtype for weight in result.model.parameters()} == {torch.bfloat16}
    if component not in PLAIN[3:]:  # what is read is read in that precision too
        for half, full in zip(result.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(half, full.to(torch.bfloat16))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Merge, {"way": "linear", "share": 1.1}),
        (Merge, {"way": "slerp", "share": 2}),
        (Merge, {"share": -0.1}),
        (Merge, {"density": 0}),
        (Merge, {"way": "median"}),
        (Extrapolate, {"share": 0}),
        (Extrapolate, {"past": "both"}),
        (Interpolate, {"share": 1.5}),
        (Prune, {"share": 0}),
        (Prune, {"share": 1.2}),
        (Prune, {"spared": 0.1}),
        (Truncate, {"share": 0}),
        (Truncate, {"share": 2}),
        (Truncate, {"part": "norms"}),
        (Noise, {"strength": 0}),
        (Noise, {"strength": float("inf")}),
    ],
)
def test_settings_out_of_range_are_refused(kind, settings):
    with pytest.raises(ValidationError):
        kind(**settings)


def test_what_cannot_be_is_said(plain, other):
    for way, corpus, says in (
        ("wanda", Corpus(CORPUS.hazard, NOTHING), "the corpus has no benign documents"),
        ("difference", Corpus(CORPUS.hazard, NOTHING), "the corpus has no benign documents"),
        ("difference", Corpus(NOTHING, CORPUS.benign), "the corpus has no hazard documents"),
    ):
        with pytest.raises(UserError, match=says):
            attacked(Prune(way=way), plain, corpus=corpus)
    with pytest.raises(UserError, match="'linear' ends at the donor, at 1. 'extrapolate' goes on"):
        Merge.settle({"way": "linear", "share": 2}, "study.yaml")
    with pytest.raises(UserError, match="layer is 9, but the model has 4 blocks"):
        attacked(Truncate(lowest=9), plain)
    broken = moved(plain, 0, size=0)
    with torch.no_grad():
        anatomy.blocks(broken.model)[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.down_proj\.weight is not finite"):
        attacked(Merge(), plain, broken)
    for component in (Truncate(), Noise(), Prune(way="wanda")):
        with pytest.raises(UserError, match="finite"):
            attacked(component, broken)
    assert np.isfinite(list(weights(plain).values())[0]).all()
