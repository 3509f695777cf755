"""A gate knows where its states come from, and examples are drawn by meaning."""

import numpy as np
import pytest
from planted import activations, with_harm

from workbench.errors import DataError
from workbench.gates import GateData, Place, gate_data


@pytest.fixture
def acts(rng):
    states, _ = with_harm(rng, 6.0, n_languages=3, n=32)
    return activations(states, template="t0", system="")


def test_states_of_one_layer_and_position_come_with_their_labels(acts):
    data = gate_data(acts, 3, "t_post_inst", split="fit", languages=["qab", "qac"])
    rows = (acts["split"].values == "fit") & np.isin(acts["language"].values, ["qab", "qac"])
    assert (data.X == acts["residual"].values[rows, 3, 1]).all() and data.X.dtype == np.float64
    assert (data.y == acts["harmful"].values[rows]).all() and list(data.prompt_id) == list(acts["prompt"].values[rows])
    assert set(data.split) == {"fit"} and data.languages == ["qab", "qac"]
    assert data.place == Place(3, "t_post_inst", "f0", "t0", "")


def test_a_selection_keeps_order_and_refuses_what_is_not_there(acts):
    data = gate_data(acts, 2, "t_inst")
    part = data.select(split="score", languages="qab", meanings=["m6", "m7"])
    assert list(part.prompt_id) == ["qab:m6", "qab:m7"] and part.place is data.place
    with pytest.raises(DataError, match=r"No prompt has language 'qaz'; present.*Did you mean"):
        data.select(languages="qaz")
    with pytest.raises(DataError, match="No prompt has split 'train'"):
        data.select(split="train")


@pytest.mark.parametrize(("layer", "position", "match"), [(9, "t_inst", "Layer 9 was not captured"), (2, "t_inzt", "Did you mean 't_inst'")])
def test_a_place_that_was_not_captured_is_refused(acts, layer, position, match):
    with pytest.raises(DataError, match=match):
        gate_data(acts, layer, position)


def test_draws_hold_k_of_each_class_and_do_not_depend_on_the_order_of_rows(acts):
    data = gate_data(acts, 2, "t_inst")
    drawn = data.draw(4, "qab", np.random.default_rng(5))
    assert drawn.y.sum() == 4 and (~drawn.y).sum() == 4 and set(drawn.language) == {"qab"} and len(set(drawn.meaning_id)) == 8
    shuffled = data.take(np.random.default_rng(1).permutation(len(data))).draw(4, "qab", np.random.default_rng(5))
    assert list(drawn.prompt_id) == list(shuffled.prompt_id) and (drawn.X == shuffled.X).all()
    assert list(drawn.prompt_id) != list(data.draw(4, "qab", np.random.default_rng(6)).prompt_id)
    assert len(data.draw(0, "qab", np.random.default_rng(0))) == 0


def test_more_examples_than_there_are_is_an_error_with_both_counts(acts, rng):
    with pytest.raises(DataError, match=r"20 harmful and 20 harmless examples of 'qab'.*there are 16 and 16 meanings.*k <= 16"):
        gate_data(acts, 2, "t_inst").draw(20, "qab", rng)
    with pytest.raises(DataError, match="k=-1"):
        gate_data(acts, 2, "t_inst").draw(-1, "qab", rng)


def test_a_meaning_counts_once_however_many_rows_it_has(acts, rng):
    data = gate_data(acts, 2, "t_inst", languages=["qab"])
    one_meaning = GateData(data.X, data.y, data.language, np.where(data.y, "same", data.meaning_id), data.prompt_id, data.split, data.place)
    assert one_meaning.draw(1, "qab", rng).y.sum() == 1
    with pytest.raises(DataError, match="there are 1 and 16 meanings"):
        one_meaning.draw(2, "qab", rng)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"layer": 4}, "layer 3 and not 4.*gate_data"),
        ({"position": "t_inst"}, "position 't_post_inst' and not 't_inst'"),
        ({"fingerprint": "f1"}, "fingerprint 'f0' and not 'f1'.*Capture this model"),
        ({"system": "Reply as a pirate."}, r"expects system prompt as fitted \(empty\) and not another one \(18 characters\)\. Capture"),
    ],
)
def test_another_place_is_refused_with_what_differs_and_the_remedy(change, match):
    place = {"layer": 3, "position": "t_post_inst", "fingerprint": "f0", "template": "t0", "system": ""}
    with pytest.raises(DataError, match=match) as refused:
        Place(**place).require_same(Place(**place | change))
    assert "pirate" not in str(refused.value)


def test_what_is_not_known_is_not_compared():
    Place(3, "t_inst", "f0", None, None).require_same(Place(3, "t_inst", None, "t0", "x"))


def test_states_that_are_not_finite_are_refused_by_prompt(acts):
    data = gate_data(acts, 2, "t_inst")
    broken = data.X.copy()
    broken[7, 0] = np.nan
    with pytest.raises(DataError, match=r"1 of 96 states are not finite.*qaa:m7"):
        GateData(broken, data.y, data.language, data.meaning_id, data.prompt_id, data.split, data.place)
    with pytest.raises(DataError, match="one row, label and name per prompt"):
        GateData(data.X[:3], data.y, data.language, data.meaning_id, data.prompt_id, data.split, data.place)
