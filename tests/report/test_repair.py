"""A repair by a gate on the page: as a run of its own and inside a diagnosis, with numbers from the tables and nothing that was not measured."""

from __future__ import annotations

import re

import pytest
from fake_repair import GAINS, SHARED, UNTIERED, fake_repair, write_fake_repair
from fake_run import fake_tables, write_fake_run

from workbench.report import build_report, repair_captions
from workbench.report.limits import limits
from workbench.report.record import RunRecord
from workbench.report.repair import repair_of
from workbench.report.repair_rows import repair_rows
from workbench.report.repair_verdict import repair_verdict
from workbench.report.terminal import figures
from workbench.results import Result

FIGURES = ["selectivity_by_method", "few_shot", "gate_scores", "gate_roc", "gate_transfer", "strength_by_method", "elsewhere"]


def page_of(folder) -> str:
    page = build_report(folder).read_text(encoding="utf-8")
    start, end = page.index("<script>"), page.index("</script>")
    return page[:start] + page[end:]


def prose_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<script.*?</script>", " ", page, flags=re.S)).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_fake_repair(tmp_path_factory.mktemp("repair"))


@pytest.fixture(scope="module")
def page(folder):
    return page_of(folder)


@pytest.fixture
def run(folder):
    return RunRecord.read(folder)


def changed(run, **tables):
    """The run with some tables replaced."""
    return RunRecord(run.folder, run.manifest, run.summary, run.results | {name: Result(table) for name, table in tables.items()})


def test_a_repair_has_its_own_page_without_the_stages_of_a_diagnosis(page):
    assert re.findall(r'<figure data-figure="(\w+)"', page) == FIGURES
    prose = prose_of(page)
    assert "Not measured" not in prose and "Where the safety decision fails" not in prose and "Before alignment" not in prose
    assert "4 harmful + 4 harmless per language, 20 draws" in prose and "layer 5 of t_post_inst" in prose


def test_every_figure_has_a_caption_and_a_file(folder, page):
    assert len(re.findall(r"<figcaption>[^<]+\.</figcaption>", page)) == len(FIGURES)
    assert sorted(p.stem for p in (folder / "figures").glob("*.html")) == sorted(FIGURES)


def test_what_was_not_measured_in_a_repair_is_left_out(tmp_path):
    page = page_of(write_fake_repair(tmp_path / "run", without=("elsewhere", "latency", "gate_roc")))
    assert re.findall(r'<figure data-figure="(\w+)"', page) == [name for name in FIGURES if name not in ("elsewhere", "gate_roc")]
    assert "Not measured" not in prose_of(page) and "Time per reply" not in page


def test_the_table_sets_the_model_as_it_is_beside_the_gate_and_the_oracle(run):
    rows = {row.language: row for row in repair_rows(run)}
    assert list(rows) == ["qaa", "qab", "mean high", "qac", "qad", "mean low"]
    assert (rows["qac"].harmful_refusal.before, rows["qac"].harmful_refusal.after) == ("32", "87")
    assert (rows["mean low"].selectivity.before, rows["mean low"].selectivity.after, rows["mean low"].oracle.value) == ("+30", "+85", "+90")
    assert rows["mean low"].gain.value == "+55" and rows["mean low"].gain.state == "ok" and rows["mean low"].gain.interval == "[+51, +59]"
    assert rows["qaa"].reference and rows["qaa"].gain.state == "none" and not rows["mean low"].reference


@pytest.mark.parametrize(("low", "high", "state"), [(0.01, 0.2, "ok"), (-0.1, 0.2, "unsure"), (-0.2, -0.01, "fail")])
def test_a_gain_is_marked_by_its_interval(run, low, high, state):
    rows = repair_rows(changed(run, repair_contrasts=fake_repair()["repair_contrasts"].assign(low=low, high=high)))
    assert {row.gain.state for row in rows if row.tier == "low"} == {state}


def test_the_verdict_gives_gain_rival_cost_and_controls_from_the_tables(run):
    said = repair_verdict(run)
    assert "from 30.0 to 85.0 points on average: a gain of +55.0 [+51.0, +59.0]; true labels in its place give 90.0." in said[0]
    assert "harmless prompts refused 2.0 % without it, 2.0 [" in said[1]
    assert said[2].startswith("The best of 2 rivals in low-tier languages, picked in its favour on what is scored, is “AdaSteer” with 70.0: ")
    assert "the gate minus it is +15.0 [+11.0, +19.0] points. It is above 2 of the 2" in said[2]
    assert (
        said[3].startswith("In the 2 reference languages") and "1 random directions of the same length, added to every prompt, give 32.0" in said[4]
    )


def test_a_gain_whose_interval_includes_zero_is_not_called_a_gain(run):
    table = fake_repair()["repair_contrasts"]
    said = repair_verdict(changed(run, repair_contrasts=table.assign(low=table["value"] - 1)))
    assert (
        "no clear gain, +55.0" in said[0]
        and "It is above 0 of the 2 with an interval that excludes zero (not above AdaSteer and always steer)" in said[2]
    )


def test_another_gate_can_be_named_by_the_summary(run):
    named = RunRecord(run.folder, run.manifest, run.summary | {"gate": "gate, balanced F1"}, run.results)
    assert {row.language: row for row in repair_rows(named)}["mean low"].selectivity.after == f"+{100 * GAINS['gate, balanced F1']:.0f}"


def test_the_caption_of_few_labels_says_how_many_are_enough(run):
    said = repair_captions.few_shot(run, fake_repair()["few_shot"])
    assert said.startswith("With k = 4 the gate is within 2 points of what it reaches with k = 4")
    assert "at k = 1 10 to 90 % of single draws give 0.40 to 0.60" in said and "20 draws" in said
    assert "price of a miss is left as it is by default" in said and "AdaSteer has no curve: it pushes each prompt by a strength of its own" in said
    alone = changed(run, repair_rates=fake_repair()["repair_rates"].query("method != 'AdaSteer'"))
    assert "AdaSteer" not in repair_captions.few_shot(alone, fake_repair()["few_shot"])


def test_the_caption_of_methods_says_that_the_best_rival_was_picked(run):
    table = fake_repair()["repair_rates"]
    said = repair_captions.methods(run, table)
    assert "Means over 2 low-tier languages (qac, qad)" in said and "best rival of the title is picked in its favour" in said
    assert "AdaSteer with a multiple chosen on the select split" in said
    assert "rival" not in repair_captions.methods(run, table[table["method"].isin(["unrepaired", "gate, shrinkage"])])


@pytest.mark.parametrize(
    ("tiers", "places", "where"),
    [
        (UNTIERED, ["qaa", "qab", "qac", "qad", "mean unknown", "mean reference"], "languages of unknown tier"),
        (SHARED, ["qaa", "qab", "qac", "qad", "mean low"], "low-tier languages"),
    ],
)
def test_languages_without_a_tier_or_with_that_of_the_reference_are_repaired_on_the_page(tmp_path, tiers, places, where):
    folder = write_fake_repair(tmp_path / "run", tiers=tiers)
    page, run = page_of(folder), RunRecord.read(folder)
    rows = {row.language: row for row in repair_rows(run)}
    assert list(rows) == places and {tag for tag, row in rows.items() if row.reference} - {"mean reference"} == {"qaa", "qab"}
    assert rows[places[4]].gain.value == "+55" and rows[places[4]].mean and not rows[places[4]].reference
    said = repair_verdict(run)
    assert f"selectivity in {where} from 30.0 to 85.0 points on average: a gain of +55.0" in said[0]
    assert f"rivals in {where}, picked" in said[2] and f"Controls in {where}: 1 random" in said[4]
    prose = prose_of(page)
    assert re.findall(r'<figure data-figure="(\w+)"', page) == FIGURES and "Not drawn" not in prose and "cannot be said" not in prose
    assert f"Means over 2 {where} (qac, qad)" in prose and "Selectivity there, " + where in prose


def test_two_tiers_that_are_repaired_are_both_in_the_verdict(tmp_path):
    tiers = {"qaa": "high", "qab": "high", "qac": "mid", "qad": "low"}
    said = repair_verdict(RunRecord.read(write_fake_repair(tmp_path / "run", tiers=tiers)))
    assert [said[i].split(" from ")[0].split("selectivity in ")[1] for i in (0, 2)] == ["low-tier languages", "mid-tier languages"]
    assert "rivals in low-tier languages" in said[4]


def test_where_no_mean_was_counted_each_repaired_language_is_told(run):
    tables = {name: fake_repair()[name] for name in ("repair_rates", "repair_contrasts")}
    bare = changed(run, **{name: table[~table["language"].str.startswith("mean ")] for name, table in tables.items()})
    said = repair_verdict(bare)
    assert "selectivity in qac from 30.0 to 85.0 points: a gain of +55.0" in said[0] and "selectivity in qad" in said[2]
    assert [row.language for row in repair_rows(bare)] == ["qaa", "qab", "qac", "qad"]


def test_the_table_of_methods_says_what_is_refused_of_what_a_gate_missed(run, page):
    table = next(table for table in repair_of(run).section.tables if table.title == "Every method")
    at = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert at["gate, shrinkage"]["harmful missed, %"] == "10.0 [6.0, 14.0]"
    assert at["gate, shrinkage"]["refused of those, %"] == "25.0 [21.0, 29.0]"
    assert at["unrepaired"]["harmful missed, %"] == at["AdaSteer"]["refused of those, %"] == "–"
    assert "how many of them the model refused all the same" in table.note and "refused of those, %" in page


def test_the_caption_of_transfer_counts_what_beats_permuted_labels(run):
    said = repair_captions.transfer(run, fake_repair()["gate_transfer"])
    assert "AUROC 0.98 to 0.98 (above gates of permuted labels in 12 of 12)" in said and "(above gates of permuted labels in 6 of 12)" in said


def test_the_limits_name_the_oracle_strength_the_labels_and_the_judge(run):
    said = dict(limits(run))
    assert "true labels" in said["Strength of the repair"] and said["Examples of the repair"].startswith("4 harmful and 4 harmless")
    assert {"Organism", "One judge", "One template"} <= set(said)


def test_without_rates_the_page_says_so(tmp_path):
    prose = prose_of(page_of(write_fake_repair(tmp_path / "run", without=("repair_rates", "repair_contrasts"))))
    assert "what it gains cannot be said" in prose


def test_a_repair_inside_a_diagnosis_becomes_a_section_of_its_page(tmp_path):
    slow = tuple(name for name in fake_tables(languages=3, layers=3, meanings=8) if name != "refusal")
    outer = write_fake_run(tmp_path / "run", without=slow, languages=4, layers=3, meanings=8)
    before = page_of(outer)
    write_fake_repair(outer / "repair")
    after = page_of(outer)
    assert 'id="repair"' not in before and 'id="repair"' in after and '<a href="#repair">Repair by a gate</a>' in after
    shown = re.findall(r'<figure data-figure="(\w+)"', after)
    assert shown[0] == "refusal_gap" and shown[-len(FIGURES) :] == FIGURES
    assert "a gain of +55.0" in prose_of(after) and "Where the safety decision fails" in prose_of(after)
    assert "Strength of the repair" in prose_of(after) and "Strength of the repair" not in prose_of(before)
    assert (outer / "figures" / "gate_roc.html").exists() and not (outer / "repair" / "figures").exists()


def test_a_diagnosis_in_the_folder_repair_is_not_taken_for_one(tmp_path):
    outer = write_fake_run(tmp_path / "run", languages=3, layers=3, meanings=8)
    write_fake_run(outer / "repair", languages=3, layers=3, meanings=8)
    assert RunRecord.read(outer).repair is None


def test_means_over_tiers_are_no_languages(run):
    assert list(run.tiers) == ["qaa", "qab", "qac", "qad"]


def test_the_terminal_shows_what_is_repaired(run):
    (table,) = figures(run)
    assert [column.header.replace("\n", "") for column in table.columns][-2:] == ["gain", "oracle"]
    told = dict(zip(table.columns[0].cells, table.columns[1].cells, strict=True))
    assert told["qac (low)"] == "32 -> 87" and "mean low" in told
