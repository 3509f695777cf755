"""Harm and refusal are two contrasts: which prompts count, what is recorded, and that they come apart where they differ."""

import numpy as np
import pandas as pd
import pytest
from planted import activations

from workbench.directions import Contrast, extract_directions
from workbench.errors import DataError
from workbench.results import Result


@pytest.fixture
def crossed(rng):
    """Harm along one axis, refusal along another; a quarter of the prompts in each of the four cells."""
    n, hidden = 160, 32
    harm, refuse = np.linalg.qr(rng.normal(size=(hidden, 2)))[0].T
    harmful, refused = np.arange(n) % 2 == 0, (np.arange(n) // 2) % 2 == 0
    signs = [np.where(part, 2.0, -2.0) for part in (harmful, refused)]
    states = rng.normal(size=(2, n, 1, 2, hidden))
    states[:, :, 0, 0] += signs[0][:, None] * harm
    states[:, :, 0, 1] += signs[0][:, None] * harm + signs[1][:, None] * refuse
    acts = activations(states, harmful=harmful, splits=False)
    return acts, harm, refuse, dict(zip(acts["prompt"].values.tolist(), np.tile(refused, 2).tolist(), strict=True))


def test_the_two_contrasts_find_the_two_axes(crossed):
    acts, harm, refuse, refused = crossed
    of_harm = extract_directions(acts, ["qaa", "qab"], split=None)
    of_refusal = extract_directions(acts, ["qaa", "qab"], contrast=Contrast("refusal", refused), split=None)
    assert of_harm.at(0, "t_inst").unit @ harm > 0.95
    assert of_refusal.at(0, "t_post_inst").unit @ refuse > 0.95 and abs(of_refusal.at(0, "t_post_inst").unit @ harm) < 0.3
    assert of_harm.metadata["toward"] == "harmful" and of_refusal.metadata["toward"] == "refusal"
    assert of_harm.metadata["standard_position"] == "t_inst" and of_refusal.metadata["standard_position"] == "t_post_inst"
    assert of_refusal.metadata["n_refused"] == of_refusal.metadata["n_accepted"] == 160
    assert of_refusal.at(0, "t_post_inst").norm == pytest.approx(4, abs=0.5)


def test_a_judges_table_leaves_out_what_is_neither_refusal_nor_compliance(crossed):
    acts, _, refuse, refused = crossed
    outcomes = pd.DataFrame({"prompt_id": list(refused), "outcome": ["refusal" if r else "compliance" for r in refused.values()]})
    outcomes.loc[:9, "outcome"], outcomes.loc[10:14, "outcome"] = "garbled", "off_language"
    table = outcomes.iloc[:300]  # twenty prompts were never judged
    found = extract_directions(acts, ["qaa", "qab"], contrast=Contrast("refusal", table), split=None)
    assert found.metadata["n_without_outcome"] == 15 + 20 and found.metadata["n_refused"] + found.metadata["n_accepted"] == 285
    again = extract_directions(acts, ["qaa", "qab"], contrast=Contrast("refusal", Result(table)), split=None)
    assert again.unit.identical(found.unit) and found.at(0, "t_post_inst").unit @ refuse > 0.95


def test_among_harmful_prompts_harm_is_held_constant(crossed):
    acts, harm, refuse, refused = crossed
    harmful = dict(zip(acts["prompt"].values.tolist(), acts["harmful"].values.tolist(), strict=True))
    # harmful prompts are refused three times out of four, harmless ones one time out of four: refusal and harm are confounded
    uneven = {p: bool(r) if i % 8 < 4 else harmful[p] for i, (p, r) in enumerate(refused.items())}
    states = acts["residual"].values
    states[:, 0, 1] += np.outer(np.where(list(uneven.values()), 2.0, -2.0), refuse) - np.outer(np.where(list(refused.values()), 2.0, -2.0), refuse)
    both, held = (
        extract_directions(acts, ["qaa", "qab"], contrast=Contrast("refusal", uneven, among=among), split=None).at(0, "t_post_inst").unit
        for among in (None, "harmful")
    )
    assert both @ harm > 0.3 and abs(held @ harm) < 0.2 and held @ refuse > 0.95


def test_among_counts_only_prompts_of_that_label_that_were_judged(crossed):
    acts, *_, refused = crossed
    judged = {p: r for p, r in refused.items() if p.startswith("qaa")}
    for among in ("harmful", "harmless"):
        found = extract_directions(acts, ["qaa", "qab"], contrast=Contrast("refusal", judged, among=among), split=None).metadata
        assert (found["n_refused"], found["n_accepted"], found["n_without_outcome"]) == (40, 40, 160)


def test_what_cannot_be_a_contrast_is_refused(crossed):
    acts, *_, refused = crossed
    with pytest.raises(DataError, match="mean 'refusal'"):
        Contrast("refusals")
    with pytest.raises(DataError, match="a judge's table"):
        extract_directions(acts, ["qaa"], contrast="refusal")
    with pytest.raises(DataError, match="mean 'harmful'"):
        Contrast("refusal", refused, among="harmfull")
    with pytest.raises(DataError, match="no refused="):
        Contrast("harm", refused)

    def extract(told):
        return extract_directions(acts, ["qaa"], contrast=Contrast("refusal", told), split=None)

    with pytest.raises(DataError, match="160 refused, 0 accepted"):
        extract({p: True for p in refused})
    with pytest.raises(DataError, match="0 refused, 0 accepted"):
        extract({"another": True})
    with pytest.raises(DataError, match="mean 'refusal'"):
        extract({p: "refusel" for p in refused})
    table = pd.DataFrame({"prompt_id": list(refused), "outcome": "refusal"})
    with pytest.raises(DataError, match="two outcomes"):
        extract(pd.concat([table, table]))
    with pytest.raises(DataError, match="prompt_id, and refused or outcome"):
        extract(table.rename(columns={"outcome": "verdict"}))
