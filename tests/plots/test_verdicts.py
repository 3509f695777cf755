"""The figure of verdicts: a line as far as the decision comes, a mark per stage, the verdict at the end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fake_verdicts import fake_verdicts

from workbench.errors import DataError
from workbench.plots import verdicts

TIERS = {"qaa": "high", "qab": "low", "qac": "low"}
STAGES = ("understood", "represented", "calibrated", "actuated", "expressed")
VERDICTS = {"qaa": ("healthy", ""), "qab": ("representation", "represented"), "qac": ("not enough evidence", "calibrated")}


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    said = [
        dict(language=tag, tier=TIERS[tag], verdict=verdict, subtype="", stage=stage, reason="made up") for tag, (verdict, stage) in VERDICTS.items()
    ]
    scores = []
    for tag, (verdict, at) in VERDICTS.items():
        for stage in STAGES:
            passed = True if verdict == "healthy" or STAGES.index(stage) < STAGES.index(at) else None if verdict.startswith("not") else False
            scores.append(
                dict(
                    language=tag, stage=stage, statistic="balanced accuracy gap" if stage == "calibrated" else "share", value=0.5, low=0.4, high=0.6,
                    criterion="made up", passed=passed, assessed=stage != "expressed" or verdict == "healthy", n=40, reason="made up",
                )
            )  # fmt: skip
    return pd.DataFrame(said), pd.DataFrame(scores)


def drawn(mode: str) -> dict[str, object]:
    said, scores = tables()
    return {trace.name: trace for trace in verdicts(said, stages=scores).data if trace.mode == mode and trace.x[0] is not None}


def test_the_line_of_a_language_ends_at_the_stage_that_its_verdict_rests_on_and_runs_through_where_nothing_fails():
    ends = {tag: float(trace.x[-1]) for tag, trace in drawn("lines").items()}
    assert ends["qab"] == STAGES.index("represented") and ends["qac"] == STAGES.index("calibrated")
    assert ends["qaa"] > len(STAGES) - 1


def test_a_failure_is_filled_in_the_tiers_hue_what_is_open_is_hollow_and_what_is_not_assessed_has_no_score():
    marks = drawn("markers")
    assert list(marks["qab"].marker.symbol) == ["square"] * 5
    assert marks["qab"].marker.color[1] == "#D55E00" and marks["qab"].marker.color[0] == "white"
    assert list(marks["qac"].marker.symbol)[2:4] == ["square-open"] * 2
    told = [note.text for note in verdicts(tables()[0], stages=tables()[1]).layout.annotations]
    assert told.count("<b>✓</b>") == 5 + 1 + 2 and told.count("<b>✕</b>") == 3 and told.count("<b>?</b>") == 2 and told.count("<b>–</b>") == 2
    assert sum("[0.40, 0.60]" in text for text in told) == 10 and sum("[+0.40, +0.60]" in text for text in told) == 3


def test_scores_and_criteria_stand_where_one_points():
    hover = list(drawn("markers")["qab"].customdata)
    assert "represented: shown to fail" in hover[1] and "n = 40" in hover[1] and "criterion: made up" in hover[1]
    assert "not assessed" in hover[4]


def test_the_title_counts_the_verdicts_failures_first():
    said, scores = tables()
    title = verdicts(said, stages=scores).layout.title.text
    assert title == "Verdicts of 3 languages: representation in 1, not enough evidence in 1, healthy in 1"


def test_a_verdict_without_a_stage_draws_no_line():
    said, scores = tables()
    fig = verdicts(said.assign(verdict="none", stage=""), stages=scores.assign(value=np.nan))
    assert not [trace for trace in fig.data if trace.mode == "lines" and trace.x[0] is not None]


def test_it_takes_what_a_run_holds():
    made = fake_verdicts(TIERS, 5)
    fig = verdicts(made["verdicts"], stages=made["stages"])
    assert {trace.name for trace in fig.data} >= set(TIERS)
    with pytest.raises(DataError, match="stage"):
        verdicts(made["verdicts"].drop(columns="stage"), stages=made["stages"])
