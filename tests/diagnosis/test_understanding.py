"""Not having understood is never a pass, and neither is not having looked."""

import numpy as np
import pandas as pd
import pytest

from workbench.diagnosis.measure import byte_bits
from workbench.diagnosis.understanding import understanding

TIERS = {"aa": "high"}


def answers(value, low, high):
    return pd.DataFrame({"language": ["aa"], "value": [value], "low": [low], "high": [high], "n": [100]})


def retrieval(value, low, high, null, control):
    return answers(value, low, high).assign(null_95=null, control=control)


@pytest.mark.parametrize(("low", "high", "expected"), [(0.93, 0.99, "yes"), (0.0, 0.04, "no"), (0.4, 0.6, "not enough evidence"), (0.3, 0.5, "no")])
def test_an_answer_key_decides_by_its_lower_bound(low, high, expected):
    table = understanding(TIERS, answers=answers((low + high) / 2, low, high), retrieval=retrieval(1, 1, 1, 0, 0), bits=None)
    assert table["understood"].tolist() == [expected]
    assert table["statistic"].tolist() == ["harmless answer accuracy"]


@pytest.mark.parametrize(
    ("low", "high", "null", "control", "expected"),
    [
        (0.6, 0.8, 0.05, 0.1, "yes"),
        (0.6, 0.8, 0.05, 0.7, "not enough evidence"),  # the untrained network does nearly as well
        (0.1, 0.2, 0.25, 0.05, "no"),
        (0.2, 0.3, 0.05, 0.05, "no"),  # above chance, yet most translations are missed
    ],
)
def test_retrieval_must_beat_shuffled_meanings_and_the_untrained_network(low, high, null, control, expected):
    read = answers(2.0, 1.9, 2.1).assign(control=4.4)
    table = understanding(TIERS, answers=None, retrieval=retrieval((low + high) / 2, low, high, null, control), bits=read)
    assert table["understood"].tolist() == [expected]


@pytest.mark.parametrize("control", [0.1, np.nan])
def test_a_criterion_that_was_not_measured_is_never_passed(control):
    read = None if control == control else answers(2.0, 1.9, 2.1).assign(control=4.4)
    table = understanding(TIERS, answers=None, retrieval=retrieval(0.9, 0.8, 0.95, 0.1, control), bits=read)
    assert table["understood"].tolist() == ["not enough evidence"]
    assert "not measured" in table["reason"].iloc[0]
    assert "nan" not in table["reason"].iloc[0]


def test_text_predicted_worse_than_by_its_bytes_is_not_understood_however_well_it_is_retrieved():
    table = understanding(TIERS, answers=None, retrieval=retrieval(0.9, 0.8, 0.95, 0.1, 0.1), bits=answers(6.0, 5.5, 6.5).assign(control=4.4))
    assert table["understood"].tolist() == ["no"]
    assert "6.0 bits per byte" in table["reason"].iloc[0]


def test_without_key_and_without_translations_the_stage_is_not_assessed():
    missing = retrieval(np.nan, np.nan, np.nan, 0.1, 0.1)
    assert understanding(TIERS, answers=None, retrieval=missing, bits=None)["understood"].tolist() == ["not assessed"]
    assert understanding(TIERS, answers=None, retrieval=None, bits=None)["understood"].tolist() == ["not assessed"]


def test_byte_frequencies_give_the_entropy_of_the_bytes():
    rng = np.random.default_rng(0)
    even = ["".join(rng.choice(list("abcd"), size=400)) for _ in range(50)]
    assert byte_bits(even) == pytest.approx(2.0, abs=0.05)
    skewed = ["".join(rng.choice(list("ab"), p=[0.9, 0.1], size=400)) for _ in range(50)]
    assert byte_bits(skewed) == pytest.approx(0.469, abs=0.05)
