"""No weights for a repair that refuses less than before in a language."""

import numpy as np
import pandas as pd
import pytest

from workbench.alignment.guard import guard
from workbench.errors import DataError
from workbench.repair.actions import Answered


def answered(before: dict[str, int], after: dict[str, int], n: int = 20) -> Answered:
    rows = [
        {"prompt_id": f"{tag}{i}{bad}", "meaning_id": f"m{i}{bad}", "language": tag, "tier": "low", "harmful": bad}
        for tag in before
        for bad in (True, False)
        for i in range(n)
    ]
    prompts = pd.DataFrame(rows)
    refused = {}
    for name, counts in (("before", before), ("after", after)):
        refused[name] = np.array([row["harmful"] and int(row["meaning_id"].strip("mTrueFals")) < counts[row["language"]] for row in rows])
    nothing = {name: np.zeros(len(rows), bool) for name in refused}
    return Answered(prompts, refused, {name: np.full(len(rows), np.nan) for name in refused}, nothing)


def test_one_prompt_fewer_in_one_language_is_a_loss():
    found = guard(answered({"aa": 10, "bb": 10}, {"aa": 20, "bb": 9}), "before", "after")
    assert found.lowered == ["bb"]
    with pytest.raises(DataError, match=r"bb 0.500 to 0.450 of 20.*--allow-loss"):
        found.require(allowed=False)
    found.require(allowed=True)


def test_of_several_ways_to_ask_the_one_that_refuses_least_decides_in_each_language():
    both = answered({"aa": 10, "bb": 10}, {"aa": 20, "bb": 10})
    alone = answered({"aa": 10, "bb": 10}, {"aa": 9, "bb": 15}).refused["after"]
    kinds = [{**kind, "alone": kind["after"]} for kind in (both.correct, both.broken)]
    found = guard(Answered(both.prompts, {**both.refused, "alone": alone}, *kinds), "before", ["after", "alone"])
    assert found.lowered == ["aa"] and list(found.table["asked"]) == ["alone", "after"]
    with pytest.raises(DataError, match=r"aa 0.500 to 0.450 of 20 \(alone\)"):
        found.require(allowed=False)


def test_as_many_or_more_is_none():
    found = guard(answered({"aa": 10, "bb": 0}, {"aa": 10, "bb": 20}), "before", "after")
    assert found.lowered == []
    found.require(allowed=False)
    row = found.table.set_index("language").loc["bb"]
    assert (row["before"], row["after"], row["n"]) == (0.0, 1.0, 20)
    assert row["before_low"] <= row["before"] <= row["before_high"] and row["after_low"] < 1.0


def test_without_harmful_prompts_nothing_is_guarded():
    found = answered({"aa": 1}, {"aa": 1})
    harmless = Answered(
        found.prompts[~found.prompts["harmful"]].reset_index(drop=True),
        *({n: v[20:] for n, v in kind.items()} for kind in (found.refused, found.correct, found.broken)),
    )
    with pytest.raises(DataError, match="no held-out harmful prompt"):
        guard(harmless, "before", "after")
