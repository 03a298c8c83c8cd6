"""One corpus with what can go wrong, for all tests that run it under several executors or kill the runs."""

import corpora
import kills
import pytest


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return kills.corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def expected(corpus, tmp_path_factory):
    """What threads of one process make of the corpus, undisturbed."""
    out, words = tmp_path_factory.mktemp("expected") / "out", ["--config", corpus[1], "--apply", "--json"]
    assert corpora.untaught("filter", corpus[0], "--out", out, *words) == kills.TORN
    return corpora.contents(out)
