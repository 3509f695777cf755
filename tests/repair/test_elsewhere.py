"""A repair on another prompt set: the gate decides as it did, by the fallback where it has no threshold, and nothing is learnt there."""

import numpy as np
import pytest

from workbench.activations.capture import capture
from workbench.behavior.generate import generate
from workbench.behavior.judges import choose_judge
from workbench.directions import harm_direction
from workbench.errors import DataError
from workbench.gates import RecalibratedGate, Shrinkage, gate_data
from workbench.gates.controls import AlwaysGate
from workbench.interventions.edits import Add
from workbench.interventions.routing import Route
from workbench.models.load import load_model
from workbench.prompts.sources import load_prompts
from workbench.repair.elsewhere import ElsewhereRates, elsewhere
from workbench.repair.kinds import ALWAYS, GATE, ORACLE, UNREPAIRED
from workbench.repair.methods import draw_examples, recalibrated
from workbench.repair.strength import SCOPE

OPTIONS = {"max_new_tokens": 4, "resamples": 100, "progress": False}


@pytest.fixture(scope="module")
def setting():
    """Recalibrated in qad, not in qae."""
    chat, grid = load_model("organism:aligned"), load_prompts("organism", limit=60, languages="qaa,qab,qac,qad")
    reference = grid.reference(None)
    acts = capture(chat, grid, layers=[5], positions=["t_post_inst"], progress=False)
    fit = gate_data(acts, 5, "t_post_inst", split="fit")
    gate = RecalibratedGate().fit(fit.select(languages=reference))
    examples = draw_examples(fit.select(languages=["qad"]), ["qad"], 4, 2).examples
    tuned = [recalibrated(gate, shown, Shrinkage()) for shown in examples]
    other = load_prompts("organism:code-switched", languages="qaa,qad,qae", limit=12)
    return chat, other, tuned, harm_direction(acts, reference).at(5, "t_post_inst"), choose_judge(other), fit


@pytest.fixture(scope="module")
def found(setting):
    chat, other, tuned, direction, judge, fit = setting
    return elsewhere(chat, other, {GATE: tuned[0]}, direction, 1.0, judge, name="switched", used=fit.meaning_id, **OPTIONS)


def value(found, method, language, statistic, column="value"):
    table = found.table
    row = table[(table["method"] == method) & (table["language"] == language) & (table["statistic"] == statistic)]
    assert len(row) == 1
    return row.iloc[0][column]


def test_every_method_is_counted_and_the_threshold_in_force_is_said(found):
    table = found.table
    assert set(table["method"]) == {UNREPAIRED, ALWAYS, GATE, f"{GATE}, permuted decisions", ORACLE} and set(table["set"]) == {"switched"}
    own = table[table["method"] == GATE].groupby("language")["threshold"].unique().map(list).to_dict()
    assert own == {"qaa": ["own"], "qad": ["own"], "qae": ["fallback"], "mean high": ["own"], "mean low": ["mixed"]}
    assert set(table.loc[table["method"].isin([UNREPAIRED, ALWAYS, ORACLE]), "threshold"]) == {""}
    assert set(table["n"]) == {24} and ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()


def test_decisions_and_replies_are_those_of_the_route_itself(setting, found):
    chat, other, tuned, direction, judge, _ = setting
    route = Route(tuned[0], flagged=Add(direction, 1.0, "gap", scope=SCOPE), languages=other, fallback="gate")
    with chat.edited(route):
        replies = generate(chat, other, max_new_tokens=4, progress=False)
    refused = (judge.outcomes(replies, other)["outcome"] == "refusal").to_numpy()
    frame = other.frame
    for tag in other.languages:
        for harmful, statistic in ((True, "harmful_refusal"), (False, "harmless_refusal")):
            rows = ((frame["language"] == tag) & (frame["harmful"] == harmful)).to_numpy()
            assert value(found, GATE, tag, statistic) == pytest.approx(refused[rows].mean())
    assert value(found, GATE, "qad", "harmful_refusal") > value(found, UNREPAIRED, "qad", "harmful_refusal")


def test_steering_everything_refuses_everything_and_an_oracle_refuses_what_is_harmful(found):
    assert value(found, ALWAYS, "mean low", "harmless_refusal") > 0.5
    assert value(found, ORACLE, "mean low", "harmless_refusal") == 0 and value(found, ORACLE, "mean low", "flagged_harmful") == 1
    permuted = f"{GATE}, permuted decisions"
    flagged = [value(found, m, "qad", "flagged_harmful") + value(found, m, "qad", "flagged_harmless") for m in (GATE, permuted)]
    assert flagged[0] == pytest.approx(flagged[1]), "the control fires as often"


def test_several_draws_of_examples_are_averaged(setting, found):
    chat, other, tuned, direction, judge, _ = setting
    few = other.select(languages=["qad"])
    both, first, second = (elsewhere(chat, few, {GATE: gates}, direction, 1.0, judge, name="x", **OPTIONS) for gates in (tuned, tuned[:1], tuned[1:]))
    for statistic in ("flagged_harmful", "harmful_refusal", "harmless_refusal"):
        single = [value(one, GATE, "qad", statistic) for one in (first, second)]
        assert value(both, GATE, "qad", statistic) == pytest.approx(np.mean(single))
    assert value(first, GATE, "qad", "harmful_refusal") == value(found, GATE, "qad", "harmful_refusal")


def test_one_class_alone_is_enough(setting, tmp_path):
    chat, other, tuned, direction, judge, _ = setting
    some = other.select(harmful=True, languages=["qad"])
    found = elsewhere(chat, some, {GATE: tuned[0]}, direction, 1.0, judge, name="harmful only", **OPTIONS)
    assert set(found.table["method"]) == {UNREPAIRED, ALWAYS, GATE} and found.table["value"].notna().all()
    assert not {"harmless_refusal", "selectivity", "flagged_harmless", "answer_accuracy"} & set(found.table["statistic"])
    assert found.provenance["left_out"] == ["qad: no harmless prompts"]
    assert ElsewhereRates.load(found.save(tmp_path / "elsewhere.parquet")).table.equals(found.table)


def test_what_is_no_test_elsewhere_is_refused(setting):
    chat, other, tuned, direction, judge, fit = setting
    with pytest.raises(DataError, match="24 meanings of again were used before"):
        elsewhere(chat, other, {GATE: tuned[0]}, direction, 1.0, judge, name="again", used=other.meanings, **OPTIONS)
    with pytest.raises(DataError, match="no gate"):
        elsewhere(chat, other, {}, direction, 1.0, judge, name="x", **OPTIONS)
    with pytest.raises(DataError, match="strength=0"):
        elsewhere(chat, other, {GATE: tuned[0]}, direction, 0.0, judge, name="x", **OPTIONS)
    nowhere = AlwaysGate().fit(fit.X, fit.y)
    with pytest.raises(DataError, match="does not say where it reads"):
        elsewhere(chat, other, {"always": nowhere}, direction, 1.0, judge, name="x", **OPTIONS)
