"""Settings of a method are read from words, and what is no setting is named."""

import pytest

from workbench.alignment.msd import MSD
from workbench.alignment.settings import method_with
from workbench.alignment.trainers import LASA
from workbench.alignment.weighting import DPSW
from workbench.errors import DataError


def test_values_take_the_kind_of_their_setting():
    assert method_with("dpo", []) is None
    assert method_with("dpo", ["beta=0.2"]).beta == 0.2
    found = method_with("msd", ["on_policy=false", "divergence=js", "top_k=20", "temperature=0"])
    assert (found.on_policy, found.divergence, found.top_k, found.temperature) == (False, "js", 20, 0.0)
    assert found.weighting == MSD().weighting


def test_a_dot_reaches_into_a_setting_and_uniform_leaves_it_out():
    assert method_with("msd", ["weighting.k=5", "weighting.entropy_sign=raw"]).weighting == DPSW(k=5, entropy_sign="raw")
    assert method_with("msd", ["weighting=uniform"]).weighting is None
    assert method_with("lasa", ["condition.rate_safety=0.25"]).condition.rate_safety == 0.25


@pytest.mark.parametrize(
    ("method", "said", "told"),
    [
        ("msd", "temperature", "Expected NAME=VALUE"),
        ("dpo", "betta=1", "has no setting 'betta'.*beta"),
        ("dpo", "beta=much", "Expected a number, such as beta=0.1"),
        ("dpo", "beta.x=1", "beta has no settings of its own"),
        ("sft", "rate=1", "has no setting 'rate'. Expected none: it has no settings"),
        ("mpo", "reference=en", "reference is decided by --reference"),
        ("msd", "max_new_tokens=9", "max_new_tokens is decided by --max-new-tokens"),
        ("dpo", "beta=-1", "--set 'beta=-1': beta=-1.0: expected a number above 0"),
        ("kto", "undesirable_weight=-1", "undesirable_weight=-1.0: expected a number of at least 0"),
        ("mpo", "beta=nan", "beta=nan: expected a number above 0"),
        ("mlc", "temperature=0", "temperature=0.0: expected a number above 0"),
        ("mlc", "projection=0", "projection=0: expected a whole number of at least 1"),
        ("lasa", "signal=soruce", "signal='soruce': expected one of source, interpreter. Did you mean 'source'"),
        ("lasa", "interpreter=x", "interpreter is decided by --interpreter-languages"),
        ("msd", "divergence=sideways", "divergence='sideways'"),
    ],
)
def test_what_is_no_setting_is_named(method, said, told):
    with pytest.raises(DataError, match=told):
        method_with(method, [said])


def test_what_is_not_said_stays_as_the_base_has_it():
    found = method_with("lasa", ["signal=source", "undesirable_weight=2"], LASA(beta=0.5))
    assert (found.beta, found.undesirable_weight) == (0.5, 2.0) and method_with("lasa", ["undesirable_weight=2"]).beta == LASA().beta
