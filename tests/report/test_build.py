"""The report: one file, from the run folder alone, that claims only what the tables say."""

from __future__ import annotations

import json
import re
import shutil

import pandas as pd
import plotly.graph_objects as go
import pytest
from fake_run import fake_tables, write_fake_run

from workbench import plots
from workbench.errors import DataError
from workbench.report import build_report, drawing
from workbench.report.limits import ORGANISM
from workbench.results import Result

SMALL = dict(languages=8, layers=4, meanings=8)
SLOW_TO_DRAW = ("clusters", "separation", "projections", "similarity", "language_track", "restoration", "waterfall")
FIGURES = 24


def page_of(folder) -> str:
    """Build the report and return it without plotly's own script."""
    return without_plotly(build_report(folder))


def without_plotly(report) -> str:
    page = report.read_text(encoding="utf-8")
    return re.sub(r"<script>(?:(?!</script>).)*plotly\.js v.*?</script>", "<script></script>", page, count=1, flags=re.S)


def prose_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<script.*?</script>", " ", page, flags=re.S)).split())


@pytest.fixture
def undrawn(monkeypatch):
    """Word every caption and gap, and leave the drawing out: that takes a second per page."""
    monkeypatch.setattr(drawing, "plotted", lambda *_: "")
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly.js v0 */")
    for name in plots.__all__:
        if callable(getattr(plots, name)):
            monkeypatch.setattr(plots, name, lambda *_, **__: go.Figure())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_fake_run(tmp_path_factory.mktemp("run"), **SMALL)


@pytest.fixture(scope="module")
def report(run):
    return build_report(run)


@pytest.fixture(scope="module")
def page(report):
    return without_plotly(report)


def test_the_report_draws_every_figure_and_gives_each_one_caption(page):
    names = re.findall(r'<figure data-figure="(\w+)"', page)
    assert len(names) == len(set(names)) == FIGURES
    assert len(re.findall(r"<figcaption>[^<]+\.</figcaption>", page)) == FIGURES
    assert page.count('class="plotly-graph-div"') == FIGURES


def test_each_figure_is_a_file_of_its_own_with_the_script_beside_it(run, report):
    files = sorted(p.name for p in (run / "figures").iterdir())
    assert "plotly.min.js" in files and len([f for f in files if f.endswith(".html")]) == FIGURES
    assert "https://cdn" not in (run / "figures" / "auroc_by_layer.html").read_text(encoding="utf-8")


def test_the_script_is_embedded_once_and_nothing_is_loaded_from_elsewhere(report):
    page = report.read_text(encoding="utf-8")
    assert page.count("plotly.js v") == 1
    assert "default-src 'none'" in page
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", page)


def test_the_tables_alone_give_the_same_report_byte_for_byte(run, report, tmp_path):
    copy = tmp_path / "copy"
    (copy / "results").mkdir(parents=True)
    for name in ("manifest.json", "summary.json"):
        shutil.copy(run / name, copy / name)
    for table in (run / "results").iterdir():
        shutil.copy(table, copy / "results")
    assert build_report(copy).read_bytes() == report.read_bytes()


def test_neither_prompts_nor_replies_enter_the_report(tmp_path):
    folder = write_fake_run(tmp_path, **SMALL)
    table = fake_tables(**SMALL)["prompts"].assign(text="a sentence that must stay out")
    Result(table).save(folder / "results" / "prompts.parquet")
    outcomes = fake_tables(**SMALL)["outcomes"].assign(reply="a reply that must stay out")
    Result(outcomes).save(folder / "results" / "outcomes.parquet")
    (folder / "replies.jsonl").write_text('{"reply": "a reply that must stay out"}\n', encoding="utf-8")
    page = page_of(folder)
    assert "must stay out" not in page
    assert not any("must stay out" in f.read_text(encoding="utf-8") for f in (folder / "figures").glob("*.html"))


def test_text_from_the_run_is_escaped(tmp_path):
    folder = write_fake_run(tmp_path, without=("clusters", "separation"), **SMALL)
    attack = "</script><script>alert(1)</script><img src=x>"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["spec"]["model"]["model"] = attack
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder / "summary.json").unlink()
    tables = fake_tables(**SMALL)
    for name in ("understanding", "dropped", "bottleneck"):
        Result(tables[name].assign(reason=attack)).save(folder / "results" / f"{name}.parquet")
    ids = tables["projections"]
    Result(ids.assign(prompt_id=ids["prompt_id"] + attack)).save(folder / "results" / "projections.parquet")
    page = page_of(folder)
    assert "<script>alert" not in page and "<img src=x>" not in page
    assert "&lt;script&gt;alert" in page


def test_a_bottleneck_is_named_only_with_its_verdict(tmp_path, page):
    assert "2 (1 to 3)" in prose_of(page)
    folder = write_fake_run(tmp_path, without=SLOW_TO_DRAW, **SMALL)
    undecided = fake_tables(**SMALL)["bottleneck"].assign(verdict="not enough evidence", layer=2, low=1, high=3)
    Result(undecided).save(folder / "results" / "bottleneck.parquet")
    undecided_page = page_of(folder)
    prose = prose_of(undecided_page)
    assert "2 (1 to 3)" not in prose and "not enough evidence" in prose
    assert "bottleneck, layer" not in undecided_page


def test_an_undefined_bottleneck_does_not_break_the_page(tmp_path, undrawn):
    folder = write_fake_run(tmp_path, without=SLOW_TO_DRAW, **SMALL)
    nothing = fake_tables(**SMALL)["bottleneck"].assign(verdict="undefined", layer=float("nan"), low=float("nan"), high=float("nan"))
    Result(nothing).save(folder / "results" / "bottleneck.parquet")
    assert "undefined" in prose_of(page_of(folder))


def test_what_was_left_out_is_listed_with_its_reason(page):
    assert "longer than the model's context" in prose_of(page).replace("&#39;", "'")


def test_an_unvalidated_judge_is_flagged_wherever_its_rates_are(page):
    prose = prose_of(page)
    assert prose.count("†") > 10
    assert "The judge was not validated in" in prose
    assert re.search(r"refused in .* not validated in qad, qae, qaf, qag and qah", prose)


@pytest.mark.parametrize(
    "subject", ["Translation quality", "Surface of the classes", "Tokens per character", "Judge", "One template", "Number of languages", "Nulls"]
)
def test_the_box_says_what_the_evidence_cannot_say(page, subject):
    box = page[page.index('class="box"') :]
    assert f"<dt>{subject}</dt>" in box


def test_an_organism_says_nothing_about_real_languages(tmp_path, page, undrawn):
    assert ORGANISM in prose_of(page)
    assert ORGANISM not in prose_of(page_of(write_fake_run(tmp_path, organism=False, without=SLOW_TO_DRAW, **SMALL)))


ALL = sorted(fake_tables(languages=4, layers=3, meanings=8))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_fake_run(tmp_path_factory.mktemp("tiny"), languages=4, layers=3, meanings=8)


@pytest.fixture
def copied(tiny, tmp_path, undrawn):
    return shutil.copytree(tiny, tmp_path / "run")


@pytest.mark.parametrize("missing", ALL)
def test_a_missing_table_becomes_a_sentence(copied, missing):
    (copied / "results" / f"{missing}.parquet").unlink()
    page = page_of(copied)
    assert "Where the safety decision fails" in page and "Not told" not in page
    assert ("This run holds no verdicts" in page) == (missing == "verdicts")


@pytest.mark.parametrize("name", ALL)
def test_a_table_that_lost_its_columns_is_a_gap_and_no_crash(copied, name):
    path = copied / "results" / f"{name}.parquet"
    table = Result.load(path).table
    Result(table[[c for c in ("language", "tier") if c in table]].assign(other=1)).save(path)
    assert "Where the safety decision fails" in prose_of(page_of(copied))


@pytest.mark.parametrize("keep", [["language"], []])
def test_tables_without_anything_known_leave_a_page_of_gaps(copied, keep):
    for path in (copied / "results").glob("*.parquet"):
        table = Result.load(path).table
        Result(table[[c for c in keep if c in table]].assign(other=1)).save(path)
    assert "Where the safety decision fails" in prose_of(page_of(copied))


def test_tables_cut_short_are_gaps_that_are_named(copied):
    for path in (copied / "results").glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:100])
    prose = prose_of(page_of(copied))
    assert all(f"{name}.parquet is damaged" in prose for name in ALL)


@pytest.mark.parametrize(
    "edit",
    [
        {"reference": 7},
        {"languages": ["qaa"]},
        {"spec": "edited"},
        {"spec": {"model": 3, "prompts": [1]}},
        {"versions": "none"},
        {"before": 5},
        {"organism": "yes"},
    ],
)
def test_a_manifest_edited_by_hand_still_gives_a_page_or_a_clear_error(copied, edit):
    folder = copied
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | edit), encoding="utf-8")
    assert "Where the safety decision fails" in prose_of(page_of(folder))


def test_a_run_without_any_table_still_gives_a_page(tmp_path, undrawn):
    page = page_of(write_fake_run(tmp_path, without=tuple(ALL)))
    assert page.count("Not measured in this run") == FIGURES - 2  # the folded maps are of kinds that the table names


def test_without_a_model_before_the_page_says_so(tmp_path, undrawn):
    prose = prose_of(page_of(write_fake_run(tmp_path, without=SLOW_TO_DRAW, before=False, languages=4, layers=4, meanings=8)))
    assert "No model before alignment was given" in prose and "none given" in prose


def test_an_unfinished_run_is_called_unfinished(tmp_path, page, undrawn):
    assert "not finished" not in page
    folder = write_fake_run(tmp_path, without=SLOW_TO_DRAW, languages=4, layers=4, meanings=8)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"status": "started"}), encoding="utf-8")
    assert "not finished" in page_of(folder)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no manifest\.json.*--out of a workbench command"):
        build_report(tmp_path)


def test_a_broken_manifest_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.json is damaged .* Expected whole JSON"):
        build_report(tmp_path)


def test_missing_values_are_dashes_not_nan(tmp_path, undrawn):
    folder = write_fake_run(tmp_path, without=SLOW_TO_DRAW, **SMALL)
    tables = fake_tables(**SMALL)
    Result(tables["understanding"].assign(value=float("nan"), low=float("nan"), high=float("nan"), understood="not assessed")).save(
        folder / "results" / "understanding.parquet"
    )
    hidden = tables["harm_represented"].assign(surface=float("nan"), untrained_high=float("nan"), represented=False)
    Result(hidden).save(folder / "results" / "harm_represented.parquet")
    Result(pd.DataFrame(tables["refusal"]).assign(judge="none")).save(folder / "results" / "refusal.parquet")
    assert not re.search(r"\bnan\b", prose_of(page_of(folder)))
