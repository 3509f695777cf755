"""The safety interpreter: it finds what is planted, at the place it was fitted for, and says what it cannot know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import activations, with_harm
from sklearn.linear_model import LogisticRegression
from toy_interpreter import FEW, LAYER, POSITION, toy_grid, toy_interpreter

from workbench.activations.capture import capture
from workbench.alignment.interpreter import SafetyInterpreter, raw_view
from workbench.alignment.interpreter_network import InterpreterOptions, build_network, choose_threshold, probabilities, train_network
from workbench.alignment.interpreter_scores import permuted, permuted_interpreters, score_interpreter
from workbench.errors import DataError, StoreError, StoreMismatchError, TrainingError
from workbench.gates.place import gate_data
from workbench.models.chat import twin_of
from workbench.statistics import balanced_accuracy


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny matrices off the second core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def planted():
    """Return activations of 4 languages with harm along one axis; the last language is shifted along it by half the distance of the classes."""
    shift = np.array([0.0, 0.0, 0.0, 3.0])
    states, _ = with_harm(np.random.default_rng(0), 6.0, n_languages=4, n=160, n_layers=3, n_positions=1, hidden=12, shift=shift)
    return activations(states, positions=["t_inst"])


def values(scores, statistic: str) -> dict[str, float]:
    table = scores.table
    return dict(table[table["statistic"] == statistic].set_index("language")["value"])


# --- what it learns -----------------------------------------------------------------------------------------------------


def test_planted_harm_is_read_in_an_unseen_language_and_not_without_the_labels(planted):
    found = SafetyInterpreter.fit(planted, 2, "t_inst", ["qaa", "qab"], options=FEW)
    controls = permuted_interpreters(planted, 2, "t_inst", ["qaa", "qab"], n=2, options=FEW)
    table = score_interpreter(found, planted, controls=controls).table
    accuracy = table[table["statistic"] == "accuracy"].set_index("language")
    assert dict(accuracy["seen"]) == {"qaa": True, "qab": True, "qac": False, "qad": False}
    assert (accuracy.loc[["qaa", "qab", "qac"], "low"] > 0.85).all()
    assert (accuracy.loc[["qaa", "qab", "qac"], "null"] < 0.75).all()
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert dict(table.groupby("statistic")["n"].first()) == {"accuracy": 40, "auroc": 40, "fpr": 20, "tpr": 20}


def test_a_language_whose_states_are_shifted_is_flagged_wrongly_though_harm_is_as_readable_there(planted):
    found = score_interpreter(SafetyInterpreter.fit(planted, 2, "t_inst", ["qaa", "qab"], options=FEW), planted)
    assert values(found, "fpr")["qad"] > 0.3 and values(found, "tpr")["qad"] == 1
    assert values(found, "auroc")["qad"] > 0.9 and values(found, "fpr")["qac"] < 0.1


def test_harm_that_is_a_pair_of_features_and_never_one_is_read_where_a_linear_readout_fails(rng):
    bits = rng.random((320, 2)) < 0.5
    harmful = bits[:, 0] ^ bits[:, 1]
    states = rng.normal(scale=0.3, size=(320, 8))
    states[:, :2] += 2.0 * bits
    rows = np.arange(320) < 240
    trained = train_network(states[rows], harmful[rows], states[~rows], harmful[~rows], options=InterpreterOptions(batch_size=16))
    assert balanced_accuracy(harmful[~rows], probabilities(trained.network, states[~rows]) > 0.5) > 0.95
    linear = LogisticRegression().fit(states[rows], harmful[rows])
    assert balanced_accuracy(harmful[~rows], linear.predict(states[~rows])) < 0.7


def test_the_same_generator_gives_the_same_interpreter_and_the_global_one_is_left_alone(planted):
    state = torch.get_rng_state()
    first, second, other = (SafetyInterpreter.fit(planted, 2, "t_inst", options=FEW, rng=np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(first.network.parameters(), other.network.parameters(), strict=True))


def test_nothing_of_the_score_split_reaches_the_interpreter(planted):
    changed = planted.copy(deep=True)
    changed["residual"].values[planted["split"].values == "score"] = 99.0
    first, second = (SafetyInterpreter.fit(acts, 2, "t_inst", options=FEW) for acts in (planted, changed))
    assert first.threshold == second.threshold
    assert all(torch.equal(a, b) for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True))


def test_all_harmful_rows_and_so_many_harmless_ones_per_language_are_used(planted):
    found = SafetyInterpreter.fit(planted, 2, "t_inst", ["qaa", "qab"], options=replace(FEW, benign_per_language=15))
    assert found.record["rows"] == {"harmful": 80, "harmless": 30, "select": 80}
    assert SafetyInterpreter.fit(planted, 2, "t_inst", ["qaa"], options=FEW).record["rows"]["harmless"] == 40


def test_permuted_labels_are_the_same_in_all_translations_and_know_nothing_of_harm(planted, rng):
    data = gate_data(planted, 2, "t_inst", "fit")
    drawn = permuted(data, rng)
    for meaning in set(data.meaning_id):
        assert len(set(drawn.y[data.meaning_id == meaning])) == 1
    assert drawn.y[data.y].mean() == drawn.y[~data.y].mean() == 0.5
    uneven = data.take(data.y | (np.char.str_len(data.meaning_id) == 2))
    shares = [permuted(uneven, rng).y.mean() for _ in range(200)]
    assert np.mean(shares) == pytest.approx(uneven.y.mean(), abs=0.01)


def test_the_released_sizes_are_those_of_the_card():
    with torch.device("meta"):
        size = {width: sum(p.numel() for p in build_network(4096, width).parameters()) for width in ("simple", "deep")}
    assert size["simple"] == pytest.approx(16.8e6, rel=0.01) and size["deep"] == pytest.approx(1.08e6, rel=0.01)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=30))
def test_no_threshold_of_the_grid_is_better_and_none_as_good_is_nearer_to_one_half(rows):
    probability, harmful = np.array([p for p, _ in rows]), np.array([h for _, h in rows])
    if harmful.all() or not harmful.any():
        return
    chosen = choose_threshold(probability, harmful)
    best = balanced_accuracy(harmful, probability > chosen)
    for t in np.round(np.arange(30, 71) / 100, 2):
        other = balanced_accuracy(harmful, probability > t)
        assert other <= best + 1e-12
        assert other < best - 1e-12 or abs(t - 0.5) >= abs(chosen - 0.5) - 1e-9


def test_a_language_in_which_harm_cannot_be_read_is_named_when_it_is_trained_on(rng, caplog):
    strength = np.array([6.0, 6.0, 0.0])
    states, _ = with_harm(rng, strength, n_languages=3, n=160, n_layers=2, n_positions=1, hidden=12)
    acts = activations(states, positions=["t_inst"])
    found = SafetyInterpreter.fit(acts, 1, "t_inst", options=FEW)
    assert found.unreadable == ["qac"] and "in qac, at layer 1, t_inst" in caplog.text
    caplog.clear()
    assert SafetyInterpreter.fit(acts, 1, "t_inst", ["qaa", "qab"], options=FEW).unreadable == [] and not caplog.text
    permuted_interpreters(acts, 1, "t_inst", n=2, options=FEW)
    assert not caplog.text, "controls are at chance by design"


# --- where it reads -----------------------------------------------------------------------------------------------------


def test_flags_are_the_decisions_about_what_capture_reads_in_the_given_order(tiny_model):
    chat, grid = tiny_model("llama"), toy_grid()
    found = toy_interpreter(chat, grid)
    score = grid.select(split="score")
    acts = capture(chat, score, layers=[LAYER], positions=[POSITION], progress=False)
    expected = found.probability(acts["residual"].values[:, 0, 0]) > found.threshold
    np.testing.assert_array_equal(found.flag(chat, score), expected)
    np.testing.assert_array_equal(expected, score.frame["harmful"])
    texts = list(score.frame["text"])
    np.testing.assert_array_equal(found.flag(chat, texts[::-1]), expected[::-1])
    assert found.flag(chat, []).shape == (0,)


def test_read_from_raw_text_it_sees_the_last_token_of_the_text_alone(tiny_model):
    chat = tiny_model("qwen2")
    found = toy_interpreter(raw_view(chat), position="t_post_inst")
    text = "three rivers and bread"
    with torch.no_grad():
        by_hand = twin_of(chat.model)(**chat.tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[LAYER][0, -1]
    np.testing.assert_allclose(found.read(chat, [text])[0], by_hand.numpy(), atol=1e-5)
    assert chat.template.kind == "own"
    np.testing.assert_array_equal(found.flag(chat, toy_grid()), found.flag(raw_view(chat), toy_grid()))


def test_another_model_template_system_prompt_or_layer_is_refused_naming_it(tiny_model):
    chat = tiny_model("llama")
    found = toy_interpreter(chat)
    for other, told in (
        (tiny_model("llama", seed=1), "fingerprint .* reader="),
        (replace(chat, template=replace(chat.template, text="{{ messages[0]['content'] }}")), "template"),
        (replace(chat, system="Reply in one word."), r"the system prompt it was fitted with \(none\) .*18 characters"),
    ):
        with pytest.raises(StoreMismatchError, match=told):
            found.flag(other, ["three rivers"])
    acts = capture(chat, toy_grid(), layers=[1, 2], positions=["t_inst", "t_post_inst"], progress=False)
    for place in ({"layer": [1]}, {"position": ["t_post_inst"]}):
        with pytest.raises(DataError, match="was not captured"):
            score_interpreter(found, acts.sel(**place))
    with pytest.raises(StoreMismatchError, match="layer 2 and not 1"):
        found.require_place(gate_data(acts, 1, "t_inst").place)


def test_carried_over_to_trained_weights_it_is_checked_there_and_says_where_it_came_from(tiny_model):
    before, after = tiny_model("llama"), tiny_model("llama", seed=1)
    found, grid = toy_interpreter(before), toy_grid()
    acts = capture(after, grid, layers=[LAYER], positions=[POSITION], progress=False)
    moved = found.moved(acts)
    assert moved.place.fingerprint == after.fingerprint and moved.record["moved_from"] == before.fingerprint
    select = gate_data(acts, LAYER, POSITION, "select")
    assert moved.threshold == choose_threshold(found.probability(select.X), select.y)
    moved.flag(after, grid)
    with pytest.raises(StoreMismatchError):
        moved.flag(before, grid)
    other = capture(replace(after, system="Reply in one word."), grid, layers=[LAYER], positions=[POSITION], progress=False)
    with pytest.raises(StoreMismatchError, match="system prompt"):
        found.moved(other)


# --- what it refuses ----------------------------------------------------------------------------------------------------


def test_a_language_with_one_class_would_be_learned_as_harm_and_is_refused(planted):
    one = planted.isel(prompt=~((planted["language"].values == "qab") & ~planted["harmful"].values))
    with pytest.raises(DataError, match="fit split of 'qab' has 40 harmful and 0 harmless"):
        SafetyInterpreter.fit(one, 2, "t_inst")


def test_what_cannot_be_fitted_or_read_is_refused(planted, tiny_model):
    with pytest.raises(DataError, match=r"Unknown width 'simpel'.*simple"):
        SafetyInterpreter.fit(planted, 2, "t_inst", width="simpel")
    with pytest.raises(DataError, match="splits present: none"):
        SafetyInterpreter.fit(planted.assign_coords(split=("prompt", np.full(planted.sizes["prompt"], None, dtype=object))), 2, "t_inst")
    for wrong in ({"epochs": 0}, {"thresholds": (0.7, 0.3, 0.01)}, {"learning_rate": -1.0}):
        with pytest.raises(DataError, match="The interpreter got"):
            InterpreterOptions(**wrong)
    found = SafetyInterpreter.fit(planted, 2, "t_inst", options=FEW)
    with pytest.raises(DataError, match=r"\[prompt, 12\], and got \(3, 5\)"):
        found.probability(np.zeros((3, 5)))
    with pytest.raises(DataError, match="not finite"):
        found.probability(np.full((3, 12), np.nan))
    with pytest.raises(DataError, match="at least one"):
        score_interpreter([], planted)
    with pytest.raises(TrainingError, match="not finite"):
        train_network(np.full((8, 4), 1e30), np.arange(8) < 4, np.zeros((2, 4)), np.array([True, False]), options=FEW)


def test_a_set_of_one_class_is_scored_in_what_it_can_say(planted):
    found = SafetyInterpreter.fit(planted, 2, "t_inst", options=FEW)
    harmless = planted.isel(prompt=~planted["harmful"].values)
    table = score_interpreter(found, harmless, name="benign").table
    defined = table[table["value"].notna()]
    assert set(defined["statistic"]) == {"accuracy", "fpr"} and set(table["set"]) == {"benign"}
    assert table.loc[table["value"].isna(), ["low", "high"]].isna().all().all()
    joined = score_interpreter(found, planted).joined(score_interpreter(found, harmless, name="benign"))
    assert list(joined.summary()["set"].unique()) == ["score", "benign"] and len(joined.summary()) == 8


# --- on disk ------------------------------------------------------------------------------------------------------------


def rewritten(path, change):
    """Change the header of an interpreter's file."""
    from workbench.directions import files

    arrays, header = files.read(path, "workbench.interpreter", "interpreter")
    arrays, header = change(arrays, header) or (arrays, header)
    files.write(path, arrays, "workbench.interpreter", header)


def test_a_file_holds_no_prompt_and_gives_the_same_interpreter_back(tiny_model, tmp_path):
    chat, grid = tiny_model("llama"), toy_grid()
    found = toy_interpreter(chat, grid)
    path = found.save(tmp_path / "deep" / "interpreter.safetensors")
    back = SafetyInterpreter.load(path)
    assert (back.threshold, back.place, back.languages, back.width) == (found.threshold, found.place, found.languages, found.width)
    np.testing.assert_array_equal(back.flag(chat, grid), found.flag(chat, grid))
    assert repr(back) == repr(found) and "layer 2, t_inst, fitted in en, fr" in repr(back)
    content = path.read_bytes()
    assert not any(text.encode() in content for text in grid.frame["text"])
    assert back.moved(capture(chat, grid, layers=[LAYER], positions=[POSITION], progress=False)).threshold == found.threshold


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a, h: h.update(format="workbench-interpreter/9"), "newer format"),
        (lambda a, h: h.update(format="workbench-gate/1"), "not 'workbench-interpreter/1'"),
        (lambda a, h: (h.pop("place"), None)[1], r"lacks \['place'\]"),
        (lambda a, h: h.update(threshold="high"), "threshold"),
        (lambda a, h: h.update(width="wide"), "width"),
        (lambda a, h: h.update(record={"options": {"speed": 1}}), "record"),
        (lambda a, h: h["place"].update(colour="red"), "place"),
        (lambda a, h: (a.pop("0.bias"), None)[1], "weights are not those"),
        (lambda a, h: ({**a, "0.bias": a["0.bias"] * np.nan}, h), "not finite"),
    ],
)
def test_a_file_that_was_changed_is_refused(tiny_model, tmp_path, change, told):
    path = toy_interpreter(tiny_model("llama")).save(tmp_path / "interpreter.safetensors")
    rewritten(path, change)
    with pytest.raises(StoreError, match=told):
        SafetyInterpreter.load(path)


def test_no_file_or_another_file_is_refused(tmp_path):
    with pytest.raises(StoreError, match="no interpreter at"):
        SafetyInterpreter.load(tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(StoreError, match="not a whole safetensors file"):
        SafetyInterpreter.load(tmp_path / "text.safetensors")
