"""What is repaired is averaged apart from what the repair was made from, and a language without a value leaves a mean of the others."""

import numpy as np

from workbench.repair.groups import known_mean, language_groups


def test_without_reference_languages_each_tier_is_a_group():
    groups = language_groups({"en": "high", "sw": "low", "am": "low", "xx": "unknown"})
    assert groups == {"mean high": ("en",), "mean low": ("sw", "am"), "mean unknown": ("xx",)}


def test_reference_languages_keep_a_tier_of_their_own_and_leave_one_that_they_share():
    tiers = {"en": "high", "sw": "low", "am": "low", "yo": "mid"}
    assert language_groups(tiers, ["en", "yo"]) == language_groups(tiers)
    assert language_groups(tiers, ["en", "sw"]) == {"mean high": ("en",), "mean reference": ("sw",), "mean low": ("am",), "mean mid": ("yo",)}
    assert language_groups(dict.fromkeys(tiers, "unknown"), ["en", "sw"]) == {"mean reference": ("en", "sw"), "mean unknown": ("am", "yo")}


def test_what_no_language_has_is_undefined_and_what_some_have_is_their_mean():
    values = np.array([[1.0, np.nan, np.nan], [0.0, 0.5, np.nan]])
    np.testing.assert_array_equal(known_mean(values), [0.5, 0.5, np.nan])
