"""The bench is built once; every check takes copies from it."""

import pytest


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    import torch
    from bench import Bench

    torch.set_num_threads(1)
    return Bench.built(tmp_path_factory.mktemp("bench") / "model")
