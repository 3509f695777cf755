"""Each null reaches what it should on data without harm, and a claim must beat all of them."""

import numpy as np
import pandas as pd
import pytest
from planted import activations, with_harm

from workbench.directions import (
    AurocTable,
    HarmNulls,
    choose_layer,
    difference_in_means,
    harm_direction,
    harm_nulls,
    harm_represented,
    project,
    surface_auroc,
    transfer_auroc,
)
from workbench.directions.nulls import SURFACE, TEST_LABELS, TRAINING_LABELS, UNTRAINED, shuffle_by_meaning
from workbench.errors import DataError
from workbench.geometry.cells import labels_of
from workbench.statistics import auroc_p_value

HIGH = ["qaa", "qab", "qac"]


def verdicts(acts, untrained, *, surface=None, rng=None, **options):
    scores = project(acts, harm_direction(acts, HIGH))
    nulls = harm_nulls(acts, HIGH, untrained=untrained, surface=surface, rng=rng, **options)
    choice = choose_layer(scores, HIGH)
    return harm_represented(transfer_auroc(scores, HIGH), nulls, choice).table.set_index(["position", "language"]).sort_index(), nulls


@pytest.fixture
def untrained(rng):
    return [activations(rng.normal(size=(5, 256, 5, 2, 32)), fingerprint=f"u{seed}") for seed in range(3)]


def test_harm_is_represented_where_it_was_planted_and_only_there(rng, untrained):
    acts = activations(with_harm(rng, np.array([6.0, 6, 6, 6, 0]), n_languages=5, n=256)[0])
    table, nulls = verdicts(acts, untrained, rng=rng)
    assert table.loc["t_inst"]["represented"].tolist() == [True, True, True, True, False]
    assert "above all four nulls" in table.loc[("t_inst", "qad"), "reason"]
    assert "is not above permuted test labels" in table.loc[("t_inst", "qae"), "reason"]
    assert set(nulls.table["null"]) == {TEST_LABELS, TRAINING_LABELS, UNTRAINED, SURFACE}
    assert nulls.table.groupby("null")["seed"].nunique().to_dict() == {TEST_LABELS: 200, TRAINING_LABELS: 40, UNTRAINED: 3, SURFACE: 1}


def test_an_untrained_model_that_separates_as_well_defeats_the_claim(rng):
    states, _ = with_harm(rng, 4.0, n_languages=5, n=256)
    acts, copies = activations(states), [activations(with_harm(rng, 4.0, n_languages=5, n=256)[0], fingerprint=f"u{s}") for s in range(3)]
    table, _ = verdicts(acts, copies, rng=rng)
    assert not table["represented"].any()
    assert "the untrained model" in table.loc[("t_inst", "qaa"), "reason"]
    assert (table["untrained_high"] >= table["untrained"]).all()


def test_classes_that_differ_in_length_or_ending_defeat_the_claim(rng, untrained):
    acts = activations(with_harm(rng, 4.0, n_languages=5, n=256)[0])
    ids, harmful = acts["prompt"].values, acts["harmful"].values
    surface = pd.DataFrame({"prompt_id": ids, "n_chars": 40, "n_tokens": 9, "final_char": np.where(harmful, "letter", ".")})
    table, _ = verdicts(acts, untrained, surface=surface, rng=rng)
    assert (table["surface"] == 1.0).all() and not table["represented"].any()
    assert "prompt length and final character" in table.loc[("t_inst", "qad"), "reason"]


def test_without_a_control_the_claim_is_not_made(rng):
    acts = activations(with_harm(rng, 6.0, n_languages=4, n=128)[0])
    table, _ = verdicts(acts, [], rng=rng)
    assert not table["represented"].any() and table["reason"].str.contains("the untrained model (0 of 3 seeds)", regex=False).all()


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_untrained_seeds_are_no_control(rng, untrained, seeds):
    acts = activations(with_harm(rng, 6.0, n_languages=4, n=256)[0])
    table, _ = verdicts(acts, untrained[:seeds], rng=rng)
    assert table["untrained"].notna().all() and not table["represented"].any()
    assert table["reason"].str.contains(f"untrained model ({seeds} of 3 seeds)", regex=False).all()


def test_an_untrained_seed_without_a_value_does_not_count_as_one(rng, untrained):
    acts = activations(with_harm(rng, 6.0, n_languages=4, n=256)[0])
    _, nulls = verdicts(acts, untrained, rng=rng)
    scores = project(acts, harm_direction(acts, HIGH))
    table = nulls.table
    table.loc[(table["null"] == UNTRAINED) & (table["seed"] == 2) & (table["language"] == "qad"), "value"] = np.nan
    found = harm_represented(transfer_auroc(scores, HIGH), HarmNulls(table), choose_layer(scores, HIGH)).table.set_index("language")
    assert found.loc["qaa", "represented"].all() and not found.loc["qad", "represented"].any()
    assert found.loc["qad", "untrained_seeds"].eq(2).all() and found.loc["qad", "untrained_high"].notna().all()


def test_many_languages_are_corrected_for():
    languages, limit = [f"qa{c}" for c in "abcdefgh"], 0.6
    case = {"position": "t_inst", "layer": 3, "tier": "low", "low": 0.0, "high": 1.0, "n_harmful": 24, "n_harmless": 24}
    auroc = AurocTable(pd.DataFrame([{**case, "language": a, "value": 0.99 if a == "qaa" else 0.79} for a in languages]))
    row = {"position": "t_inst", "layer": 3, "value": limit}
    seeds = {TEST_LABELS: 1, TRAINING_LABELS: 1, UNTRAINED: 3, SURFACE: 1}
    rows = [{**row, "null": null, "language": a, "seed": seed} for null, n in seeds.items() for a in languages for seed in range(n)]
    nulls = HarmNulls(pd.DataFrame(rows).astype({"layer": "Int64"}))
    alone = auroc_p_value(0.79, limit, 24, 24)
    assert 0.05 / 7 < alone < 0.05  # enough for one language, not for eight
    table = harm_represented(auroc, nulls, {"t_inst": 3}).table.set_index("language")
    assert table["represented"].tolist() == [True] + [False] * 7
    assert table.loc["qab", "p_holm"] == pytest.approx(7 * alone)
    assert "only before correcting for the languages" in table.loc["qab", "reason"]


def test_null_draws_without_harm_lie_around_one_half_and_the_maximum_above(rng):
    acts = activations(rng.normal(size=(4, 128, 5, 1, 24)))
    table = harm_nulls(acts, HIGH, directions=20, rng=rng).table
    means = table.groupby("null")["value"].mean()
    assert means[TRAINING_LABELS] == pytest.approx(0.5, abs=0.03)
    assert 0.55 < means[TEST_LABELS] < 0.75
    assert table.loc[table["null"] == TEST_LABELS, "layer"].isna().all() and table["layer"].dtype == "Int64"
    assert len(harm_nulls(acts, HIGH, rng=np.random.default_rng(1)).summary()) > 0


def test_permuted_training_labels_give_the_directions_that_a_plain_loop_gives(rng):
    acts = activations(with_harm(rng, 3.0, n_languages=4, n=64, n_layers=2, n_positions=1)[0])
    table = harm_nulls(acts, HIGH, permutations=1, directions=1, rng=np.random.default_rng(5)).table
    generator = np.random.default_rng(5)
    labels = labels_of(acts)
    shuffle_by_meaning(labels, np.flatnonzero((labels["language"] == "qaa") & (labels["split"] == "score")), 1, generator)
    for language in ("qab", "qac", "qad"):
        shuffle_by_meaning(labels, np.flatnonzero((labels["language"] == language) & (labels["split"] == "score")), 1, generator)
    fit = np.flatnonzero((labels["split"] == "fit") & labels["language"].isin(HIGH))
    drawn = shuffle_by_meaning(labels, fit, 1, generator, within_class=True)[0]
    states = acts["residual"].values[:, 1, 0].astype(float)
    direction = states[fit[drawn]].mean(axis=0) - states[fit[~drawn]].mean(axis=0)
    true, _ = difference_in_means(states[fit], labels["harmful"].to_numpy()[fit])
    direction -= (direction @ true) * true
    rows = np.flatnonzero((labels["split"] == "score") & (labels["language"] == "qad"))
    from sklearn.metrics import roc_auc_score

    expected = roc_auc_score(labels["harmful"].to_numpy()[rows], states[rows] @ direction)
    found = table[(table["null"] == TRAINING_LABELS) & (table["layer"] == 1) & (table["language"] == "qad")]["value"].item()
    assert found == pytest.approx(expected)


def test_translations_keep_one_label_when_labels_are_shuffled(rng):
    labels = labels_of(activations(np.zeros((3, 20, 1, 1, 2))))
    drawn = shuffle_by_meaning(labels, np.arange(60), 50, rng).reshape(50, 3, 20)
    assert (drawn == drawn[:, :1]).all() and (drawn.sum(axis=2) == 10).all()
    assert len(np.unique(drawn[:, 0], axis=0)) > 40


def test_training_labels_are_shuffled_so_that_they_share_nothing_with_the_true_ones(rng):
    labels = labels_of(activations(np.zeros((2, 14, 1, 1, 2))))
    drawn = shuffle_by_meaning(labels, np.arange(28), 30, rng, within_class=True).reshape(30, 2, 14)
    harmful = labels["harmful"].to_numpy()[:14]
    assert (drawn == drawn[:, :1]).all() and set(drawn[:, 0, harmful].sum(axis=1)) == {3} and set(drawn[:, 0, ~harmful].sum(axis=1)) == {4}


def test_a_strong_harm_axis_does_not_raise_the_null_that_judges_it(rng):
    acts = activations(with_harm(rng, 12.0, n_languages=4, n=128)[0])
    table = harm_nulls(acts, HIGH, rng=rng).table
    last = table[(table["null"] == TRAINING_LABELS) & (table["layer"] == 4)]["value"]
    assert last.quantile(0.95) < 0.9


def test_the_surface_baseline_learns_on_the_reference_and_copes_with_unseen_endings(rng):
    acts = activations(rng.normal(size=(4, 64, 1, 1, 4)))
    harmful, language = acts["harmful"].values, acts["language"].values
    longer = pd.DataFrame({"prompt_id": acts["prompt"].values, "n_chars": 40 + 30 * harmful + rng.integers(0, 9, size=256)})
    assert (surface_auroc(acts, HIGH, longer)["value"] == 1.0).all()
    ending = pd.DataFrame({"final_char": np.where(language == "qad", "。", np.where(harmful, "?", "."))}, index=acts["prompt"].values)
    value = surface_auroc(acts, HIGH, ending).set_index("language")["value"]
    assert value["qaa"] == 1.0 and value["qad"] == 0.5
    assert surface_auroc(acts, HIGH)["value"].between(0, 1).all()
    with pytest.raises(DataError, match="n_chars, n_tokens and final_char"):
        surface_auroc(acts, HIGH, pd.DataFrame({"prompt_id": acts["prompt"].values}))
    with pytest.raises(DataError, match="256 prompts have no surface features"):
        surface_auroc(acts, HIGH, longer.assign(prompt_id="x"))


def test_a_layer_without_auroc_is_named(rng, untrained):
    acts = activations(with_harm(rng, 4.0, n_languages=4, n=64)[0])
    scores = project(acts, harm_direction(acts, HIGH))
    with pytest.raises(DataError, match="layer 12"):
        harm_represented(transfer_auroc(scores, HIGH), harm_nulls(acts, HIGH, rng=rng), {"t_inst": 12})


@pytest.mark.slow
def test_harm_is_rarely_claimed_in_data_without_any(capsys):
    """False claims over 150 draws x 4 languages without harm; the untrained copies are noise too."""
    rng, claims, total = np.random.default_rng(2), 0, 0
    for _ in range(150):
        acts = activations(rng.normal(size=(4, 128, 4, 1, 16)))
        copies = [activations(rng.normal(size=(4, 128, 4, 1, 16)), fingerprint=f"u{s}") for s in range(3)]
        table, _ = verdicts(acts, copies, rng=rng, directions=20)
        claims, total = claims + int(table["represented"].sum()), total + len(table)
    with capsys.disabled():
        import sys

        sys.stdout.write(f"\n  false claims of represented harm: {claims} of {total}\n")
    assert claims / total <= 0.01
