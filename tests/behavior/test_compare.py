"""Before against after: the same prompts, pair by pair, with what changed planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.behavior.compare import compare_rates, paired_change
from workbench.behavior.refusal import refusal_rates
from workbench.behavior.resampling import mover_sum
from workbench.errors import DataError
from workbench.prompts import PromptGrid
from workbench.statistics import Estimate


def outcomes_of(harmful: np.ndarray, harmless: np.ndarray, **options) -> tuple[pd.DataFrame, PromptGrid]:
    """Return outcomes of one language: refused or not."""
    refused = np.concatenate([harmful, harmless])
    rows = [{"language": "sw", "meaning_id": f"m{i}", "text": f"ask {i}", "harmful": i < len(harmful)} for i in range(len(refused))]
    table = pd.DataFrame({"prompt_id": [f"m{i}:sw" for i in range(len(refused))], "outcome": np.where(refused, "refusal", "compliance")})
    return table.assign(**({"correct": None, "judge": "markers", "validated": True} | options)), PromptGrid(pd.DataFrame(rows))


def test_the_change_is_the_difference_of_the_rates_with_what_came_and_went():
    before, grid = outcomes_of(np.arange(20) < 16, np.arange(20) < 2)
    after, _ = outcomes_of(np.arange(20) < 4, np.arange(20) < 1)
    change = compare_rates(before, after, grid).table.set_index("statistic")
    rates = [refusal_rates(table, grid).table.set_index("statistic")["value"] for table in (before, after)]
    for name in ("harmful_refusal", "harmless_refusal", "selectivity", "garbled"):
        assert change.loc[name, "before"] == pytest.approx(rates[0][name]) and change.loc[name, "after"] == pytest.approx(rates[1][name])
        assert change.loc[name, "value"] == pytest.approx(rates[1][name] - rates[0][name])
    harmful = change.loc["harmful_refusal"]
    assert (harmful["gained"], harmful["lost"], harmful["n"]) == (0, 12, 20)
    assert harmful["p"] == pytest.approx(2 * 0.5**12)  # exact McNemar
    assert harmful["high"] < 0 and change.loc["harmless_refusal", "high"] > 0
    assert change.loc["selectivity", "low"] <= change.loc["selectivity", "value"] <= change.loc["selectivity", "high"] < 0


def test_nothing_changed_is_zero_with_a_width():
    before, grid = outcomes_of(np.arange(12) < 6, np.arange(12) < 6)
    change = compare_rates(before, before, grid).table.set_index("statistic").loc["harmful_refusal"]
    assert change["value"] == 0 and change["p"] == 1 and change["low"] < 0 < change["high"]


def test_intervals_of_changes_cover_and_pairing_makes_them_narrower(rng):
    truth, n, covered, selective, widths = 0.3 - 0.7, 40, 0, 0, []
    for _ in range(400):
        changes = []
        for p, q in ((0.7, 0.3), (0.1, 0.1)):
            u = rng.random(n)
            later = np.where(rng.random(n) < 0.5, u, rng.random(n))
            changes.append(paired_change(u < p, later < q))
        harmful, harmless = (Estimate(change["value"], change["low"], change["high"]) for change in changes)
        both = mover_sum([(1.0, harmful), (-1.0, harmless)])
        covered += harmful.low <= truth <= harmful.high
        selective += both.low <= truth <= both.high
        widths.append(harmful.high - harmful.low)
    assert min(covered, selective) / 400 >= 0.92
    assert np.mean(widths) < 2 * 1.96 * np.sqrt((0.21 + 0.21) / n)


def test_the_bootstrap_of_a_change_agrees_with_newcombe_in_large_samples(rng):
    u = rng.random(300)
    before, grid = outcomes_of(u < 0.7, u < 0.2)
    after, _ = outcomes_of(np.where(rng.random(300) < 0.5, u, rng.random(300)) < 0.4, u < 0.2)
    change = compare_rates(before, after, grid, bootstrap=2000, rng=rng).table.set_index("statistic")
    for name in ("harmful_refusal", "selectivity"):
        row = change.loc[name]
        assert (row["low_bootstrap"], row["high_bootstrap"]) == pytest.approx((row["low"], row["high"]), abs=0.015)
    with pytest.raises(DataError, match="without rng"):
        compare_rates(before, after, grid, bootstrap=True)


def test_other_prompts_judges_and_keys_are_refused():
    before, grid = outcomes_of(np.arange(4) < 2, np.arange(4) < 1)
    with pytest.raises(DataError, match=r"1 prompts, such as 'm3:sw', were judged before or after only"):
        compare_rates(before, before.drop(index=3), grid)
    with pytest.raises(DataError, match=r"'m0:sw' by 'markers' and 'guard'.*Judge both with one"):
        compare_rates(before, before.assign(judge="guard"), grid)
    with pytest.raises(DataError, match="has a key before or after only"):
        compare_rates(before, before.assign(correct=pd.Series([None] * 7 + [True], dtype=object)), grid)
    unsure = compare_rates(before, before.assign(validated=False), grid).table
    assert not unsure["validated"].any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_turning_before_and_after_round_turns_the_sign(pairs):
    before, after = map(np.array, zip(*pairs, strict=True))
    there, back = paired_change(before, after), paired_change(after, before)
    assert there["value"] == pytest.approx(-back["value"]) and there["low"] == pytest.approx(-back["high"]) and there["p"] == back["p"]
    assert -1 <= there["low"] <= there["value"] <= there["high"] <= 1
