"""Shared coordinates, shared shape and nothing shared are told apart; nulls, controls, intervals and refusals behave."""

import numpy as np
import pytest
import xarray as xr
from planted import activations, additive

from workbench.errors import DataError
from workbench.geometry.cka import linear_cka
from workbench.geometry.mexa import adjusted_cosine, cosines, mexa
from workbench.geometry.pairs import DISTANCES, STATISTICS
from workbench.geometry.pairwise import PairwiseSimilarity, pairwise_similarity
from workbench.geometry.retrieval import retrieval
from workbench.geometry.similarity import Similarity, similarity
from workbench.geometry.subspaces import principal_angle

HIGH = ["qaa", "qab"]


def values_of(result, layer=0, language="qad"):
    rows = result.table.query("layer == @layer and language == @language")
    return rows.set_index("statistic")


@pytest.fixture(scope="module")
def told_apart():
    """Four layers of one language (qad) against two: same coordinates, same shape turned, same subspace only, nothing shared."""
    rng = np.random.default_rng(3)
    n, hidden = 60, 48
    steep = np.linspace(4, 0.2, 12)
    layers = []
    for kind in ("coordinates", "shape", "subspace", "nothing"):
        axes = np.linalg.qr(rng.normal(size=(hidden, 12)))[0].T
        meaning = rng.normal(size=(n, 12)) * steep
        own = {"coordinates": meaning @ axes, "shape": meaning @ np.linalg.qr(rng.normal(size=(hidden, 12)))[0].T}
        own |= {"subspace": (rng.normal(size=(n, 12)) * steep) @ axes, "nothing": rng.normal(size=(n, hidden))}
        states = np.stack([meaning @ axes, meaning @ axes, meaning @ axes, own[kind]])
        layers.append(states + 0.3 * rng.normal(size=states.shape) + 2 * rng.normal(size=(4, 1, hidden)))
    states = np.stack(layers, axis=2)[:, :, :, None]
    control = activations(rng.normal(size=states.shape))
    return similarity(activations(states), HIGH, split=None, control=control, rng=np.random.default_rng(0)), states, control


def similar(row):
    """Whether the whole interval is on the similar side of what permuted translations reach."""
    return row["high"] < row["null_95"] if row.name in DISTANCES else row["low"] > row["null_95"]


def test_each_statistic_sees_what_it_is_for(told_apart):
    result, _, _ = told_apart
    expected = {
        0: set(STATISTICS),  # the same coordinates: everything agrees
        1: {"cka", "procrustes"},  # turned: the shape is shared, the coordinates are not
        2: {"principal_angle"},  # the same directions, other meanings
        3: set(),
    }
    for layer, names in expected.items():
        rows = values_of(result, layer)
        assert {name for name, row in rows.iterrows() if similar(row)} == names, layer
    assert values_of(result, 1).loc["cka", "value"] > 0.9 and values_of(result, 1).loc["procrustes", "value"] < 0.1
    assert abs(values_of(result, 1).loc["adjusted_cosine", "value"]) < 0.1


def test_columns_chance_ceiling_and_control_are_what_they_say(told_apart):
    result, states, control = told_apart
    table = result.table
    assert list(table.columns) == (
        ["position", "layer", "language", "tier", "statistic", "value", "low", "high", "n", "chance", "ceiling", "null_95", "control"]
    )
    assert len(table) == 4 * 4 * len(STATISTICS) and (table["n"] == 60).all() and not table["value"].isna().any()
    chance = table.groupby("statistic")["chance"].agg(["min", "max"])
    assert (chance.loc["cka"] == 0).all() and (chance.loc["procrustes"] == 1).all() and chance.loc["p_at_1"].tolist() == [1 / 60, 1 / 60]
    assert chance.loc["mexa", "max"] <= 1 / 60 and 55 < chance.loc["principal_angle", "min"] == chance.loc["principal_angle", "max"] < 75
    assert table["ceiling"].notna().eq(table["statistic"] == "principal_angle").all()
    expected = similarity(control, HIGH, split=None, rng=np.random.default_rng(0)).table
    assert table["control"].to_numpy() == pytest.approx(expected["value"].to_numpy())
    assert result.provenance["n_components"] == 10 and result.provenance["has_control"]
    without = similarity(activations(states), HIGH, split=None, permutations=0, statistics=["mexa", "principal_angle"]).table
    assert without["null_95"].isna().all() and without["control"].isna().all()


def test_values_equal_the_plain_functions_averaged_over_the_references(told_apart):
    result, states, _ = told_apart
    states = states[:, :, 0, 0].astype(np.float32).astype(np.float64)
    got = values_of(result)["value"]
    pairs = [(states[3], states[r]) for r in (0, 1)]
    assert got["mexa"] == pytest.approx(np.mean([mexa(cosines(*pair)) for pair in pairs]))
    assert got["adjusted_cosine"] == pytest.approx(np.mean([adjusted_cosine(cosines(*pair)) for pair in pairs]))
    assert got["cka"] == pytest.approx(np.mean([linear_cka(*pair) for pair in pairs]))
    assert got["principal_angle"] == pytest.approx(np.mean([principal_angle(*pair, 10) for pair in pairs]), abs=1e-6)
    # a reference is compared with the other one only
    assert values_of(result, language="qaa").loc["cka", "value"] == pytest.approx(linear_cka(states[0], states[1]))


def test_retrieval_gives_the_same_precision_interval_and_null(told_apart):
    result, states, _ = told_apart
    other = retrieval(activations(states), HIGH, split=None, permutations=100, rng=np.random.default_rng(0)).table
    for statistic, columns in (("p_at_1", ("value", "low", "high")), ("p_at_1_uncentred", ("value_uncentred", "uncentred_low", "uncentred_high"))):
        rows = result.table[result.table["statistic"] == statistic]
        for mine, theirs in zip(("value", "low", "high"), columns, strict=True):
            assert rows[mine].to_numpy() == pytest.approx(other[theirs].to_numpy(), abs=1e-12)
    assert result.table.query("statistic == 'p_at_1'")["null_95"].to_numpy() == pytest.approx(other["null_95"].to_numpy())


def test_nothing_is_similar_in_noise_and_the_null_covers_it_in_every_layer():
    above = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        table = similarity(activations(additive(rng, [1] * 4, [0] * 4, n_languages=4, n=40, hidden=64)), HIGH, split=None, rng=rng).table
        table["beats"] = [similar(row) for _, row in table.set_index("statistic").iterrows()]
        above.append(table.groupby("statistic")["beats"].mean())
    assert np.mean(above, axis=0).max() < 0.03


def test_a_grid_without_harmful_prompts_and_without_tiers_is_measured(rng):
    states = additive(rng, [1], [2], n_languages=3, n=24, hidden=16)
    acts = activations(states, harmful=np.zeros(24, dtype=bool)).drop_vars("tier")
    table = similarity(acts, ["qaa"], split=None, permutations=5).table
    assert table.query("language != 'qaa'")["value"].notna().all() and table["tier"].isna().all()
    alone = table.query("language == 'qaa'")  # a language is not compared with itself
    assert alone[["value", "low", "high", "chance", "null_95"]].isna().all().all()


def test_one_constant_token_is_undefined_never_zero_in_all_languages_or_in_one(rng):
    states = additive(rng, [1, 1, 1], [2, 2, 2], n_languages=3, n=24, hidden=16)
    states[:, :, 0] = 1.5
    states[2, :, 1] = states[2, 0, 1]
    result = similarity(activations(states), HIGH, split=None, permutations=20)
    assert values_of(result, 0, "qab")["value"].isna().all() and values_of(result, 2, "qab")["value"].notna().all()
    assert values_of(result, 1, "qac")["value"].isna().all() and values_of(result, 1, "qab")["value"].notna().all()
    assert values_of(result, 2, "qab")["null_95"].notna().all()  # undefined layers do not blot out the null
    assert result.summary().query("statistic == 'cka' and language == 'qab'")["layer"].item() in (1, 2)


def test_few_meanings_leave_gaps_and_say_why(rng):
    result = similarity(activations(additive(rng, [1], [2], n_languages=3, n=6, hidden=8)), HIGH, split=None, permutations=10)
    rows = values_of(result, language="qac")
    assert rows["value"].isna().eq(rows.index.isin(["procrustes", "principal_angle"])).all()
    assert result.provenance["too_few_meanings"] == {"procrustes": "needs 8", "principal_angle": "needs 8"}
    two = similarity(activations(additive(rng, [1], [2], n_languages=3, n=2, hidden=8)), HIGH, split=None, permutations=10).table
    assert two.query("statistic == 'mexa'")["value"].notna().all()


@pytest.mark.parametrize("statistic", STATISTICS)
def test_order_of_prompts_and_a_common_rotation_do_not_matter(statistic, rng):
    states = additive(rng, [1], [1], n_languages=3, n=24, hidden=16)
    turned = states @ np.linalg.qr(rng.normal(size=(16, 16)))[0] * 3
    first = similarity(activations(states), HIGH, split=None, statistics=[statistic], permutations=0).table
    again = similarity(activations(turned), HIGH, split=None, statistics=[statistic], permutations=0).table
    assert again["value"].to_numpy() == pytest.approx(first["value"].to_numpy(), abs=2e-4)
    if statistic != "procrustes":  # its folds go by the order of meanings
        shuffled = activations(states).isel(prompt=rng.permutation(72))
        moved = similarity(shuffled, HIGH, split=None, statistics=[statistic], permutations=0).table.set_index("language")["value"]
        assert moved[first["language"]].to_numpy() == pytest.approx(first["value"].to_numpy(), abs=2e-4)


def test_the_score_split_is_measured_and_many_meanings_are_drawn_down(rng):
    acts = activations(additive(rng, [1], [2], n_languages=3, n=64, hidden=8))
    assert (similarity(acts, HIGH, permutations=0, statistics=["mexa"]).table["n"] == 16).all()
    drawn = similarity(acts, HIGH, permutations=0, statistics=["mexa"], split=None, max_meanings=20, control=acts)
    assert (drawn.table["n"] == 20).all() and drawn.table["control"].tolist() == drawn.table["value"].tolist()


def test_a_stored_grid_gives_the_same_numbers(rng, tmp_path):
    acts = activations(additive(rng, [1, 1], [1, 0], n_languages=3, n=24, hidden=16))
    acts.drop_vars("category").to_zarr(tmp_path / "acts.zarr", zarr_format=2)
    lazy = xr.open_zarr(tmp_path / "acts.zarr", chunks=None)
    found = similarity(lazy, HIGH, permutations=5, split=None)
    again = similarity(acts, HIGH, permutations=5, split=None)
    numbers = ["value", "low", "high", "null_95"]
    assert found.table[numbers].to_numpy() == pytest.approx(again.table[numbers].to_numpy(), nan_ok=True)
    loaded = Similarity.load(found.save(tmp_path / "similarity.parquet"))
    assert loaded.table.equals(found.table) and loaded.provenance["too_few_meanings"] == {}


def test_pairs_equal_the_comparison_with_a_sole_reference_and_the_map_is_symmetric(rng):
    acts = activations(additive(rng, [1, 1], [1.5, 0.5], n_languages=4, n=32, hidden=24))
    for statistic in STATISTICS:
        found = pairwise_similarity(acts, statistic, split=None, layer=1, permutations=20)
        matrix = found.matrix(layer=1)
        assert np.isnan(np.diag(matrix)).all() and matrix.to_numpy() == pytest.approx(matrix.to_numpy().T, nan_ok=True)
        alone = similarity(acts, ["qaa"], split=None, statistics=[statistic], permutations=20).table
        assert matrix.loc["qaa"].to_numpy() == pytest.approx(alone.query("layer == 1")["value"].to_numpy(), nan_ok=True, abs=1e-6)
    assert isinstance(found, PairwiseSimilarity) and found.table["null_95"].nunique() == 1
    assert {"other_tier", "low", "high", "chance"} <= set(found.table.columns)
    everywhere = pairwise_similarity(acts, "cka", split=None, permutations=20)
    assert sorted(set(everywhere.table["layer"])) == [0, 1] and len(everywhere.table) == 2 * 4 * 3
    # permuted translations have more places at which to be lucky in two layers than in one
    for statistic in ("cka", "procrustes"):
        both, *one = (pairwise_similarity(acts, statistic, split=None, layer=k, permutations=20).table["null_95"].max() for k in (None, 0, 1))
        assert one[0] != one[1] and (both <= min(one) if statistic in DISTANCES else both >= max(one))
    with pytest.raises(DataError, match="Nothing measured at layer 7"):
        everywhere.matrix(layer=7)


def test_bad_input_is_refused_with_the_remedy(rng):
    states = additive(rng, [1], [1], n_languages=3, n=12, hidden=8)
    acts = activations(states)
    for call, message in (
        (lambda: similarity(acts, ["qa"], split=None), r"'qa'.*Did you mean"),
        (lambda: similarity(acts, [], split=None), "No reference"),
        (lambda: similarity(acts, HIGH, split=None, statistics=["cak"]), "Did you mean 'cka'"),
        (lambda: similarity(acts, HIGH, split=None, statistics=[]), "0 statistics"),
        (lambda: similarity(acts, HIGH, split=None, permutations=-1), "-1 permutations"),
        (lambda: similarity(acts, HIGH, split=None, n_components=0), "n_components=0"),
        (lambda: similarity(acts, HIGH, split=None, positions=["t_int"]), "Did you mean 't_inst'"),
        (lambda: similarity(acts, HIGH, split="scored"), "splits present"),
        (lambda: similarity(acts.isel(prompt=slice(1, None)), HIGH, split=None), r"\(qaa, m0\)"),
        (lambda: similarity(acts.isel(prompt=slice(0, 12)), ["qaa"], split=None), "1 language"),
        (lambda: similarity(acts, HIGH, split=None, control=acts.isel(hidden=slice(4))), "4 wide"),
        (lambda: similarity(acts, HIGH, split=None, control=acts.isel(prompt=slice(2, None))), r"lacks 2 of 36.*\(qaa, m0\)"),
        (lambda: similarity(acts, HIGH, split=None, control=acts.isel(prompt=[*range(36), 3])), "holds 1 prompts twice"),
        (lambda: pairwise_similarity(acts, "cosine", split=None), "adjusted_cosine"),
        (lambda: pairwise_similarity(acts, "cka", layer=4, split=None), "Layer 4"),
        (lambda: pairwise_similarity(acts, "cka", position="t_int", split=None), "Did you mean"),
    ):
        with pytest.raises(DataError, match=message):
            call()
    states[1, 4, 0, 0, 2] = np.inf
    with pytest.raises(DataError, match="not finite"):
        similarity(activations(states), HIGH, split=None)


def test_a_control_captured_at_fewer_layers_leaves_gaps(rng):
    acts = activations(additive(rng, [1, 1], [1, 1], n_languages=3, n=12, hidden=8))
    table = similarity(acts, HIGH, split=None, permutations=0, statistics=["mexa"], control=acts.isel(layer=[1])).table
    assert table.query("layer == 0")["control"].isna().all() and table.query("layer == 1")["control"].notna().all()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "hidden", "spectrum"), [(60, 64, "steep"), (48, 32, "flat")])
def test_intervals_cover_the_expected_value(n, hidden, spectrum):
    rng = np.random.default_rng(5)
    strength = 6 * 0.8 ** np.arange(20) if spectrum == "steep" else np.full(hidden, 1.2)
    axes = np.linalg.qr(rng.normal(size=(hidden, len(strength))))[0].T
    shift = rng.normal(size=(4, 1, hidden))  # the languages stay, the meanings are drawn anew
    drawn = []
    for _ in range(60):
        states = ((rng.normal(size=(n, len(strength))) * strength) @ axes)[None] + rng.normal(size=(4, n, hidden)) + shift
        drawn.append(values_of(similarity(activations(states[:, :, None, None]), HIGH, split=None, permutations=0)))
    for statistic in STATISTICS:
        value, low, high = (np.array([rows.loc[statistic, c] for rows in drawn]) for c in ("value", "low", "high"))
        assert ((low <= value.mean()) & (value.mean() <= high)).mean() >= 0.88, statistic
        # wide enough to cover, not so wide as to say nothing: at most 2.7 times the ideal interval, or what 60 of 60 leaves
        assert np.median(high - low) <= max(2.7 * 3.92 * value.std(), 0.08), statistic
