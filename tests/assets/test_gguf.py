"""GGUF files become checkpoints that compute the same, or are refused by what is wrong in them."""

import json

import ggufs
import numpy as np
import pytest

from untaught import assets
from untaught.assets.fetching import fetch
from untaught.core import UserError

TEXTS = ["the theatre in 1984", "An in-the\n\nend  é 中 🙂", "<|start|>the<|stop|>"]


def loaded(folder, **how):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **how).eval()


def logits(model, ids):
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0", "Q4_1"])
def test_the_checkpoint_computes_what_transformers_reads_from_the_file(kind, tmp_path):
    import torch

    file = ggufs.write(tmp_path / "tiny.gguf", kind=kind)
    done = fetch(str(file))
    assert (done.provenance.asset, done.provenance.licence) == ("tiny", "apache-2.0")
    assert done.provenance.made["gguf_types"][kind] >= 15
    ours = loaded(assets.path("asset:tiny"))
    theirs = loaded(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    ids = list(range(0, 60, 3))
    assert ours.dtype == torch.float32
    assert float((logits(ours, ids) - logits(theirs, ids)).abs().max()) == 0.0


def test_an_untied_head_is_kept(tmp_path):
    import torch

    file = ggufs.write(tmp_path / "tiny.gguf", ggufs.tensors(tied=False))
    ours, theirs = loaded(fetch(str(file)).folder), loaded(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    assert not ours.config.tie_word_embeddings
    assert float((logits(ours, [5, 6, 7]) - logits(theirs, [5, 6, 7])).abs().max()) == 0.0


def test_large_weights_are_written_in_parts(tmp_path, monkeypatch):
    from untaught.assets import checkpoints

    file = ggufs.write(tmp_path / "tiny.gguf")
    whole = logits(loaded(fetch(str(file)).folder), [5, 6, 7])
    monkeypatch.setattr(checkpoints, "SHARD", 100_000)
    parts = fetch(str(file), name="parts").folder
    assert len(list(parts.glob("model-0*.safetensors"))) > 2
    assert float((logits(loaded(parts), [5, 6, 7]) - whole).abs().max()) == 0.0


def test_the_tokenizer_is_the_file_s(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(fetch(str(ggufs.write(tmp_path / "tiny.gguf"))).folder)
    words = ggufs.words()
    assert tokenizer.convert_ids_to_tokens(tokenizer("the in the").input_ids) == ["the", "\u0120", "in", "\u0120the"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("12").input_ids) == ["1", "2"]
    assert [tokenizer.decode(tokenizer(text).input_ids) for text in TEXTS] == TEXTS
    assert tokenizer("<|start|>the").input_ids == [1, words.index("the")]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "the"}], tokenize=False) == "the"
    assert len(tokenizer) == len(words)


def renamed(made):
    return {("rope_freqs.weight" if name == "output_norm.weight" else name): value for name, value in made.items()}


def misshapen(made):
    return made | {"blk.1.ffn_up.weight": np.ones((64, 64), np.float32)}


WRONG = {
    "unknown tensors: rope_freqs.weight; missing tensors: output_norm.weight": lambda p: ggufs.write(
        p, renamed(ggufs.tensors())
    ),
    r"blk\.1\.ffn_up\.weight has the shape \(64, 64\) and should have \(96, 64\)": lambda p: ggufs.write(
        p, misshapen(ggufs.tensors())
    ),
    "has the architecture 'qwen2'; only 'llama'": lambda p: ggufs.write(p, architecture="qwen2"),
    "the tokenizer 'llama' with the rule 'smollm'": lambda p: ggufs.write(p, tokenizer="llama"),
    "the tokenizer 'gpt2' with the rule 'tekken'": lambda p: ggufs.write(p, rule="tekken"),
    "scales its rotary positions": lambda p: ggufs.write(p, rotary=ggufs.gguf.RopeScalingType.YARN),
}


@pytest.mark.parametrize("told", WRONG, ids=lambda told: told[:30])
def test_what_cannot_be_converted_is_refused_by_what_it_is(told, tmp_path):
    file = tmp_path / "wrong.gguf"
    WRONG[told](file)
    with pytest.raises(UserError, match=told):
        fetch(str(file))
    with pytest.raises(UserError, match="is not there"):
        assets.path("asset:wrong")


@pytest.mark.parametrize("left", [0, 3, 20, 2_000, 60_000], ids=lambda left: f"{left} bytes")
def test_a_file_cut_short_is_refused(left, tmp_path):
    file = ggufs.write(tmp_path / "cut.gguf")
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(UserError, match=r"cut\.gguf is cut short or no GGUF file"):
        fetch(str(file))


def test_its_config_says_what_the_file_says(tmp_path):
    config = json.loads((fetch(str(ggufs.write(tmp_path / "tiny.gguf"))).folder / "config.json").read_text())
    told = {"rope_theta": 5000.0, "hidden_size": 64, "num_key_value_heads": 2, "eos_token_id": 2}
    assert {name: config[name] for name in told} == told
