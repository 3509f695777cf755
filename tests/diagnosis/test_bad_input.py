"""Input that carries no verdict: too few prompts, a reference that fails itself. Both end in words, never in a crash, a warning or a stage named."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from planted_stages import TRUTH, Speaks, decided, draw, evidence_of, verdict_of

from workbench.diagnosis.gated import measure_waterfall
from workbench.diagnosis.restoration import measure_restoration
from workbench.diagnosis.verdict import NONE, OPEN
from workbench.prompts.grid import PromptGrid
from workbench.results import Result
from workbench.runs.folder import Run
from workbench.statistics import wilson

LOW = {f"l-{name}": one for name, one in TRUTH.items()}
SILENT = Speaks(harmful=0.05)


def thinned(drawn, tag, keep):
    """Leave one language with ``keep`` scored meanings per class."""
    number = np.array([int(re.sub(r"\D", "", meaning)) for meaning in drawn.scores["meaning_id"].values])
    here = (drawn.scores["language"].values == tag) & (drawn.scores["split"].values == "score")
    kept = drawn.scores.isel(prompt=np.flatnonzero(~here | (number < keep)))
    outcomes = drawn.outcomes[drawn.outcomes["prompt_id"].isin(kept["prompt"].values)]
    answers = drawn.answers[drawn.answers["language"] != tag]
    answers.loc[len(answers) + 1] = (tag, 1.0, *wilson(keep, keep), keep)
    return replace(drawn, scores=kept, outcomes=outcomes, answers=answers)


@pytest.mark.parametrize("keep", [2, 4])
@pytest.mark.parametrize("tag", ["l-calibration", "l-healthy", "h2"])
def test_a_language_with_too_few_prompts_is_open_with_its_count_and_the_others_keep_theirs(tag, keep):
    found, stages, _ = decided(evidence_of(thinned(draw(LOW, n=100, rng=np.random.default_rng(0)), tag, keep)))
    row = found.table.set_index("language").loc[tag]
    assert row["verdict"] == OPEN and re.search(rf"n = ({keep}|{2 * keep})\b", row["reason"])  # prompts of one class, or of both
    assert not any(score["passed"] is False for score in stages.of(tag).values())
    others = {other: verdict_of(found, other) for other in LOW if other != tag}
    assert others == {other: other.removeprefix("l-") for other in others}


def test_a_reference_with_too_few_prompts_decides_nothing_and_says_how_few():
    drawn = draw(LOW, n=3, rng=np.random.default_rng(0))
    found, _, _ = decided(evidence_of(drawn))
    assert set(found.table["verdict"]) == {OPEN}
    assert found.table["reason"].str.contains(r"no reference language \(h1, h2, h3\) is shown .*n = 3").all()


def test_where_the_reference_fails_there_is_no_gap_to_it():
    drawn = draw({**dict.fromkeys(("h1", "h2", "h3"), SILENT), **LOW}, n=60, rng=np.random.default_rng(0))
    table = decided(evidence_of(drawn))[0].table
    assert set(table["verdict"]) == {NONE} and table[["gap", "gap_low", "gap_high"]].isna().all(axis=None)
    assert table["reason"].str.contains("n = 60 meanings|n = 120 meanings").all()


def asked_and_judged(n, refuses):
    rows = [(f"{tag}{i}{harmful}", f"m{i}{harmful}", tag, harmful) for tag in ("qaa", "qad") for i in range(n) for harmful in (True, False)]
    frame = pd.DataFrame(rows, columns=["prompt_id", "meaning_id", "language", "harmful"]).assign(text="made up", split="score")
    grid = PromptGrid(frame)
    said = np.where(grid.frame["harmful"] & (refuses | (grid.frame["language"] == "qad")), "refusal", "compliance")
    outcomes = pd.DataFrame({"prompt_id": grid.frame["prompt_id"], "outcome": said})
    return SimpleNamespace(grid=grid, reference=["qaa"]), outcomes


def test_no_waterfall_is_walked_towards_a_reference_that_fails(tmp_path):
    asked, outcomes = asked_and_judged(40, refuses=False)
    run = Run.start(tmp_path / "run", {})
    (run.folder / "results" / "selected_direction.safetensors").write_bytes(b"")  # never read
    notes = []
    options = {"n": 4, "new_tokens": 3, "seed": 0, "redact": False, "progress": False}
    assert measure_waterfall(run, asked, None, outcomes, None, notes, **options) is None
    assert len(notes) == 1 and "not walked, the reference itself fails" in notes[0][3] and "--reference" in notes[0][3]


def test_no_map_is_drawn_towards_a_reference_that_fails(tmp_path):
    run = Run.start(tmp_path / "run", {})
    run.save("dropped", pd.DataFrame({"what": [], "language": [], "n": [], "reason": []}))
    reason = "the reference itself fails: no selective refusal in qaa"
    run.save("verdicts", Result(pd.DataFrame({"language": ["qaa", "qad"], "verdict": NONE, "reason": reason})))
    measure_restoration(run, None, None, None, seed=0, progress=False)
    assert "restoration" not in run.results and run.result("dropped").table["reason"].tolist() == [f"not mapped, {reason}"]
