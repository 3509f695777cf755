"""A repair by training on the page, in the terminal and beside another run: numbers from the tables and nothing that was not measured."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from fake_repair import write_fake_repair
from fake_run import fake_tables, write_fake_run
from fake_training import TIERS, TRAINED, fake_training, write_fake_training

from workbench.report import build_report, training_captions
from workbench.report.compare import compared
from workbench.report.limits import limits
from workbench.report.record import RunRecord
from workbench.report.repair_rows import repair_rows, seen_in
from workbench.report.side import Side
from workbench.report.terminal import figures
from workbench.report.training import training_of
from workbench.report.training_verdict import duration, training_verdict
from workbench.results import Result

FIGURES = ["repaired_languages", "repair_cost", "training_curves", "interpreter_layers", "token_weights", "token_weight_strips"]
TABLES = [
    "Every repair", "The interpreter, language by language", "Is the layer used better than those around it?", "What the teacher has to teach",
    "The reward gap", "The guard",
]  # fmt: skip


def page_of(folder) -> str:
    page = build_report(folder).read_text(encoding="utf-8")
    start, end = page.index("<script>"), page.index("</script>")
    return page[:start] + page[end:]


def prose_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<script.*?</script>", " ", page, flags=re.S)).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_fake_training(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def page(folder):
    return page_of(folder)


@pytest.fixture
def run(folder):
    return RunRecord.read(folder)


def changed(run, summary=None, **tables):
    """The run with some tables, or entries of its summary, replaced."""
    return RunRecord(run.folder, run.manifest, run.summary | (summary or {}), run.results | {name: Result(table) for name, table in tables.items()})


def test_a_training_has_its_own_page_without_the_stages_of_a_diagnosis(folder, page):
    assert re.findall(r'<figure data-figure="(\w+)"', page) == FIGURES
    assert sorted(p.stem for p in (folder / "figures").glob("*.html")) == sorted(FIGURES)
    assert len(re.findall(r"<figcaption>[^<]+\.</figcaption>", page)) == len(FIGURES)
    prose = prose_of(page)
    assert "What training repairs" in prose and "Where the safety decision fails" not in prose and "by a gate" not in prose
    assert "Not measured" not in prose and "Not drawn" not in prose and "Not told" not in prose and "Before alignment" not in prose
    assert re.findall(r"<h3>([^<]+)</h3>", page) == TABLES


def test_the_facts_say_what_was_trained_in_and_how(page):
    prose = prose_of(page)
    assert "Method LASA" in prose and "Seen in training qaa and qab" in prose and "every weight, learning rate 0.0003, 3 epochs" in prose


def test_the_table_goes_from_before_to_after_and_keeps_unseen_languages_apart(run, page):
    rows = {row.language: row for row in repair_rows(run)}
    assert list(rows) == [
        "qaa", "qab", "mean high", "qac", "qad", "qae", "mean low", "mean seen in training", "mean unseen in training", "mean of all",
    ]  # fmt: skip
    assert (rows["qae"].harmful_refusal.before, rows["qae"].harmful_refusal.after, rows["qae"].gain.value) == ("30", "97", "+66")
    assert rows["mean unseen in training"].gain.interval == "[+64, +68]" and rows["mean unseen in training"].gain.state == "ok"
    assert {tag: rows[tag].seen for tag in TIERS} == {tag: tag in TRAINED for tag in TIERS} and rows["mean of all"].seen is None
    prose = prose_of(page)
    assert "low tier unseen in training" in prose and "high tier, reference seen in training" in prose and "Selectivity with true labels" not in prose


def test_the_verdict_says_what_is_complied_with_and_where_training_saw_nothing(run):
    said = training_verdict(run)
    assert said[0] == (
        "LASA: the share of harmful requests that are not refused falls from 43.6 to 3.0 [0.0, 6.0] % (\u221240.6 [\u221242.6, \u221238.6] points), "
        "7 % of what it was, on average over all languages."
    )
    assert (
        said[1].startswith("In languages unseen in training (qac, qad, qae) it goes from 70.0 to 3.0 ") and "seen in training (qaa, qab)" in said[2]
    )
    assert "harmless prompts refused 1.0 %, then 2.0 % (+1.0 [\u22121.0, +3.0] points)" in said[3]
    assert said[4].startswith("Of the weights alone") and "not refused" in said[4]
    assert said[5] == "Its interpreter, layer 4, tells harm with accuracy 0.92 to 0.95 in its own languages and 0.75 to 0.81 in other languages."
    assert said[6] == "Held-out harmful refusal (select split) is below its start in none of 5 languages."
    assert said[7] == "Training took 60 seconds: 60 steps, 10,000 tokens, 1.9 million parameters trained."


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.1, 0.5, "falls from"), (-0.1, 0.5, "does not clearly change, on average"), (-0.5, -0.1, "rises from")]
)
def test_only_a_change_whose_interval_excludes_zero_is_called_one(run, low, high, word):
    tables = fake_training()
    if high < 0:  # start and trained model change places
        tables["repair_rates"]["method"] = tables["repair_rates"]["method"].replace({"lasa": "unrepaired", "unrepaired": "lasa"})
    tables["repair_contrasts"] = tables["repair_contrasts"].assign(low=low, high=high)
    said = training_verdict(changed(run, **{name: tables[name] for name in ("repair_rates", "repair_contrasts")}))[0]
    assert word in said and ("of what it was" in said) == (low > 0)


def test_a_repair_that_lowered_refusal_says_that_no_weights_were_written(run):
    guard = fake_training()["guard"]
    guard.loc[guard["language"] == "qad", ["after", "lowered"]] = [0.4, True]
    said = " ".join(training_verdict(changed(run, {"repaired": None}, guard=guard)))
    assert "falls in qad (50.0 to 40.0 %). No weights were written." in said
    assert "That was allowed" in " ".join(training_verdict(changed(run, guard=guard)))


def test_a_run_that_was_stopped_before_its_summary_still_has_its_rates(tmp_path):
    folder = write_fake_training(tmp_path / "run")
    (folder / "summary.json").unlink()
    stopped = RunRecord.read(folder)
    assert training_verdict(stopped)[0].startswith("LASA: ") and seen_in(stopped) is None
    assert training_of(stopped).section.figures[0].html and "unseen in training</th>" not in page_of(folder)


def test_of_a_teacher_is_told_what_it_can_carry_over(run):
    others = {name: result for name, result in run.results.items() if not name.startswith("interpreter")}
    taught = RunRecord(run.folder, run.manifest | {"method": "msd"}, run.summary | {"method": "msd on-policy"}, others)
    said = " ".join(training_verdict(taught))
    assert "Before training, 68 % of harmful requests were not refused by the model and refused by its teacher" in said
    measured = Result(others["flip_rates"].table, {"overall": {"value": 0.6, "low": 0.5, "high": 0.7}})
    told = RunRecord(run.folder, run.manifest, taught.summary, others | {"flip_rates": measured})
    assert "Before training, 60.0 [50.0, 70.0] % of harmful requests" in " ".join(training_verdict(told))


def test_the_table_of_repairs_sets_gains_costs_and_effort_beside_each_other(run):
    (table,) = [table for table in training_of(run).section.tables if table.title == "Every repair"]
    at = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert at["dpo"]["selectivity gained, unseen"] == "+21.0 [+19.0, +23.0]" and at["dpo"]["right answers lost"] == "+19.0 [+17.0, +21.0]"
    assert at["lasa"]["harmful not refused, %"] == "3.0 [0.0, 6.0]" and at["lasa"]["training"].startswith("60 seconds: 60 steps")
    assert at["unrepaired"]["selectivity gained"] == at["gate, shrinkage"]["training"] == "–"
    assert at["dpo"]["training"] == "3.0 minutes: 60 steps, 30,000 tokens, 1.9 million parameters trained"


def test_the_table_of_reward_gaps_sets_the_trained_model_beside_its_start_and_the_control_beside_both(run):
    (table,) = [table for table in training_of(run).section.tables if table.title == "The reward gap"]
    assert table.columns == ["language", "harmful, unrepaired", "harmful, lasa", "harmless, unrepaired", "harmless, lasa"]
    at = {row[0]: row[1:] for row in table.rows}
    assert list(at) == list(TIERS) and at["qae"] == ["\u22120.50 [\u22120.70, \u22120.30]", *["+1.50 [+1.30, +1.70]"], *["+2.00 [+1.80, +2.20]"] * 2]
    curve = fake_training()["training_curve"]
    assert "is no refusal rate" in training_captions.curves(run, curve)
    assert "reward gap" not in training_captions.curves(run, curve[~curve["statistic"].str.startswith("reward_gap")])


def test_what_a_training_warned_of_is_said_also_where_no_summary_was_written(run):
    told = "Refusals of harmless requests rose from 0.000 to 0.100 while training: over-refusal."
    assert not [sentence for sentence in training_verdict(run) if sentence.startswith("Warning")]
    assert f"Warning: {told}" in training_verdict(changed(run, {"warnings": [told]}))
    stopped = RunRecord(run.folder, run.manifest | {"warnings": [told]}, {}, run.results)
    assert f"Warning: {told}" in training_verdict(stopped)


def test_what_a_method_does_not_measure_is_left_out(tmp_path):
    without = ("interpreter", "interpreter_layers", "layers_compared", "token_weights", "flip_rates", "guard", "cost", "reward_gaps")
    page = page_of(write_fake_training(tmp_path / "run", without=without, method="dpo"))
    assert re.findall(r'<figure data-figure="(\w+)"', page) == FIGURES[:3] and re.findall(r"<h3>([^<]+)</h3>", page) == TABLES[:1]
    prose = prose_of(page)
    assert "Not measured" not in prose and "DPO: the share" in prose and "interpreter's" not in prose and "Its interpreter" not in prose


def test_without_rates_the_page_says_so(tmp_path):
    prose = prose_of(page_of(write_fake_training(tmp_path / "run", without=("repair_rates", "repair_contrasts"))))
    assert "what it repairs cannot be said" in prose


def test_captions_count_what_costs_too_much_and_what_other_layers_do(run):
    tables = fake_training()
    assert "2 of 5 lose more than 2 points of right answers" not in training_captions.cost(run, tables["repair_contrasts"], "mean of all")
    assert "3 of 5 lose more than 2 points of right answers (dpo, gate, shrinkage and msd on-policy)" in training_captions.cost(
        run, tables["repair_contrasts"], "mean of all"
    )
    said = training_captions.layers(run, tables["interpreter_layers"])
    assert said.startswith(
        "In languages that it was not trained in, accuracy at layer 4 is better than at layers 2 and 6; not told apart from that at layers 3 and 5"
    )
    alone = RunRecord(run.folder, run.manifest, run.summary, {})
    assert "Dotted, of accuracy: trained on permuted labels" in training_captions.layers(alone, tables["interpreter_layers"])
    weights = tables["token_weights"]
    share = 100 * weights.query("harmful and token_index < 3")["weight"].sum() / weights.query("harmful")["weight"].sum()
    assert f"first three tokens hold {share:.0f} % in replies to harmful requests" in training_captions.weights(run, weights)
    short = weights[weights["token_index"] < 4]
    share = 100 * short.query("harmful and token_index < 1")["weight"].sum() / short.query("harmful")["weight"].sum()
    assert f"first token holds {share:.0f} % in replies to harmful requests" in training_captions.weights(run, short)


def test_the_limits_name_the_seed_and_what_was_trained_on(run):
    said = dict(limits(run))
    assert {"Organism", "One judge", "One training", "What was trained on"} <= set(said) and "Unseen languages" not in said
    everywhere = run.summary | {"languages": {tag: {"tier": tier, "seen": True} for tag, tier in TIERS.items()}}
    assert "Unseen languages" in dict(limits(RunRecord(run.folder, run.manifest, everywhere, run.results)))


@pytest.fixture(scope="module")
def outer(tmp_path_factory):
    """A diagnosis that holds both repairs, of the same prompts and languages."""
    slow = tuple(name for name in fake_tables(languages=3, layers=3, meanings=8) if name != "refusal")
    folder = write_fake_run(tmp_path_factory.mktemp("outer") / "run", without=slow, languages=4, layers=3, meanings=8)
    write_fake_training(folder / "training", gate=False)
    write_fake_repair(folder / "repair")
    return folder


def test_a_training_inside_a_diagnosis_becomes_a_section_of_its_page_with_the_gate_beside_it(outer):
    page = page_of(outer)
    assert '<a href="#training">Repair by training</a>' in page and '<a href="#repair">Repair by a gate</a>' in page
    assert re.findall(r'<figure data-figure="(\w+)"', page)[-len(FIGURES) :] == FIGURES
    prose = prose_of(page)
    assert "Where the safety decision fails" in prose and "7 % of what it was" in prose and "One training" in prose
    assert not (outer / "training" / "figures").exists() and "training/results/repair_rates.parquet" in prose
    both = training_of(RunRecord.read(outer))
    table = both.section.tables[0]
    at = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert at["gate, shrinkage"]["selectivity gained"] == "+55.0 [+51.0, +59.0]" and at["gate, shrinkage"]["training"] == "–"
    assert at["lasa"]["selectivity gained"] == "+66.0 [+64.0, +68.0]" and table.note.startswith("On average over low-tier languages, on the same")
    assert "gate, shrinkage" in both.section.figures[0].html and "gate, shrinkage" in both.section.figures[1].html


def test_a_gate_measured_on_other_prompts_is_not_set_beside_a_training(outer, tmp_path):
    run = RunRecord.read(outer)
    path = run.repair.folder / "manifest.json"
    kept = path.read_text(encoding="utf-8")
    manifest = json.loads(kept)
    manifest["spec"]["prompts"]["hash"] = "1" * 64
    path.write_text(json.dumps(manifest), encoding="utf-8")
    try:
        rows = [row[0] for row in training_of(RunRecord.read(outer)).section.tables[0].rows]
    finally:
        path.write_text(kept, encoding="utf-8")
    assert "lasa" in rows and "gate, shrinkage" not in rows


def test_a_training_in_the_folder_repair_is_not_taken_for_a_gate(tmp_path):
    outer = write_fake_run(tmp_path / "run", languages=3, layers=3, meanings=8)
    write_fake_training(outer / "repair")
    run = RunRecord.read(outer)
    assert run.repair is None and run.training is None and run.is_diagnosis


def test_the_terminal_shows_before_and_after(run):
    (table,) = figures(run)
    assert "repair by training (LASA)" in table.title and [column.header for column in table.columns][-1] == "gain"
    told = dict(zip(table.columns[0].cells, table.columns[1].cells, strict=True))
    assert told["qaa (high) +"] == "96 -> 97" and told["qae (low)"] == "30 -> 97" and told["mean unseen"] == "30 -> 97"


def test_a_trained_model_stands_beside_a_diagnosis_by_its_own_rates(folder, tmp_path):
    other = write_fake_training(tmp_path / "other", method="dpo")
    side = Side.read(folder)
    assert side.what == "replies after “lasa”" and side.outcomes.empty
    found = compared(other, folder)
    assert "Selectivity is higher in the second run in qaa, qab, qac, qad and qae: +19 to +45 points" in " ".join(found.said)


def test_beside_a_diagnosis_the_page_says_whose_rates_are_compared(folder, tmp_path):
    before = write_fake_run(tmp_path / "before", languages=4, layers=3, meanings=8)
    assert any("the rates of the trained model are compared with the diagnosis' refusal" in sentence for sentence in compared(before, folder).said)


def test_the_language_filter_knows_whose_every_mark_strip_and_heading_is():
    from workbench import plots
    from workbench.report.filtering import tag_languages

    tables = fake_training()
    fig = tag_languages(plots.token_weight_strips(tables["token_weights"], tiers=TIERS), list(TIERS))
    assert [trace.meta for trace in fig.data[:2]] == [{"rows": ["qaa", "qaa"]}, {"rows": ["qaa"]}]
    assert fig.layout.meta["annotations"] == {"0": "qaa", "1": "qac", "2": "qad", "3": "qad"}
    fig = tag_languages(plots.repaired_languages(tables["repair_rates"], seen=TRAINED, methods=["lasa"]), list(TIERS))
    assert set(fig.layout.meta["shapes"].values()) == {"qac", "qad", "qae"}
    (arrow,) = [trace for trace in fig.data if trace.name == "change" and trace.marker.color == "#D55E00" and max(trace.marker.size) > 0]
    assert arrow.meta == {"of": ["qad", "qad", "", "qae", "qae", ""]}
    fig = tag_languages(plots.interpreter_layers(tables["interpreter_layers"]), list(TIERS))
    assert {trace.meta["of"] for trace in fig.data if trace.meta} == set(TIERS) and set(fig.layout.meta["annotations"].values()) == set(TIERS)


def test_outcomes_of_the_trained_model_are_paired_prompt_by_prompt(folder, tmp_path):
    path = write_fake_training(tmp_path / "run")
    rows = [
        dict(prompt_id=f"p{i}:qaa", meaning_id=f"p{i}", language="qaa", tier="high", harmful=True, action=action, refused=float(action == "lasa"),
             correct=float("nan"), broken=0.0)
        for i in range(4) for action in ("unrepaired", "lasa")
    ]  # fmt: skip
    Result(pd.DataFrame(rows)).save(path / "results" / "answers.parquet")
    outcomes = Side.read(path).outcomes
    assert len(outcomes) == 4 and outcomes["refused"].all()


def test_lengths_of_time_are_told_in_their_unit():
    assert [duration(s) for s in (42.4, 300, 9000)] == ["42 seconds", "5.0 minutes", "2.5 hours"]
