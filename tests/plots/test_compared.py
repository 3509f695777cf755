"""Two runs side by side: the same languages and statistics, the second run filled, joined by a line."""

import pandas as pd

from workbench.plots.compared import two_runs


def test_both_runs_are_drawn_per_statistic_and_joined():
    rows = [
        dict(run=run, language=tag, tier=tier, statistic=statistic, value=value, low=value - 0.1, high=value + 0.1, n=20)
        for run, value in (("before", 0.25), ("after", 0.75))
        for tag, tier in (("qaa", "high"), ("qad", "low"))
        for statistic in ("harmful_refusal", "selectivity")
    ]
    fig = two_runs(pd.DataFrame(rows))
    assert [a.text for a in fig.layout.annotations] == ["harmful refused", "selectivity"]
    drawn = {name: [t for t in fig.data if t.name == name and t.x[0] is not None] for name in ("before", "after", "difference")}
    assert {t.marker.symbol for t in drawn["before"]} == {"circle-open"} and {t.marker.symbol for t in drawn["after"]} == {"circle"}
    assert [list(map(float, t.x[:2])) for t in drawn["difference"]] == [[0.25, 0.75]] * 4
    assert fig.layout.title.text == "Selectivity: 25% and 75%"
