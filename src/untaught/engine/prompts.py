"""Prompts as a model sees them: what the wrap puts around them, and the chat template where the wrap says so.

In a chat the prompt, with `before`, `texts` and `after`, is what the user says; `system`, where it is given, is said
first. The completion follows where the template has the assistant begin, or after `prefill`, which stands there. The
template brings its own special tokens, and the tokenizer adds none. A template may put in a system prompt of its own
when none is given, as SmolLM2's does: `resolved` shows what a model is really handed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..core import Subject, UserError, Wrap

DAY = {"%d": "01", "%m": "01", "%b": "Jan", "%B": "January", "%y": "25", "%Y": "2025", "%A": "Wednesday", "%a": "Wed"}
"""The day that a template which asks for the date is told, so that a mark does not depend on when it was made."""
PLACE = "PROMPT"
"""Stands for the prompt, or for the answer, where a template is looked at."""


def wrapped(subject: Subject, prompt: str) -> str:
    """The prompt as the model is to see it, and what an answer is made to begin with."""
    wrap = subject.wrap
    if not wrap.chat:
        return wrap.around(prompt) + wrap.prefill
    system = [] if wrap.system is None else [{"role": "system", "content": wrap.system}]
    begun = rendered(subject, [*system, {"role": "user", "content": wrap.around(prompt)}])
    return begun + _joint(subject) + lead(wrap) if lead(wrap) else begun


def continued(subject: Subject, completions: Sequence[str]) -> list[str]:
    """Completions as they follow a wrapped prompt.

    The space that joins one to plain text is taken off in a chat, where it begins a message; what the template itself
    puts between the place where the assistant begins and an answer, a space in some, stands there instead. One that
    `prefill` stands before keeps its space, unless that ends with white space.
    """
    before = lead(subject.wrap)
    begins = subject.wrap.chat and not before
    joint = _joint(subject) if begins and completions else ""
    bare = begins or before[-1:].isspace()
    return [joint + (completion.removeprefix(" ") if bare else completion) for completion in completions]


def lead(wrap: Wrap) -> str:
    """What an answer is made to begin with; in a chat, where it begins a message, without the space before it."""
    return wrap.prefill.removeprefix(" ") if wrap.chat else wrap.prefill


def encoded(subject: Subject, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts that begin with a wrapped prompt, with the special tokens that are not in them yet."""
    return subject.tokenizer(list(texts), add_special_tokens=not subject.wrap.chat)["input_ids"] if texts else []


def resolved(subject: Subject) -> dict[str, str]:
    """What a record should keep of a chat: the template's digest, and what the model is handed for `PROMPT`.

    The wrap's `texts` are left out.
    """
    if not subject.wrap.chat:
        return {}
    bare = replace(subject, wrap=subject.wrap.model_copy(update={"texts": (), "shown": 0}))
    return {"template": template_digest(subject), "handed": wrapped(bare, PLACE)}


def template_digest(subject: Subject) -> str:
    """SHA-256 of the chat template's text."""
    return hashlib.sha256(_template(subject).encode()).hexdigest()


def check_chat(folder: Path, wrap: Wrap) -> None:
    """A `UserError` when a wrap asks for a chat and the model folder has no chat template. Loads nothing."""
    if not wrap.chat or any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = {}
    if not (isinstance(settings, dict) and settings.get("chat_template")):
        raise UserError(_missing(str(folder)))


def _template(subject: Subject) -> str:
    try:
        return subject.tokenizer.get_chat_template()
    except ValueError:
        raise UserError(_missing(_name(subject))) from None


def _missing(name: str) -> str:
    return (
        f"wrap.chat is true, but the tokenizer of {name} has no chat template. Use a model that was trained on chats"
        " (its folder has chat_template.jinja), or set wrap.chat to false."
    )


def _name(subject: Subject) -> str:
    return subject.tokenizer.name_or_path or subject.model.config.name_or_path or "the model"


def _joint(subject: Subject) -> str:
    """White space that the template puts between where the assistant begins and what it says."""
    asked: list[dict[str, str]] = [{"role": "user", "content": PLACE}]
    begun = rendered(subject, asked)
    told = rendered(subject, [*asked, {"role": "assistant", "content": PLACE}], begin=False)
    if not told.startswith(begun):
        return ""
    between = told[len(begun) :].partition(PLACE)[0]
    return between if between.isspace() else ""


def rendered(subject: Subject, messages: list[dict[str, str]], *, begin: bool = True) -> str:
    """Messages through the tokenizer's chat template, up to where the assistant begins."""
    from jinja2 import TemplateError

    dated = "".join(f"|replace({code!r}, {word!r})" for code, word in DAY.items())
    clock = "{%- macro strftime_now(form) -%}{{ form" + dated + " }}{%- endmacro %}\n"
    template = _template(subject)
    try:
        return str(
            subject.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=begin,
                chat_template=clock + template if "strftime_now" in template else template,
            )
        )
    except TemplateError as error:
        raise UserError(
            f"the chat template of {_name(subject)} refuses this chat ({error}). Some take no system prompt: leave"
            " wrap.system out, or put its text into wrap.before."
        ) from None
