import indexes
import pytest

from untaught.assets import catalogue


@pytest.fixture(autouse=True)
def _own_catalogue():
    """Whatever a test made the catalogue is forgotten after it."""
    catalogue.catalogue.cache_clear()
    yield
    catalogue.catalogue.cache_clear()


MEMBERS = {
    "texts/list.txt": "\n".join(("beta", "alpha", "beta", "")).encode(),
    "texts-1.0.dist-info/licenses/LICENSE": b"You may.\n",
}


@pytest.fixture
def index(slow_index, monkeypatch):
    """The same, without pip."""
    indexes.quick(slow_index, monkeypatch.setattr)
    return slow_index


@pytest.fixture
def slow_index(tmp_path, monkeypatch):
    """An index with one wheel, and a catalogue with one asset, `terms`, made of it."""
    folder = tmp_path / "index"
    made = indexes.wheel(folder, "texts", "1.0", MEMBERS)
    indexes.install(monkeypatch, folder, {"terms": indexes.entry("words", made)})
    return folder
