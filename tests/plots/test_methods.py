"""The figure of repairs: every method a row, sorted by what it gains, a panel per rate that was counted."""

import numpy as np
import pandas as pd
import pytest

from workbench.errors import DataError
from workbench.plots import selectivity_by_method


@pytest.fixture
def table():
    rows = []
    for method, gain in (("unrepaired", 0.3), ("gate", 0.9), ("always steer", 0.1)):
        for language, tier in (("mean high", "high"), ("mean low", "low"), ("sw", "low")):
            for statistic in ("selectivity", "harmless_refusal", "answer_accuracy", "flagged_harmful"):
                value = gain if tier == "low" else 0.95
                value = np.nan if statistic == "answer_accuracy" else value if statistic == "selectivity" else 1 - value
                row = {"method": method, "language": language, "tier": tier, "statistic": statistic, "value": value}
                rows.append(row | {"low": value - 0.05, "high": value + 0.05, "n": 100, "draws": 20, "labels": "4 + 4"})
    return pd.DataFrame(rows)


def test_methods_are_sorted_by_selectivity_with_the_best_on_top(table):
    fig = selectivity_by_method(table)
    assert list(fig.layout.yaxis.ticktext) == ["always steer", "unrepaired", "gate"]
    low = next(t for t in fig.data if t.legendgroup == "low" and t.xaxis == "x")
    assert dict(zip(low.y.tolist(), low.x.tolist(), strict=True)) == pytest.approx({0.0: 0.1, 1.0: 0.3, 2.0: 0.9})
    assert "0.10 to 0.90 (gate)" in fig.layout.title.text


def test_a_rate_nobody_has_gets_no_panel(table):
    fig = selectivity_by_method(table)
    assert [note.text for note in fig.layout.annotations] == ["selectivity", "harmless refused"]
    keyed = table.assign(value=table["value"].fillna(1.0))
    assert len(selectivity_by_method(keyed).layout.annotations) == 3


def test_another_tier_can_lead_and_an_unknown_one_is_refused(table):
    assert "high-tier" in selectivity_by_method(table, tier="high").layout.title.text
    with pytest.raises(DataError, match=r"there are \['high', 'low'\]"):
        selectivity_by_method(table, tier="mid")
