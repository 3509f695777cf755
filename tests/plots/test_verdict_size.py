"""The figure of verdicts by size draws what the table holds, and the table counts cells by run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workbench.plots.verdict_size import verdict_size

OPEN = "not enough evidence"


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[1] / "benchmarks" / "verdict_size.py"
    spec = importlib.util.spec_from_file_location("verdict_size_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(scored, outcomes, *, truth="calibration", seed=0, width=0.5):
    widths = dict.fromkeys(("represented", "calibrated", "actuated"), width)
    return pd.DataFrame({"model": "m", "seed": seed, "scored": scored, "truth": truth, "outcome": outcomes, **widths})


def test_shares_are_over_cells_and_their_intervals_over_runs(benchmark):
    runs = [cells(10, [OPEN, OPEN, "right", "right"], seed=seed) for seed in range(4)] + [cells(100, ["right"] * 4, seed=9, width=0.1)]
    table = benchmark.sizes_table(pd.concat(runs)).set_index(["scored", "what", "name"])
    few, many = table.loc[(10, "calibration", "right")], table.loc[(100, "calibration", "right")]
    assert few[["value", "low", "high"]].tolist() == [0.5, 0.5, 0.5] and few["n"] == 16  # every run says the same
    assert many["value"] == 1 and table.loc[(10, "calibration", "wrong"), "value"] == 0
    unlike = benchmark.sizes_table(pd.concat([cells(10, ["right"] * 4), cells(10, ["wrong"] * 4, seed=1)])).set_index("name").loc["right"]
    assert unlike[["value", "low", "high"]].tolist() == [0.5, 0.0, 1.0]  # two runs that disagree wholly: anything
    assert table.loc[(10, "width", "AUROC"), "value"] == 0.5 and table.loc[(100, "width", "AUROC"), "value"] == pytest.approx(0.1)


def test_healthy_cells_are_counted_apart_from_planted_failures(benchmark):
    table = benchmark.sizes_table(pd.concat([cells(10, ["wrong"]), cells(10, ["right", "right"], truth="healthy")]))
    right = table[table["name"] == "right"].set_index("what")["value"]
    assert right.to_dict() == {"calibration": 0.0, "healthy": 1.0}


def test_lines_bars_and_title_are_the_table_s(benchmark):
    table = benchmark.sizes_table(
        pd.concat([cells(n, ["right"] * n + [OPEN] * (4 - n), truth=t) for n in (1, 3) for t in ("calibration", "healthy")])
    )
    fig = verdict_size(table)
    assert fig.layout.title.text == "Named at 3 prompts per class: calibration 75%"
    told = [one.text for one in fig.layout.annotations]
    assert told == ["languages that fail in calibration", "languages that are healthy", "width of the 95 % interval"]
    line = next(trace for trace in fig.data if trace.name == "right")
    np.testing.assert_allclose(line.x, [1, 3])
    np.testing.assert_allclose(line.y, [0.25, 0.75])
    assert sum(trace.showlegend for trace in fig.data) == len({trace.name for trace in fig.data})
    assert fig.layout.xaxis.type == "log" and "per class" in fig.layout.xaxis3.title.text


def test_a_table_of_failures_alone_is_drawn_without_empty_panels(benchmark):
    table = benchmark.sizes_table(cells(10, ["right"]))
    assert len(verdict_size(table[table["what"] == "calibration"]).layout.annotations) == 1
