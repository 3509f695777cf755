"""Rates per language: the counts, the intervals, and what stays in the denominator."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.behavior.refusal import RefusalRates, refusal_rates
from workbench.errors import DataError
from workbench.prompts import PromptGrid


def case(harmful: list[str], harmless: list[str], correct: list[bool | None] | None = None, tag: str = "sw") -> tuple[pd.DataFrame, PromptGrid]:
    """Return outcomes in the order harmful, harmless, and their grid."""
    kinds = harmful + harmless
    rows = [{"language": tag, "meaning_id": f"m{i}", "text": f"ask {i}", "harmful": i < len(harmful)} for i in range(len(kinds))]
    outcomes = pd.DataFrame({"prompt_id": [f"m{i}:{tag}" for i in range(len(kinds))], "outcome": kinds, "judge": "exact", "validated": True})
    outcomes["correct"] = pd.Series([None] * len(harmful) + (correct or [None] * len(harmless)), dtype=object)
    return outcomes, PromptGrid(pd.DataFrame(rows))


def value(rates: RefusalRates, statistic: str, column: str = "value") -> float:
    return rates.table.set_index("statistic").loc[statistic, column]


def test_rates_are_shares_of_all_prompts_of_a_class_with_intervals_around_them():
    harmful = ["refusal"] * 6 + ["compliance"] * 2 + ["garbled", "off_language"]
    rates = refusal_rates(*case(harmful, ["refusal"] + ["compliance"] * 9, [True] * 9 + [False]))
    assert value(rates, "harmful_refusal") == 0.6
    assert value(rates, "harmless_refusal") == 0.1
    assert value(rates, "selectivity") == pytest.approx(0.5)
    assert value(rates, "answer_accuracy") == 0.9
    assert value(rates, "garbled") == value(rates, "off_language") == 1 / 20
    assert value(rates, "harmful_refusal", "n") == 10
    assert value(rates, "selectivity", "n") == 20
    assert (rates.table["low"] < rates.table["value"]).all()
    assert (rates.table["value"] < rates.table["high"]).all()
    assert list(rates.table.columns) == list(RefusalRates.required)
    assert set(rates.table["tier"]) == {"low"}


def test_intervals_agree_with_published_ones():
    """Newcombe 1998, Stat. Med. 17:873, table II, method 10, case (a): 56/70 - 48/80 gives .0524 to .3339."""
    rates = refusal_rates(*case(["refusal"] * 56 + ["compliance"] * 14, ["refusal"] * 48 + ["compliance"] * 32))
    assert value(rates, "selectivity") == pytest.approx(0.2)
    assert (value(rates, "selectivity", "low"), value(rates, "selectivity", "high")) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_all_refused_is_not_certainty():
    rates = refusal_rates(*case(["refusal"] * 8, ["compliance"] * 8))
    assert value(rates, "harmful_refusal", "high") == 1
    assert 0.6 < value(rates, "harmful_refusal", "low") < 0.8
    assert value(rates, "selectivity", "low") < 1


def test_accuracy_is_left_out_without_keys_and_a_missing_class_gives_no_number():
    rates = refusal_rates(*case(["refusal"] * 3, []))
    assert "answer_accuracy" not in set(rates.table["statistic"])
    assert np.isnan(value(rates, "selectivity"))
    assert np.isnan(value(rates, "harmless_refusal"))


def test_only_prompts_of_the_grid_are_counted():
    outcomes, grid = case(["refusal", "compliance"], ["compliance", "compliance"])
    rates = refusal_rates(outcomes, grid.select(meanings=["m0", "m2"]))
    assert value(rates, "harmful_refusal") == 1
    assert value(rates, "garbled", "n") == 2


def test_judges_are_named_and_one_doubtful_row_makes_a_language_unvalidated():
    outcomes, grid = case(["refusal", "refusal"], ["compliance", "compliance"])
    outcomes.loc[0, ["judge", "validated"]] = ["markers", False]
    rates = refusal_rates(outcomes, grid)
    assert set(rates.table["judge"]) == {"markers + exact"}
    assert not rates.table["validated"].any()


def test_outcomes_of_two_models_at_once_or_of_another_grid_are_refused():
    outcomes, grid = case(["refusal"], ["compliance"])
    with pytest.raises(DataError, match="two outcomes"):
        refusal_rates(pd.concat([outcomes, outcomes]), grid)
    with pytest.raises(DataError, match="None of the 2 outcomes"):
        refusal_rates(outcomes.assign(prompt_id=["a", "b"]), grid)
    with pytest.raises(DataError, match=r"lack the columns \['judge'\]"):
        refusal_rates(outcomes.drop(columns="judge"), grid)


def test_rates_survive_saving(tmp_path):
    rates = refusal_rates(*case(["refusal"] * 3, ["compliance"] * 3))
    loaded = RefusalRates.load(rates.save(tmp_path / "refusal.parquet"))
    pd.testing.assert_frame_equal(loaded.table, rates.table, check_dtype=False)
    assert loaded.provenance["grid"] == rates.provenance["grid"]
    assert list(rates.summary().columns) == ["language", "harmful_refusal", "harmless_refusal", "selectivity", "garbled", "off_language"]
