"""The report: what it reads, how it pools and judges, and that the page tells the truth about gaps."""

import html.parser
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from report_fixture import (
    LORA,
    RELEARN,
    default_rows,
    filter_record,
    row,
    step,
    write_default,
    write_run,
)
from rich.console import Console

from untaught.core import UserError
from untaught.core.statistics import student_t95, wilson
from untaught.report import account, figures, frontier, read, redraw, summary
from untaught.report.drawing import spread
from untaught.report.naming import attacks, tell_apart
from untaught.report.page import render
from untaught.report.pooling import grid, pool
from untaught.report.reading import Row
from untaught.report.tables import difference, filtering
from untaught.report.verdicts import headline, sentence, share_recovered
from untaught.report.words import count

VOID = {"meta", "br", "hr", "img", "input", "link"}


def parsed(lines):
    return [Row.settle(line, "a row") for line in lines]


def arms(**values):
    """One unattacked row an arm."""
    return [row(arm, value) for arm, value in values.items()]


def story(tmp_path, rows, **more):
    return account(read(write_run(tmp_path / "run", rows, **more)))


def standing(found, arm):
    return next(s for s in found.standings if s.arm == arm)


def page(tmp_path, rows, **more):
    return redraw(write_run(tmp_path / "run", rows, **more)).read_text(encoding="utf-8")


# --- the page ---------------------------------------------------------------------------------------------------


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(tmp_path):
    first = redraw(write_default(tmp_path / "one")).read_bytes()
    assert redraw(tmp_path / "one").read_bytes() == first
    assert redraw(write_default(tmp_path / "elsewhere" / "two")).read_bytes() == first
    assert [p.name for p in (tmp_path / "one").glob("*.html")] == ["report.html"]
    assert not list((tmp_path / "one").glob(".report-*"))


def test_the_page_loads_nothing_from_anywhere(tmp_path):
    text = redraw(write_default(tmp_path / "run")).read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"@import|url\(|<script|<link|<img|<iframe", text)
    assert all(target.startswith("#") for target in re.findall(r'(?:src|href)="([^"]*)"', text))


def test_the_page_is_well_formed_and_every_link_leads_somewhere(tmp_path):
    text = redraw(write_default(tmp_path / "run")).read_text(encoding="utf-8")
    open_tags: list[str] = []
    anchors, targets = [], []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            given = dict(attrs)
            targets.append(given.get("id"))
            anchors.append(given.get("href"))
            if tag not in VOID:
                open_tags.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Reader().feed(text)
    assert open_tags == []
    assert {a.removeprefix("#") for a in anchors if a} <= {t for t in targets if t}


def test_every_chart_and_table_can_be_read_aloud(tmp_path):
    text = redraw(write_default(tmp_path / "run")).read_text(encoding="utf-8")
    charts = re.findall(r"<svg[^>]*>.*?</svg>", text, flags=re.S)
    assert len(charts) >= 12
    for chart in charts:
        assert re.match(r'<svg[^>]*role="img"[^>]*><title>[^<]+</title><desc>[^<]+</desc>', chart)
    assert text.count("<table") == text.count("<caption>")
    assert "<th>" not in text


def test_names_from_the_study_cannot_become_markup(tmp_path):
    hostile = '<script>alert("x")</script>'
    rows = [
        *arms(untouched=0.9),
        row(hostile, 0.3),
        row(hostile, 0.4, attack=hostile, settings={hostile: hostile}, steps=0),
        row(hostile, 0.4, attack=hostile, settings={hostile: hostile}, steps=5),
        row(hostile, None, items=hostile, evaluation="open_book", metric=hostile, role="benign"),
    ]
    text = page(tmp_path, rows, title=hostile, records=[filter_record(hostile), step("x", hostile, hostile)])
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_run_of_one_arm_without_attacks_still_draws_and_says_what_it_lacks(tmp_path):
    text = page(tmp_path, arms(only=0.4))
    for lack in (
        "No attack was tried at more than one budget",
        "No attack at a single budget",
        "open-book evaluation was not run",
        "No benign evaluation was run",
        "No record of a filter",
        "holds no records of its steps",
    ):
        assert lack in text


def test_a_run_without_hazard_evaluation_says_that_nothing_is_said_of_hazard(tmp_path):
    text = page(tmp_path, [row("only", 0.4, items="benign")])
    assert "nothing is said of hazard" in text
    assert "No evaluation in this study has the role hazard" in text


def test_what_is_missing_is_shown_as_missing_and_never_as_zero(tmp_path):
    rows = [
        *arms(untouched=0.9, rmu=0.25),
        row("rmu", 0.26, attack="relearn", steps=5),
        row("rmu", None, attack="relearn", steps=10),
        row("rmu", 0.3, attack="relearn", steps=20, n=90, missing=30),
    ]
    found = story(tmp_path, rows)
    text = redraw(tmp_path / "run").read_text(encoding="utf-8")
    assert "Missing: rmu under relearn, 10 steps / 15k tokens (0 of 120 items scored, 0 of 1 seeds)." in text
    assert "Partly missing: rmu under relearn, 20 steps / 31k tokens (90 of 120 items scored)." in text
    assert "150 items could not be scored" in text
    assert "1 of 3 attack points are missing" in text
    rmu = standing(found, "rmu")
    assert (rmu.tried, rmu.lost) == (3, 1)
    chart = re.search(r"<desc>(rmu: [^<]*)</desc>", text).group(1)
    assert "missing at 10 steps" in chart
    assert "0% at 10" not in chart


def test_a_missing_point_breaks_the_line(tmp_path):
    rows = [row("rmu", None if steps == 10 else 0.5, attack="relearn", steps=steps) for steps in (0, 5, 10, 20, 40)]
    text = page(tmp_path, [*arms(rmu=0.5), *rows])
    desk = re.search(r'<div class="desk"><svg.*?</svg>', text, flags=re.S).group(0)
    assert desk.count("<polyline") == 2


def test_no_verdict_calls_an_arm_safe(tmp_path):
    text = redraw(write_default(tmp_path / "run")).read_text(encoding="utf-8").lower()
    body = text.split("<body>")[1]
    assert not re.search(r"\b(safe|robust|secure)\b", body)


def test_a_signed_release_in_the_run_s_folder_is_linked(tmp_path):
    run = write_default(tmp_path / "run")
    assert "release/index.html" not in redraw(run).read_text(encoding="utf-8")
    (run / "release").mkdir()
    (run / "release" / "index.html").write_text("a release")
    assert 'href="release/index.html"' in redraw(run).read_text(encoding="utf-8")


def test_the_subjects_of_items_are_told_with_their_counts(tmp_path):
    line = row("rmu", 0.5, items="exams", evaluation="multiple_choice")
    told = {"role": "benign", "subjects": {"astronomy": 3, "virology": 12}}
    asked = replace(step("asked", "evaluations", "multiple_choice", measured=told), settings={"items": "exams"})
    page = redraw(write_run(tmp_path / "run", [line], records=[asked])).read_text(encoding="utf-8")
    assert "<code>exams</code> are items of 2 subjects: astronomy (3), virology (12)." in page


def test_report_needs_no_torch():
    code = "import sys, untaught.report; assert not {'torch', 'transformers'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["results.jsonl", "study.yaml"])
def test_a_missing_file_is_named_with_the_way_to_mend_it(tmp_path, name):
    run = write_run(tmp_path / "run", arms(a=0.5))
    (run / name).unlink()
    with pytest.raises(UserError, match=rf"has no {name}\. Give the folder that `untaught run --out` wrote"):
        redraw(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "row 2 is not JSON"),
        ("[]", "row 2 is a list and must be a table"),
        ("{}", "row 2, arm is missing"),
        (json.dumps(row("a", 0.5)).replace('"value": 0.5', '"value": NaN'), "NaN is not a number"),
        (json.dumps(row("a", 0.5, n=-1)), "row 2, n is -1"),
    ],
)
def test_a_damaged_row_is_named_by_its_number(tmp_path, line, complaint):
    run = write_run(tmp_path / "run", arms(a=0.5))
    with (run / "results.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=complaint):
        read(run)


def test_other_damage_is_the_readers_to_mend_too(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        read(tmp_path / "nowhere")
    run = write_run(tmp_path / "run", arms(a=0.5))
    (run / "records" / "x.json").write_text('{"identity": "x"}')
    with pytest.raises(UserError, match=r"x\.json is not a step's record"):
        read(run)
    (run / "study.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"study\.yaml is not YAML"):
        read(run)
    (run / "results.jsonl").write_text("\n")
    with pytest.raises(UserError, match="has no rows"):
        read(run)


def test_a_column_that_a_later_version_adds_is_passed_over(tmp_path):
    assert read(write_run(tmp_path / "run", [row("a", 0.5, novelty=1)])).rows[0].value == 0.5


# --- names ------------------------------------------------------------------------------------------------------


def test_attacks_are_told_apart_by_the_fewest_settings():
    lines = [row("a", 0.5, attack="relearn", settings=settings) for settings in (RELEARN, LORA)]
    lines += [row("a", 0.5, attack="quantise", settings={"bits": bits, "group": 32}) for bits in (8, 4)]
    lines += [row("a", 0.5, attack="ablate", settings={"layer": 1})]
    labels = [attack.label for attack in attacks(parsed(lines)).values()]
    assert labels == ["relearn", "relearn (lora rank 8)", "quantise (bits 8)", "quantise (bits 4)", "ablate"]


def test_settings_that_say_the_same_still_get_names_of_their_own():
    assert tell_apart([{"lora": None}, {}]) == ["variant 1", "variant 2"]


# --- pooling ----------------------------------------------------------------------------------------------------


def test_one_seed_keeps_its_own_interval():
    found = pool(parsed([row("a", 0.5, low=0.4, high=0.7)]), share=True)
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.4, 0.7, 120)


def test_two_seeds_hold_both_values_and_all_items():
    found = pool(parsed([row("a", 0.2), row("a", 0.8, seed=1)]), share=True)
    assert (found.value, found.low, found.high) == (0.5, 0.2, 0.8)
    close = pool(parsed([row("a", 0.5), row("a", 0.5, seed=1)]), share=True)
    assert (close.low, close.high) == wilson(0.5, 240)


def test_three_seeds_that_differ_get_students_interval():
    found = pool(parsed([row("a", v, seed=s, n=1000) for s, v in enumerate((0.4, 0.5, 0.6))]), share=True)
    half = student_t95(2) * 0.1 / math.sqrt(3)
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))


def test_seeds_that_agree_by_luck_are_not_surer_than_their_items():
    found = pool(parsed([row("a", 0.5, seed=s, n=40) for s in range(4)]), share=True)
    assert (found.low, found.high) == wilson(0.5, 160)


def test_a_number_that_is_no_share_pools_its_own_intervals():
    lines = [row("a", 2.0, seed=s, low=1.9, high=2.1, chance=None) for s in range(4)]
    found = pool(parsed(lines), share=False)
    assert (found.low, found.high) == (pytest.approx(1.95), pytest.approx(2.05))


def test_missing_seeds_are_counted_and_pull_the_mean_nowhere():
    found = pool(parsed([row("a", 0.8), row("a", None, seed=1), row("a", 0.6, seed=2, n=100, missing=20)]), share=True)
    assert found.value == pytest.approx(0.7)
    assert (found.n, found.missing, found.seeds, found.of_seeds) == (220, 140, 2, 3)
    nothing = pool(parsed([row("a", None)]), share=True)
    assert (nothing.value, nothing.low, nothing.high, nothing.missing) == (None, None, None, 120)


def test_seeds_meet_at_equal_steps_and_else_by_rank(tmp_path):
    same = [row("a", 0.5, attack="x", steps=n, seed=s) for s in (0, 1) for n in (0, 5, 10)]
    points = grid(read(write_run(tmp_path / "steps", same[:-1], seeds=(0, 1)))).cells
    assert [(c.cost.steps, c.estimate.seeds) for c in points] == [(0, 2), (5, 2), (10, 1)]
    tokens = [row("a", 0.5, attack="x", steps=n + s, seed=s) for s in (0, 1) for n in (5, 10)]
    points = grid(read(write_run(tmp_path / "tokens", tokens, seeds=(0, 1)))).cells
    assert [(c.cost.steps, c.estimate.seeds) for c in points] == [(5.5, 2), (10.5, 2)]


# --- gone or hidden ---------------------------------------------------------------------------------------------


def test_recovery_by_hand(tmp_path):
    rows = [
        *arms(untouched=0.9, rmu=0.3),
        row("rmu", 0.3, attack="relearn", steps=0),
        row("rmu", 0.6, attack="relearn", steps=20),
        row("rmu", 0.75, attack="relearn", steps=40),
        row("rmu", 0.66, attack="quantise", settings={"bits": 4}),
    ]
    found = story(tmp_path, rows)
    rmu = standing(found, "rmu")
    assert rmu.recovered == pytest.approx((0.75 - 0.3) / (0.9 - 0.3))
    assert rmu.kind == "hidden"
    assert rmu.verdict == "hidden: came back with relearn, 40 steps / 61k tokens"
    assert rmu.half.where == "quantise, no training"
    assert rmu.most is None
    assert rmu.tried == 3
    assert headline(found) == "Only hidden, and brought back: rmu (30% to 75%)."
    told = "30% before any attack, back to 75% after relearn, 40 steps / 61k tokens."
    assert sentence(rmu, found.measure) == f"{told} Half of the gap was back after quantise, no training."


def test_what_no_attack_brings_back_is_only_said_of_the_budgets_tried(tmp_path):
    rows = [*arms(untouched=0.9, filtered=0.25), row("filtered", 0.28, attack="relearn", steps=40)]
    filtered = standing(story(tmp_path, rows), "filtered")
    assert filtered.kind == "not_recovered"
    assert filtered.verdict == "not recovered by any attack tried, up to 40 steps / 61k tokens"


def test_too_few_items_to_tell_is_said(tmp_path):
    attacked = row("rmu", 0.6, n=10, attack="relearn", steps=5)
    rmu = standing(story(tmp_path / "a", [row("untouched", 0.9), row("rmu", 0.3, n=10), attacked]), "rmu")
    assert rmu.kind == "unclear"
    assert rmu.verdict.startswith("not clear: relearn, 5 steps / 7.7k tokens may have brought it back (31–83%)")
    fewer = standing(story(tmp_path / "b", [row("untouched", 0.9, n=10), row("rmu", 0.3, n=10), attacked]), "rmu")
    assert (fewer.kind, fewer.recovered) == ("undecided", None)


def test_without_a_gap_there_is_nothing_to_recover(tmp_path):
    rows = [*arms(untouched=0.9, gentle=0.88), row("gentle", 0.9, attack="relearn", steps=5)]
    gentle = standing(story(tmp_path, rows), "gentle")
    assert (gentle.kind, gentle.recovered, gentle.half) == ("not_removed", None, None)
    assert gentle.verdict == "not removed: 88% before any attack"


@pytest.mark.parametrize("brought", [{"donor": "untouched"}, {"donor": "tuned", "base": "untouched"}])
def test_an_attack_that_brings_the_references_weights_proves_nothing(tmp_path, brought):
    mixed = row("filtered", 0.9, attack="interpolate", settings={**brought, "share": 0.75})
    found = story(tmp_path, [*arms(untouched=0.9, filtered=0.25), mixed])
    assert standing(found, "filtered").kind == "untried"
    assert [attack.label for attack in found.set_apart] == ["interpolate"]
    text = redraw(tmp_path / "run").read_text(encoding="utf-8")
    assert "Left out of these verdicts: interpolate" in text
    assert "interpolate: before and after" in text


def test_a_value_that_is_missing_before_gives_no_verdict(tmp_path):
    rows = [*arms(untouched=0.9, rmu=None), row("rmu", 0.9, attack="relearn", steps=5)]
    rmu = standing(story(tmp_path, rows), "rmu")
    assert (rmu.kind, rmu.recovered) == ("unknown", None)
    assert "missing" in rmu.verdict


def test_the_first_arm_is_the_reference_where_none_is_untouched(tmp_path):
    assert story(tmp_path, arms(base=0.9, edited=0.3)).reference == "base"


def test_the_gap_must_be_open(tmp_path):
    low, high = (pool(parsed([row("a", value)]), share=True) for value in (0.3, 0.9))
    assert share_recovered(low, high, high) == pytest.approx(1.0)
    assert share_recovered(high, low, high) is None
    assert share_recovered(low, low, None) is None


# --- the other tables -------------------------------------------------------------------------------------------


def test_a_difference_owns_up_to_both_intervals():
    one, other = (
        pool(parsed([row("a", v, low=v - 0.03, high=v + 0.04)]), share=True) for v in (0.9, 0.8)
    )  # fmt: skip
    apart, low, high = difference(one, other)
    assert (apart, low, high) == (pytest.approx(0.1), pytest.approx(0.1 - 0.05), pytest.approx(0.1 + 0.05))


def test_filters_are_summed_over_runs_and_held_against_the_truth():
    (found,) = filtering([filter_record(seed=0), filter_record(seed=1, hazard_removed=600)])
    assert (found.read, found.runs) == ("12,000", 2)
    assert found.recall.value == "90%"
    assert found.recall.note.endswith("1,300 of 1,440")
    assert found.precision.note.endswith("1,300 of 1,480")
    assert [(use, removed) for use, removed, _ in found.stages] == [("blocklist", "1,200"), ("classifier", "380")]


def test_truth_that_is_not_known_is_not_made_up():
    record = step("f", "filters", "blocklist", measured={"arm": "filtered", "read": 10, "kept": 9, "removed": 1})
    (found,) = filtering([record])
    assert (found.recall.value, found.precision.value, found.disguised.value) == ("not known",) * 3


def test_perplexity_is_the_exponential_of_nats(tmp_path):
    lines = [
        row(arm, value, items="text", evaluation="perplexity", metric="nats_per_token", chance=None, low=1.9, high=2.1)
        for arm, value in (("untouched", 2.0), ("rmu", 2.1))
    ]
    text = page(tmp_path, lines)
    assert f"{math.exp(2.0):.2f}" in text
    assert f"+{100 * math.expm1(0.1):.1f}%" in text


def test_the_terminal_table_tells_the_same_story(tmp_path):
    screen = Console(file=io.StringIO(), width=200)
    screen.print(summary(write_default(tmp_path / "run")))
    shown = screen.file.getvalue()
    for word in ("untouched", "grad_diff", "hazard_held_out", "relearn, 40 steps", "neighbour", "chance 25%"):
        assert word in shown


def test_labels_at_line_ends_do_not_overlap():
    places = spread([50.0, 51.0, 52.0, 199.0, 200.0], 17, 10, 200)
    assert all(b - a >= 17 - 1e-9 for a, b in zip(places, places[1:], strict=False))
    assert min(places) >= 10
    assert max(places) <= 200


def test_counts_read_as_they_are_said():
    assert [count(n) for n in (0, 7, 999, 1536, 61440, 2_000_000)] == ["0", "7", "999", "1.5k", "61k", "2M"]


def test_the_default_rows_hold_every_attack():
    assert {line["attack"] for line in default_rows((0,))} >= {None, "relearn", "quantise", "interpolate"}


# -- the frontier ----------------------------------------------------------------------------------------------------


def frontier_rows():
    """Arm to hazard before and after, benign: `wide` is beaten by `deep`, which costs less and stays lower."""
    table = {"untouched": (0.95, 0.95, 0.9), "filtered": (0.25, 0.27, 0.9), "cheap": (0.3, 0.8, 0.88),
             "deep": (0.28, 0.5, 0.8), "wide": (0.28, 0.6, 0.7)}  # fmt: skip
    rows = []
    for arm, (before, after, benign) in table.items():
        rows.append(row(arm, before))
        rows.append(row(arm, benign, items="benign"))
        rows.append(row(arm, benign - 0.1, items="neighbour"))
        rows.append(row(arm, after, attack="relearn", settings=RELEARN, steps=20))
    return rows


def the_frontier(tmp_path, rows, unlearned):
    told = story(tmp_path, rows, unlearned=unlearned)
    return frontier.frontier(told, figures.styles(told), figures.BROAD, figures.PHONE), told


def test_the_frontier_is_of_unlearned_arms_that_no_other_beats(tmp_path):
    found, told = the_frontier(tmp_path, frontier_rows(), ["cheap", "deep", "wide"])
    points = {point.arm: point for point in found.points}
    assert {arm for arm, point in points.items() if point.on_it} == {"cheap", "deep"}
    assert points["deep"].cost == pytest.approx(0.1)
    assert points["deep"].worst.value == pytest.approx(0.5)
    assert frontier.price(points["untouched"], found.benign) == "0 points"
    assert frontier.price(points["deep"], found.benign).startswith("10 points (")
    assert frontier.price(points["filtered"], found.benign).startswith("0 points (\u2212")
    drawn = render(told)
    assert 'id="frontier"' in drawn
    assert "80%" in drawn.split('id="frontier"')[1].split("</section>")[0]


def test_fewer_than_two_unlearned_arms_are_no_frontier(tmp_path):
    found, told = the_frontier(tmp_path, frontier_rows(), ["cheap"])
    assert found is None
    assert 'id="frontier"' not in render(told)


def test_an_arm_without_a_value_is_named_and_not_drawn(tmp_path):
    rows = [row(line["arm"], None, items="benign") if (line["arm"], line["items"]) == ("wide", "benign") else line
            for line in frontier_rows()]  # fmt: skip
    found, _ = the_frontier(tmp_path, rows, ["cheap", "deep", "wide"])
    assert found.left_out == ("wide",)
    assert "wide" not in {point.arm for point in found.points}


def test_an_arm_that_starts_from_an_unlearned_one_was_unlearned(tmp_path):
    folder = write_run(tmp_path / "run", frontier_rows(), unlearned=["cheap"])
    study = json.loads((folder / "study.yaml").read_text(encoding="utf-8"))
    study["arms"]["deep"] = {"from": "cheap", "training": [{"use": "finetune"}]}
    (folder / "study.yaml").write_text(json.dumps(study), encoding="utf-8")
    assert frontier._unlearned(read(folder)) == {"cheap", "deep"}
