"""Sequence classifiers: windows that cover every token, scores that no company changes, failures that stay alone."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from untaught.core import UserError
from untaught.engine import sequences
from untaught.engine.sequences import Cut, rounded

WORDS = [f"{a}{b}" for a in "bcdfglmnprst" for b in ("a", "e", "i", "o", "u", "an", "el", "or", "is", "um", "ta", "ne")]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
SIZE = len(SPECIAL) + len(WORDS)
SMALL = {"vocab_size": SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
SMALL |= {"intermediate_size": 48, "initializer_range": 0.6}

FEW = Cut(overlap=5)


def tokenizer(length=10**30):
    """Whole words, lower case, [CLS] before and [SEP] after; cut and padded as checkpoints often say."""
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_truncation(16)
    made.enable_padding(length=16)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=length,
    )  # fmt: skip


def bert(positions=64, **more):
    return BertForSequenceClassification(BertConfig(**SMALL | more, max_position_embeddings=positions))


def modern(positions=64, **more):
    tokens = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    return ModernBertForSequenceClassification(
        ModernBertConfig(**SMALL | tokens | more, max_position_embeddings=positions, local_attention=8)
    )


def saved(folder, model, length=10**30):
    torch.manual_seed(1)
    model.eval().save_pretrained(folder)
    tokenizer(length).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("classifiers")
    return {name: saved(root / name, make()) for name, make in (("bert", bert), ("modern", modern))}


@pytest.fixture(scope="module")
def judges(folders):
    return {
        (name, tokens): sequences.load(folder, cut=Cut(overlap=5, batch_tokens=tokens))
        for name, folder in folders.items()
        for tokens in (1, 200)
    }


@pytest.fixture(scope="module")
def judge(judges):
    return judges["bert", 200]


def text_of(count, seed=0):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


LENGTHS = (0, 1, 3, 7, 30, 61, 62, 63, 64, 120, 121, 200, 5, 17, 62, 9)
TEXTS = [text_of(count, seed) for seed, count in enumerate(LENGTHS)]


def alone(judge, ids, label=1):
    """The plain score of one window: no batch, no padding."""
    with torch.inference_mode():
        logits = judge.model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
    return logits.logits.double().softmax(-1)[0, label].item()


def ids_of(text):
    return [SPECIAL.index("[UNK]") if w not in WORDS else WORDS.index(w) + len(SPECIAL) for w in text.split()]


# ------------------------------------------------------------------------------------------------------------ windows


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 300), st.integers(8, 64), st.data())
def test_windows_cover_every_token_and_overlap(judge, count, window, data):
    overlap = data.draw(st.integers(0, window - 3))
    cut = replace(judge, window=window, overlap=overlap)
    ids, places = np.arange(4, 4 + count) % SIZE, [(3 * i, 3 * i + 2) for i in range(count)]
    found = cut._windows(0, ids, places)
    content = window - 2
    inner = [w.ids[1:-1].tolist() for w in found]
    assert all((w.ids[0], w.ids[-1]) == (2, 3) and len(w.ids) <= window for w in found)
    starts = [w.place[0] // 3 if w.place else 0 for w in found]
    assert starts == [k * (content - overlap) for k in range(len(found))]
    assert all(part == ids[at : at + content].tolist() for at, part in zip(starts, inner, strict=True))
    assert starts[-1] + len(inner[-1]) == count
    assert all(len(part) == content for part in inner[:-1])
    assert len(found) == 1 or len(inner[-1]) > overlap
    stops = [3 * (start + len(part)) - 1 for start, part in zip(starts, inner, strict=True)]
    assert [w.place for w in found] == ([(3 * a, b) for a, b in zip(starts, stops, strict=True)] if count else [None])


def test_a_text_is_the_highest_of_its_windows(judges):
    for judge in judges.values():
        for text, verdict in zip(TEXTS, judge.verdicts(TEXTS), strict=True):
            ids = ids_of(text)
            starts = range(0, max(len(ids) - 5, 1), 57)
            scores = [alone(judge, [2, *ids[s : s + 62], 3]) for s in starts]
            assert verdict.windows == len(scores)
            assert verdict.score == pytest.approx(max(scores), abs=1e-5)
            assert verdict.window == int(np.argmax(scores))
            if ids:
                at = starts[verdict.window]
                first, stop = verdict.place
                assert text[first:stop].split() == text.split()[at : at + 62]
            else:
                assert verdict.place is None


def test_one_high_window_is_enough(judge):
    scores = {text: judge.verdicts([text])[0].score for text in (text_of(62, seed) for seed in range(40))}
    low, high = min(scores, key=scores.get), max(scores, key=scores.get)
    assert scores[high] - scores[low] > 0.1
    whole = replace(judge, overlap=0).verdicts([" ".join([low, low, high, low])])[0]
    assert (whole.window, whole.windows) == (2, 4)
    assert whole.score == pytest.approx(scores[high], abs=1e-6)


def test_text_is_never_read_as_special_tokens(judge):
    ids = judge._encoded(["ba [SEP] be [PAD]"])[0][0].tolist()
    assert not {0, 2, 3} & set(ids)


def test_a_tokenizer_that_cuts_and_pads_is_told_not_to(judge):
    assert [len(ids) for ids, _ in judge._encoded([TEXTS[11], TEXTS[2]])] == [200, 3]


# ---------------------------------------------------------------------------------------------------------- batching


@pytest.mark.parametrize("kind", ["bert", "modern"])
@pytest.mark.parametrize("tokens", [1, 200])
def test_company_and_order_change_no_bit(judges, kind, tokens):
    judge = judges[kind, tokens]
    whole = judge.verdicts(TEXTS)
    assert len({v.score for v in whole}) > 10
    for size in (1, 7):
        assert [v for at in range(0, len(TEXTS), size) for v in judge.verdicts(TEXTS[at : at + size])] == whole
    order = np.random.default_rng(0).permutation(len(TEXTS))
    assert judge.verdicts([TEXTS[i] for i in order]) == [whole[i] for i in order]
    assert judge.verdicts([]) == []


@pytest.mark.parametrize("kind", ["bert", "modern"])
def test_batching_and_padding_change_next_to_nothing(judges, kind):
    one, many = (judges[kind, tokens].verdicts(TEXTS) for tokens in (1, 200))
    assert [v.score for v in one] == pytest.approx([v.score for v in many], abs=1e-5)


def test_padding_is_small_and_runs_are_as_large_as_asked(judge, monkeypatch):
    shapes, forward = [], judge.model.forward

    def watched(input_ids, attention_mask, **rest):
        shapes.append((tuple(input_ids.shape), attention_mask.sum(1).tolist()))
        return forward(input_ids=input_ids, attention_mask=attention_mask, **rest)

    monkeypatch.setattr(judge.model, "forward", watched)
    judge.verdicts(TEXTS)
    for (rows, width), real in shapes:
        assert rows * width <= 200
        assert rows == 200 // width
        assert all(width < max(1.25 * size, size + 4) for size in real)
    assert len(shapes) < sum(1 + max(0, n - 6) // 57 for n in LENGTHS)


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_rounded_sizes(size, most):
    size = min(size, most)
    assert size <= rounded(size, most) <= min(most, max(size + 3, 1.25 * size))


def test_a_model_without_a_padding_token_reads_one_window_at_a_time(tmp_path):
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig(**SMALL | {"pad_token_id": None}, max_position_embeddings=64))
    judge = sequences.load(saved(tmp_path / "llama", model), cut=FEW)
    assert judge.filler is None
    assert [v.score for v in judge.verdicts(TEXTS[1:6])] == pytest.approx(
        [alone(judge, [2, *ids_of(text), 3]) for text in TEXTS[1:6]], abs=1e-6
    )


# ---------------------------------------------------------------------------------------------------------- failures


def failing(judge, monkeypatch, error, when):
    """The model fails when `when` says so of its ids."""
    forward = judge.model.forward

    def call(input_ids, **rest):
        if when(input_ids):
            raise error
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(judge.model, "forward", call)


def test_a_failure_of_the_model_stays_alone(judge, monkeypatch):
    whole = judge.verdicts(TEXTS)
    bad = ids_of(TEXTS[4])[0]
    failing(judge, monkeypatch, RuntimeError("planted"), lambda ids: bool((ids[:, 1] == bad).any()))
    found = judge.verdicts(TEXTS)
    assert 1 <= sum(v.error is not None for v in found) < 6
    assert all(v == w for v, w in zip(found, whole, strict=True) if v.error is None)
    assert repr(found[4].error) == "RuntimeError('planted')"
    assert np.isnan(found[4].score)


def test_a_failure_of_the_tokenizer_stays_alone(judge, monkeypatch):
    whole = judge.verdicts(TEXTS)

    class Panic(BaseException):
        pass

    Panic.__name__ = "PanicException"
    for error in (ValueError("planted"), Panic("planted")):
        encoded = sequences.Judge._encoded

        def call(self, texts, encoded=encoded, error=error):
            if TEXTS[3] in texts:
                raise error
            return encoded(self, texts)

        with monkeypatch.context() as patch:
            patch.setattr(sequences.Judge, "_encoded", call)
            found = judge.verdicts(TEXTS)
        assert str(found[3].error) == "planted"
        assert found[:3] + found[4:] == whole[:3] + whole[4:]


def test_an_error_in_place_of_a_text_is_its_verdict(judge):
    error = ValueError("no text")
    first, second, third = judge.verdicts([TEXTS[1], error, TEXTS[2]])
    assert second.error is error
    assert [first, third] == judge.verdicts(TEXTS[1:3])


def test_a_score_that_is_not_finite_is_no_score(judge, monkeypatch):
    forward, bad = judge.model.forward, ids_of(TEXTS[11])[100]

    def call(input_ids, **rest):
        out = forward(input_ids=input_ids, **rest)
        out.logits[(input_ids == bad).any(1), 0] = -torch.inf
        return out

    monkeypatch.setattr(judge.model, "forward", call)
    found = judge.verdicts(TEXTS)
    assert str(found[11].error) == "the model's score is not a finite number"
    assert [v.error is not None for v in found] == [bad in ids_of(text) for text in TEXTS]


def test_a_batch_that_does_not_fit_is_halved(judge, monkeypatch):
    whole, sizes = judge.verdicts(TEXTS), []

    def when(ids):
        sizes.append(len(ids))
        return len(ids) > 3

    failing(judge, monkeypatch, torch.OutOfMemoryError("planted"), when)
    found = judge.verdicts(TEXTS)
    assert [v.score for v in found] == pytest.approx([v.score for v in whole], abs=1e-5)
    assert 12 in sizes
    assert 6 in sizes
    assert 3 in sizes


def test_memory_that_is_never_enough_is_no_score(judge, monkeypatch):
    failing(judge, monkeypatch, torch.OutOfMemoryError("planted"), lambda ids: True)
    assert {type(v.error) for v in judge.verdicts(TEXTS[:3])} == {torch.OutOfMemoryError}


def test_a_stop_from_outside_stops(judge, monkeypatch):
    failing(judge, monkeypatch, KeyboardInterrupt(), lambda ids: True)
    with pytest.raises(KeyboardInterrupt):
        judge.verdicts(TEXTS)


def test_tokens_that_the_model_does_not_know_are_no_score(judge):
    fewer = replace(judge, model=bert(vocab_size=100).eval())
    found = fewer.verdicts(["ba be", WORDS[-1]])
    assert found[0].error is None
    assert str(found[1].error) == f"the tokenizer gave the token {SIZE - 1}, and the model has 100"


# ------------------------------------------------------------------------------------------------ labels and limits


def test_one_output_is_a_sigmoid(tmp_path):
    judge = sequences.load(saved(tmp_path / "one", bert(num_labels=1)), cut=FEW)
    with torch.inference_mode():
        ids = torch.tensor([[2, *ids_of(TEXTS[3]), 3]])
        logit = judge.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.item()
    assert judge.verdicts([TEXTS[3]])[0].score == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


def test_labels(tmp_path):
    names = {0: "fine", 1: "nerve", 2: "other"}
    three = bert(id2label=names, label2id={name: number for number, name in names.items()})
    folder = saved(tmp_path / "three", three)
    by_name, by_number = (sequences.load(folder, label, FEW) for label in ("nerve", 1))
    assert by_name.label == by_number.label == 1
    assert by_name.verdicts(TEXTS[1:3]) == by_number.verdicts(TEXTS[1:3])
    assert by_name.verdicts(TEXTS[2:3])[0].score == pytest.approx(alone(by_name, [2, *ids_of(TEXTS[2]), 3]), abs=1e-5)
    listed = "0 = 'fine', 1 = 'nerve', 2 = 'other'"
    with says(f"{folder} has 3 labels: {listed}. Say with 'label' which one means hazard."):
        sequences.load(folder)
    with says(f"label is 'nervy', and {folder} has these: {listed}. Did you mean 'nerve'?"):
        sequences.load(folder, "nervy")
    with says(f"label is 3, and {folder} has these: {listed}."):
        sequences.load(folder, 3)


def test_the_longest_window(folders, tmp_path):
    assert sequences.load(folders["bert"], cut=FEW).window == 64
    torch.manual_seed(0)
    roberta = RobertaForSequenceClassification(RobertaConfig(**SMALL | {"pad_token_id": 1}, max_position_embeddings=66))
    assert sequences.load(saved(tmp_path / "roberta", roberta), cut=FEW).window == 64
    judge = sequences.load(saved(tmp_path / "short", bert(), 32), cut=FEW)
    assert judge.window == 32
    assert judge.verdicts([TEXTS[11]])[0].error is None
    folder = folders["bert"]
    with says(f"window is 65, and {folder} reads at most 64 tokens. Give no more, or leave it out."):
        sequences.load(folder, cut=Cut(65))
    with says(
        "window is 32 tokens, 2 of them special, and overlap is 30: no window would reach beyond the one before it."
        " Give an overlap below 30, or a larger window."
    ):
        sequences.load(folder, cut=Cut(32, 30))


def test_numbers_of_half_the_size(folders, judge):
    half = sequences.load(folders["bert"], cut=FEW, dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert judge.model.dtype == torch.float32
    whole, found = judge.verdicts(TEXTS), half.verdicts(TEXTS)
    assert np.mean([abs(a.score - b.score) for a, b in zip(whole, found, strict=True)]) < 0.05
    assert [v for text in TEXTS for v in half.verdicts([text])] == found


def test_a_tokenizer_that_knows_no_places_gives_none(judge):
    class Slow:
        is_fast = False

        def __call__(self, texts, return_offsets_mapping=False, **how):
            assert not return_offsets_mapping
            return judge.tokenizer(texts, **how)

    found = replace(judge, tokenizer=Slow()).verdicts(TEXTS)
    assert found == [replace(verdict, place=None) for verdict in judge.verdicts(TEXTS)]


def test_threads_side_by_side_give_the_same(judge):
    whole = judge.verdicts(TEXTS)
    with ThreadPoolExecutor(3) as pool:
        assert all(found == whole for found in pool.map(lambda _: judge.verdicts(TEXTS), range(6)))


# ------------------------------------------------------------------------------------------------------ wrong folders


def says(message):
    return pytest.raises(UserError, match=f"^{re.escape(message)}$")


def test_what_is_no_sequence_classifier(tmp_path, folders):
    other = LlamaForCausalLM(LlamaConfig(**SMALL, max_position_embeddings=64))
    folder = saved(tmp_path / "causal", other)
    with says(
        f"{folder} holds a model of the kind LlamaForCausalLM, which gives no label to a text. Give one whose kind ends"
        " in ForSequenceClassification."
    ):
        sequences.load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]}))
    with says(f"{folder} has no weights for score.weight. Give a classifier that was trained."):
        sequences.load(folder)
    with says(f"there is no model folder {tmp_path / 'gone'}. Give a folder that `save_pretrained` wrote."):
        sequences.load(tmp_path / "gone")


def test_weights_that_could_run_code_are_refused(tmp_path):
    folder = saved(tmp_path / "unsafe", bert())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin, which would run code"):
        sequences.load(folder)


def test_a_folder_that_is_broken(tmp_path):
    folder = saved(tmp_path / "broken", bert())
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors is cut short"):
        sequences.load(folder)
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json holds no vocabulary"):
        sequences.load(folder)


def test_loading_leaves_global_randomness(folders):
    before = torch.get_rng_state()
    sequences.load(folders["bert"], cut=FEW).verdicts(TEXTS[:3])
    assert torch.equal(before, torch.get_rng_state())
