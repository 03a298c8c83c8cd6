"""One finished tiny study, and one tiny model with files of text, for all tests of this folder."""

from types import SimpleNamespace

import pytest
from studies import TINY, put, run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The tiny study, run once in this process. To be looked at and not changed: copy what is to be."""
    folder = tmp_path_factory.mktemp("finished")
    file, home, out = put(folder / "study.yaml", TINY), folder / "home", folder / "out"
    done, rows = run(file, home, out)
    return SimpleNamespace(file=file, home=home, out=out, done=done, rows=rows)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A tiny model folder and files of text and questions, as somebody without a lab has them."""
    import torch

    from untaught.engine import models
    from untaught.lab.compounds import Compounds
    from untaught.lab.start import StartingModel

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("library")
    world = Compounds(substances=8, towns=8, values=8, exposures=2, attack_exposures=2).build(0)
    documents = world.documents.select(["id", "text", "hazard"]).to_pylist()
    for side, truth in (("hazard", True), ("benign", False)):
        rows = [{"id": row["id"], "text": row["text"]} for row in documents if row["hazard"] is truth]
        put(folder / f"{side}.jsonl", rows)
    put(folder / "questions.jsonl", world.items["hazard_held_out"].to_pylist())
    put(folder / "held_out.jsonl", world.items["benign_text"].select(["id", "text", "role"]).to_pylist())
    models.save(StartingModel(width=32, blocks=2, heads=2, vocabulary=400).build(
        world.documents["text"].to_pylist(), 0
    ), folder / "base")  # fmt: skip
    return folder
