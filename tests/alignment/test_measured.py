"""A repair by training is counted as a repair by a gate is, with languages unseen in training apart."""

import pandas as pd
import pytest

from workbench.alignment.measured import EVERY, SEEN, UNSEEN, answer_with, rates_of
from workbench.behavior.judges import choose_judge
from workbench.prompts.grid import PromptGrid


@pytest.fixture(scope="module")
def grid():
    rows = [
        {"language": tag, "meaning_id": f"m{i}", "text": f"{tag} {i}", "harmful": i < 10, "answer": f"done {tag} {i}", "refusal": f"sorry {tag}",
         "tier": tier, "split": "score"}
        for tag, tier in (("qaa", "high"), ("qab", "low"), ("qac", "low"))
        for i in range(20)
    ]  # fmt: skip
    return PromptGrid(pd.DataFrame(rows))


def ask(refuses):
    def replies(grid, **_):
        frame = grid.frame
        said = [row.refusal if refuses(row) else row.answer for row in frame.itertuples()]
        return pd.DataFrame({"prompt_id": frame["prompt_id"], "reply": said, "n_new_tokens": 3, "finished": True})

    return replies


def test_means_over_seen_and_unseen_languages_stand_beside_those_over_tiers(grid):
    methods = {"unrepaired": ask(lambda row: row.harmful and row.language == "qaa"), "dpo": ask(lambda row: row.harmful and row.language != "qac")}
    answered = answer_with(methods, grid, choose_judge(grid), max_new_tokens=4)
    rates, contrasts = rates_of(
        answered, start="unrepaired", seen=["qaa", "qab"], reference=["qaa"], labels={"unrepaired": "none", "dpo": "pairs"}, seed=0
    )
    table = rates.table.set_index(["method", "language", "statistic"])["value"]
    assert table["unrepaired", SEEN, "harmful_refusal"] == 0.5 and table["dpo", SEEN, "harmful_refusal"] == 1.0
    assert table["dpo", UNSEEN, "harmful_refusal"] == 0.0
    assert table["dpo", EVERY, "harmful_refusal"] == pytest.approx(2 / 3)
    assert table["dpo", EVERY, "answer_accuracy"] == 1.0
    gained = contrasts.table.set_index(["method", "other", "language", "statistic"])
    assert gained.loc[("dpo", "unrepaired", EVERY, "harmful_refusal"), "value"] == pytest.approx(1 / 3)
    assert gained.loc[("dpo", "unrepaired", "qab", "selectivity"), "low"] > 0
