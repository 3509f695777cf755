"""Hypotheses as data: three kinds of test, corrected together, and open where nothing is shown."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from workbench.diagnosis.hypotheses import Evidence, Hypothesis, examine, from_interval, hypothesis, measured
from workbench.errors import DataError
from workbench.statistics import holm, wilson

NOTHING = Evidence({}, {"aa": "high"}, ["aa"])


def one(test, value, half, *, margin=0.0, better="higher", null=0.0):
    case = measured("aa", value, value - half, value + half, null=null, n=9)
    made = Hypothesis("h", "it is so", "a number", test, lambda _: [case], margin, better)
    return examine(NOTHING, [made]).table.iloc[0]


@pytest.mark.parametrize(
    ("test", "value", "half", "margin", "better", "shown"),
    [
        ("difference", 0.3, 0.2, 0.0, "higher", True),
        ("difference", -0.3, 0.2, 0.0, "higher", True),
        ("difference", 0.0, 0.01, 0.0, "higher", None),  # no difference is never shown by a difference test
        ("superiority", 0.3, 0.2, 0.0, "higher", True),
        ("superiority", -0.3, 0.2, 0.0, "higher", False),
        ("superiority", 0.3, 0.2, 0.2, "higher", None),
        ("superiority", -0.03, 0.02, -0.1, "higher", True),  # not worse by more than .1
        ("superiority", 0.3, 0.1, -0.1, "lower", False),
        ("equivalence", 0.02, 0.05, 0.1, "higher", True),
        ("equivalence", 0.02, 0.09, 0.1, "higher", None),  # the interval leaves the margin on one side
        ("equivalence", 0.3, 0.05, 0.1, "higher", False),
        ("equivalence", -0.3, 0.05, 0.1, "higher", False),
    ],
)
def test_what_is_shown_is_what_the_interval_leaves_no_doubt_about(test, value, half, margin, better, shown):
    row = one(test, value, half, margin=margin, better=better)
    assert row["shown"] is shown
    assert row["effect"] == pytest.approx(value)


@given(st.floats(-1, 1), st.floats(0.01, 1), st.sampled_from(["difference", "superiority"]))
def test_a_single_hypothesis_is_open_exactly_where_its_95_percent_interval_covers_the_bar(value, half, test):
    row = one(test, value, half)
    if abs(abs(value) - half) > 1e-6:
        assert (row["shown"] is None) == (abs(value) < half)


def test_p_values_are_corrected_over_languages_and_places_of_one_hypothesis_alone():
    told = (("aa", 0.22, ""), ("bb", 0.3, "x"), ("bb", 0.5, "y"))
    cases = [measured(tag, value, value - 0.2, value + 0.2, null=0.0, n=9, place=place) for tag, value, place in told]
    many, few = (Hypothesis(name, "", "", "difference", lambda _, kept=kept: kept) for name, kept in (("many", cases), ("few", cases[:1])))
    table = examine(NOTHING, [many, few]).table
    assert table.loc[table["id"] == "many", "p_corrected"].to_numpy() == pytest.approx(holm(table.loc[table["id"] == "many", "p"].to_numpy()))
    assert table["shown"].tolist() == [True, True, True, True]
    crowd = [cases[0], *(measured(f"l{i}", 0.0, -0.2, 0.2, null=0.0, n=9) for i in range(9))]
    found = examine(NOTHING, [Hypothesis("crowd", "", "", "difference", lambda _: crowd)]).table.iloc[0]
    assert found["p"] < 0.05 < found["p_corrected"] and found["shown"] is None


@pytest.mark.parametrize(("hits", "n", "bar"), [(60, 64, 0.8), (30, 30, 0.9), (3, 40, 0.3), (40, 80, 0.5)])
def test_p_from_an_interval_is_the_p_of_the_test_that_the_interval_inverts(hits, n, bar):
    case = from_interval("aa", lambda confidence: (hits / n, *wilson(hits, n, confidence)), null=bar, n=n)
    z = abs(hits / n - bar) / math.sqrt(bar * (1 - bar) / n)  # Wilson inverts the score test
    assert case.p(bar) == pytest.approx(2 * norm.sf(z), rel=0.02)


def test_the_level_holds_when_nothing_is_so(rng):
    wrong = 0
    for _ in range(400):
        values = rng.normal(size=6)
        cases = [measured(f"l{i}", v, v - 1.96, v + 1.96, null=0.0, n=9) for i, v in enumerate(values)]
        wrong += examine(NOTHING, [Hypothesis("h", "", "", "superiority", lambda _, kept=cases: kept)]).table["shown"].eq(True).any()
    assert wrong / 400 <= 0.065


def test_a_language_without_an_interval_is_open_and_takes_no_part_in_the_correction():
    cases = [measured("aa", 0.3, 0.1, 0.5, null=0.0, n=9), measured("bb", 0.9, math.nan, math.nan, null=0.0, n=1)]
    table = examine(NOTHING, [Hypothesis("h", "", "", "difference", lambda _: cases)]).table.set_index("language")
    assert table.loc["bb", "shown"] is None and math.isnan(table.loc["bb", "p"])
    assert table.loc["aa", "p_corrected"] == table.loc["aa", "p"]


def test_a_hypothesis_that_measures_nothing_leaves_no_rows():
    @hypothesis("silent", "nobody knows", statistic="none", test="difference")
    def silent(evidence):
        return [measured(tag, 1, 0, 2, null=0, n=1) for tag in evidence.table("absent")["language"]]

    assert examine(NOTHING, [silent]).table.empty


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"test": "superiorty"}, "Did you mean 'superiority'"),
        ({"better": "larger"}, "'higher' or 'lower'"),
        ({"test": "equivalence"}, "above 0 for equivalence"),
        ({"margin": 0.1}, "0 for a difference"),
        ({"margin": math.nan}, "margin=nan"),
    ],
)
def test_a_hypothesis_that_says_nothing_testable_is_refused(change, told):
    with pytest.raises(DataError, match=told):
        Hypothesis(**{"id": "h", "statement": "", "statistic": "", "test": "difference", "measure": lambda _: [], **change})


def test_two_of_one_id_and_a_language_measured_twice_are_refused():
    case = measured("aa", 0.3, 0.1, 0.5, null=0.0, n=9)
    twice = Hypothesis("h", "", "", "difference", lambda _: [case, case])
    with pytest.raises(DataError, match="measured a language twice"):
        examine(NOTHING, [twice])
    with pytest.raises(DataError, match="Two hypotheses are called 'h'"):
        examine(NOTHING, [twice, twice])


def test_a_misspelt_table_is_named_and_an_absent_one_is_empty():
    evidence = Evidence({"understanding": pd.DataFrame({"language": ["aa"]})}, {"aa": None}, ["aa"])
    assert evidence.table("restored").empty
    with pytest.raises(DataError, match="Did you mean 'understanding'"):
        evidence.table("understandin")


def test_the_bar_itself_is_never_shown():
    assert one("superiority", 0.0, 0.0)["shown"] is None
    assert np.isclose(one("superiority", 0.0, 0.0)["p"], 0.5)
