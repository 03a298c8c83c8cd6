"""Claims are asked of studies that are carried out as they stand."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from untaught.study import results
from untaught.study.plan import plan
from untaught.study.run import run
from untaught.study.store import Store
from untaught.study.together import Unwatched

STUDIES = Path(__file__).parents[2] / "studies"


@contextmanager
def at_home():
    """With the user's own store and assets, which other tests do not see: so a second run is quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("UNTAUGHT_HOME", raising=False)
        yield


def carried_out(study, out, home=None):
    """The rows of a study. Its steps are kept in `home`, or in the user's own store."""
    with at_home():
        what, store = plan(study), Store(home)
        run(what, store, Unwatched())
        return results.write(what, store, out)
