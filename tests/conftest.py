"""What holds for every test: no network, one thread, fixed seeds, a step store of its own.

Nothing heavy is imported here: a test that needs no torch does not pay for it.
"""

import hashlib
import os
import random
import socket
import sys
from types import SimpleNamespace

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
    os.environ[name] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

NEAR = ("", "localhost", "::1", "0.0.0.0")


def is_near(host):
    """Whether a host name is this machine."""
    host = host.decode() if isinstance(host, bytes) else str(host or "")
    return host in NEAR or host.startswith("127.")


def guarded(method):
    """A socket's method that refuses addresses on other machines."""

    def call(self, address, *rest):
        if self.family != getattr(socket, "AF_UNIX", None) and not is_near(address[0]):
            raise RuntimeError(f"a test reached for the network: {address}")
        return method(self, address, *rest)

    return call


def looked_up(host, *rest, _original=socket.getaddrinfo, **more):
    if not is_near(host):
        raise RuntimeError(f"a test reached for the network: {host}")
    return _original(host, *rest, **more)


@pytest.fixture(autouse=True, scope="session")
def _no_network(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_HOME", str(tmp_path_factory.getbasetemp() / "homes" / "of-no-test"))
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
        patch.setattr(socket, "getaddrinfo", looked_up)
        yield


@pytest.fixture(autouse=True)
def _settled(tmp_path_factory, request):
    """Fixed seeds, one torch thread, and a step store that no other test sees."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
        torch.manual_seed(0)
    home = tmp_path_factory.getbasetemp() / "homes" / hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_HOME", str(home))
        yield


@pytest.fixture
def desk(monkeypatch, capsys, tmp_path):
    """The command line in this process: give it words, get its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        from untaught.cli import main

        monkeypatch.setattr(sys, "argv", ["untaught", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        printed = capsys.readouterr()
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    return call
