"""The figure of judges' agreement: values and intervals of the table, counts beside the rows, pools named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.behavior.agreement import judge_agreement as measured
from workbench.behavior.agreement import marker_judge_agreement
from workbench.errors import DataError
from workbench.plots.agreement import judge_agreement
from workbench.prompts import PromptGrid


def drawn(fig, name: str) -> dict[float, float]:
    """Return height -> value of a series."""
    points = [(y, x) for trace in fig.data if trace.name == name and trace.x[0] is not None for x, y in zip(trace.x, trace.y, strict=True)]
    return {round(float(y), 3): float(x) for y, x in points}


def texts(fig) -> list[str]:
    return [note.text for note in fig.layout.annotations]


@pytest.fixture
def pairs(rng):
    rows = [{"language": tag, "meaning_id": f"m{i}", "text": f"{tag} {i}", "harmful": i < 20} for tag in ("en", "my", "km") for i in range(40)]
    grid = PromptGrid(pd.DataFrame(rows))
    truth = np.where(grid.frame["language"] == "en", rng.random(120) < 0.5, np.tile(np.arange(40) < 3, 3))

    def outcomes(error: float) -> pd.DataFrame:
        said = np.where(rng.random(120) < error, ~truth, truth)
        return grid.frame[["prompt_id"]].assign(outcome=np.where(said, "refusal", "compliance"), correct=None, judge="j", validated=False)

    return measured({"markers": outcomes(0.2), "guard": outcomes(0.1), "endpoint": outcomes(0.0)}, grid)


def test_the_stored_agreement_is_drawn_as_it_is_with_the_counts_of_every_cell():
    result = marker_judge_agreement()
    fig = judge_agreement(result)
    table = result.table
    assert sorted(drawn(fig, "κ, markers and WildGuard").values()) == pytest.approx(sorted(table["kappa"]), abs=1e-6)
    assert sorted(drawn(fig, "refusals found").values()) == pytest.approx(sorted(table["sensitivity"]), abs=1e-6)
    assert sorted(drawn(fig, "others left alone").values()) == pytest.approx(sorted(table["specificity"]), abs=1e-6)
    said = texts(fig)
    assert all(f"{row.n_refusals} + {row.n_others}" in said for row in table.itertuples()) and "refusals + others" in said
    assert fig.layout.title.text == "Agreement of markers and WildGuard: κ 0.27 (yo) to 0.88 (th)"
    assert fig.layout.xaxis.title.text == "Cohen's κ (0 is chance)" and fig.layout.xaxis2.title.text == "share of labelled replies"


def test_intervals_are_drawn_around_kappa():
    table = marker_judge_agreement().table
    fig = judge_agreement(table)
    ends = [
        (float(x), float(x - down), float(x + up))
        for trace in fig.data
        if trace.name.startswith("κ") and trace.x[0] is not None
        for x, down, up in zip(trace.x, trace.error_x.arrayminus, trace.error_x.array, strict=True)
    ]
    wanted = sorted(table[["kappa", "kappa_low", "kappa_high"]].itertuples(index=False, name=None))
    assert np.array(sorted(ends)) == pytest.approx(np.array(wanted), abs=1e-5)


def test_several_pairs_share_one_panel_and_the_pool_stands_last_and_is_named(pairs):
    fig = judge_agreement(pairs)
    assert not any(trace.name in ("refusals found", "others left alone") for trace in fig.data)
    names = {trace.name for trace in fig.data}
    assert names == {f"κ, {a} and {b}" for a, b in (("markers", "guard"), ("markers", "endpoint"), ("guard", "endpoint"))}
    assert "2 small ones" in fig.layout.yaxis.ticktext[-1] and "small ones, pooled: my, km" in fig.layout.title.subtitle.text
    heights = [y for name in names for y in drawn(fig, name)]
    assert len(set(heights)) == len(heights) == 6


def test_an_agreement_that_is_undefined_is_a_gap(pairs):
    table = pairs.table.copy()
    table.loc[table["language"] == "en", ["kappa", "kappa_low", "kappa_high"]] = np.nan
    fig = judge_agreement(table)
    assert any(np.isnan(x) for trace in fig.data if trace.x[0] is not None for x in trace.x)
    table[["kappa", "kappa_low", "kappa_high"]] = np.nan
    assert judge_agreement(table).layout.title.text == "Agreement of the judges: not measured"
    with pytest.raises(DataError, match="judge_agreement needs the columns"):
        judge_agreement(table.drop(columns="kappa"))
