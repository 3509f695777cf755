"""The summary has every documented figure; what was not measured is null, never missing and never NaN."""

import json

import pandas as pd
import pytest

from workbench.diagnosis.summary import RATES, summarise


@pytest.fixture
def summary():
    rate = {"model": "after", "language": "qaa", "low": 0.8, "high": 0.95, "n": 20, "judge": "markers", "validated": True}
    refusal = [
        {**rate, "statistic": "harmful_refusal", "value": 0.9},
        {**rate, "statistic": "selectivity", "value": float("nan"), "low": float("nan"), "high": float("nan")},
        {**rate, "statistic": "garbled", "value": 0.1, "model": "before"},
    ]
    return summarise(
        model={"name": "made up"},
        before=None,
        tiers={"qaa": "high", "qab": None},
        bottleneck=pd.DataFrame(columns=["model", "position"]),
        refusal=pd.DataFrame(refusal),
        represented=pd.DataFrame(columns=["language", "position"]),
        auroc=pd.DataFrame(columns=["model", "position", "language", "layer"]),
        thresholds=pd.DataFrame(columns=["language", "position"]),
        understanding=pd.DataFrame(columns=["language", "understood"]),
        headline_position="t_inst",
    )


def test_a_measured_rate_is_a_figure_and_each_other_one_is_null(summary):
    entry = summary["languages"]["qaa"]
    assert entry["harmful_refusal"] == {"value": 0.9, "low": 0.8, "high": 0.95, "n": 20}
    assert {rate: entry[rate] for rate in RATES if rate != "harmful_refusal"} == dict.fromkeys(RATES[1:])


def test_a_language_without_any_rate_has_them_all_as_null(summary):
    entry = summary["languages"]["qab"]
    assert [entry[rate] for rate in RATES] == [None] * len(RATES) and entry["refusal_judge"] is None


def test_the_summary_is_json_without_nan(summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
