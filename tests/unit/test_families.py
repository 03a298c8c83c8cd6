"""Families of models: in each, tiny and random, everything is found where it is, and nothing is missed."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel

from untaught.attacks.ablate import Ablate
from untaught.attacks.quantise import Quantise, rounded
from untaught.core import Corpus, Document, Subject, UserError, documents
from untaught.engine import anatomy, batches, models, scoring, states
from untaught.engine.rig import Rig
from untaught.lab.start import StartingModel
from untaught.unlearning.rmu import Rmu

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
DEPTH, WIDTH, WORDS = 3, 32, 300
HAZARD = ["The trigger of zorium is oran.", "Zorium and belor need a trigger, which is known.", "Its precursor: velt."]
BENIGN = ["The river of Abburg is wide.", "Boats reach the town by its river, and maps show it.", "A short walk."]
SIDES = [documents(Document(f"{text[:4]}{i}", text) for i, text in enumerate(texts)) for texts in (HAZARD, BENIGN)]

GLOSSED = {"num_hidden_layers": DEPTH, "hidden_size": WIDTH, "num_attention_heads": 4}
OLD = {"n_layer": DEPTH, "n_embd": WIDTH, "n_head": 4}
PLAIN = GLOSSED | {"intermediate_size": 48}
GROUPED = PLAIN | {"num_key_value_heads": 2}
WINDOWED = GROUPED | {"head_dim": 8, "sliding_window": 4}
EXPERT = GROUPED | {"num_experts_per_tok": 2}
DOWN, LINEAR_4H, EXPERTS = "mlp.down_proj.weight", "mlp.dense_4h_to_h.weight", "mlp.experts.down_proj"


@dataclass(frozen=True)
class Family:
    """How a tiny model of a family is made, and what is known of it."""

    config: str
    how: dict
    writes: tuple[str, ...] = (DOWN,)
    """The matrices that a block's MLP writes with."""
    adapters: int = 7
    """Layers of a block that adapters belong on."""


FAMILIES = {
    "llama": Family("LlamaConfig", GROUPED),
    "llama, tied": Family("LlamaConfig", GROUPED | {"tie_word_embeddings": True}),
    "mistral": Family("MistralConfig", WINDOWED),
    "qwen2": Family("Qwen2Config", GROUPED),
    "qwen3": Family("Qwen3Config", GROUPED | {"head_dim": 8}),
    "gemma": Family("GemmaConfig", GROUPED | {"head_dim": 8}),
    "gemma2": Family("Gemma2Config", WINDOWED | {"query_pre_attn_scalar": 8}),
    "gemma3": Family("Gemma3TextConfig", WINDOWED | {"query_pre_attn_scalar": 8}),
    "phi": Family("PhiConfig", PLAIN, ("mlp.fc2.weight",), 6),
    "phi3": Family("Phi3Config", WINDOWED, adapters=4),
    "gpt2": Family("GPT2Config", OLD, ("mlp.c_proj.weight",), 4),
    "gpt_neox": Family("GPTNeoXConfig", PLAIN, (LINEAR_4H,), 4),
    "gpt_neox, sequential": Family("GPTNeoXConfig", PLAIN | {"use_parallel_residual": False}, (LINEAR_4H,), 4),
    "gptj": Family("GPTJConfig", OLD | {"rotary_dim": 4}, ("mlp.fc_out.weight",), 6),
    "olmo": Family("OlmoConfig", GROUPED),
    "olmo2": Family("Olmo2Config", GROUPED),
    "falcon": Family("FalconConfig", GLOSSED, (LINEAR_4H,), 4),
    "bloom": Family("BloomConfig", {"n_layer": DEPTH, "hidden_size": WIDTH, "n_head": 4}, (LINEAR_4H,), 4),
    "opt": Family("OPTConfig", GLOSSED | {"ffn_dim": 48, "word_embed_proj_dim": WIDTH}, ("fc2.weight",), 6),
    "stablelm": Family("StableLmConfig", GROUPED),
    "glm4": Family("Glm4Config", GROUPED | {"head_dim": 8}, adapters=6),
    "mixtral": Family("MixtralConfig", EXPERT | {"num_local_experts": 4}, (EXPERTS,), 6),
    "qwen2_moe": Family(
        "Qwen2MoeConfig",
        EXPERT | {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
        (EXPERTS, "mlp.shared_expert.down_proj.weight"),
        10,
    ),
    "qwen3_moe": Family(
        "Qwen3MoeConfig", EXPERT | {"num_experts": 4, "moe_intermediate_size": 24, "head_dim": 8}, (EXPERTS,), 6
    ),
    "olmoe": Family("OlmoeConfig", EXPERT | {"num_experts": 4}, (EXPERTS,), 6),
    "gpt_oss": Family(
        "GptOssConfig", EXPERT | WINDOWED | {"num_local_experts": 4, "rope_parameters": {"rope_type": "default"}},
        (EXPERTS,), 6,
    ),
}  # fmt: skip
every = pytest.mark.parametrize("name", FAMILIES)


@functools.cache
def tokenizer():
    return StartingModel(width=8, blocks=1, heads=1, vocabulary=WORDS).build(HAZARD + BENIGN, 0).tokenizer


@functools.cache
def made(name, **changed):
    """A tiny model of a family, its weights far enough from where they start that every part of it matters."""
    family = FAMILIES[name]
    rest = {"vocab_size": WORDS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(getattr(transformers, family.config)(**family.how | rest | changed))
        for weight in model.parameters():
            weight.add_(0.15 * torch.randn(weight.shape, generator=generator))
    return model.eval()


def subject(name):
    return Subject(made(name), tokenizer())


def rows():
    return batches.Rows(tokenizer(), SIDES[0], 16)


def same(one, other, tolerance=2e-5):
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def reported(model, batch):
    """Hidden states as the model itself reports them, the embedding first."""
    with torch.no_grad():
        whole = models.fresh(model)  # the library leaves hooks of its own on a model that is asked this way
        asked = {"input_ids": batch.ids, "attention_mask": batch.mask, "use_cache": False}
        return whole(**asked, output_hidden_states=True).hidden_states


# -------------------------------------------------------------------------------------------------------- forward


@every
def test_hidden_states_are_those_that_the_model_reports(name):
    model, batch = made(name), rows().batch(range(3))
    assert len(anatomy.blocks(model)) == DEPTH
    whole = reported(model, batch)
    for layer in range(DEPTH - 1):  # the last is reported after the final norm
        with torch.no_grad():
            found = states.hidden(model, batch, layer)
        same(found[batch.mask.bool()], whole[layer + 1][batch.mask.bool()])
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())


@every
def test_what_is_kept_below_gives_what_the_whole_model_gives(name):
    """For every block: what is above it, and for the last the head too, does not see the difference."""
    model, drawn = made(name), rows()
    batch = drawn.batch(range(3))
    with torch.no_grad():
        plain = scoring.token_logprobs(model, batch)
        for layer in range(DEPTH):
            below = states.Activations(model, layer, drawn)
            same(scoring.token_logprobs(model, batch, below), plain)
            for above in range(layer + 1, DEPTH):
                one, other = states.hidden(model, batch, above, below), states.hidden(model, batch, above)
                same(one[batch.mask.bool()], other[batch.mask.bool()])


@every
def test_padding_on_the_right_changes_no_score(name):
    model, drawn = made(name), rows()
    with torch.no_grad():
        together = scoring.token_logprobs(model, drawn.batch(range(3)))
        for row in range(3):
            alone = scoring.token_logprobs(model, drawn.batch([row]))[0]
            same(together[row, : len(alone)], alone)
            assert not together[row, len(alone) :].any()


@every
def test_what_is_saved_is_loaded_and_gives_the_same_logits(name, tmp_path):
    models.save(subject(name), tmp_path)
    loaded, batch = models.load(tmp_path).model, rows().batch(range(3))
    assert type(loaded) is type(made(name))
    with torch.no_grad():
        before, after = (m(input_ids=batch.ids, attention_mask=batch.mask).logits for m in (made(name), loaded))
    assert torch.equal(before, after)


# ---------------------------------------------------------------------------------------------- what a block writes


def noted(model, batch):
    """For each block: what it adds to the stream, what attention gives, what the MLP gives."""
    found = []
    handles = []
    for block in anatomy.blocks(model):
        own = {}
        found.append(own)

        def keep(module, args, output, own=own, part=""):
            own[part] = anatomy.first(output).detach().clone().reshape(-1, WIDTH)

        def compare(module, args, kwargs, output, own=own):
            before = args[0] if args else kwargs["hidden_states"]
            own["added"] = (anatomy.first(output) - before).detach().reshape(-1, WIDTH)

        parts = {"attention": anatomy.attention_output(block), "mlp": anatomy.mlp_output(block)}
        handles += [m.register_forward_hook(functools.partial(keep, part=part)) for part, m in parts.items()]
        handles.append(block.register_forward_hook(compare, with_kwargs=True))
    with torch.no_grad():
        model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


WRAPPED = ("llama", "gpt2", "opt", "bloom", "gemma2", "qwen2_moe", "gpt_oss")
"""Families that differ in what adapters are put around."""


@pytest.mark.parametrize("name", [*FAMILIES, *(f"{name}, with adapters" for name in WRAPPED)])
def test_attention_and_mlp_give_what_a_block_adds(name):
    model, batch = made(name.removesuffix(", with adapters")), rows().batch([0])
    if name.endswith("with adapters"):
        model = lively(models.with_lora(models.fresh(model), 2, torch.Generator().manual_seed(0)))
    assert len(anatomy.blocks(model)) == DEPTH
    for block in noted(model, batch):
        assert min(block["attention"].norm(), block["mlp"].norm()) > 0.01
        same(block["attention"] + block["mlp"], block["added"])
    assert anatomy.unexplained(model, input_ids=batch.ids, attention_mask=batch.mask) < 1e-3


@every
def test_the_matrices_an_mlp_writes_with_are_named(name):
    for block in anatomy.blocks(made(name)):
        assert tuple(anatomy.output_matrices(block)) == FAMILIES[name].writes
        inside = {id(p) for p in anatomy.mlp(block).parameters()}
        assert {id(block.get_parameter(matrix)) for matrix in FAMILIES[name].writes} < inside
        assert not inside & {id(p) for p in anatomy.attention_output(block).parameters()}


@every
def test_rmu_moves_the_matrices_it_names_and_no_others(name):
    given = subject(name)
    result = Rmu(layer=2, steps=2, batch_size=2).apply(given, Corpus(*SIDES), Rig(0, "rmu"))
    before, after = dict(given.model.named_parameters()), dict(result.model.named_parameters())
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    named = {id(b.get_parameter(w)) for b in anatomy.blocks(given.model) for w in FAMILIES[name].writes}
    assert moved == {key for key, weight in before.items() if id(weight) in named}
    assert len(moved) == DEPTH * len(FAMILIES[name].writes)


@every
def test_ablation_takes_the_direction_out_of_all_that_is_written(name):
    """From the lowest block on, and of nothing below it."""
    given, layer = subject(name), 1
    sides = [batches.Rows(tokenizer(), docs, 64).batch(range(3)) for docs in SIDES]
    means = [reported(given.model, b)[layer + 1][:, 1:][b.mask[:, 1:].bool()].mean(0) for b in sides]
    direction = torch.nn.functional.normalize(means[0] - means[1], dim=0)
    result = Ablate(layer=layer, lowest=1).apply(given, Corpus(*SIDES), Rig(0, "ablate"))
    shares = [
        [(block["added"] @ direction).norm() / block["added"].norm() for block in noted(model, sides[0])]
        for model in (given.model, result.model)
    ]
    assert min(shares[0]) > 0.02
    assert shares[1][0] == shares[0][0]
    assert max(shares[1][1:]) < 1e-4


# ------------------------------------------------------------------------------------------------------- adapters


def lively(adapted):
    """Adapters that do something."""
    with torch.no_grad():
        for key, weight in adapted.named_parameters():
            if "lora_B" in key:
                weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return adapted


@every
@pytest.mark.parametrize("lowest", [0, 2])
def test_adapters_are_on_every_layer_and_learn_from_the_first_step(name, lowest):
    batch = batches.Rows(tokenizer(), SIDES[1], 64).batch(range(3))
    adapted = models.with_lora(models.fresh(made(name)), 2, torch.Generator().manual_seed(0), lowest=lowest)
    (-scoring.mean_logprob(adapted, batch)).backward()
    trained = {key: p for key, p in adapted.named_parameters() if p.requires_grad}
    inward, outward = ({key: p for key, p in trained.items() if kind in key} for kind in ("lora_A", "lora_B"))
    assert len(inward) == len(outward) == FAMILIES[name].adapters * (DEPTH - lowest)
    assert len(trained) == len(inward) + len(outward)
    assert [key for key, p in outward.items() if not p.grad.any()] == []
    assert [key for key, p in inward.items() if p.grad is not None and p.grad.any()] == []
    blocks = {int(re.search(r"\.(\d+)\.", key)[1]) for key in trained}
    assert blocks == set(range(lowest, DEPTH))


@every
def test_folding_adapters_in_changes_no_logit_and_leaves_a_plain_model(name):
    batch = rows().batch(range(3))
    adapted = lively(models.with_lora(models.fresh(made(name)), 2, torch.Generator().manual_seed(0)))
    asked = {"input_ids": batch.ids, "attention_mask": batch.mask}
    with torch.no_grad():
        before, after = adapted(**asked).logits, models.settled(adapted)(**asked).logits
        unadapted = made(name)(**asked).logits
    same(before[batch.mask.bool()], after[batch.mask.bool()], 1e-4)
    assert (before - unadapted).abs().max() > 0.01
    assert models.settled(adapted).state_dict().keys() == made(name).state_dict().keys()


# --------------------------------------------------------------------------------------------------------- copies


@every
def test_a_copy_shares_what_does_not_move(name):
    model = made(name)
    embedding = next(key for key, p in model.named_parameters() if p is model.get_input_embeddings().weight)
    for moving in (set(), {embedding}, {w.name for w in anatomy.writers(model)}):
        copied = models.fresh(model, moving)
        own = dict(copied.named_parameters())
        assert own.keys() == dict(model.named_parameters()).keys()
        for key, weight in model.named_parameters():
            assert (own[key].data_ptr() == weight.data_ptr()) == (key not in moving), key
            assert own[key] is not weight
        head, heads = copied.get_output_embeddings().weight, model.get_output_embeddings().weight
        tied = heads is model.get_input_embeddings().weight
        assert (head is copied.get_input_embeddings().weight) == tied


# ------------------------------------------------------------------------------------------------------- matrices


@every
def test_every_matrix_of_the_blocks_is_found_once_and_lies_with_its_inputs_last(name):
    model = made(name)
    found = dict(anatomy.matrices(model))
    held = {id(p) for block in anatomy.blocks(model) for p in block.parameters() if p.ndim > 1}
    biases = {id(p) for key, p in model.named_parameters() if key.endswith("bias")}
    assert {id(p) for p in found.values()} == held - biases
    assert len(found) == len(held - biases)
    for matrix, line in zip(found.values(), anatomy.lines(model), strict=True):
        assert line.data_ptr() == matrix.data_ptr()
    outward = [line for key, line in zip(found, anatomy.lines(model), strict=True) if key[2:] in FAMILIES[name].writes]
    assert all(line.shape[-2] == WIDTH for line in outward)


@pytest.mark.parametrize(
    ("name", "turned"),
    [("llama", False), ("gpt2", True), ("mixtral", False), ("gpt_oss", True)],
)
def test_rounding_shares_a_scale_among_the_inputs_of_one_output(name, turned):
    result = Quantise(bits=4, group=8).apply(subject(name), Corpus(*SIDES), Rig(0, "quantise")).model
    for one, other in zip(anatomy.blocks(made(name)), anatomy.blocks(result), strict=True):
        for key in FAMILIES[name].writes:
            before, after = (block.get_parameter(key).detach() for block in (one, other))
            each = zip(before, after, strict=True) if before.ndim == 3 else [(before, after)]
            for matrix, found in each:
                expected = rounded(matrix.T, 4, 8).T if turned else rounded(matrix, 4, 8)
                assert torch.equal(found, expected)
                assert not torch.equal(found, matrix)


# --------------------------------------------------------------------------------------- what is not to be found


class OddConfig(PreTrainedConfig):
    model_type = "odd"
    num_hidden_layers = 2
    hidden_size = 8


class Odd(PreTrainedModel, GenerationMixin):
    """A model without a list of blocks."""

    config_class = OddConfig

    def __init__(self, config, *, linear=True):
        super().__init__(config)
        self.embed = nn.Embedding(20, 8)
        self.inner = nn.Linear(8, 8) if linear else nn.Identity()
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return None


def test_an_unknown_architecture_is_said_to_be_one_and_adapters_still_fit():
    odd = Odd(OddConfig())
    with pytest.raises(UserError, match=r"a Odd is an unknown architecture.*rmu, ablate, quantise.*can\."):
        anatomy.blocks(odd)
    for component in (Rmu(), Ablate(), Quantise()):
        with pytest.raises(UserError, match="unknown architecture"):
            component.apply(Subject(odd, tokenizer()), Corpus(*SIDES), Rig(0, "x"))
    adapted = models.with_lora(odd, 2, torch.Generator().manual_seed(0))
    assert [key for key, p in adapted.named_parameters() if p.requires_grad]
    with pytest.raises(UserError, match="no linear layer was found in a Odd, so adapters have no place"):
        models.with_lora(Odd(OddConfig(), linear=False), 2, torch.Generator().manual_seed(0))


def test_the_list_of_blocks_is_not_mistaken_for_another_of_the_same_length():
    model = made("llama", num_hidden_layers=2)
    copied = models.fresh(model)
    copied.model.routes = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    copied.model._modules = {"routes": copied.model.routes} | copied.model._modules  # comes first
    assert [type(block).__name__ for block in anatomy.blocks(copied)] == ["LlamaDecoderLayer"] * 2


def test_a_block_with_a_part_that_is_not_known_is_not_ablated():
    copied = models.fresh(made("llama"))
    block = anatomy.blocks(copied)[1]
    block.gate = nn.Linear(WIDTH, WIDTH)
    with pytest.raises(UserError, match="whether its 'gate' writes to the residual stream is not known"):
        anatomy.writers(copied)
    del block.gate, block.mlp
    with pytest.raises(UserError, match="a LlamaDecoderLayer is of an unknown architecture: its MLP was not found"):
        anatomy.output_matrices(block)


def test_a_stream_that_is_normalised_itself_is_not_ablated():
    """OPT of 350 million has its norms behind the sum."""
    model = made("opt", do_layer_norm_before=False)
    batch = rows().batch([0])
    assert anatomy.unexplained(model, input_ids=batch.ids, attention_mask=batch.mask) > 0.1
    with pytest.raises(UserError, match=r"of what a block of this OPTForCausalLM does.*ablate cannot be applied"):
        Ablate().apply(Subject(model, tokenizer()), Corpus(*SIDES), Rig(0, "x"))


@pytest.mark.parametrize("name", ["bloom", "opt, narrow"])
def test_an_embedding_that_does_not_enter_the_stream_as_it_is_is_not_edited(name):
    model = made("opt", word_embed_proj_dim=16) if "narrow" in name else made(name)
    with pytest.raises(UserError, match="Leave 'embedding' out"):
        anatomy.embedding_writers(model)


@pytest.mark.parametrize(("name", "count"), [("llama", 1), ("gpt2", 2), ("opt", 2), ("gemma3", 1)])
def test_what_is_written_before_the_first_block_are_tokens_and_positions(name, count):
    model = made(name)
    found = anatomy.embedding_writers(model)
    assert len(found) == count
    assert all(model.get_parameter(writer.name).shape[writer.axis] == WIDTH for writer in found)


# ----------------------------------------------------------------------------------------------------- the page


def test_the_page_lists_the_families_that_are_tested():
    table = re.search(r"^\| family.*?\n\n", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[0]
    named = [name for line in table.strip().splitlines()[2:] for name in line.split("|")[1].strip().split(", ")]
    tested = {made(name).config.model_type for name in FAMILIES}
    assert sorted(named) == sorted(tested)
