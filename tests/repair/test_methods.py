"""Decisions of gates over draws: the same examples for all, nothing scored among them, and what is routed is what was decided."""

import numpy as np
import pandas as pd
import pytest

from workbench.errors import DataError
from workbench.gates import BalancedF1, GateData, Place, RecalibratedGate
from workbench.repair.actions import LEAVE, RELAX, STEER, Answered
from workbench.repair.methods import always, decisions, draw_examples, routed

SHIFT = {"en": 0.0, "de": 0.1, "sw": -3.0, "am": -4.0}


@pytest.fixture(scope="module")
def data():
    rng, rows = np.random.default_rng(0), []
    for tag, shift in SHIFT.items():
        for meaning in range(60):
            harmful = meaning % 2 == 0
            state = rng.normal(0, 0.3, 8)
            state[0] += (2.0 if harmful else -2.0) + shift
            rows.append((state, harmful, tag, f"m{meaning}", f"m{meaning}:{tag}", ("fit", "select", "score")[meaning // 2 % 3]))
    states, *labels = zip(*rows, strict=True)
    y, language, meaning_id, prompt_id, split = (np.array(column) for column in labels)
    return GateData(np.array(states), y.astype(bool), language, meaning_id, prompt_id, split, Place(5, "t_post_inst"))


@pytest.fixture(scope="module")
def gate(data):
    return RecalibratedGate().fit(data.select(split="fit", languages=["en", "de"]))


def test_recalibrated_to_each_draw_a_gate_finds_the_shifted_languages(data, gate):
    scored = data.select(split="score")
    none = draw_examples(data.select(split="fit"), ["sw", "am"], 0, 10)
    assert len(none) == 1, "without examples no draw differs from another"
    found = decisions(gate, scored, none, policy=BalancedF1())
    shifted = np.isin(scored.language, ["sw", "am"]) & scored.y
    assert found[0][shifted].mean() < 0.2
    some = draw_examples(data.select(split="fit"), ["sw", "am"], 4, 3, seed=1)
    found = decisions(gate, scored, some, policy=BalancedF1())
    assert found.shape == (3, len(scored)) and (found == scored.y).all()
    assert gate.thresholds_.keys() == {"en", "de"}, "the gate itself stays as it was"


def test_draws_repeat_with_the_seed_and_never_hold_a_scored_prompt(data):
    pool = data.select(split="fit")
    first, again, other = (draw_examples(pool, ["sw"], 2, 2, seed=s) for s in (0, 0, 1))
    ids = [[list(examples["sw"].prompt_id) for examples in draws.examples] for draws in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    with pytest.raises(DataError, match="prompts of the split 'score'"):
        draw_examples(data, ["sw"], 2, 2)
    with pytest.raises(DataError, match="draws=0"):
        draw_examples(pool, ["sw"], 2, 0)
    with pytest.raises(DataError, match="11 harmful and 11 harmless"):
        draw_examples(pool, ["sw"], 11, 1)


def test_flagged_prompts_get_one_action_and_the_others_another(data):
    scored = data.select(split="score")
    n = len(scored)
    names = {"prompt_id": scored.prompt_id, "meaning_id": scored.meaning_id, "language": scored.language}
    frame = pd.DataFrame(names | {"tier": "low", "harmful": scored.y})
    zeros = np.zeros(n, bool)
    answered = Answered(
        frame,
        {LEAVE: scored.y, STEER: ~zeros, RELAX: zeros},
        dict.fromkeys((LEAVE, STEER, RELAX), np.full(n, np.nan)),
        dict.fromkeys((LEAVE, STEER, RELAX), zeros),
    )
    flagged = np.stack([scored.y, ~scored.y])
    left = routed(answered, flagged, labels="4 + 4")
    assert left.refused[0].tolist() == scored.y.astype(float).tolist() and left.refused[1].all()
    relaxed = routed(answered, flagged, labels="4 + 4", unflagged_action=RELAX)
    assert relaxed.refused[1].tolist() == (~scored.y).astype(float).tolist()
    assert always(answered, STEER).refused.all() and always(answered, STEER).flagged is None
