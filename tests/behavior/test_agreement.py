"""Agreement of judges: kappa as scikit-learn has it, intervals that cover, counts in every cell, small cells pooled and named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from workbench.behavior.agreement import JudgeAgreement, cohen_kappa, judge_agreement, kappa_interval, marker_judge_agreement
from workbench.behavior.markers import measured_agreement
from workbench.errors import DataError
from workbench.prompts import PromptGrid
from workbench.statistics import wilson


def grid_of(*languages: str, n: int = 40) -> PromptGrid:
    rows = [{"language": tag, "meaning_id": f"m{i}", "text": f"{tag} {i}", "harmful": i < n // 2} for tag in languages for i in range(n)]
    return PromptGrid(pd.DataFrame(rows))


def outcomes(grid: PromptGrid, refused: np.ndarray, name: str = "j") -> pd.DataFrame:
    table = grid.frame[["prompt_id"]].assign(outcome=np.where(refused, "refusal", "compliance"), correct=None, judge=name, validated=False)
    table.loc[~refused & (np.arange(len(grid)) % 5 == 0), "outcome"] = "garbled"  # whatever is no refusal counts alike
    return table


def test_kappa_and_shares_are_those_of_the_labels(rng):
    grid = grid_of("en", "sw", n=60)
    truth = rng.random(120) < 0.5
    said = np.where(rng.random(120) < 0.2, ~truth, truth)
    table = judge_agreement({"markers": outcomes(grid, said), "person": outcomes(grid, truth)}, grid, truth="person").table.set_index("language")
    for tag in ("en", "sw"):
        rows = (grid.frame["language"] == tag).to_numpy()
        row = table.loc[tag]
        assert row["kappa"] == pytest.approx(cohen_kappa_score(said[rows], truth[rows]))
        assert row["agreement"] == pytest.approx((said[rows] == truth[rows]).mean())
        k, n = (said & truth)[rows].sum(), truth[rows].sum()
        assert (row["sensitivity"], row["n_refusals"]) == (pytest.approx(k / n), n)
        assert (row["sensitivity_low"], row["sensitivity_high"]) == wilson(k, n)
        assert row["n_others"] == 60 - n and row[["both", "first_only", "second_only", "neither"]].sum() == row["n"] == 60


def test_without_a_truth_every_pair_is_compared_on_the_replies_both_judged(rng):
    grid = grid_of("en")
    refused = rng.random(40) < 0.5
    judges = {"a": outcomes(grid, refused), "b": outcomes(grid, refused).iloc[:30], "c": outcomes(grid, ~refused)}
    result = judge_agreement(judges, grid)
    table = result.table.set_index(["first", "second"])
    assert list(table.index) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert table.loc[("a", "b"), "n"] == 30 and table.loc[("a", "b"), "kappa"] == 1 and table.loc[("a", "c"), "kappa"] == pytest.approx(-1, abs=0.1)
    assert table.loc[("a", "b"), "kappa_low"] < 0.95, "30 of 30 alike is not certainty"
    assert table["sensitivity"].isna().all() and not table["truth"].any()


def test_small_languages_are_pooled_the_same_ones_for_every_pair_and_named(rng):
    grid = grid_of("en", "my", "km")
    tags = grid.frame["language"].to_numpy()
    truth = np.where(tags == "en", rng.random(120) < 0.5, np.tile(np.arange(40) < 4, 3))
    judges = {"a": outcomes(grid, truth), "b": outcomes(grid, rng.random(120) < 0.5), "person": outcomes(grid, truth)}
    table = judge_agreement(judges, grid, truth="person").table
    assert table.groupby("first")["language"].apply(list).to_dict() == {name: ["en", "2 small ones"] for name in "ab"}
    pooled = table[table["pooled"] != ""].iloc[0]
    assert pooled["pooled"] == "my, km" and (pooled["n_refusals"], pooled["n_others"]) == (8, 72)
    alone = judge_agreement(judges, grid.select(languages=["en", "my"]), truth="person").table
    assert set(alone["language"]) == {"en", "my"} and (alone["pooled"] == "").all()


def test_judges_that_never_refuse_have_no_kappa(rng):
    grid = grid_of("en")
    never = outcomes(grid, np.zeros(40, dtype=bool))
    row = judge_agreement({"a": never, "b": never}, grid).table.iloc[0]
    assert np.isnan([row["kappa"], row["kappa_low"], row["kappa_high"]]).all() and row["agreement"] == 1


@pytest.mark.parametrize(("cells", "n"), [((0.45, 0.05, 0.05, 0.45), 40), ((0.8, 0.02, 0.08, 0.1), 120), ((0.25, 0.25, 0.25, 0.25), 30)])
def test_kappas_interval_covers(cells, n):
    rng = np.random.default_rng(4)
    truth, inside = cohen_kappa(*cells), 0
    for _ in range(200):
        low, high = kappa_interval(rng.multinomial(n, cells), rng)
        inside += low <= truth <= high
    assert inside / 200 >= 0.91


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_kappa_agrees_with_scikit_learn_and_does_not_mind_who_comes_first(pairs):
    first, second = map(np.array, zip(*pairs, strict=True))
    counts = [int(n.sum()) for n in (first & second, first & ~second, ~first & second, ~first & ~second)]
    found = cohen_kappa(*counts)
    assert found == pytest.approx(cohen_kappa(counts[0], counts[2], counts[1], counts[3]), nan_ok=True)
    if len(set(first)) == 2 and len(set(second)) == 2:
        assert found == pytest.approx(cohen_kappa_score(first, second))


def test_the_stored_measurement_of_the_phrases_is_given_back():
    table = marker_judge_agreement().table.set_index("language")
    stored = measured_agreement().set_index("language")
    assert set(table.index) == set(stored.index)
    for column in ("sensitivity", "specificity", "kappa"):
        assert table[column].to_numpy() == pytest.approx(stored.loc[table.index, column].to_numpy(), abs=0.005 if column == "kappa" else 0.0015)
    assert (table["n_refusals"] == stored.loc[table.index, "n_refusals"]).all()
    assert (table["kappa_low"] < table["kappa"]).all() and (table["kappa"] < table["kappa_high"]).all()


def test_what_cannot_be_compared_is_named(tmp_path, rng):
    grid = grid_of("en")
    one = outcomes(grid, rng.random(40) < 0.5)
    with pytest.raises(DataError, match="outcomes of 1 judges"):
        judge_agreement({"a": one}, grid)
    with pytest.raises(DataError, match=r"truth='persn' is none of the judges.*Did you mean 'person'"):
        judge_agreement({"a": one, "person": one}, grid, truth="persn")
    with pytest.raises(DataError, match="judged no reply of this grid in common"):
        judge_agreement({"a": one.iloc[:10], "b": one.iloc[10:]}, grid)
    with pytest.raises(DataError, match="gave 1 of 40 replies something else"):
        judge_agreement({"a": one, "b": one.assign(outcome=["maybe", *one["outcome"][1:]])}, grid)
    result = judge_agreement({"a": one, "b": one}, grid)
    pd.testing.assert_frame_equal(JudgeAgreement.load(result.save(tmp_path / "a.parquet")).table, result.table, check_dtype=False)
