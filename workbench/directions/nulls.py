"""What AUROC a harm direction reaches when there is nothing to find.

Four nulls, all shown beside the measured value:

* permuted test labels: the scored labels shuffled, the maximum over layers taken;
* permuted training labels: directions from shuffled fit labels. States vary along few directions, so one that knows
  nothing of harm can separate the classes by accident. Labels are shuffled within each class and the part along the
  true direction is taken out: else a large harm axis leaks into every shuffled direction (12 standard deviations in
  32 dimensions: 95 % quantile 1.00), and the null would grow with what it is to judge;
* untrained model: the same configuration and tokenizer with fresh weights, through the whole pipeline including the
  choice of a layer. It sees the same tokens, so whatever it separates is in the surface;
* surface: logistic regression on prompt length and final character, fitted on the reference languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool
from scipy.stats import rankdata

from workbench.directions.extract import difference_in_means, harm_direction
from workbench.directions.project import project
from workbench.directions.transfer import choose_layer, language_rows, transfer_auroc
from workbench.errors import DataError
from workbench.geometry.cells import each_layer, labels_of, provenance_of, rows_of
from workbench.results import Result
from workbench.statistics import auroc, auroc_from_ranks

TEST_LABELS = "permuted test labels"
TRAINING_LABELS = "permuted training labels"
UNTRAINED = "untrained model"
SURFACE = "surface"


@dataclass(frozen=True)
class HarmNulls(Result):
    """AUROC under each null: null, seed, position, layer, language, value.

    ``layer`` is missing (NA) for the maximum over layers (permuted test labels) and for the surface baseline, which
    also has no position (None).
    """

    required: ClassVar[tuple[str, ...]] = ("null", "seed", "position", "layer", "language", "value")

    def summary(self) -> pd.DataFrame:
        """Return mean, 95 % quantile, maximum and number of draws of each null."""
        groups = self.table.groupby(["null", "position", "language"], dropna=False, sort=False)["value"]
        return groups.agg(mean="mean", high_95=lambda v: v.quantile(0.95), maximum="max", n="size").reset_index()


def shuffle_by_meaning(
    labels: pd.DataFrame, rows: np.ndarray, draws: int, rng: np.random.Generator, *, within_class: bool = False
) -> Bool[np.ndarray, "draw row"]:
    """Return label draws shuffled between meanings, so that translations of one meaning keep one label.

    Parameters
    ----------
    within_class : bool
        Call half of each class harmful, so that a draw shares nothing with the true labels.
    """
    part = labels.iloc[rows]
    meanings, of_row = np.unique(part["meaning_id"].to_numpy().astype(str), return_inverse=True)
    own = np.zeros(len(meanings), dtype=bool)
    own[of_row] = part["harmful"].to_numpy()
    if not within_class:
        return rng.permuted(np.broadcast_to(own, (draws, len(own))), axis=1)[:, of_row]
    drawn = np.zeros((draws, len(own)), dtype=bool)
    for label in (True, False):
        members = np.flatnonzero(own == label)
        halves = np.arange(len(members)) < len(members) // 2
        if len(members) % 2 and not label:  # odd classes: one rounds down, the other up
            halves = np.arange(len(members)) <= len(members) // 2
        drawn[:, members] = rng.permuted(np.broadcast_to(halves, (draws, len(members))), axis=1)
    return drawn[:, of_row]


def harm_nulls(
    acts: xr.Dataset,
    reference: Sequence[str],
    *,
    untrained: Sequence[xr.Dataset] = (),
    surface: pd.DataFrame | None = None,
    permutations: int = 200,
    directions: int = 40,
    rng: np.random.Generator | None = None,
) -> HarmNulls:
    """Measure the AUROC that each null reaches, per position and language, on the "score" split.

    Parameters
    ----------
    acts : Dataset
        Activations with splits "fit", "select" and "score"; one layer is read at a time.
    reference : sequence of str
        Languages the harm direction comes from.
    untrained : sequence of Dataset
        The same prompts in untrained copies, one per seed; three or more are asked for.
    surface : DataFrame, optional
        prompt_id, n_chars, n_tokens, final_char (any of the three; final_char is a class such as "letter" or "."). By
        default what the activations carry (lengths only).
    permutations, directions : int
        Draws of test labels, and directions from shuffled training labels.

    Raises
    ------
    DataError
        Splits missing, unknown languages, or surface features that lack prompts.
    """
    rng = rng or np.random.default_rng(0)
    if not len(reference):
        raise DataError("No reference language given. Expected the high-resource ones; pass reference=['en'].")
    tables = [
        _permuted_test_labels(acts, reference, permutations, rng),
        _permuted_training_labels(acts, reference, directions, rng),
        *(_untrained(model, reference, seed) for seed, model in enumerate(untrained)),
        surface_auroc(acts, reference, surface),
    ]
    table = pd.concat(tables, ignore_index=True)
    table["layer"] = table["layer"].astype("Int64")
    options = {
        "permutations": permutations,
        "directions": directions,
        "untrained_seeds": len(untrained),
        "surface_features": _surface_columns(acts, surface),
    }
    return HarmNulls(table, provenance_of(acts, reference=list(reference), **options))


def _permuted_test_labels(acts: xr.Dataset, reference: Sequence[str], draws: int, rng: np.random.Generator) -> pd.DataFrame:
    scores = project(acts, harm_direction(acts, reference))
    labels = labels_of(acts)
    values = scores.transpose("prompt", "layer", "position").values
    tables = []
    for language, rows in language_rows(labels, "score").items():
        found = auroc_from_ranks(shuffle_by_meaning(labels, rows, draws, rng), rankdata(values[rows], axis=0)).max(axis=1)
        for p, position in enumerate(scores["position"].values):
            tables.append(_table(TEST_LABELS, np.arange(draws), str(position), pd.NA, language, found[:, p]))
    return pd.concat(tables, ignore_index=True)


def _permuted_training_labels(acts: xr.Dataset, reference: Sequence[str], draws: int, rng: np.random.Generator) -> pd.DataFrame:
    labels = labels_of(acts)
    fit, groups = rows_of(labels, split="fit", languages=reference), language_rows(labels, "score")
    scored = np.concatenate(list(groups.values()))
    shuffled, harmful = shuffle_by_meaning(labels, fit, draws, rng, within_class=True).astype(np.float64), labels["harmful"].to_numpy()
    contrast = shuffled / shuffled.sum(axis=1, keepdims=True) - (1 - shuffled) / (1 - shuffled).sum(axis=1, keepdims=True)
    at = {language: np.flatnonzero(np.isin(scored, rows)) for language, rows in groups.items()}
    tables = []
    for layer, position, states in each_layer(acts, np.concatenate([fit, scored])):
        # centred on the fit rows: the contrast does not change, and a constant state leaves exact ties
        states = states - states[: len(fit)].mean(axis=0)
        size = np.abs(states).max()
        true, _ = difference_in_means(states[: len(fit)], harmful[fit])
        drawn = contrast @ states[: len(fit)]
        values = states[len(fit) :] @ (drawn - np.outer(drawn @ true, true)).T
        values[np.abs(values) <= 1e-12 * max(size, 1e-6) ** 2] = 0.0
        for language, rows in at.items():
            found = np.asarray(auroc(harmful[scored[rows]], values[rows]))
            tables.append(_table(TRAINING_LABELS, np.arange(draws), position, layer, language, found))
    return pd.concat(tables, ignore_index=True)


def _untrained(acts: xr.Dataset, reference: Sequence[str], seed: int) -> pd.DataFrame:
    scores = project(acts, harm_direction(acts, reference))
    layers = choose_layer(scores, reference).layers()
    table = transfer_auroc(scores, reference).table
    kept = table[[layers[p] == k for p, k in zip(table["position"], table["layer"], strict=True)]]
    return kept[["position", "layer", "language", "value"]].assign(null=UNTRAINED, seed=seed)


def _surface_columns(acts: xr.Dataset, surface: pd.DataFrame | None) -> list[str]:
    source = surface.columns if surface is not None else acts.coords
    return [name for name in ("n_chars", "n_tokens", "final_char") if name in source]


def surface_auroc(acts: xr.Dataset, reference: Sequence[str], surface: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the AUROC of a logistic regression on length and final character, fitted on the reference languages.

    Raises
    ------
    DataError
        No usable column, or prompts without features.
    """
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    labels = labels_of(acts)
    columns = _surface_columns(acts, surface)
    if not columns:
        raise DataError("No surface feature given. Expected columns among n_chars, n_tokens and final_char; pass surface=DataFrame(prompt_id, ...).")
    if surface is None:
        features = pd.DataFrame({name: acts[name].values for name in columns})
    else:
        indexed = surface.set_index("prompt_id") if "prompt_id" in surface.columns else surface
        missing = [p for p in labels["prompt_id"] if p not in indexed.index]
        if missing:
            raise DataError(f"{len(missing)} prompts have no surface features (first: {missing[0]}). Expected one row per prompt_id.")
        features = indexed.loc[labels["prompt_id"], columns].reset_index(drop=True)
    lengths = [name for name in columns if name != "final_char"]
    features = features.assign(**{name: np.log1p(features[name].astype(np.float64)) for name in lengths})
    steps = [(StandardScaler(), lengths)] if lengths else []
    if "final_char" in columns:
        steps.append((OneHotEncoder(handle_unknown="ignore"), ["final_char"]))
    fit, harmful = rows_of(labels, split="fit", languages=reference), labels["harmful"].to_numpy()
    model = make_pipeline(make_column_transformer(*steps), LogisticRegression(class_weight="balanced", max_iter=1000)).fit(
        features.iloc[fit], harmful[fit]
    )
    tables = []
    for language, rows in language_rows(labels, "score").items():
        value = auroc(harmful[rows], model.decision_function(features.iloc[rows]))
        tables.append(_table(SURFACE, np.array([0]), None, pd.NA, language, np.array([value])))
    return pd.concat(tables, ignore_index=True)


def _table(null: str, seed: np.ndarray, position: str | None, layer: object, language: str, value: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame({"null": null, "seed": seed, "position": position, "layer": layer, "language": language, "value": value})
    return frame.astype({"layer": "Int64", "position": object})
