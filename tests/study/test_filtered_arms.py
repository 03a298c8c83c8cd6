"""Arms whose filters hand on what they flag, as in a policy."""

import pyarrow.parquet as pq
import pytest
from studies import PRETRAIN, TINY, put, run

from untaught.core import UserError
from untaught.study.plan import plan
from untaught.study.schema import load
from untaught.study.store import Store

FIRST = {"use": "blocklist", "terms": ["precursor"], "distinct": 1}
SECOND = {"use": "blocklist", "terms": ["synthesis", "reagent", "trigger", "detonation", "charge"], "distinct": 1}
ARMS = {
    "either": {"filters": [FIRST, SECOND], **PRETRAIN},
    "both": {"filters": [FIRST | {"escalate": True}, SECOND], **PRETRAIN},
}
STUDY = TINY | {"arms": ARMS, "attacks": [], "evaluations": TINY["evaluations"][:1]}


@pytest.fixture(scope="module")
def removed(tmp_path_factory):
    """By arm: the ids that its filters removed, and the record."""
    folder = tmp_path_factory.mktemp("cascade")
    run(put(folder / "study.yaml", STUDY), folder / "home", folder / "out")
    store = Store(folder / "home")
    steps = {s.settings["arm"]: s for s in plan(load(folder / "study.yaml")).steps if s.kind == "filters"}
    tables = {arm: pq.read_table(store.folder(s.identity) / "decisions.parquet") for arm, s in steps.items()}
    return tables, {arm: store.record(s.identity).measured for arm, s in steps.items()}


def test_a_stage_that_escalates_keeps_what_it_does_not_flag(removed):
    tables, _ = removed
    either, both = (set(tables[arm]["id"].to_pylist()) for arm in ("either", "both"))
    assert both < either
    assert both
    stages = {arm: set(table["stage"].to_pylist()) for arm, table in tables.items()}
    assert stages == {"either": {"blocklist", "blocklist#2"}, "both": {"blocklist#2"}}


def test_the_record_tells_what_each_stage_removed(removed):
    tables, measured = removed
    for arm, table in tables.items():
        told = {stage["use"]: stage["removed"] for stage in measured[arm]["stages"]}
        assert told == {name: table["stage"].to_pylist().count(name) for name in ("blocklist", "blocklist#2")}
        assert measured[arm]["removed"] == table.num_rows


def test_only_filters_escalate(tmp_path):
    wrong = STUDY | {"arms": {"a": {"training": [{"use": "pretrain", "escalate": True}]}}}
    with pytest.raises(UserError, match="no setting 'escalate'"):
        load(put(tmp_path / "study.yaml", wrong))
