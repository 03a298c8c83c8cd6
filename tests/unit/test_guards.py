"""Guards: each form is asked as its card says, what is written is read or is no verdict, and nothing else is."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from untaught.core import Subject, UserError
from untaught.engine import generation, guards, models, sequences
from untaught.engine.guards import POLICIES, UNREAD, Exchange, How, llama_guard, wild_guard
from untaught.lab.start import StartingModel

TEXTS = [
    guards.WILD_GUARD,
    guards.SHIELD_GEMMA,
    *POLICIES,
    guards.PROMPT,
    "safe unsafe Yes No yes no S1, S14 river tea",
]
ASKED = Exchange("what of tea", "milk and bread", "what of tea\nmilk and bread")
LLAMA = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}\n{% endfor %}"
    "Is the last one safe? First line safe or unsafe.\n"
)
"""A stand-in of the same shape: the task in the template, the conversation in it, the verdict after it."""
PARTS = LLAMA.replace("{{ m['content'] | trim }}", "{{ m['content'][0]['text'] }}")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Untrained models of the guards' families with one tiny tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification, Gemma2Config, Gemma2ForCausalLM

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("guards")
    start = StartingModel(width=32, blocks=2, heads=2, vocabulary=500, context=640).build(TEXTS * 3, 0)
    words, small = start.model.config.vocab_size, {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"vocab_size": words, "intermediate_size": 32, "max_position_embeddings": 640}
    labels = {number: name for number, name in enumerate(("obscene", "Toxicity", "insult"))}
    many = {"id2label": labels, "problem_type": "multi_label_classification", "pad_token_id": 0}
    torch.manual_seed(0)
    made = {
        "gemma": Gemma2ForCausalLM(Gemma2Config(**small, head_dim=16, num_key_value_heads=1)),
        "detoxify": BertForSequenceClassification(BertConfig(**small, **many)),
        "two": BertForSequenceClassification(BertConfig(**small, num_labels=2, pad_token_id=0)),
    }
    models.save(start, root / "llama")
    (root / "llama" / "chat_template.jinja").write_text(LLAMA, encoding="utf-8")
    models.save(start, root / "parts")
    (root / "parts" / "chat_template.jinja").write_text(PARTS, encoding="utf-8")
    for name, model in made.items():
        model.eval().save_pretrained(root / name)
        start.tokenizer.save_pretrained(root / name)
    return root


def loaded(folder, form, **how):
    return guards.load(folder, How(form=form, **how))


@pytest.fixture
def written(monkeypatch):
    """What guards are handed to write on from, and what they then write."""
    seen, say = [], []

    def said(subject, prompts, *, tokens):
        seen.extend((subject.wrap.changed(), prompt) for prompt in prompts)
        return [say[-1] for _ in prompts]

    monkeypatch.setattr(generation, "said", said)
    return seen, say


# -- what is written ---------------------------------------------------------------------------------------------------


def test_every_verdict_of_llama_guard_is_read_as_it_was_meant():
    chance = random.Random(0)
    for _ in range(300):
        codes = [f"{chance.choice('SO')}{chance.randint(1, 14)}" for _ in range(chance.randint(0, 5))]
        harmful = chance.random() < 0.5
        first = chance.choice(["unsafe", "Unsafe"] if harmful else ["safe", "SAFE"])
        line = "\n" + chance.choice([",", ", "]).join(codes) if harmful and codes else ""
        around = chance.choice(["", "\n", "\n\n", " "])
        found = llama_guard(f"{around}{first}{line}{chance.choice(['', ' ', chr(10)])}")
        assert (found.harm, found.refused, found.cause) == (float(harmful), None, None)


@pytest.mark.parametrize("malformed", [
    "", "saf", "un", "safeunsafe", "safe\nS1", "safe unsafe", "not unsafe", "unsafe: S1", "unsafe\nviolence",
    "unsafe\nS1\nS2\nmore", "S1", "I cannot say", "safe.", "unsafe\nS1,", "safe\nunsafe\nS3", "\u0000",
])  # fmt: skip
def test_what_llama_guard_never_says_is_no_verdict(malformed):
    found = llama_guard(malformed)
    assert (found.harm, found.cause) == (None, UNREAD)


def lines(request, refusal, response):
    return [f"Harmful request: {request}", f"Response refusal: {refusal}", f"Harmful response: {response}"]


def test_every_verdict_of_wildguard_is_read_as_it_was_meant():
    for request in ("yes", "no"):
        for refusal in ("yes", "no"):
            for response in ("yes", "no"):
                plain = lines(request, refusal, response)
                for text in ("\n".join(plain), "\n\n".join(plain), "\n" + "\n".join(plain).upper() + " \n"):
                    found = wild_guard(text)
                    assert (found.harm, found.refused) == (float(response == "yes"), float(refusal == "yes"))


@pytest.mark.parametrize("malformed", [
    "", "yes\nno\nyes", *("\n".join(lines("yes", "no", "yes")[:n]) for n in (1, 2)),
    "\n".join(lines("yes", "no", "maybe")), "\n".join(lines("yes", "n/a", "n/a")),
    "\n".join([*lines("yes", "no", "yes"), "Harmful response: no"]), "\n".join([*lines("yes", "no", "no"), "Because."]),
    " ".join(lines("yes", "no", "yes")), "Harmful response: yes, clearly",
])  # fmt: skip
def test_what_wildguard_never_says_is_no_verdict(malformed):
    found = wild_guard(malformed)
    assert (found.harm, found.refused, found.cause) == (None, None, UNREAD)


def test_no_text_at_all_is_read_as_harmless_by_chance():
    chance = random.Random(1)
    pieces = ["safe", "unsafe", "S1", "\n", " ", ",", "yes", "no", "Harmful response:", "Response refusal:", "?"]
    for _ in range(2000):
        text = "".join(chance.choice(pieces) for _ in range(chance.randint(0, 6)))
        if (found := llama_guard(text)).harm == 0:
            assert text.strip() == "safe"
        assert (found.harm is None) == (found.cause is not None)
        assert (wild_guard(text).harm is None) == (wild_guard(text).cause is not None)


# -- what is asked -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "parts"])
def test_llama_guard_is_asked_through_its_own_template_and_begins_once(name, folders, written):
    seen, say = written
    say.append("unsafe\nS2")
    guard = loaded(folders / name, "llama_guard")
    (found,) = guard.verdicts([ASKED])
    assert (found.harm, guard.writes, guard.tells) == (1.0, True, {"harm"})
    ((wrap, handed),) = seen
    assert not wrap["chat"]
    begun = guard.subject.tokenizer(handed)["input_ids"]
    assert begun.count(guard.subject.tokenizer.bos_token_id) <= 1
    assert "[user] what of tea\n[assistant] milk and bread\nIs the last one safe?" in handed


def test_a_template_that_leaves_the_answer_out_gives_no_verdict(folders, written, tmp_path):
    models.save(models.load(folders / "llama"), tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    (found,) = loaded(tmp_path, "llama_guard").verdicts([ASKED])
    assert (found.harm, found.cause) == (None, "a conversation that the chat template does not put in")


def test_wildguard_is_asked_with_its_template_and_tells_refusals(folders, written):
    seen, say = written
    say.append("\n".join(lines("yes", "yes", "no")))
    (found,) = loaded(folders / "llama", "wild_guard").verdicts([Exchange("{answer}", "milk", "")])
    assert (found.harm, found.refused) == (0.0, 1.0)
    assert seen[0][1].endswith(
        "Human user:\n{answer}\n\nAI assistant:\nmilk\n\n---\n\nAnswers: [/INST]\n<|assistant|>\n"
    )


def test_an_untrained_guard_writes_what_has_no_form(folders):
    for form in ("llama_guard", "wild_guard"):
        assert loaded(folders / "llama", form).verdicts([ASKED])[0].cause == UNREAD


def test_shieldgemma_takes_the_highest_share_of_yes_of_its_policies(folders):
    guard = loaded(folders / "gemma", "shield_gemma")
    (found,) = guard.verdicts([ASKED])
    model, tokenizer, shares = guard.subject.model, guard.subject.tokenizer, []
    for policy in POLICIES:
        text = guards.SHIELD_GEMMA.replace("{policy}", policy)
        text = text.replace("{prompt}", ASKED.prompt).replace("{answer}", ASKED.answer)
        nats = []
        for word in ("Yes", "No"):
            head, whole = (tokenizer(one)["input_ids"] for one in (text, text + word))
            with torch.no_grad():
                logs = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            nats.append(sum(logs[at - 1, whole[at]].item() for at in range(len(head), len(whole))))
        shares.append(1 / (1 + np.exp(nats[1] - nats[0])))
    assert found.harm == pytest.approx(max(shares), rel=1e-3)
    assert guard.verdicts([ASKED, ASKED._replace(answer="tea")])[0] == found


def test_a_classifier_of_many_labels_says_how_toxic_as_a_whole(folders):
    guard = loaded(folders / "detoxify", None)
    (found,) = guard.verdicts([ASKED])
    ids = guard.judge.tokenizer(ASKED.text)["input_ids"]
    with torch.no_grad():
        wanted = guard.judge.model(torch.tensor([ids])).logits.sigmoid()[0]
    assert found.harm == pytest.approx(wanted[1].item(), rel=1e-4)
    other = loaded(folders / "detoxify", "classifier", label="insult").verdicts([ASKED])[0].harm
    assert other == pytest.approx(wanted[2].item(), rel=1e-4)
    one, two = (loaded(folders / "two", None, label=label).verdicts([ASKED])[0].harm for label in (None, 0))
    assert one + two == pytest.approx(1)


def test_a_form_that_a_folder_cannot_be_asked_in_is_refused(folders):
    with pytest.raises(UserError, match="form is 'wild_guard', and .* holds a sequence classifier. Give 'classifier'"):
        loaded(folders / "two", "wild_guard")
    with pytest.raises(UserError, match="form is 'classifier', and .* holds a language model"):
        loaded(folders / "llama", "classifier")
    with pytest.raises(UserError, match="has no chat template"):
        loaded(folders / "gemma", "llama_guard")


def test_what_a_guard_cannot_be_asked_has_a_cause_and_never_a_score(folders):
    guard = loaded(folders / "llama", "wild_guard")
    special, long = guard.verdicts([ASKED._replace(answer="<|end|> safe"), ASKED._replace(prompt="milk " * 700)])
    assert (special.harm, special.cause) == (None, guards.SPELT)
    assert long.harm is None
    assert "the model reads at most 640" in long.cause
    assert "milk" not in long.cause
    broken = Subject(models.fresh(guard.subject.model), guard.subject.tokenizer)
    with torch.no_grad():
        next(broken.model.parameters()).fill_(torch.nan)
    assert replace(guard, subject=broken).verdicts([ASKED])[0].cause == guards.NOT_FINITE


def test_a_classifier_that_fails_says_so_without_a_word_of_the_text(folders):
    guard = loaded(folders / "two", None)
    failing = replace(guard, judge=replace(guard.judge, model=None))
    (found,) = failing.verdicts([ASKED])
    assert isinstance(found.cause, Exception)
    assert found.harm is None


def test_the_label_of_a_classifier_is_found_whatever_its_case(folders, tmp_path):
    config = json.loads((folders / "detoxify" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {"0": "TOXIC"}}), encoding="utf-8")
    assert guards._toxic(tmp_path) == "TOXIC"
    assert sequences.KIND in config["architectures"][0]
