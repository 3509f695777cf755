"""Tokens find their language by Bayes; the track equals a plain computation, finds what was planted and names nothing without evidence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from workbench.errors import DataError
from workbench.geometry.lens import LanguageTrack, bounded_interval, language_track, token_languages
from workbench.statistics import jackknife_interval

TAGS = ("qaa", "qab", "qac")
V = 40


class Batch(NamedTuple):
    rows: np.ndarray
    layers: tuple[int, ...]
    positions: tuple[str, ...]
    logits: np.ndarray


def labels(n=6, tags=TAGS):
    tiers = {"qaa": "high", "qab": "mid", "qac": None}
    return pd.DataFrame(
        [{"prompt_id": f"m{i}:{tag}", "meaning_id": f"m{i}", "language": tag, "tier": tiers.get(tag, "low")} for tag in tags for i in range(n)]
    )


def known_ten_each(smoothing=0.0):
    """Tokens 0-9 are qaa's, 10-19 qab's, 20-29 qac's; 30-39 are never seen."""
    return token_languages([list(range(10 * i, 10 * i + 10)) for i in range(3)], TAGS, V, smoothing=smoothing)


def random_known(rng, smoothing=0.25):
    return token_languages([rng.integers(0, 30, size=n).tolist() for n in (60, 25, 40)], TAGS, V, smoothing=smoothing)


def whole(logits):
    return Batch(np.arange(len(logits)), tuple(range(logits.shape[1])), ("t_inst", "t_post_inst")[: logits.shape[2]], logits)


def place(result, position="t_inst", layer=0, language="qaa"):
    table = result.table
    return table[(table["position"] == position) & (table["layer"] == layer) & (table["language"] == language)].set_index("spoken")


def spoken_at(result, **where):
    found = result.spoken()
    for column, value in where.items():
        found = found[found[column] == value]
    return found


# ---------------------------------------------------------------- P(language | token)

texts = st.lists(st.tuples(st.sampled_from(TAGS), st.lists(st.integers(0, V - 1), min_size=1, max_size=8)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(texts=texts, smoothing=st.sampled_from([0.0, 0.25, 3.0]))
def test_rows_sum_to_one_and_equal_bayes_written_out(texts, smoothing):
    texts = [*texts, *[(tag, [0]) for tag in TAGS]]
    known = token_languages([ids for _, ids in texts], [tag for tag, _ in texts], V, smoothing=smoothing)
    dense = known.dense()
    assert dense.sum(axis=1) == pytest.approx(1) and (dense >= 0).all()
    said = {tag: [i for t, ids in texts if t == tag for i in ids] for tag in TAGS}
    size = 3 / sum(1 / len(ids) for ids in said.values())
    for token in range(V):
        weight = {tag: size * ids.count(token) / len(ids) for tag, ids in said.items()}
        total = sum(weight.values())
        for tag in TAGS:
            expected = (weight[tag] + smoothing / 3) / (total + smoothing) if total else 1 / 3
            assert dense[token, known.languages.index(tag)] == pytest.approx(expected)


def test_a_token_of_one_language_is_certain_only_without_smoothing_and_more_often_seen_is_surer():
    ids, languages = [[1, 2, 2, 2, 2], [3, 4, 4, 4, 4]], ["qaa", "qab"]
    assert token_languages(ids, languages, V, smoothing=0).dense()[1].tolist() == [1, 0]
    smoothed = token_languages(ids, languages, V).dense()
    assert 0.5 < smoothed[1, 0] < smoothed[2, 0] < 1
    assert smoothed[0] == pytest.approx(0.5)  # never seen


@pytest.mark.parametrize("times", [2, 50])
def test_how_much_text_a_language_has_does_not_matter(rng, times):
    once = [rng.integers(0, 30, size=n).tolist() for n in (60, 25, 40)]
    more = [once[0] * times, *once[1:]]
    few, many = (token_languages(ids, TAGS, V, smoothing=0) for ids in (once, more))
    assert many.probability == pytest.approx(few.probability)
    assert many.counts["qaa"] == times * few.counts["qaa"]


def test_a_language_s_own_text_says_how_high_its_share_can_get(rng):
    known = random_known(rng)
    text = rng.integers(0, V, size=50)
    assert known.shares(text) == pytest.approx(known.dense()[text].mean(axis=0))


@pytest.mark.parametrize(
    ("ids", "languages", "options", "message"),
    [
        ([[0]], ["qaa"], {}, r"1 language\(s\): \['qaa'\].*at least two"),
        ([[0], [1]], ["qaa", "qaa"], {}, "at least two"),
        ([[0], []], ["qaa", "qab"], {}, r"No tokens of \['qab'\]"),
        ([[0], [V]], ["qaa", "qab"], {}, "Tokens from 40 to 40 in a vocabulary of 40"),
        ([[0], [-1]], ["qaa", "qab"], {}, "Tokens from -1"),
        ([[0], [1]], ["qaa"], {}, "2 texts and 1 languages"),
        ([[0], [1]], ["qaa", "qab"], {"smoothing": -1}, "smoothing is -1"),
        ([[0], [1]], ["qaa", "qab"], {"smoothing": float("nan")}, "smoothing is nan"),
    ],
)
def test_texts_that_tell_nothing_apart_are_refused(ids, languages, options, message):
    with pytest.raises(DataError, match=message):
        token_languages(ids, languages, V, **options)


# ---------------------------------------------------------------- the track


def test_the_track_equals_a_plain_computation(rng):
    frame, known = labels(), random_known(rng)
    logits = rng.normal(scale=3, size=(len(frame), 2, 2, V)).astype(np.float32)
    result = language_track([whole(logits)], frame, known, reference=["qaa", "qab"])
    p = softmax(logits.astype(np.float64), axis=-1)
    seen = np.isin(np.arange(V), known.tokens)
    for a, language in enumerate(TAGS):
        mine = (frame["language"] == language).to_numpy()
        for layer in range(2):
            for j, position in enumerate(("t_inst", "t_post_inst")):
                here, found = p[mine, layer, j], place(result, position, layer, language)
                shares = here.mean(axis=0) @ known.dense()
                certain = here[:, seen].mean(axis=0) @ known.dense()[seen]
                assert found.loc[list(TAGS), "share"].to_numpy() == pytest.approx(shares, abs=1e-6)
                assert found.loc[list(TAGS), "attributed"].to_numpy() == pytest.approx(certain, abs=1e-6)
                assert found["unseen"].to_numpy() == pytest.approx(here[:, ~seen].sum(axis=1).mean(), abs=1e-6)
                assert found["entropy"].to_numpy() == pytest.approx(np.mean([entropy(row, base=2) for row in here]), abs=1e-5)
                rest = [i for i in range(3) if i != a and i < 2]
                assert found.loc["own", "share"] == pytest.approx(shares[a], abs=1e-6)
                assert found.loc["reference", "share"] == pytest.approx(shares[rest].sum(), abs=1e-6)
                assert ("other" in found.index) == (language != "qac")  # of qac all others are the reference
    assert (result.table["n"] == 6).all() and result.table["entropy_max"].to_numpy() == pytest.approx(np.log2(V))


def test_parts_add_up_and_lie_inside_their_intervals(rng):
    frame = labels()
    logits = rng.normal(scale=4, size=(len(frame), 3, 1, V)).astype(np.float32)
    table = language_track([whole(logits)], frame, random_known(rng), reference=["qaa"]).table
    key = ["position", "layer", "language"]
    by_language, rolled = table[table["kind"] == "language"], table[table["kind"] == "rollup"]
    for part in (by_language, rolled):
        sums = part.groupby(key)[["share", "chance", "control", "attributed"]].sum()
        assert sums[["share", "chance", "control"]].to_numpy() == pytest.approx(1)
        assert (sums["attributed"] + part.groupby(key)["unseen"].first()).to_numpy() == pytest.approx(1)
    for value, low, high in (("share", "low", "high"), *((c, f"{c}_low", f"{c}_high") for c in ("attributed", "unseen", "entropy"))):
        assert (table[low] <= table[value]).all() and (table[value] <= table[high]).all()
    assert (table["control_95"] >= table["control"]).all()
    assert (table["control_95"] - table["attributed_control_95"]).to_numpy() == pytest.approx(table["unseen"] * table["chance"])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_how_the_logits_are_cut_into_batches_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    frame, known = labels(4), random_known(rng)
    logits = rng.normal(scale=3, size=(len(frame), 3, 2, V)).astype(np.float32)
    once = language_track([whole(logits)], frame, known, reference=["qaa"], permutations=5).table
    order, pieces = rng.permutation(len(frame)), []
    for rows in np.split(order, np.sort(rng.choice(np.arange(1, len(frame)), size=3, replace=False))):
        for layers in ([2], [0, 1]):
            pieces.append(Batch(rows, tuple(layers), ("t_inst", "t_post_inst"), logits[np.ix_(rows, layers)]))
    again = language_track(iter(pieces), frame, known, reference=["qaa"], permutations=5).table
    pd.testing.assert_frame_equal(again, once, rtol=1e-6, atol=1e-6)


def test_a_large_vocabulary_loses_no_digits(rng):
    frame, size = labels(2, TAGS[:2]), 150_000
    logits = rng.normal(scale=2, size=(4, 1, 1, size)).astype(np.float32)
    known = token_languages([list(range(0, size, 2)), list(range(0, size, 3))], TAGS[:2], size, smoothing=0)
    result = language_track([whole(logits)], frame, known, reference=["qaa"], permutations=1)
    p = softmax(logits[:2, 0, 0].astype(np.float64), axis=-1)
    assert place(result).loc[["qaa", "qab"], "share"].to_numpy() == pytest.approx(p.mean(axis=0) @ known.dense(), abs=1e-7)
    assert place(result)["entropy"].iloc[0] == pytest.approx(entropy(p, axis=1, base=2).mean(), abs=1e-5)


def planted(rng, n=20):
    """Layer 0 says nothing, layer 1 the reference qaa, layer 2 the prompt's own language; each prompt its own tokens."""
    frame = labels(n)
    logits = rng.normal(size=(len(frame), 3, 1, V)).astype(np.float32)
    logits[:, 0, :, 30:] += 8
    for row, language in enumerate(frame["language"]):
        own = 10 * TAGS.index(language)
        logits[row, 1, 0, rng.choice(10, size=3, replace=False)] += 8
        logits[row, 2, 0, own + rng.choice(10, size=3, replace=False)] += 8
    return frame, logits


def test_what_was_planted_is_named_and_nothing_is_once_it_is_destroyed(rng):
    frame, logits = planted(rng)
    result = language_track([whole(logits)], frame, known_ten_each(), reference=["qaa"])
    named = spoken_at(result).set_index(["layer", "language"])
    assert named.loc[0, "spoken"].isna().all() and named.loc[0, "reason"].str.contains("never seen in the texts counted; more text").all()
    assert (named.loc[1, "spoken"] == "qaa").all() and (named.loc[1, "low"] > 0.8).all()
    assert named.loc[2, "spoken"].tolist() == list(named.loc[2].index)
    rolled = result.rollup().set_index(["layer", "language", "spoken"])["share"]
    assert rolled[1, "qac", "reference"] > 0.9 > 0.1 > rolled[1, "qac", "own"] and rolled[2, "qac", "own"] > 0.9
    mixed = rng.permutation(V)
    broken = language_track([whole(logits[..., mixed])], frame, known_ten_each(), reference=["qaa"])
    assert broken.spoken()["spoken"].isna().all()


def test_no_language_is_named_where_most_of_the_probability_is_unseen(rng):
    frame = labels(20)
    for unseen, name in ((0.45, "qaa"), (0.55, None)):
        p = np.full((len(frame), V), 1e-9)
        p[:, :10] += (1 - unseen) * rng.dirichlet(np.ones(10), size=len(frame))
        p[:, 35] += unseen
        result = language_track([whole(np.log(p)[:, None, None].astype(np.float32))], frame, known_ten_each(), reference=["qaa"])
        assert {None if pd.isna(x) else x for x in result.spoken()["spoken"]} == {name}
        assert result.table["unseen"].to_numpy() == pytest.approx(unseen, abs=1e-6)


def test_one_token_said_to_everyone_is_no_evidence_of_its_language():
    frame = labels(20)
    logits = np.zeros((len(frame), 1, 1, V), dtype=np.float32)
    logits[..., 3] = np.linspace(12, 14, len(frame))[:, None, None]
    found = language_track([whole(logits)], frame, known_ten_each(), reference=["qaa"]).spoken()
    assert (found["share"] > 0.9).all() and found["spoken"].isna().all()
    assert found["reason"].str.contains("with permuted tokens some language has up to").all()


def test_tokens_with_languages_at_random_beat_the_control_one_time_in_twenty_and_name_none():
    beaten = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        frame = labels(15, TAGS[:2])
        logits = rng.normal(size=(1, 1, 1, V)) + 0.5 * rng.normal(size=(len(frame), 1, 1, V))
        languages = rng.permutation(np.repeat(TAGS, 13))
        known = token_languages([[token] for token in range(39)], languages, V, smoothing=0)
        result = language_track([whole(4 * logits)], frame, known, reference=["qaa"], permutations=40, rng=rng)
        highest = result.table[result.table["kind"] == "language"].groupby("language", sort=False)[["share", "control_top_95"]].max().iloc[0]
        beaten += int(highest["share"] > highest["control_top_95"])
        assert result.spoken()["spoken"].isna().all()
    assert 1 <= beaten <= 9  # 4 expected


def test_a_constant_token_is_undefined_not_zero(rng):
    frame = labels()
    logits = rng.normal(size=(len(frame), 2, 1, V)).astype(np.float32)
    logits[:, 0] = logits[0, 0]
    result = language_track([whole(logits)], frame, known_ten_each(), reference=["qaa"])
    numbers = result.table.set_index("layer")[["share", "low", "control_95", "attributed", "unseen", "entropy"]]
    assert numbers.loc[0].isna().all(axis=None) and numbers.loc[1].notna().all(axis=None)
    assert spoken_at(result, layer=0)["reason"].unique().tolist() == ["every prompt reads the same here"]


def test_a_language_may_lack_meanings_and_two_prompts_have_no_interval(rng):
    frame = labels().drop(index=[0, 1, 6, 7, 8, 9]).reset_index(drop=True)
    logits = rng.normal(scale=3, size=(len(frame), 1, 1, V)).astype(np.float32)
    result = language_track([whole(logits)], frame, known_ten_each(), reference=["qaa"])
    assert result.table.groupby("language", sort=False)["n"].first().tolist() == [4, 2, 6]
    two = place(result, language="qab")
    assert two["share"].notna().all() and two["low"].isna().all() and two["entropy_low"].isna().all()
    assert spoken_at(result, language="qab")["spoken"].isna().all()


def test_the_interval_of_shares_near_an_end_covers_where_the_jackknife_does_not():
    rng = np.random.default_rng(3)
    for n in (8, 20, 40):
        shares = rng.beta(0.006, 0.294, size=(n, 3000))  # mean .02: most prompts 0, a few 1
        plain, ours = jackknife_interval(shares.mean(axis=0), shares - shares.mean(axis=0)), bounded_interval(shares)
        covered = [((low <= 0.02) & (0.02 <= high)).mean() for low, high in (plain, ours)]
        assert covered[0] < 0.75 and covered[1] >= 0.95
        low, high = bounded_interval(np.ones((n, 1)))
        assert 0.6 < low[0] < 1 and high[0] == 1
    middling = rng.beta(5, 5, size=(40, 2000))
    low, high = bounded_interval(middling)
    assert ((low <= 0.5) & (0.5 <= high)).mean() >= 0.94 and np.median(high - low) < 0.15


def test_a_saved_track_names_what_the_first_one_did(rng, tmp_path):
    frame, logits = planted(rng)
    result = language_track([whole(logits)], frame, known_ten_each(), reference=["qaa"], provenance={"model": "planted"})
    loaded = LanguageTrack.load(result.save(tmp_path / "language_track.parquet"))
    pd.testing.assert_frame_equal(loaded.spoken()[["layer", "share", "reason"]], result.spoken()[["layer", "share", "reason"]])
    assert loaded.provenance["model"] == "planted" and loaded.provenance["token_languages"]["tokens"] == {tag: 10 for tag in TAGS}
    assert loaded.summary()["spoken"].tolist() == list(TAGS)
    assert place(result)["tier"].unique().tolist() == ["high"]


def test_the_same_generator_gives_the_same_control(rng):
    frame, logits = planted(rng)
    first, again, other = (
        language_track([whole(logits)], frame, known_ten_each(), reference=["qaa"], rng=np.random.default_rng(seed)).table for seed in (1, 1, 2)
    )
    assert first.equals(again) and not first["control_95"].equals(other["control_95"])


def broken(kind, frame, logits):
    """Return batches and labels with one thing wrong."""
    good = whole(logits)
    if kind == "missing":
        return [Batch(good.rows[:-1], good.layers, good.positions, logits[:-1])], frame
    if kind == "twice":
        return [good, good], frame
    if kind == "nan":
        logits[3, 0, 0, 5] = np.nan
        return [whole(logits)], frame
    if kind == "vocabulary":
        return [whole(logits[..., :-1])], frame
    if kind == "positions":
        half = logits[:9, :, :1]
        return [Batch(np.arange(9), good.layers, ("t_inst",), half), Batch(np.arange(9, 18), good.layers, ("t_post_inst",), half)], frame
    if kind == "rows":
        return [Batch(good.rows + 1, good.layers, good.positions, logits)], frame
    if kind == "none":
        return [], frame
    if kind == "language":
        return [good], frame.assign(language=frame["language"].replace("qac", "qad"))
    if kind == "doubled meaning":
        return [good], frame.assign(meaning_id="m0")
    if kind == "one meaning":
        return [good], frame.assign(language=["qaa"] * 17 + ["qab"], meaning_id=[str(i) for i in range(18)])
    return [good], frame.drop(columns="meaning_id")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"1 prompts have no logits at layer 0 \(first: m5:qac\)"),
        ("twice", "Prompt m0:qaa comes twice at layer 0"),
        ("nan", "Logits of prompt m3:qaa at layer 0 are not finite"),
        ("vocabulary", r"logits of shape \(18, 1, 1, 39\).*expected \(18, 1, 1, 40\)"),
        ("positions", r"at \['t_post_inst'\]; expected .* at \['t_inst'\]"),
        ("rows", "rows 1 to 18; expected rows of the 18 labels"),
        ("none", "No batch came"),
        ("language", r"No token of language 'qad' is known; known: \['qaa', 'qab', 'qac'\]. Did you mean"),
        ("doubled meaning", "Meaning 'm0' appears twice in 'qaa'"),
        ("one meaning", r"Languages \['qab'\] have one meaning only"),
        ("columns", r"lack the columns \['meaning_id'\]"),
    ],
)
def test_batches_and_labels_that_do_not_fit_are_refused(rng, kind, message):
    logits = rng.normal(size=(18, 1, 1, V)).astype(np.float32)
    batches, frame = broken(kind, labels(), logits)
    with pytest.raises(DataError, match=message):
        language_track(batches, frame, known_ten_each(), reference=["qaa"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": []}, "No reference language"),
        ({"reference": ["qax"]}, "No token of language 'qax' is known"),
        ({"reference": ["qaa"], "permutations": 0}, "permutations is 0"),
    ],
)
def test_options_that_leave_no_comparison_are_refused(rng, options, message):
    with pytest.raises(DataError, match=message):
        language_track([whole(rng.normal(size=(18, 1, 1, V)))], labels(), known_ten_each(), **options)
