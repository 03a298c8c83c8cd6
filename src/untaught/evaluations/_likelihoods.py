"""Log-likelihoods of completions after prompts as lm-evaluation-harness asks them, through the scorer of all."""

from __future__ import annotations

from collections.abc import Sequence

from ..core import Subject
from ..engine.prompts import wrapped
from ..engine.scoring import Completion, completions


def likelihoods(
    subject: Subject, pairs: Sequence[tuple[str, str]], batch_size: int, names: Sequence[str] | None = None
) -> list[Completion]:
    """A score for each prompt and completion; `names` are the items that they belong to, for messages.

    White space that a prompt ends with goes to the completion, since words bring the space before them; where a wrap
    ends the prompt it stays. In place of an empty prompt stands the token that texts begin with.
    """
    asked = [_parted(subject, *pair) for pair in pairs]
    return completions(subject, asked, batch_size=batch_size, names=names)


def _parted(subject: Subject, prompt: str, end: str) -> tuple[str, str]:
    """A pair as it is asked."""
    wrap = subject.wrap
    if not (wrap.chat or wrap.after or wrap.prefill):
        bare = prompt.rstrip()
        prompt, end = bare, prompt[len(bare) :] + end
    if not wrapped(subject, prompt) and not subject.tokenizer("")["input_ids"]:
        first = subject.tokenizer.bos_token or subject.tokenizer.eos_token
        prompt = str(first or "")
    return prompt, end
