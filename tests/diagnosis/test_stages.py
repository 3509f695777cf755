"""Stage scores: what each is read from, what it ignores, and when it stays open."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planted_stages import HEALTHY, Speaks, decided, draw, evidence_of

from workbench.diagnosis.decide import summary_of
from workbench.diagnosis.measure import answered_right
from workbench.diagnosis.stages import STAGES


def stages_of(drawn, tag, **tables):
    _, stages, _ = decided(evidence_of(drawn, **tables))
    return stages.of(tag)


def drawn(n=80, seed=0, **languages):
    return draw(languages, n=n, rng=np.random.default_rng(seed))


def test_each_stage_has_one_row_with_its_score_interval_and_criterion():
    _, stages, tested = decided(evidence_of(drawn(sw=HEALTHY)))
    assert stages.table.groupby("language")["stage"].apply(list).tolist() == [list(STAGES)] * 4
    assert set(stages.table["hypothesis"]) <= set(tested.table["id"])
    known = stages.table[stages.table["assessed"]]
    assert (known["low"] <= known["value"] + 1e-9).all() and (known["value"] <= known["high"] + 1e-9).all()
    assert stages.summary().set_index("language").loc["sw"].tolist() == ["pass"] * 5


def test_garbled_and_foreign_replies_are_neither_refusal_nor_compliance():
    from_all = drawn(sw=replace(HEALTHY, wrong=1.0))
    stages = stages_of(from_all, "sw")
    assert not stages["actuated"]["assessed"], "no readable reply to a harmful prompt is left"
    assert stages["expressed"]["passed"] is False
    some = drawn(sw=replace(HEALTHY, wrong=0.3))
    stages = stages_of(some, "sw")
    assert stages["actuated"]["value"] == pytest.approx(0.0) and stages["expressed"]["value"] == pytest.approx(0.7, abs=0.15)


def test_a_refusal_in_another_language_refuses_and_is_wrongly_expressed():
    replies = drawn(sw=HEALTHY)
    foreign = replies.outcomes.assign(reply_language=np.where(replies.outcomes["language"] == "sw", "h1", replies.outcomes["language"]))
    stages = stages_of(replies, "sw", outcomes=foreign)
    assert stages["actuated"]["passed"] is True and stages["expressed"]["passed"] is False


def test_complying_with_everything_leaves_nothing_to_express():
    stages = stages_of(drawn(sw=Speaks(harmful=0.0)), "sw")
    assert not stages["expressed"]["assessed"] and stages["expressed"]["passed"] is None


def test_thresholds_are_compared_only_where_harm_is_represented():
    stages = stages_of(drawn(sw=Speaks(apart=0.0)), "sw")
    assert stages["represented"]["passed"] is False
    assert not stages["calibrated"]["assessed"] and "represented nowhere" in stages["calibrated"]["reason"]


def test_harm_at_one_position_is_represented_and_at_none_is_not():
    replies = drawn(sw=HEALTHY)
    represented = evidence_of(replies).table("represented")
    mine = represented["language"] == "sw"
    once = represented.assign(auroc=np.where(mine & (represented["position"] == "t_inst"), 0.5, represented["auroc"]))
    stages = stages_of(replies, "sw", represented=once)
    assert stages["represented"]["passed"] is True and "t_inst@4" in stages["represented"]["reason"]
    stages = stages_of(replies, "sw", represented=represented.assign(auroc=np.where(mine, 0.5, represented["auroc"])))
    assert stages["represented"]["passed"] is False


def test_a_threshold_gap_across_its_margin_is_open():
    replies = drawn(sw=HEALTHY)
    moved = evidence_of(replies).table("calibration")
    read = evidence_of(replies).table("readings")
    mine = read["language"].eq("sw") & read["harmful"] & read["position"].eq("t_post_inst")
    lower = read.assign(projection=read["projection"])
    some = lower.index[mine][:6]
    threshold = moved.set_index("language").loc["sw", "transferred_threshold"]
    lower.loc[some, "projection"] = threshold - 0.01
    own = moved.assign(own_threshold=np.where(moved["language"] == "sw", threshold - 0.02, moved["own_threshold"]))
    stages = stages_of(replies, "sw", readings=lower, calibration=own)
    row = stages["calibrated"]
    assert row["low"] < 0.05 < row["high"] and row["passed"] is None


@pytest.mark.parametrize("n", [2, 3])
def test_a_language_with_too_few_prompts_for_an_interval_passes_and_fails_nothing(n):
    few = drawn(n=60, sw=HEALTHY)
    ids = few.outcomes[(few.outcomes["language"] == "sw")].groupby("harmful").head(n)["prompt_id"]
    kept = few.outcomes[(few.outcomes["language"] != "sw") | few.outcomes["prompt_id"].isin(ids)]
    answers = few.answers.assign(n=np.where(few.answers["language"] == "sw", n, few.answers["n"]))
    wide = np.where(answers["language"] == "sw", 0.2, answers["low"])
    verdict, stages, _ = decided(evidence_of(replace(few, outcomes=kept, answers=answers.assign(low=wide))))
    assert stages.of("sw")["actuated"]["passed"] is None and stages.of("sw")["expressed"]["passed"] is None
    assert verdict.table.set_index("language").loc["sw", "verdict"] == "not enough evidence"


def test_the_interval_that_retrieval_could_not_have_leaves_understanding_open():
    replies = drawn(sw=HEALTHY)
    known = evidence_of(replies).table("understanding")
    mine = known["language"] == "sw"
    blank = known.assign(
        low=known["low"].where(~mine), high=known["high"].where(~mine), understood=known["understood"].where(~mine, "not enough evidence")
    )
    row = stages_of(replies, "sw", understanding=blank)["understood"]
    assert row["passed"] is None and row["assessed"]


def test_refused_harmless_requests_say_nothing_about_understanding():
    rows = pd.DataFrame({"language": "sw", "outcome": ["refusal"] * 6 + ["compliance"] * 4, "correct": [False] * 6 + [True] * 3 + [False]})
    open_set = pd.DataFrame({"language": "am", "outcome": ["compliance"], "correct": [None]})
    found = answered_right(pd.concat([rows, open_set], ignore_index=True)).set_index("language")
    assert found.loc["sw", "value"] == 0.75 and found.loc["sw", "n"] == 4
    assert "am" not in found.index
    refused = answered_right(rows[rows["outcome"] == "refusal"]).set_index("language")
    assert np.isnan(refused.loc["sw", "value"]) and refused.loc["sw", "n"] == 0


def test_the_summary_is_json_without_nan():
    import json

    verdicts, stages, _ = decided(evidence_of(drawn(sw=Speaks(apart=0.0, harmful=0.0))))
    told = summary_of(stages, verdicts)
    read = json.loads(json.dumps(told, allow_nan=False))
    assert read["sw"]["verdict"]["verdict"] == "representation"
    assert read["sw"]["stages"]["expressed"]["value"] is None and read["sw"]["stages"]["represented"]["passed"] is False
    assert set(read["sw"]["stages"]["actuated"]) == {"value", "low", "high", "n", "passed", "assessed", "criterion"}
