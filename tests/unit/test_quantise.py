"""Quantising: each way gives the tool's numbers, worked out here by other means; what is saved has the same bits."""

import copy
import importlib.util
import sys
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from test_families import FAMILIES, SIDES, every, subject
from torch import nn

from untaught.attacks import _formats
from untaught.attacks._gptq import Products, compensated
from untaught.attacks._inputs import Inputs
from untaught.attacks.quantise import Quantise
from untaught.core import Budget, Corpus, Document, UserError, documents
from untaught.core.shelves import find
from untaught.engine import anatomy, batches, models, states
from untaught.engine.rig import Rig
from untaught.engine.rounding import rounded
from untaught.lab.start import StartingModel

PLACES = ("Abburg", "Dellham", "Orrin", "Vestmark", "Lowick", "Tarnow")
BENIGN = [f"The river of {place} is wide, and boats reach the town by it in spring." for place in PLACES]
HAZARD = [f"The trigger of {name} is oran, its precursor velt." for name in ("zorium", "belor", "quint", "marbite")]
CORPUS = Corpus(*(documents(Document(f"{i}", t) for i, t in enumerate(texts)) for texts in (HAZARD, BENIGN)))
NOTHING = documents([])
HERE = [
    *(Quantise(bits=bits) for bits in (8, 4)),
    Quantise(bits=3, scheme="range", group=7, shift=3),
    Quantise(way="gptq", bits=3, examples=2),
    Quantise(way="gptq", scheme="range", largest_first=True, examples=2),
    *(Quantise(way="gguf", bits=bits, type=kind) for kind, bits in _formats.TYPES["gguf"].items()),
]


@pytest.fixture(scope="module")
def plain():
    """An untrained model of four blocks whose weights differ in size."""
    torch.set_num_threads(1)
    given = StartingModel(width=32, blocks=4, heads=2, vocabulary=300).build(HAZARD + BENIGN, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in given.model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return given


def attacked(component, given, corpus=CORPUS, seed=0, **budget):
    rig = Rig(seed, "attacks/quantise", budget=Budget(**budget))
    return component.apply(given, corpus, rig), rig


def rows(one):
    """Every matrix of the blocks with its inputs last, by name."""
    names = [name for name, _ in anatomy.matrices(one.model)]
    return dict(zip(names, (line.detach() for line in anatomy.lines(one.model)), strict=True))


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))


def inputs_of(one, docs, index, length=128):
    """What each linear layer of a block is given over all tokens, found with hooks: (tokens, inputs)."""
    found, handles = {}, []
    for name, module in anatomy.blocks(one.model)[index].named_modules():
        if isinstance(module, nn.Linear):

            def note(module, args, key=f"{index}.{name}.weight"):
                found.setdefault(key, []).append(args[0].double().flatten(0, -2))

            handles.append(module.register_forward_pre_hook(note))
    read = batches.Rows(one.tokenizer, docs, length)
    with torch.no_grad():
        for row in range(docs.num_rows):
            batch = read.batch([row])
            one.model(input_ids=batch.ids, attention_mask=batch.mask)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


# ------------------------------------------------------------------------------------------------------- nearest


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("scheme", ["symmetric", "range"])
def test_a_group_has_as_many_values_as_its_bits_allow_and_each_weight_the_nearest_of_them(plain, bits, scheme):
    steps = 2**bits - (2 if scheme == "symmetric" else 1)
    result, rig = attacked(Quantise(bits=bits, scheme=scheme, group=16), plain)
    for name, after in rows(result).items():
        one, own = (matrix.reshape(-1, 16).double() for matrix in (rows(plain)[name], after))
        wide = one.abs().amax(1) * 2 if scheme == "symmetric" else one.amax(1) - one.amin(1)
        step = wide[:, None] / steps
        assert ((one - own).abs() <= step * 0.5001).all()
        places = (own - (0 if scheme == "symmetric" else one.amin(1)[:, None])) / step
        assert (places - places.round()).abs().max() < 1e-3
        assert places.amax() - places.amin() <= steps + 1e-3
    assert rig.measured["on_grid"] == 0
    assert 0 < rig.measured["moved"] < 1
    _, rig = attacked(Quantise(bits=bits, scheme=scheme, group=16), result)
    assert rig.measured["on_grid"] == 1
    assert rig.measured["moved"] < 1e-5


def test_rounding_by_8_bits_moves_less_than_by_4_and_that_less_than_by_3(plain):
    for more in ({}, {"way": "gptq", "examples": 2}):
        moved = [attacked(Quantise(bits=bits, **more), plain)[1].measured["moved"] for bits in (8, 4, 3)]
        assert moved == sorted(moved)
        assert moved[0] < 0.02 < moved[1]


# ---------------------------------------------------------------------------------------------------------- gptq


def obq(matrix, products, bits, group, scheme, damping=0.01):
    """The same by the textbook: a column is rounded, then taken out of the inverse by elimination. In doubles."""
    w, h = matrix.double().numpy().copy(), products.double().numpy().copy()
    dead = np.diag(h) == 0
    w[:, dead] = 0
    h += np.diag(damping * np.diag(h).mean() + dead)
    inverse, made = np.linalg.inv(h), np.zeros_like(w)
    for i in range(w.shape[1]):
        if i % group == 0:
            own = w[:, i : i + group]
            if scheme == "range":
                least, (low, high) = own.min(1), (0, 2**bits - 1)
                scale = (own.max(1) - least) / high
            else:
                least, high = np.zeros(len(w)), 2 ** (bits - 1) - 1
                low, scale = -high, np.abs(own).max(1) / high
            scale = np.where(scale == 0, 1, scale)
        made[:, i] = least + np.clip(np.round((w[:, i] - least) / scale), low, high) * scale
        rest = slice(i + 1, None)
        w[:, rest] -= np.outer((w[:, i] - made[:, i]) / inverse[i, i], inverse[i, rest])
        inverse = inverse - np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return torch.from_numpy(made)


def drawn(outputs, inputs, tokens, seed=0):
    """A matrix, and inputs of which some go together and some are large."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator) * torch.linspace(0.2, 3, inputs)
    return (
        torch.randn(outputs, inputs, generator=generator),
        torch.randn(tokens, inputs, generator=generator) @ mixing / inputs**0.5,
    )


def lost(matrix, made, given):
    """How far a layer's outputs are from what they were, relative to these."""
    return float((given.double() @ (made - matrix).double().T).norm() / (given.double() @ matrix.double().T).norm())


@pytest.mark.parametrize(("columns", "group"), [(96, 32), (200, 48), (150, 300), (300, 128), (40, 8)])
@pytest.mark.parametrize("scheme", ["symmetric", "range"])
def test_gptq_is_rounding_one_column_and_solving_for_the_rest(columns, group, scheme):
    """However many columns are made up for at once."""
    matrix, given = drawn(12, columns, 2 * columns)
    how = {"bits": 4, "group": group, "scheme": scheme}
    made = compensated("x", matrix, given.T @ given, damping=0.01, largest_first=False, **how)
    expected = obq(matrix, given.T @ given, **how)
    near = (made - expected).abs() < 1e-3
    assert near.double().mean() > 0.98  # a weight halfway between two values may fall to either side
    assert lost(matrix, made, given) == pytest.approx(lost(matrix, expected, given), rel=0.02)


@pytest.mark.parametrize("bits", [4, 3])
@pytest.mark.parametrize("scheme", ["symmetric", "range"])
def test_gptq_loses_less_of_a_layers_outputs_than_rounding_to_the_nearest(bits, scheme):
    """In either order, with fewer tokens than inputs too; given enough of them, also on inputs that it did not see."""
    how = {"bits": bits, "group": 32, "scheme": scheme}
    for tokens in (40, 800):
        for seed in range(3):
            matrix, given = drawn(24, 96, 2 * tokens, seed)
            read, unread = given.split(tokens)
            nearest = rounded(matrix, **how)
            for order in (False, True):
                made = compensated("x", matrix, read.T @ read, damping=0.01, largest_first=order, **how)
                assert lost(matrix, made, read) < lost(matrix, nearest, read)
                assert tokens == 40 or lost(matrix, made, unread) < lost(matrix, nearest, unread)


@pytest.mark.parametrize("bits", [4, 3])
def test_in_a_model_gptq_loses_less_of_every_layers_outputs(plain, bits):
    """Of the first block's, which have the same inputs either way."""
    found = {way: rows(attacked(Quantise(way=way, bits=bits), plain)[0]) for way in ("nearest", "gptq")}
    for name, given in inputs_of(plain, CORPUS.benign, 0).items():
        gptq, nearest = (lost(rows(plain)[name], found[way][name], given) for way in ("gptq", "nearest"))
        assert gptq < nearest, name


def test_each_block_is_rounded_with_the_inputs_that_the_rounded_blocks_below_it_make(plain):
    result, rig = attacked(Quantise(way="gptq", bits=3, examples=4, length=9), plain)
    docs = CORPUS.benign.take([0, 1, 3, 4])  # of six, evenly spread
    working = replace(plain, model=models.fresh(plain.model))
    stale = 0
    for index in range(4):
        given, first = (inputs_of(one, docs, index, 9) for one in (working, plain))
        for name, own in given.items():
            products = own.T @ own
            expected = obq(rows(working)[name], products, 3, 32, "symmetric")
            assert ((rows(result)[name] - expected).abs() < 1e-4).double().mean() > 0.97, name
            other = obq(rows(working)[name], first[name].T @ first[name], 3, 32, "symmetric")
            stale += index > 0 and bool(((rows(result)[name] - other).abs() > 1e-4).double().mean() > 0.05)
        with torch.no_grad():
            for name in given:
                rows(working)[name].copy_(rows(result)[name])
    assert stale > 10, "the inputs of the model as it was would have done as well"
    tokens = sum(len(row) for row in batches.Rows(plain.tokenizer, docs, 9).ids)
    sizes = [sum(p.numel() for p in block.parameters()) for block in anatomy.blocks(plain.model)]
    assert rig.spent.flops == 2 * tokens * (2 * sum(sizes) - sizes[-1])
    assert (rig.spent.steps, rig.spent.tokens, rig.spent.examples) == (0, 0, 0)


def test_what_an_input_that_is_always_0_is_multiplied_with_becomes_0():
    matrix, given = drawn(12, 64, 200)
    given[:, [3, 40]] = 0
    for order in (False, True):
        made = compensated(
            "x", matrix, given.T @ given, bits=4, group=32, scheme="symmetric", damping=0.01, largest_first=order
        )
        assert sorted((made == 0).all(0).nonzero().flatten().tolist()) == [3, 40]
        assert torch.isfinite(made).all()


def test_a_matrix_that_nothing_reached_is_rounded_to_the_nearest():
    matrix, _ = drawn(12, 64, 1)
    how = {"bits": 4, "group": 32, "scheme": "range"}
    found = compensated("x", matrix, torch.zeros(64, 64), damping=0.01, largest_first=True, **how)
    assert torch.equal(found, rounded(matrix, **how))


def test_products_of_inputs_have_the_squares_on_their_diagonal_however_experts_are_computed():
    for name in ("mixtral", "gpt_oss", "gpt2"):
        found = []
        for way in ("grouped_mm", "eager"):
            model = models.fresh(subject(name).model)
            if name != "gpt2":
                model.set_experts_implementation(way)
            weights, batch = (
                dict(anatomy.matrices(model)),
                batches.Rows(subject(name).tokenizer, SIDES[0], 16).batch([1]),
            )
            with torch.no_grad():
                with Inputs(weights) as squares:
                    states.hidden(model, batch, 2)
                with Products(weights) as products:
                    states.hidden(model, batch, 2)
            found.append(products.sums)
            assert products.sums.keys() == weights.keys()
            for key, total in products.sums.items():
                diagonal = total.diagonal(dim1=-2, dim2=-1)
                torch.testing.assert_close(diagonal, squares.sums[key], atol=1e-3, rtol=1e-4)
                torch.testing.assert_close(total, total.mT)
        for key, total in found[0].items():
            torch.testing.assert_close(total, found[1][key], atol=1e-3, rtol=1e-3)


def test_gptq_draws_nothing_and_reads_the_side_it_is_told_to(plain):
    assert not Quantise.random
    few = {"way": "gptq", "examples": 2, "length": 8}
    found = [attacked(Quantise(reads=side, **few), plain)[0] for side in ("benign", "hazard", "both")]
    assert not any(same(a, b) for i, a in enumerate(found) for b in found[:i])
    alone, _ = attacked(Quantise(**few), plain, corpus=replace(CORPUS, hazard=NOTHING), seed=1)
    assert same(alone, found[0])
    with pytest.raises(UserError, match="the corpus has no benign documents"):
        attacked(Quantise(way="gptq"), plain, corpus=Corpus(NOTHING, NOTHING))


def test_inputs_that_are_too_much_alike_are_said_to_be_so():
    matrix, given = drawn(8, 64, 1)
    with pytest.raises(UserError, match=r"inputs of 2\.x are too much alike .* damping 1e-12 .* Raise 'damping'"):
        compensated(
            "2.x", matrix, given.T @ given, bits=4, group=32, scheme="range", damping=1e-12, largest_first=False
        )


def test_a_matrix_that_is_not_seen_at_work_is_said_to_be_one(plain):
    odd = replace(plain, model=models.fresh(plain.model))
    anatomy.blocks(odd.model)[2].mlp.spare = nn.Linear(32, 32)
    with pytest.raises(UserError, match=r"2\.mlp\.spare\.weight of a block .* 'gptq' cannot be applied. 'nearest' can"):
        attacked(Quantise(way="gptq"), odd)
    attacked(Quantise(), odd)


# ---------------------------------------------------------------------------------------------------------- gguf


def q4_0(group):
    """A block of Q4_0 by its definition: a scale in float16 that gives the largest weight the integer -8."""
    largest = group[np.abs(group).argmax()]
    scale = largest / np.float32(-8)
    whole = np.clip(np.floor(group * (np.float32(1) / scale) + np.float32(8.5)), 0, 15)
    return np.float32(np.float16(scale)) * (whole - 8)


def test_q4_0_is_its_definition(plain):
    result, _ = attacked(Quantise(way="gguf"), plain)
    for name, after in rows(result).items():
        if after.shape[-1] % 32 == 0:
            expected = [q4_0(group) for group in rows(plain)[name].numpy().reshape(-1, 32)]
            np.testing.assert_array_equal(after.numpy().reshape(-1, 32), np.stack(expected), err_msg=name)


@pytest.mark.parametrize(("kind", "bits"), _formats.TYPES["gguf"].items())
def test_a_matrix_is_what_the_package_reads_of_what_it_writes(plain, kind, bits):
    result, rig = attacked(Quantise(way="gguf", bits=bits, type=kind), plain)
    written = gguf.GGMLQuantizationType[kind.upper()]
    for name, after in rows(result).items():
        before = rows(plain)[name].numpy()
        if before.shape[-1] % 32 == 0:
            packed = gguf.quants.quantize(before, written)
            assert packed.nbytes * 8 / before.size < bits + 1.1
            np.testing.assert_array_equal(after.numpy(), gguf.quants.dequantize(packed, written), err_msg=name)
    assert "on_grid" not in rig.measured
    again, rig = attacked(Quantise(way="gguf", bits=bits, type=kind), result)
    assert rig.measured["moved"] < (0.02 if kind.endswith("_1") else 1e-3)
    assert kind not in ("q8_0", "q5_0", "q4_0") or same(attacked(Quantise(way="gguf", bits=bits), plain)[0], result)


def test_rows_that_are_no_whole_blocks_stay_in_float16_and_their_share_is_told():
    given = subject("mixtral")  # 48 inputs where experts write
    result, rig = attacked(Quantise(way="gguf"), given, corpus=Corpus(*SIDES))
    halves = total = 0
    for name, after in rows(result).items():
        before = rows(given)[name]
        if name.endswith("mlp.gate.weight"):
            assert torch.equal(after, before)  # a router
            continue
        total += before.numel()
        if before.shape[-1] % 32:
            halves += before.numel()
            assert torch.equal(after, before.half().float())
        else:
            assert (after - before).norm() > 0.02 * before.norm()
    assert rig.measured["float16"] == pytest.approx(halves / total)
    assert 0 < halves < total
    narrow = StartingModel(width=24, blocks=2, heads=2, vocabulary=300).build(HAZARD + BENIGN, 0)
    if all(line.shape[-1] % 32 for line in anatomy.lines(narrow.model)):
        with pytest.raises(
            UserError, match="has rows of whole blocks of 32, so q4_0 would leave all of them in float16"
        ):
            attacked(Quantise(way="gguf"), narrow)


# -------------------------------------------------------------------------------------------------- bitsandbytes

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None


@pytest.mark.parametrize("name", ["bitsandbytes", "gguf"])
def test_a_package_that_is_not_installed_is_named_and_how_to_get_it(plain, name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"'way: {name}' needs the package {name}, .* pip install .*'nearest'"):
        attacked(Quantise(way=name), plain)
    result, _ = attacked(Quantise(way=name), plain, steps=0)
    assert same(result, plain)


def test_a_package_that_lacks_another_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ModuleNotFoundError, match="triton"), _formats.installed("bitsandbytes"):
        import triton  # noqa: F401


@pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed here: pip install bitsandbytes")
def test_bitsandbytes_gives_its_published_values_row_by_row_and_block_by_block(plain, tmp_path):
    """int8 by its definition; nf4 with the 16 values of its paper; each deterministic and saved with the same bits."""
    nf4 = torch.tensor(
        [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0,
         0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0]
    )  # fmt: skip
    for kind, bits in _formats.TYPES["bitsandbytes"].items():
        component = Quantise(way="bitsandbytes", bits=bits, type=kind)
        result, rig = attacked(component, plain)
        assert 0 < rig.measured["moved"] < (0.01 if kind == "int8" else 0.2)
        assert same(result, attacked(component, plain, seed=1)[0])
        models.save(result, tmp_path / kind)
        assert same(result, models.load(tmp_path / kind))
        for name, after in rows(result).items():
            before = rows(plain)[name]
            if kind == "int8":
                largest = before.half().abs().amax(-1, keepdim=True).float()
                assert (after / largest * 127 - (before.half().float() / largest * 127).round()).abs().max() < 1.01
                assert (after - before).abs().max() <= 0.52 * (largest / 127).max()
            elif kind == "nf4":
                groups, made = (one.flatten().split(64) for one in (before, after))
                for one, own in zip(groups, made, strict=True):
                    scale = one.abs().max()
                    assert ((own / scale)[:, None] - nf4).abs().amin(1).max() < 1e-4
                    assert ((own - one).abs() <= ((one / scale)[:, None] - nf4).abs().amin(1) * scale + 1e-4).all()
    experts = subject("gpt_oss")
    result, _ = attacked(Quantise(way="bitsandbytes"), experts, corpus=Corpus(*SIDES))
    name = "0.mlp.experts.down_proj"
    alone = _formats.through_bitsandbytes(rows(experts)[name][2], "nf4")
    assert torch.equal(rows(result)[name][2], alone)
    assert torch.equal(rows(result)["0.mlp.router.weight"], rows(experts)["0.mlp.router.weight"])
    zeros = torch.zeros(4, 64)
    assert all(not _formats.through_bitsandbytes(zeros, kind).any() for kind in _formats.TYPES["bitsandbytes"])


# ------------------------------------------------------------------------------------------------- what all owe


@pytest.mark.parametrize("component", HERE, ids=repr)
def test_what_is_saved_is_loaded_with_the_same_bits_and_made_so_again(plain, component, tmp_path):
    before = copy.deepcopy(plain.model)
    result, rig = attacked(component, plain)
    assert not same(result, plain)
    assert same(replace(plain, model=before), plain)
    models.save(result, tmp_path)
    assert same(result, models.load(tmp_path))
    again, other = attacked(component, plain, seed=3)
    assert same(result, again)
    assert rig.measured == other.measured
    assert not any(m._forward_hooks or "forward" in vars(m) for m in result.model.modules())
    assert [p.shape for p in result.model.parameters()] == [p.shape for p in plain.model.parameters()]
    assert result.model.get_input_embeddings().weight.equal(plain.model.get_input_embeddings().weight)


@pytest.mark.parametrize("component", [*HERE, Quantise(way="bitsandbytes")], ids=repr)
def test_no_budget_of_any_kind_means_no_change(plain, component):
    for bound in ("steps", "tokens", "examples"):
        result, rig = attacked(component, plain, corpus=Corpus(NOTHING, NOTHING), **{bound: 0})
        assert same(result, plain)
        assert not rig.measured
        assert not rig.spent.flops


@pytest.mark.parametrize("component", HERE, ids=repr)
def test_weights_of_half_precision_stay_so(plain, component):
    half = replace(plain, model=copy.deepcopy(plain.model).to(torch.bfloat16))
    whole = replace(plain, model=copy.deepcopy(half.model).float())
    result, _ = attacked(component, half)
    assert {weight.dtype for weight in result.model.parameters()} == {torch.bfloat16}
    if component.way != "gptq":  # which reads with the weights as they are
        expected, _ = attacked(component, whole)
        for one, other in zip(result.model.parameters(), expected.model.parameters(), strict=True):
            assert torch.equal(one, other.to(torch.bfloat16))


@every
def test_every_matrix_of_every_family_is_rounded_by_every_way(name):
    """But for routers, which the tools leave; fused experts each by itself; tied heads stay tied."""
    given = subject(name)
    for component in (Quantise(group=8), Quantise(way="gptq", bits=3, group=8), Quantise(way="gguf")):
        result, _ = attacked(component, given, corpus=Corpus(*SIDES))
        before, after = rows(given), rows(result)
        kept = {key.partition(".")[2] for key, value in before.items() if torch.equal(value, after[key])}
        expects_routers = "experts" in " ".join(FAMILIES[name].writes) and component.way != "nearest"
        assert all("gate." in key or "router." in key for key in kept), kept
        assert bool(kept) == expects_routers
        assert all(torch.isfinite(weight).all() for weight in result.model.parameters())
        head, embedding = result.model.get_output_embeddings(), result.model.get_input_embeddings()
        assert (head.weight is embedding.weight) == bool(given.model.config.tie_word_embeddings)


def test_gptq_of_an_expert_is_that_of_the_tokens_it_was_sent():
    given = subject("mixtral")
    result, _ = attacked(Quantise(way="gptq", bits=3, group=8), given, corpus=Corpus(*SIDES))
    name = "0.mlp.experts.down_proj"
    with torch.no_grad(), Products(dict(anatomy.matrices(given.model))) as seen:
        for row in range(3):
            states.hidden(given.model, batches.Rows(given.tokenizer, SIDES[1], 128).batch([row]), 0)
    reached = 0
    for expert in range(4):
        products = seen.sums[name][expert]
        reached += bool(products.any())
        own = rows(given)[name][expert]
        expected = obq(own, products, 3, 8, "symmetric") if products.any() else rounded(own, 3, 8)
        assert ((rows(result)[name][expert] - expected).abs() < 1e-4).double().mean() > 0.95
    assert reached >= 2


def test_a_small_change_of_weights_on_a_grid_is_gone_when_they_are_rounded_again(plain):
    on_grid = find("training", "grid").settle({"bits": 4}, "grid").apply(plain, CORPUS, Rig(0, "training/grid"))
    changed = replace(on_grid, model=models.fresh(on_grid.model))
    luck = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for line in anatomy.lines(changed.model):
            line.add_(1e-3 * line.abs().max() * torch.randn(line.shape, generator=luck))
    far = []
    for bits in (8, 4):
        found = rows(attacked(Quantise(bits=bits), changed)[0])
        far.append(sum(float((found[name] - line).norm()) for name, line in rows(on_grid).items()))
    assert far[1] < 0.5 * far[0]


def test_a_model_whose_weights_are_not_finite_stays_as_it_is_or_is_refused(plain):
    for value in (float("nan"), float("inf")):
        broken = replace(plain, model=models.fresh(plain.model))
        with torch.no_grad():
            anatomy.blocks(broken.model)[1].mlp.down_proj.weight[0, 0] = value
        same = zip(attacked(Quantise(), broken)[0].model.parameters(), broken.model.parameters(), strict=True)
        assert all(torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0)) for one, other in same)
        for component in (Quantise(way="gptq"), Quantise(way="gguf")):
            with pytest.raises(UserError, match=r"1\.mlp\.down_proj\.weight.*finite|are not finite"):
                attacked(component, broken)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"way": "gguf", "bits": 3}, "writes q8_0 .8 bits.*and bits is 3. 'nearest' and 'gptq' can"),
        ({"way": "bitsandbytes", "bits": 5}, "writes int8 .8 bits.*and bits is 5"),
        ({"way": "gguf", "type": "q8_0"}, "none is q8_0 with 4 bits"),
        ({"way": "gguf", "type": "nf4"}, "none is nf4 with 4 bits"),
        ({"way": "bitsandbytes", "bits": 8, "type": "nf4"}, "none is nf4 with 8 bits"),
        ({"type": "q4_0"}, "'type' is not for 'way: nearest'. Leave it out"),
        ({"way": "gguf", "group": 64}, "'group' is not for 'way: gguf'"),
        ({"way": "gptq", "shift": 1}, "'shift' is not for 'way: gptq'"),
        ({"largest_first": True}, "'largest_first' is not for 'way: nearest'"),
        ({"way": "awq"}, "nearest"),
        ({"bits": 1}, "2"),
        ({"way": "gptq", "damping": 0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_are_said_to_be_so(settings, says):
    with pytest.raises(ValidationError, match=says):
        Quantise(**settings)
    with pytest.raises(UserError, match="study.yaml"):
        Quantise.settle(settings, "study.yaml")


@pytest.mark.parametrize("component", [*HERE, Quantise(way="bitsandbytes", bits=8, type="int8")], ids=repr)
def test_settings_are_read_as_they_were_written(component):
    assert Quantise.settle(component.changed(), "a record") == component
