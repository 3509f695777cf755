"""The restoration map finds the layer at which a coordinate was planted, is exact where it is an identity, and says what it left out."""

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.activations.capture import capture
from workbench.diagnosis.exchanges import exchanges
from workbench.diagnosis.interchanged import Interchanged, Variant
from workbench.diagnosis.restoration import Restoration, restoration_map
from workbench.diagnosis.restored import change, map_rows
from workbench.directions import Direction, harm_direction
from workbench.errors import DataError
from workbench.interventions import Patch
from workbench.interventions.refusal_score import refusal_score
from workbench.interventions.refusal_tokens import RefusalTokens
from workbench.models.load import load_model
from workbench.models.next_token import next_logits
from workbench.prompts.sources import load_prompts

REFERENCE = ["qaa", "qab"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def organism():
    """The shipped organism on a few meanings, with the direction that it was tuned to refuse along in place of a selected one."""
    chat, grid = load_model("organism:aligned"), load_prompts("organism", languages=["qaa", "qab", "qad", "qae"], limit=48)
    acts = capture(chat, grid, positions=["t_inst", "t_post_inst"], progress=False)
    directions = harm_direction(acts, REFERENCE, split="fit")
    return chat, grid, acts, directions, directions.at(5, "t_post_inst")


@pytest.fixture(scope="module")
def found(organism):
    chat, grid, acts, directions, selected = organism
    return restoration_map(chat, grid, acts, directions, selected, reference=REFERENCE, n=8, progress=False)


def rows(result, **wanted):
    table = result.table
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table.set_index("layer").sort_index()


def test_the_whole_state_in_the_last_layer_brings_the_donors_reply_and_is_marked(found):
    for way in ("restore", "break"):
        for language in ("qad", "qae", "mean low"):
            last = rows(found, kind="state", language=language, way=way, outcome="log_odds").loc[8]
            assert last["before"] + last["value"] == pytest.approx(last["goal"], abs=1e-4) and last["trivial"]
            refused = rows(found, kind="state", language=language, way=way, outcome="refusal").loc[8]
            assert refused["before"] + refused["value"] == pytest.approx(refused["goal"])
    marked = found.table[found.table["trivial"]]
    assert set(marked["kind"]) == {"state"} and set(marked["layer"]) == {8}


def test_increments_add_up_to_the_level_and_the_constant_first_layer_is_undefined(found):
    for kind in ("harm_coordinate", "refusal_coordinate", "state", "control_random"):
        part = rows(found, kind=kind, language="qad", way="restore", outcome="log_odds")
        part = part[part["matched"] == ("harm_coordinate" if kind == "control_random" else "")]
        assert part.loc[0, ["value", "increment"]].isna().all()
        np.testing.assert_allclose(part["increment"].iloc[1:].cumsum(), part["value"].iloc[1:], atol=1e-9)


@pytest.mark.parametrize("way", ["restore", "break"])
@pytest.mark.parametrize("kind", ["harm_coordinate", "refusal_coordinate", "state"])
def test_a_level_is_what_patching_the_whole_prompt_again_gives(organism, found, kind, way):
    chat, grid, acts, directions, selected = organism
    tokens = RefusalTokens.from_grid(chat, grid)
    asked = exchanges(grid, REFERENCE, tokens, split="score", n=8, seed=0).table.query("language == 'qae' and way == @way")
    layer, states = 6, acts["residual"].sel(position="t_post_inst", layer=6).astype(np.float64)
    donors = dict(zip(asked["prompt_id"], states.sel(prompt=asked["donor"].tolist()).values, strict=True))
    unit = {"harm_coordinate": directions.at(layer, "t_post_inst").unit, "refusal_coordinate": selected.unit, "state": None}[kind]
    patch = Patch({name: h if unit is None else h @ unit for name, h in donors.items()}, layers=layer, scope="last_prompt", along=unit)
    texts, names = grid.frame.set_index("prompt_id")["text"].loc[asked["prompt_id"]].tolist(), asked["prompt_id"].tolist()

    def scores():
        (pair,) = next_logits(chat, chat.tokenise(texts), names)
        return refusal_score(pair[1], tokens.union(["qaa", "qae"])).numpy()[np.argsort(pair[0])]

    before = scores()
    with chat.edited(patch):
        after = scores()
    row = rows(found, kind=kind, language="qae", way=way, outcome="log_odds").loc[layer]
    assert row["value"] == pytest.approx((after - before).mean(), abs=1e-3) and row["n"] == len(asked)
    assert abs(row["value"]) > 0.1


def test_a_map_reads_beginnings_once_and_then_one_token_per_layer_prompt_and_variant(organism, found):
    chat, grid, acts, directions, selected = organism
    read = []
    hook = chat.parts.blocks[0].register_forward_hook(lambda _m, args, _o: read.append(args[0].shape[0] * args[0].shape[1]))
    try:
        result = restoration_map(chat, grid, acts, directions, selected, reference=REFERENCE, n=8, layers=[4, 5, 6], progress=False)
    finally:
        hook.remove()
    n_exchanges = 2 * (2 * 8 + 8)  # two languages and the reference's own classes, both ways
    kinds, controls = 3, 2 * 2 * 5 + 1
    assert result.provenance["passes"] == kinds + controls
    length = len(chat.tokenise(grid.frame["text"].tolist()[:1])[0])
    assert sum(read) == n_exchanges * (length - 1) + n_exchanges * (1 + 3 * (kinds + controls))
    again = rows(found, kind="harm_coordinate", language="qad", way="restore", outcome="log_odds").loc[[4, 5, 6], "value"]
    given = rows(result, kind="harm_coordinate", language="qad", way="restore", outcome="log_odds")
    np.testing.assert_allclose(given["value"], again, atol=1e-6)
    assert np.isnan(given.loc[4, "increment"]) and np.isfinite(given.loc[5, "increment"])
    assert not given.loc[4, "peak"] and not given.loc[6, "trivial"]


def test_only_score_meanings_are_asked_and_the_reference_classes_come_from_select(organism):
    chat, grid, *_ = organism
    asked = exchanges(grid, REFERENCE, RefusalTokens.from_grid(chat, grid), split="score", n=8, seed=0)
    frame = grid.frame.set_index("prompt_id")
    twins, classes = (asked.table[asked.table["pair"] == pair] for pair in ("twin", "class"))
    assert set(frame.loc[twins["prompt_id"], "split"]) == {"score"} and set(frame.loc[classes["prompt_id"], "split"]) == {"select"}
    assert (frame.loc[twins["prompt_id"], "meaning_id"].to_numpy() == frame.loc[twins["donor"], "meaning_id"].to_numpy()).all()
    assert frame.loc[twins["prompt_id"], "harmful"].all() and set(classes["language"]) == {"qaa"} and asked.reference == "qaa"
    assert (frame.loc[classes["prompt_id"], "harmful"].to_numpy() != frame.loc[classes["donor"], "harmful"].to_numpy()).all()
    restored = twins[twins["way"] == "restore"]
    assert (frame.loc[restored["prompt_id"], "language"].to_numpy() == restored["language"]).all()
    mirror = asked.table.loc[asked.table["mirror"]]
    assert (mirror["prompt_id"].to_numpy() == asked.table["donor"]).all() and (mirror["donor"].to_numpy() == asked.table["prompt_id"]).all()


def test_a_language_without_refusal_tokens_is_left_out_with_the_reason_and_the_others_stay(organism):
    chat, grid, acts, directions, _ = organism
    known = RefusalTokens.from_grid(chat, grid)
    few = RefusalTokens({tag: ids for tag, ids in known.ids.items() if tag not in ("qaa", "qae")}, known.source, known.pieces, {"qae": "made up"})
    result = restoration_map(chat, grid, acts, directions, None, reference=REFERENCE, n=4, layers=[5], tokens=few, progress=False)
    assert result.provenance["left_out"] == {"qae": "no refusal tokens (made up)"} and result.provenance["twins"] == "qab"
    assert set(result.table["language"]) == {"qad", "qab"} and "refusal_coordinate" not in set(result.table["kind"])
    none = RefusalTokens({"qad": known.ids["qad"]}, known.source, known.pieces)
    with pytest.raises(DataError, match="no refusal tokens for the reference qaa, qab"):
        restoration_map(chat, grid, acts, directions, None, reference=REFERENCE, tokens=none, progress=False)


def test_languages_that_share_no_meanings_with_the_reference_have_nothing_to_exchange(organism):
    chat, grid, acts, directions, _ = organism
    part = grid.select(languages=["qaa", "qab"])
    with pytest.raises(DataError, match="nothing to exchange with qaa: every language is a reference"):
        restoration_map(chat, part, acts, directions, reference=REFERENCE, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["harm_cordinate"]}, "Did you mean 'harm_coordinate'"),
        ({"kinds": ["refusal_coordinate"]}, "needs a selected direction"),
        ({"draws": 4}, "at least 5"),
        ({"position": "post[7]"}, "was not captured"),
        ({"layers": [9]}, "No direction at layer 9"),
        ({"split": "fit"}, "directions were taken from the split 'fit'"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_remedy(organism, options, message):
    chat, grid, acts, directions, _ = organism
    with pytest.raises(DataError, match=message.replace("[", r"\[")):
        restoration_map(chat, grid, acts, directions, reference=REFERENCE, progress=False, **options)


def test_states_of_another_model_or_template_are_refused(organism):
    chat, grid, acts, directions, selected = organism
    with pytest.raises(DataError, match=r"activations differ from .* in template"):
        restoration_map(chat, grid, acts.assign_attrs(template="x"), directions, reference=REFERENCE, progress=False)
    elsewhere = Direction(selected.unit, selected.norm, 5, "t_post_inst", {**selected.metadata, "fingerprint": "x"})
    with pytest.raises(DataError, match=r"selected direction differ from .* in fingerprint"):
        restoration_map(chat, grid, acts, directions, elsewhere, reference=REFERENCE, progress=False)
    with pytest.raises(DataError, match="have no activations"):
        restoration_map(chat, grid, acts.isel(prompt=acts["language"].values != "qad"), directions, reference=REFERENCE, progress=False)


def test_at_an_earlier_token_nothing_is_trivial_and_the_last_layer_changes_nothing(organism):
    chat, grid, acts, directions, _ = organism
    result = restoration_map(chat, grid, acts, directions, reference=REFERENCE, n=4, position="t_inst", layers=[0, 4, 8], progress=False)
    assert not result.table["trivial"].any()
    state = rows(result, kind="state", language="qad", way="restore", outcome="log_odds")
    assert state.loc[8, "value"] == pytest.approx(0, abs=1e-5) and abs(state.loc[4, "value"]) > 1e-3
    assert np.isfinite(state.loc[0, "value"]), "words differ, so there is something to exchange in layer 0"


def made_up(rng, steps, n=20, noise=0.1):
    """Outcomes of exchanges whose increments are known: prompts of two languages, one layer's share each."""
    table = pd.concat(
        [
            pd.DataFrame({"language": tag, "tier": "low", "pair": "twin", "way": way, "meaning_id": [f"m{i}" for i in range(n)]})
            for tag in ("sw", "bn")
            for way in ("restore", "break")
        ],
        ignore_index=True,
    )
    table["mirror"] = [*range(n, 2 * n), *range(n), *range(3 * n, 4 * n), *range(2 * n, 3 * n)]
    sign = np.where(table["way"] == "restore", 1.0, -1.0)
    before = np.stack([-3 * sign, (sign < 0).astype(float)])
    levels = np.cumsum(steps)[:, None] * sign + noise * rng.normal(size=(len(steps), len(table)))
    after = np.stack([before[0] + levels, (before[0] + levels > 0).astype(float)])[:, :, None]
    length = np.ones((len(steps), 1, len(table)))
    return table, Interchanged(before, after, length, (Variant("harm_coordinate", "", 0),), tuple(range(len(steps))), True)


def test_planted_increments_are_found_with_their_peak_in_both_ways_and_not_in_the_last_layer(rng):
    steps = [0.0, 0.5, 2.5, -0.5, 4.0]
    table, found = made_up(rng, steps)
    told = map_rows(table, found, n_layers=4, confidence=0.95, rng=rng)
    for language in ("sw", "bn", "mean low"):
        for way, sign in (("restore", 1), ("break", -1)):
            part = told[(told["language"] == language) & (told["way"] == way) & (told["outcome"] == "log_odds")]
            np.testing.assert_allclose(sign * part["increment"], steps, atol=0.15)
            assert part["peak"].tolist() == [False, False, True, False, False]
            assert part["peak_share"].tolist()[:4] == [0, 0, 1, 0] and np.isnan(part["peak_share"].iloc[4])
            assert (part["low"] <= part["value"]).all() and (part["value"] <= part["high"]).all() and (part["n"] == 20).all()
    back = map_rows(*made_up(rng, [0.0, -1.0, -1.0], noise=0.0), n_layers=3, confidence=0.95, rng=rng)
    assert not back["peak"].any() and back["peak_share"].isna().all(), "away from the donor there is no peak"
    part = told.query("language == 'sw' and way == 'restore' and outcome == 'refusal'")
    assert part["value"].tolist() == [0, 0, pytest.approx(part["value"].iloc[2]), 0, 1] and (part["high"] > part["low"]).all()


def test_without_an_effect_the_peak_is_anywhere_and_the_intervals_hold_nought(rng):
    misses, shares = 0, []
    for _ in range(12):
        told = map_rows(*made_up(rng, [0.0] * 6, noise=1.0), n_layers=6, confidence=0.95, rng=rng)
        part = told.query("language == 'sw' and outcome == 'log_odds'")
        misses += int(((part["low"] > 0) | (part["high"] < 0)).sum())
        shares.append(part.groupby("way")["peak_share"].max().mean())
    assert misses / (12 * 12) < 0.11 and np.mean(shares) < 0.85


def test_a_change_is_paired_by_meaning_and_has_a_width_where_no_reply_changed(rng):
    before = rng.normal(size=(1, 12)) * 10
    moved = change(before + 1 + 0.01 * rng.normal(size=(1, 12)), before, "log_odds")
    assert moved.value == pytest.approx(1, abs=0.02) and moved.high - moved.low < 0.05
    same = np.ones((3, 12))
    still = change(same, same, "refusal")
    assert still.value == 0 and still.low < -0.1 and still.high > 0.1


def test_a_saved_map_still_knows_its_peaks_and_where_the_reference_decides(found, tmp_path):
    again = Restoration.load(found.save(tmp_path / "restoration.parquet"))
    pd.testing.assert_frame_equal(again.peaks(), found.peaks(), check_dtype=False)
    assert again.read_at() == found.read_at() == found.provenance["read_at"]
    peaks = again.peaks()
    assert set(peaks["kind"]) == {"harm_coordinate", "refusal_coordinate", "state"} and (peaks["layer"] < 8).all()
    assert list(again.summary().columns)[:5] == ["language", "kind", "way", "layer", "peak_share"]


@pytest.mark.slow
def test_on_the_organism_the_map_peaks_where_the_tuned_languages_decide_and_controls_do_little():
    chat, grid = load_model("organism:aligned"), load_prompts("organism")
    reference = grid.reference(None)
    acts = capture(chat, grid, positions=["t_post_inst"], progress=False)
    directions = harm_direction(acts, reference, split="fit")
    selected = directions.at(5, "t_post_inst")  # what selection finds: tests/organism/test_steering.py
    result = restoration_map(chat, grid, acts, directions, selected, reference=reference, progress=False)
    where = result.read_at()  # in the reference's own classes, from meanings of the select split
    peaks = result.peaks().query("kind == 'harm_coordinate' and way == 'restore'").set_index("language")
    assert peaks.loc["mean low", "layer"] == where["increment"] and peaks.loc["mean low", "peak_share"] > 0.8
    assert (peaks["layer"].drop("qaa") == where["increment"]).sum() >= 4
    for way in ("restore", "break"):
        level = rows(result, kind="harm_coordinate", language="mean low", way=way, outcome="log_odds")["value"].drop(8).abs()
        assert level.idxmax() == where["level"] and level.loc[:3].max() < 0.1
    broken = result.table.query("kind == 'harm_coordinate' and way == 'break' and layer == @where['level'] and pair == 'twin'")
    assert (broken.query("outcome == 'log_odds'")["high"] < 0).all() and len(broken) == 12
    assert broken.query("outcome == 'refusal' and language == 'mean low'")["high"].item() < 0
    moved = result.table.query("outcome == 'log_odds' and pair == 'twin'").set_index(["language", "way", "layer"])
    for way in ("restore", "break"):
        for layer in set(where.values()):
            for language in ("qad", "qae", "qaf", "qag", "qah", "mean low"):
                here = moved.loc[(language, way, layer)]
                own = here.loc[here["kind"] == "harm_coordinate", "value"].abs().item()
                assert here.loc[here["matched"] == "harm_coordinate", "value"].abs().max() < own / 5
