"""Profiles of token weights are means and quartiles over the replies that reach a place."""

import numpy as np
import pandas as pd
import pytest

from workbench.alignment.token_profiles import PARTS, token_profiles


def tokens(lengths, tier="low", harmful=True):
    rows = []
    for reply, length in enumerate(lengths):
        for i in range(length):
            about = {"prompt_id": f"{tier}:{reply}", "tier": tier, "harmful": harmful, "token_index": i}
            rows.append(about | dict.fromkeys(PARTS, float(reply + 10 * i)))
    return pd.DataFrame(rows)


def test_a_place_is_summarised_over_the_replies_that_reach_it():
    table = token_profiles(tokens([1, 2, 3, 3])).table
    here = table[table["part"] == "weight"].set_index("token_index")
    assert here["n"].tolist() == [4, 3, 2]
    assert here["value"].tolist() == [1.5, 12.0, 22.5]
    assert here.loc[0, ["quarter", "three_quarters"]].tolist() == pytest.approx(np.quantile([0, 1, 2, 3], [0.25, 0.75]).tolist())


def test_tiers_and_classes_are_kept_apart_and_no_tier_is_a_tier():
    both = pd.concat([tokens([2]), tokens([2], harmful=False), tokens([2], tier=None)], ignore_index=True)
    table = token_profiles(both).table
    assert set(zip(table["tier"], table["harmful"], strict=True)) == {("low", True), ("low", False), ("unknown", True)}
    assert (table["n"] == 1).all()


def test_a_table_without_divergences_has_the_other_parts():
    assert set(token_profiles(tokens([2]).drop(columns="divergence")).table["part"]) == {"teacher", "student", "weight"}
