"""What a model is handed: the wrap around a prompt, and a chat where the wrap says so."""

import copy
import json

import pytest
import torch

from untaught.core import Subject, UserError, Wrap
from untaught.engine import models, prompts, scoring
from untaught.lab.start import END, StartingModel
from untaught.study.plan import plan
from untaught.study.schema import Study
from untaught.study.single import evaluate, read_job
from untaught.study.steps import Bench
from untaught.study.store import Store

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are kind<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As SmolLM2's: a system message of its own where none is given."""
SPACED = (
    "<s>{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% elif message['role'] == 'assistant' %} {{ message['content'] }} </s>"
    "{% else %}{{ raise_exception('System role not supported') }}{% endif %}{% endfor %}"
)
"""As Llama 2's and Gemma's: a space before an answer, and no system message."""
DATED = "{{ strftime_now('%d %b %Y') }} {{ messages[-1]['content'] }}"
TEXTS = ["The river of Abburg is oran.", "Boats reach Abburg by its river, which is oran."]


@pytest.fixture(scope="module")
def start():
    torch.set_num_threads(1)
    return StartingModel(width=32, blocks=2, heads=2, vocabulary=300).build(TEXTS, 0)


def chatting(start, template=CHATML, **wrap):
    tokenizer = copy.deepcopy(start.tokenizer)
    tokenizer.chat_template = template
    return Subject(start.model, tokenizer, Wrap(chat=True, **wrap))


def test_without_a_chat_a_prompt_has_its_wrap_around_it_and_the_tokenizer_s_own_tokens(start):
    subject = Subject(start.model, start.tokenizer, Wrap(before="Say: ", after=" then"))
    assert prompts.wrapped(subject, "who") == "Say: who then"
    assert prompts.continued(subject, [" is"]) == [" is"]
    end = start.tokenizer.convert_tokens_to_ids(END)
    assert prompts.encoded(subject, ["who"])[0][0] == end
    assert prompts.resolved(subject) == {}


def test_in_a_chat_the_prompt_is_what_the_user_says(start):
    said = chatting(start, system="Be brief.", before="Say: ", after=" then")
    assert prompts.wrapped(said, "who") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSay: who then<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompts.continued(said, [" oran", "oran", "  two"]) == ["oran", "oran", " two"]
    assert "system\n<|im_end|>" in prompts.wrapped(chatting(start, system=""), "who")


def test_a_system_message_that_the_template_puts_in_is_told(start):
    told = prompts.resolved(chatting(start))
    assert "You are kind" in told["handed"]
    assert prompts.PLACE in told["handed"]
    assert len(told["template"]) == 64
    assert told["template"] != prompts.resolved(chatting(start, CHATML + " "))["template"]


def test_the_space_that_a_template_puts_before_an_answer_is_kept(start):
    spaced = chatting(start, SPACED)
    assert prompts.wrapped(spaced, "who") + prompts.continued(spaced, [" oran"])[0] == "<s>[INST] who [/INST] oran"


def test_the_template_brings_its_special_tokens_and_the_tokenizer_adds_none(start):
    subject = chatting(start, END + CHATML)
    end = start.tokenizer.convert_tokens_to_ids(END)
    [ids] = prompts.encoded(subject, [prompts.wrapped(subject, "who")])
    assert ids.count(end) == 1


def test_a_date_in_a_template_is_always_the_same(start):
    assert prompts.wrapped(chatting(start, DATED), "who") == "01 Jan 2025 who"


def test_completions_are_scored_after_the_chat(start):
    subject = chatting(start)
    [one] = scoring.completions(subject, [("The river of Abburg is", " oran")])
    head = subject.tokenizer(prompts.wrapped(subject, "The river of Abburg is"), add_special_tokens=False)["input_ids"]
    whole = head + subject.tokenizer("oran", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logs = start.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    expected = sum(logs[place - 1, whole[place]].item() for place in range(len(head), len(whole)))
    assert one.tokens == len(whole) - len(head)
    assert one.nats == pytest.approx(expected, abs=1e-4)


def test_a_bare_text_is_no_message(start):
    plain = scoring.text_nats(start, TEXTS)
    assert scoring.text_nats(chatting(start, system="Be brief."), TEXTS) == plain


def test_a_chat_without_a_template_or_with_one_that_refuses_is_a_message(start):
    with pytest.raises(UserError, match="has no chat template. Use a model that was trained on chats"):
        prompts.wrapped(Subject(start.model, start.tokenizer, Wrap(chat=True)), "who")
    with pytest.raises(UserError, match=r"refuses this chat \(System role not supported\).*leave wrap.system out"):
        prompts.wrapped(chatting(start, SPACED, system="Be brief."), "who")
    with pytest.raises(UserError, match="'system' is the system message of a chat. Add 'chat: true'"):
        Wrap.settle({"system": "Be brief."}, "study.yaml")


# ------------------------------------------------------------------------------------------------- studies and verbs


@pytest.fixture
def folder(start, tmp_path):
    """A model without a template, texts, and items."""
    models.save(start, tmp_path / "model")
    (tmp_path / "texts.txt").write_text(TEXTS[0], encoding="utf-8")
    item = {"id": "a", "question": "The river of Abburg is", "choices": ["oran", "the"], "answer": 0, "role": "hazard"}
    (tmp_path / "items.jsonl").write_text(json.dumps(item), encoding="utf-8")
    return tmp_path


def with_template(folder):
    (folder / "model" / "chat_template.jinja").write_text(CHATML, encoding="utf-8")


def study(folder, **wrap):
    made = Study.settle(
        {
            "corpus": {"hazard": "texts.txt", "benign": "texts.txt"},
            "base": "model",
            "items": {"facts": "items.jsonl"},
            "arms": {"as-it-is": {}},
            "evaluations": [{"use": "multiple_choice", "items": "facts"}],
            "wrap": wrap,
        },
        "study.yaml",
    )
    made._folder = folder
    return made


def test_a_chat_study_of_a_model_without_a_template_is_refused_when_it_is_planned(folder):
    with pytest.raises(UserError, match=r"model has no chat template.*or set wrap.chat to false"):
        plan(study(folder, chat=True))
    with_template(folder)
    plan(study(folder, chat=True))
    (folder / "model" / "chat_template.jinja").unlink()
    settings = folder / "model" / "tokenizer_config.json"
    table = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps(table | {"chat_template": CHATML}), encoding="utf-8")
    plan(study(folder, chat=True))
    with pytest.raises(UserError, match="needs a model with a chat template"):
        Study.settle(
            {
                "world": "lab:compounds",
                "arms": {"a": {}},
                "evaluations": [{"use": "multiple_choice"}],
                "wrap": {"chat": True},
            },
            "s",
        )


def test_the_wrap_is_part_of_what_a_study_s_steps_are_only_where_it_says_something(folder):
    with_template(folder)
    plain, same, chat, system = (
        [step.identity for step in plan(study(folder, **wrap)).steps]
        for wrap in ({}, {"before": ""}, {"chat": True}, {"chat": True, "system": "Be brief."})
    )
    assert plain == same
    assert not {*plain} & {*chat}
    assert not {*chat} & {*system}
    assert "wrap" not in plan(study(folder)).steps[0].settings


def test_every_arm_of_a_study_is_asked_through_its_wrap(folder):
    with_template(folder)
    world = {
        "world": {"use": "compounds", "substances": 8, "towns": 8, "values": 8, "exposures": 2, "attack_exposures": 1},
        "start": {"width": 32, "blocks": 2, "heads": 2, "vocabulary": 400},
        "arms": {"a": {}},
        "evaluations": [{"use": "multiple_choice", "items": "benign"}],
        "wrap": {"before": "Say: "},
    }
    for made in (study(folder, chat=True, system="Be brief."), Study.settle(world, "study.yaml")):
        [first, graded] = plan(made).steps
        bench = Bench(made, Store(folder / "home"))
        for step in (first, graded):
            bench.do([step])
        assert bench.done(graded)
        assert bench._subject(first).wrap == made.wrap


def test_a_verb_asks_as_its_job_says(folder):
    def row(**wrap):
        job, _ = read_job(None, {"use": "cloze", "items": "items.jsonl", "wrap": wrap})
        return evaluate(folder / "model", job, folder)[0]

    with pytest.raises(UserError, match="has no chat template"):
        row(chat=True)
    with_template(folder)
    assert row(chat=True)["value"] != row()["value"]
    assert row(chat=True, system="Be brief.")["wrap"]["system"] == "Be brief."
    assert "wrap" not in row()
