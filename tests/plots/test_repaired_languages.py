"""The figure of refusal before and after each repair draws its table, and shades what training did not see."""

import numpy as np
import pytest
from fake_training import RATES, TIERS, TRAINED, fake_training

from workbench import plots
from workbench.errors import DataError
from workbench.plots.style import TIER_COLOURS

REPAIRS = [method for method in RATES if method != "unrepaired"]


@pytest.fixture(scope="module")
def rates():
    return fake_training()["repair_rates"]


def marks(fig, axis, symbol):
    """Language -> value of the marks of one symbol in one panel."""
    found = {}
    for trace in fig.data:
        if trace.xaxis == axis and trace.mode == "markers" and trace.marker.symbol == symbol and trace.x[0] is not None:
            found |= dict(zip((row[0] for row in trace.customdata), trace.x.tolist(), strict=True))
    return found


def test_hollow_is_the_model_as_it_is_and_filled_the_repaired_one(rates):
    fig = plots.repaired_languages(rates)
    assert [note.text for note in fig.layout.annotations] == REPAIRS
    axis = f"x{1 + REPAIRS.index('dpo')}"
    harmful, harmless, _ = RATES["dpo"]
    assert marks(fig, axis, "diamond-open") == pytest.approx({tag: 0.96 if tag in TRAINED else 0.3 for tag in TIERS})
    assert marks(fig, axis, "diamond") == pytest.approx({tag: 0.96 if tag in TRAINED else harmful for tag in TIERS})
    assert marks(fig, axis, "circle") == pytest.approx(dict.fromkeys(TIERS, harmless))
    assert fig.layout.title.text == "Harmful refused, mean of all languages: 56%, then 74% to 97%"
    assert "unseen in training: 30%, then 60% to 97% · harmless refused: 1%, then 2% to 20%" in fig.layout.title.subtitle.text


def test_arrows_lead_from_before_to_after_and_a_change_too_short_has_no_head(rates):
    fig = plots.repaired_languages(rates, methods=["lasa"])
    (low,) = [t for t in fig.data if t.name == "change" and t.marker.color == TIER_COLOURS["low"] and max(t.marker.size) > 0]
    assert low.x[:2].tolist() == pytest.approx([0.3, 0.97]) and np.isnan(low.x[2]) and low.marker.size.tolist() == [0, 9, 0] * 2
    (high,) = [t for t in fig.data if t.name == "change" and t.marker.color == TIER_COLOURS["high"] and t.x[0] > 0.5]
    assert max(high.marker.size) == 0


def test_languages_unseen_in_training_are_shaded_per_method_and_a_gate_was_not_trained(rates):
    fig = plots.repaired_languages(rates, seen={"lasa": TRAINED, "msd on-policy": ["qac", "qad", "qae"]})
    rows = {axis: sorted(round((s.y0 + s.y1) / 2) for s in fig.layout.shapes if s.yref == axis) for axis in ("y", "y3", "y5")}
    assert rows == {"y": [0, 1, 2], "y3": [3, 4], "y5": []}
    assert "unseen in training" in {trace.name for trace in fig.data}
    assert not plots.repaired_languages(rates).layout.shapes


def test_the_same_languages_may_be_said_for_all_repairs(rates):
    fig = plots.repaired_languages(rates, seen=TRAINED, methods=["lasa", "dpo"])
    assert len(fig.layout.shapes) == 2 * 3


def test_intervals_are_drawn(rates):
    fig = plots.repaired_languages(rates, methods=["lasa"])
    bars = [trace.error_x.array for trace in fig.data if trace.error_x.array is not None]
    assert bars and all(np.allclose(bar, 0.03, atol=1e-6) for bar in bars)


@pytest.mark.parametrize("asked", [dict(start="nobody"), dict(methods=["lassa"]), dict(methods=[])])
def test_a_method_that_was_not_measured_is_refused_by_name(rates, asked):
    with pytest.raises(DataError, match=r"repaired_languages: no refusal of .*Expected rates of the model as it is"):
        plots.repaired_languages(rates, **asked)


def test_a_table_without_means_speaks_of_the_languages(rates):
    fig = plots.repaired_languages(rates[~rates["language"].str.startswith("mean ")], methods=["lasa"])
    assert fig.layout.title.text == "Harmful refused, all languages: 30% to 96%, then 97%"


def test_where_the_start_has_no_mean_of_its_own_over_unseen_languages_only_the_mean_after_is_told():
    rates = fake_training()["repair_rates"]
    rates = rates[(rates["method"] != "unrepaired") | (rates["language"] != "mean unseen in training")]
    assert "unseen in training: 60% to 97% after" in plots.repaired_languages(rates).layout.title.subtitle.text
