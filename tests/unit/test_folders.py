"""Model folders that are damaged, unsafe, of two models at once or too large, each refused by name before loading."""

import json
import shutil
import struct

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from untaught.core import UserError
from untaught.engine import folders, models
from untaught.lab.start import StartingModel

TEXTS = ["One two three four five.", "Six seven eight nine ten."] * 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model folder with one weights file."""
    folder = tmp_path_factory.mktemp("models") / "whole"
    models.save(StartingModel(width=32, blocks=2, heads=2, vocabulary=300).build(TEXTS, 0), folder)
    return folder


@pytest.fixture
def model(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


@pytest.fixture
def sharded(whole, model):
    """The same in several weights files."""
    for path in model.glob("*.safetensors"):
        path.unlink()
    models.load(whole).model.save_pretrained(model, max_shard_size="30KB")
    assert len(list(model.glob("*.safetensors"))) > 2
    return model


def refused(folder, *words, causal=True):
    """Refused with these words by the check, and by loading too."""
    with pytest.raises(UserError) as told:
        folders.check_folder(folder, causal=causal)
    for word in words:
        assert word in str(told.value)
    with pytest.raises(UserError) as again:
        models.load(folder)
    assert str(again.value) == str(told.value)


def edited(path, **changes):
    """A JSON table with some keys changed; None removes one."""
    table = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in table.items() if v is not None}), encoding="utf-8")


def parts(path):
    """A safetensors file's header, as a table, and its numbers."""
    data = path.read_bytes()
    long = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + long]), data[8 + long :]


def put_together(path, header, numbers):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + numbers)


# ------------------------------------------------------------------------------------------------ whole folders


def test_what_is_whole_passes_and_its_size_is_known(whole, sharded):
    subject = models.load(whole)
    count = sum(weight.numel() for weight in subject.model.parameters())
    for folder in (whole, sharded):
        folders.check_folder(folder)
        assert folders.size(folder) == (count, 4 * count)
        assert folders.size(folder, "mixed").bytes == 4 * count
        assert folders.size(folder, "bfloat16").bytes == 2 * count
        loaded = models.load(folder).model.state_dict()
        assert all(torch.equal(loaded[name], weight) for name, weight in subject.model.state_dict().items())


def test_numbers_that_are_no_weights_keep_their_width(model):
    header, numbers = parts(model / "model.safetensors")
    header["places"] = {"dtype": "I64", "shape": [3], "data_offsets": [len(numbers), len(numbers) + 24]}
    before = folders.size(model, "bfloat16")
    put_together(model / "model.safetensors", header, numbers + bytes(24))
    assert folders.size(model, "bfloat16") == (before.parameters + 3, before.bytes + 24)


# ------------------------------------------------------------------------------------------------ damaged weights


def cut(path, header, numbers):
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_the_header(path, header, numbers):
    path.write_bytes(path.read_bytes()[:200])


def almost_nothing(path, header, numbers):
    path.write_bytes(b"\x01\x02")


def no_safetensors(path, header, numbers):
    path.write_bytes(b"<html>Not found</html>" * 50)


def no_json(path, header, numbers):
    put_together(path, b"{" + bytes(300), numbers)


def no_table(path, header, numbers):
    put_together(path, b"[1, 2]", numbers)


def no_offsets(path, header, numbers):
    put_together(path, {name: {"dtype": "F32"} for name in header}, numbers)


def negative(path, header, numbers):
    name = next(iter(header.keys() - {"__metadata__"}))
    put_together(path, header | {name: header[name] | {"shape": [-1, 4]}}, numbers)


def overlapping(path, header, numbers):
    names = sorted(header.keys() - {"__metadata__"}, key=lambda name: header[name]["data_offsets"])
    put_together(path, header | {names[2]: header[names[1]]}, numbers)


def beyond(path, header, numbers):
    last = max(header.keys() - {"__metadata__"}, key=lambda name: header[name]["data_offsets"])
    at, end = header[last]["data_offsets"]
    put_together(path, header | {last: header[last] | {"data_offsets": [at + 10**9, end + 10**9]}}, numbers)


def of_another_length(path, header, numbers):
    last = max(header.keys() - {"__metadata__"}, key=lambda name: header[name]["data_offsets"])
    put_together(path, header | {last: header[last] | {"shape": [7]}}, numbers)


def longer(path, header, numbers):
    path.write_bytes(path.read_bytes() + bytes(5))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, " is cut short: its tensors take "),
        (cut_in_the_header, " is cut short, or no safetensors file: it ends within its header."),
        (almost_nothing, " is cut short, or no safetensors file: it ends within its header."),
        (no_safetensors, " is cut short, or no safetensors file: it ends within its header."),
        (no_json, " is damaged: its header is not that of a safetensors file."),
        (no_table, " is damaged: its header is not that of a safetensors file."),
        (no_offsets, " is damaged: its header is not that of a safetensors file."),
        (negative, " is damaged: its header is not that of a safetensors file."),
        (overlapping, " is not where it can be, or not as long as its shape."),
        (beyond, " is not where it can be, or not as long as its shape."),
        (of_another_length, " is not where it can be, or not as long as its shape."),
        (longer, " goes on after its end: its tensors take "),
    ],
)
def test_a_damaged_weights_file_is_refused_by_name(model, damage, words):
    file = model / "model.safetensors"
    damage(file, *parts(file))
    refused(
        model, f"{file}{' is damaged: ' if 'where it can' in words else ''}", words, "Fetch or save the model again."
    )


def test_one_of_several_weights_files_is_damaged_or_gone(sharded):
    second = sorted(sharded.glob("*.safetensors"))[1]
    kept = second.read_bytes()
    second.write_bytes(kept[:-1])
    refused(sharded, f"{second} is cut short: its tensors take ")
    second.unlink()
    refused(sharded, f"{sharded} lacks {second.name}, which model.safetensors.index.json names.")
    second.write_bytes(kept)
    folders.check_folder(sharded)
    (sharded / "model.safetensors.index.json").unlink()
    refused(sharded, "and neither model.safetensors nor model.safetensors.index.json, which says what is where.")


@pytest.mark.parametrize("places", [None, {}, ["a"], {"a.weight": "../elsewhere.safetensors"}])
def test_an_index_that_leads_nowhere(sharded, places):
    edited(sharded / "model.safetensors.index.json", weight_map=places)
    refused(sharded, "model.safetensors.index.json does not say which file has which tensor (weight_map).")


def test_an_index_that_names_what_is_not_there(sharded):
    index = sharded / "model.safetensors.index.json"
    places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    edited(index, weight_map=places | {"lost.weight": next(iter(places.values()))})
    refused(sharded, " does not have lost.weight, which model.safetensors.index.json says it has.")


def test_weights_that_are_missing_are_not_drawn_at_random(model):
    file = model / "model.safetensors"
    header, numbers = parts(file)
    last = max(header.keys() - {"__metadata__"}, key=lambda name: header[name]["data_offsets"])
    put_together(file, {k: v for k, v in header.items() if k != last}, numbers[: header[last]["data_offsets"][0]])
    with pytest.raises(UserError, match=f"has no weights for {last}. Fetch or save the model again."):
        models.load(model)


# ------------------------------------------------------------------------------------------------ not to be used


def test_an_adapter_alone_is_told_apart_with_what_merges_it(model):
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}), encoding="utf-8")
    refused(model, f"{model} holds an adapter for some/base, and not a whole model.", "merge_and_unload()")
    (model / "config.json").unlink()
    (model / "adapter_config.json").write_text("{}", encoding="utf-8")
    refused(model, "holds an adapter for a model that it does not name")


def test_no_folder_no_configuration_no_safe_weights(model, tmp_path):
    refused(tmp_path / "none", f"there is no model folder {tmp_path / 'none'}.")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refused(model, "has only pytorch_model.bin, which would run code when loaded. Weights must be safetensors: convert")
    (model / "pytorch_model.bin").unlink()
    refused(model, f"{model} has no weights.")
    (model / "config.json").unlink()
    refused(model, f"{model} has no config.json, so it is not a model folder.")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_not_run(model, name):
    edited(model / name, auto_map={"AutoModel": "evil.Model"})
    refused(model, f"{model}/{name} asks to run code of its own (auto_map). Use a model without it.")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_what_is_no_json_is_named(model, name):
    (model / name).write_text("{not json", encoding="utf-8")
    refused(model, f"{model / name} is not a JSON table. Fetch or save the model again.")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (None, ["does not say what architecture the model has (model_type)."]),
        ("lama", ["does not know the architecture 'lama'. Did you mean 'llama'? Update transformers"]),
        ("zzzzzzzzzz", ["does not know the architecture 'zzzzzzzzzz'. Update transformers, or use a model of"]),
        ("clip", ["'clip' is no architecture of causal language models. Give a model that is one."]),
    ],
)
def test_an_unknown_architecture_is_named(model, kind, words):
    edited(model / "config.json", model_type=kind)
    refused(model, f"{model}/config.json", *words)


def test_a_classifier_need_not_be_a_language_model(model):
    edited(model / "config.json", model_type="clip")
    folders.check_folder(model, causal=False)


# ------------------------------------------------------------------------------------------------ tokenizers


def test_a_model_without_a_tokenizer(model):
    (model / "tokenizer.json").unlink()
    refused(model, f"{model} has no tokenizer (tokenizer.json, tokenizer.model, or vocab.json with merges.txt).")
    (model / "vocab.json").write_text("{}", encoding="utf-8")
    refused(model, "has no tokenizer")
    (model / "merges.txt").write_text("", encoding="utf-8")
    folders.check_folder(model)


def rows_of(model):
    return json.loads((model / "config.json").read_text(encoding="utf-8"))["vocab_size"]


def planted(model, number):
    """One more id in each kind of tokenizer file."""
    table = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    yield lambda: edited(
        model / "tokenizer.json", model=table["model"] | {"vocab": {**table["model"]["vocab"], "~": number}}
    )
    token = {"id": number, "content": "~", "special": True}
    yield lambda: edited(model / "tokenizer.json", model=table["model"], added_tokens=[token])
    pairs = [[str(i), 0.0] for i in range(number + 1)]
    yield lambda: edited(model / "tokenizer.json", model={"type": "Unigram", "vocab": pairs}, added_tokens=[])

    def plain(name):
        (model / "tokenizer.json").unlink(missing_ok=True)
        (model / "merges.txt").write_text("", encoding="utf-8")
        (model / "vocab.json").write_text('{"a": 0}', encoding="utf-8")
        (model / name).write_text(json.dumps({"~": number}), encoding="utf-8")

    yield lambda: plain("vocab.json")
    yield lambda: plain("added_tokens.json")


def test_a_tokenizer_with_more_ids_than_the_model_has_rows(model):
    rows, more = rows_of(model), shutil.copytree(model, model.with_name("more"))
    for plant in planted(model, rows - 1):
        plant()
        folders.check_folder(model)
    for plant in planted(more, rows):
        plant()
        refused(more, f"the tokenizer of {more} has ids up to {rows:,}, and the model has rows for {rows:,} tokens.")


def test_a_tokenizer_without_words(model):
    (model / "tokenizer.json").write_text("{}", encoding="utf-8")
    refused(model, "tokenizer.json holds no vocabulary. Save the tokenizer again")


def test_a_configuration_of_another_model(model):
    rows = rows_of(model)
    edited(model / "config.json", vocab_size=rows + 8)
    refused(model, f"says that vocab_size is {rows + 8:,}, and model.embed_tokens.weight has {rows:,} rows.")
    edited(model / "config.json", vocab_size=rows, hidden_size=16)
    with pytest.raises(UserError, match=f"{model} cannot be loaded: .*Fetch or save the model again."):
        models.load(model)


# ------------------------------------------------------------------------------------------------ memory


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(model, monkeypatch):
    parameters, needed = folders.size(model)
    monkeypatch.setattr(LlamaForCausalLM, "__init__", None)
    for free, mend in ((needed - 1, "Set compute.dtype to bfloat16, which takes 0.0 GB, or use a machine with more"),
                       (needed // 2 - 1, "Use a machine with more, or a smaller model.")):  # fmt: skip
        monkeypatch.setattr(models, "free_memory", lambda free=free: free)
        with pytest.raises(UserError) as told:
            models.load(model)
        assert f"{model} does not fit: its {parameters:,} weights take 0.0 GB in float32, and 0.0 GB of" in str(
            told.value
        )
        assert mend in str(told.value)
    for free in (needed, None):
        folders.check_memory(model, "float32", free)
    folders.check_memory(model, "bfloat16", needed // 2)
    with pytest.raises(UserError, match=r"in bfloat16, and 0\.0 GB of memory on cuda:0 are free\. Use a machine"):
        folders.check_memory(model, "bfloat16", needed // 2 - 1, "memory on cuda:0")


def test_a_model_of_another_size_is_measured_without_its_numbers(tmp_path):
    """A header alone, as of a model that no machine here could hold, in a file with a hole in place of numbers."""
    wide, rows = 8192, 128256
    shapes = {"model.embed_tokens.weight": [rows, wide]}
    shapes |= {f"model.layers.{i}.mlp.down_proj.weight": [wide, 28672] for i in range(80)}
    header, at = {}, 0
    for name, (height, width) in shapes.items():
        header[name] = {"dtype": "BF16", "shape": [height, width], "data_offsets": [at, at + 2 * height * width]}
        at += 2 * height * width
    put_together(tmp_path / "model.safetensors", header, b"")
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(file.seek(0, 2) + at)
    assert folders.size(tmp_path) == (at // 2, 2 * at)
    with pytest.raises(
        UserError, match=r"take 79\.4 GB in float32, and 64\.0 GB of memory are free\. Set compute\.dtype"
    ):
        folders.check_memory(tmp_path, "float32", 64 * 10**9)


def test_free_memory_is_what_kernel_and_control_groups_leave(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"

    def tell(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    assert folders.free_memory(proc, groups) is None
    tell(proc / "meminfo", "MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    assert folders.free_memory(proc, groups) == 500 * 1024
    tell(proc / "self" / "cgroup", "0::/jobs/mine\n")
    tell(groups / "jobs" / "mine" / "memory.max", "max\n")
    tell(groups / "jobs" / "mine" / "memory.current", "5000\n")
    assert folders.free_memory(proc, groups) == 500 * 1024
    tell(groups / "jobs" / "memory.max", "100000\n")
    tell(groups / "jobs" / "memory.current", "90000\n")
    tell(groups / "jobs" / "memory.stat", "anon 3\ninactive_file 20000\nactive_file 7\n")
    assert folders.free_memory(proc, groups) == 30000
    tell(proc / "self" / "cgroup", "9:cpu:/x\n5:memory:/docker/abc\n")
    tell(groups / "memory" / "memory.limit_in_bytes", "70000\n")
    tell(groups / "memory" / "memory.usage_in_bytes", "69000\n")
    tell(groups / "memory" / "memory.stat", "inactive_file 9999\ntotal_inactive_file 100\n")
    assert folders.free_memory(proc, groups) == 1100
    assert (folders.free_memory() or 1) > 0


def test_looking_at_a_folder_s_weights_needs_no_torch(whole):
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from untaught.engine import folders;"
        f"print(folders.size(Path({str(whole)!r})).parameters, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(folders.size(whole).parameters), "False"]


def test_other_families_name_their_embedding_otherwise(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

    small = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    family = {
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16)),
        "neox": GPTNeoXForCausalLM(GPTNeoXConfig(**small, max_position_embeddings=16)),
        "llama": LlamaForCausalLM(LlamaConfig(**small, max_position_embeddings=16)),
    }
    for name, made in family.items():
        made.save_pretrained(tmp_path / name)
        (tmp_path / name / "merges.txt").write_text("", encoding="utf-8")
        (tmp_path / name / "vocab.json").write_text('{"a": 39}', encoding="utf-8")
        folders.check_folder(tmp_path / name)
        edited(tmp_path / name / "config.json", vocab_size=41)
        refused(tmp_path / name, "says that vocab_size is 41, and", "has 40 rows.")
