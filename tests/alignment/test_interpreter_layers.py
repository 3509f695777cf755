"""Where the interpreter reads: the bottleneck with its interval, and whether it is any better there than around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted import activations
from toy_interpreter import FEW

from workbench import load_model, load_prompts
from workbench.activations.capture import capture
from workbench.alignment.interpreter_layers import InterpreterLayers, compare_layers, interpreter_by_layer, layers_to_compare, reading_layer
from workbench.alignment.interpreter_scores import InterpreterScores
from workbench.errors import DataError
from workbench.geometry.bottleneck import Bottleneck

SHARED, OWN = 4.0, 4.0
QUICK = {"repeats": 1, "permutations": 1, "options": FEW}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny matrices off the second core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def planted():
    """Return 5 layers: nothing; harm along one axis that languages share (2 and 3); harm along an axis of each language's own (4)."""
    rng, n, hidden = np.random.default_rng(0), 160, 16
    axes = np.linalg.qr(rng.normal(size=(hidden, 5)))[0].T
    sign = np.where(np.arange(n) % 2 == 0, 0.5, -0.5)
    states = rng.normal(size=(4, n, 5, 1, hidden))
    for number in range(4):
        for layer in (2, 3):
            states[number, :, layer, 0] += SHARED * sign[:, None] * axes[0]
        states[number, :, 4, 0] += OWN * sign[:, None] * axes[1 + number]
    return activations(states, positions=["t_inst"])


def bottleneck(**row) -> Bottleneck:
    """Return a decision about one position."""
    empty = {name: np.nan for name in Bottleneck.required}
    return Bottleneck(_frame([{**empty, "position": "t_inst", "layer": 2, "low": 1, "high": 3, "verdict": "bottleneck", "reason": "It is.", **row}]))


def _frame(rows):
    return pd.DataFrame(rows)


def test_the_layers_where_languages_share_harm_serve_unseen_languages_and_the_table_says_so(planted):
    scores = interpreter_by_layer(planted, languages=["qaa", "qab"], **QUICK)
    assert isinstance(scores, InterpreterScores) and list(dict.fromkeys(scores.table["layer"])) == [1, 2, 3, 4]
    found = compare_layers(scores, reading_layer(bottleneck()))
    assert found.provenance["reference"]["high"] == 3
    unseen = found.table[found.table["group"] == "unseen"].set_index("layer")
    assert unseen.loc[2, "low"] > 0.8 and unseen.loc[4, "high"] < 0.75 and unseen.loc[1, "value"] < 0.7
    assert dict(unseen["verdict"]) == {1: "better", 2: "", 3: "not told apart", 4: "better"}
    seen = found.table[found.table["group"] == "seen"].set_index("layer")
    assert seen.loc[4, "verdict"] == "not told apart" and seen.loc[4, "value"] > 0.85
    assert (found.table["null"] < 0.8).all() and set(found.table["n_meanings"]) == {40}
    assert list(found.summary()["group"].unique()) == ["unseen"]


def test_with_another_reference_the_claim_fails_and_the_table_says_that_too(planted):
    found = compare_layers(interpreter_by_layer(planted, [1, 2, 4], languages=["qaa", "qab"], **QUICK), 4)
    unseen = found.table[found.table["group"] == "unseen"].set_index("layer")
    assert unseen.loc[2, "verdict"] == "worse" and unseen.loc[2, "difference"] < 0 and unseen.loc[1, "verdict"] == "not told apart"


def test_group_values_are_means_over_languages_and_differences_add_up(planted):
    scores = interpreter_by_layer(planted, [2, 3], languages=["qaa"], **QUICK)
    found = compare_layers(scores, 2)
    accuracy = scores.table[(scores.table["statistic"] == "accuracy") & (scores.table["layer"] == 3)].set_index("language")["value"]
    row = found.table.set_index(["group", "layer"])
    assert row.loc[("all", 3), "value"] == pytest.approx(accuracy.mean())
    assert row.loc[("unseen", 3), "value"] == pytest.approx(accuracy[["qab", "qac", "qad"]].mean())
    assert row.loc[("all", 3), "difference"] == pytest.approx(row.loc[("all", 2), "value"] - row.loc[("all", 3), "value"])
    assert row.loc[("unseen", 3), "n_languages"] == 3


def test_repeats_are_averaged_and_every_layer_starts_from_the_same_draws(planted, tmp_path):
    options = {"languages": ["qaa", "qab"], "permutations": 0, "options": replace(FEW, epochs=2), "rng": np.random.default_rng(5)}
    twice = interpreter_by_layer(planted, [2], repeats=2, **options)
    again = interpreter_by_layer(planted, [3, 2], repeats=2, **{**options, "rng": np.random.default_rng(5)})
    np.testing.assert_array_equal(twice.table["value"], again.table.loc[again.table["layer"] == 2, "value"])
    assert twice.table["null"].isna().all() and twice.provenance["repeats"] == 2
    loaded = InterpreterLayers.load(compare_layers(twice, 2).save(tmp_path / "interpreter_layers.parquet"))
    assert loaded.provenance["reference"] == {"layer": 2} and len(loaded.table) == 3


def test_the_layer_comes_from_the_bottleneck_with_its_range_or_is_asked_for():
    found = reading_layer(bottleneck())
    assert (found.layer, found.low, found.high, found.asked) == (2, 1, 3, False)
    assert reading_layer(bottleneck(), asked=5).layer == 5
    none = bottleneck(verdict="no bottleneck", reason="Layer 2 is no extremum.")
    with pytest.raises(DataError, match=r"no bottleneck; Layer 2 is no extremum.* Give the layer"):
        reading_layer(none)
    asked = reading_layer(none, asked=2)
    assert asked.asked and asked.verdict == "no bottleneck" and np.isnan(asked.low)
    with pytest.raises(DataError, match="No bottleneck was looked for at 't_post_inst'"):
        reading_layer(bottleneck(), "t_post_inst")


def test_a_run_of_two_models_is_read_for_the_one_meant():
    both = bottleneck().table.assign(model="after")
    table = Bottleneck(_frame([*both.to_dict("records"), *both.assign(model="before", layer=7).to_dict("records")]))
    assert reading_layer(table).layer == 2 and reading_layer(table, model="before").layer == 7


def test_what_cannot_be_compared_is_refused(planted):
    for wrong in ({"repeats": 0}, {"permutations": -1}):
        with pytest.raises(DataError, match="at least 1 network per layer"):
            interpreter_by_layer(planted, [2], **wrong)
    with pytest.raises(DataError, match="No layer was asked for"):
        interpreter_by_layer(planted, [])
    with pytest.raises(DataError, match="Layer 3 was not scored"):
        compare_layers(interpreter_by_layer(planted, [2], **{**QUICK, "permutations": 0}), 3)


@pytest.mark.slow
def test_on_the_organism_harm_learned_in_high_resource_languages_transfers_at_the_bottleneck_and_not_at_the_last_layer():
    """Bottleneck: layer 2. Measured over 2 starts, all 5 unseen languages: .96 [.94, .98] at layer 2, .76 [.72, .80] at layer 8."""
    chat = load_model("organism:aligned")
    grid = load_prompts("organism").select(languages=["qaa", "qab", "qac", "qad", "qae"])
    acts = capture(chat, grid, layers=[2, 8], positions=["t_inst"], progress=False)
    scores = interpreter_by_layer(acts, languages=["qaa", "qab", "qac"], repeats=1, permutations=1)
    found = compare_layers(scores, 2).table.set_index(["group", "layer"])
    assert found.loc[("seen", 2), "low"] > 0.9 and found.loc[("unseen", 2), "low"] > 0.85
    assert found.loc[("unseen", 8), "high"] < 0.85 and found.loc[("unseen", 8), "verdict"] == "better"
    assert (found["null"] < 0.7).all()


def test_layers_where_nothing_can_be_read_are_compared_in_silence(planted, caplog):
    scores = interpreter_by_layer(planted, [1], **QUICK)
    assert scores.table.query("statistic == 'accuracy'")["low"].min() < 0.5  # layer 1 says nothing of harm
    assert not caplog.records


@pytest.mark.parametrize(
    ("n_layers", "used", "expected"),
    [(4, 2, range(1, 5)), (8, 8, range(1, 9)), (12, 1, range(1, 13)), (24, 1, [1, 2, 3, 4, 12, 24]), (32, 10, [1, *range(7, 14), 16, 32])],
)
def test_small_models_are_compared_at_every_layer_and_deep_ones_around_the_one_used_and_far_from_it(n_layers, used, expected):
    assert layers_to_compare(n_layers, used) == list(expected)
