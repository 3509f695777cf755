"""Find directions at every layer and position, by any method and for either contrast, one layer in memory at a time.

=================== =============================================================================================================
difference_in_means mean of the positive rows minus mean of the negative ones, rows of all languages pooled (Arditi et al.
                    2024, arXiv:2406.11717 in one language; pooled: arXiv:2606.01196)
balanced_means      mean over languages of their own differences in means (ours)
first_component     first principal component of the languages' unit differences, about zero (arXiv:2606.01196)
pca_pairwise        first principal component of midpoint-centred pairs (CAST, arXiv:2409.05907)
pca_center          the same on pairs centred on the mean of all rows
pca_diff            the same on differences, whose mean PCA takes out: for comparison only
logistic            weights of a logistic regression (converged)
=================== =============================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int

from workbench.directions.components import balanced_mean, first_component, language_differences
from workbench.directions.contrast import Classes, Contrast, classes_of
from workbench.directions.direction import Directions, labelled
from workbench.directions.logistic import logistic_direction
from workbench.directions.means import along as along
from workbench.directions.means import difference_in_means as difference_in_means
from workbench.directions.paired import Pairs, paired_component, pairs_of
from workbench.errors import DataError, did_you_mean
from workbench.geometry.cells import all_one_state, each_layer, positions_of


class Sample(NamedTuple):
    """What a method may use beside the states: classes, languages (the first fixes a sign), and pairs where it asks for them."""

    positive: Bool[np.ndarray, " prompt"]
    language: np.ndarray
    languages: list[str]
    pairs: Pairs | None


def _means(states: np.ndarray, sample: Sample) -> np.ndarray:
    return difference_in_means(states, sample.positive)[0]


def _balanced(states: np.ndarray, sample: Sample) -> np.ndarray:
    return balanced_mean(language_differences(states, sample.positive, sample.language, sample.languages))


def _component(states: np.ndarray, sample: Sample) -> np.ndarray:
    return first_component(language_differences(states, sample.positive, sample.language, sample.languages))


def _paired(centring: str) -> Callable[[np.ndarray, Sample], np.ndarray]:
    def find(states: np.ndarray, sample: Sample) -> np.ndarray:
        assert sample.pairs is not None
        return paired_component(states[sample.pairs.positive], states[sample.pairs.negative], centring)

    return find


def _logistic(states: np.ndarray, sample: Sample) -> np.ndarray:
    return logistic_direction(states, sample.positive)


METHODS: dict[str, Callable[[np.ndarray, Sample], np.ndarray]] = {
    "difference_in_means": _means,
    "balanced_means": _balanced,
    "first_component": _component,
    "pca_pairwise": _paired("pairwise"),
    "pca_center": _paired("center"),
    "pca_diff": _paired("diff"),
    "logistic": _logistic,
}
_BY_LANGUAGE = ("balanced_means", "first_component")


def require_method(method: str) -> None:
    """Refuse an unknown method, naming the nearest."""
    if method not in METHODS:
        raise DataError(f"Unknown method {method!r}; expected one of {list(METHODS)}.{did_you_mean(method, METHODS)}")


def sample_of(labels: pd.DataFrame, positive: np.ndarray, languages: list[str], method: str, rng: np.random.Generator, pair_id: Any) -> Sample:
    """Return what a method needs to know about some rows; pairs are made where it asks for them."""
    pairs = pairs_of(labels, positive, rng, pair_id) if method.startswith("pca_") else None
    return Sample(positive, labels["language"].to_numpy(), languages, pairs)


def find_unit(method: str, states: Float[np.ndarray, "prompt hidden"], sample: Sample) -> Float[np.ndarray, " hidden"]:
    """Return a method's unit vector on some states, zero where they are one constant state.

    The sign: the positive class projects higher on average, except that ``first_component`` follows its first language.
    """
    if all_one_state(states):
        return np.zeros(states.shape[1])
    unit = METHODS[method](states, sample)
    if method != "first_component" and along(states, sample.positive, unit).norm < 0:
        return -unit
    return unit


def harm_direction(acts: xr.Dataset, languages: Sequence[str], *, split: str | None = "fit") -> Directions:
    """Find the harm direction at each layer and position from the pooled prompts of some languages.

    Difference in means: :func:`extract_directions` has other methods, and the refusal direction.

    Parameters
    ----------
    acts : Dataset
        Activations (prompt, layer, position, hidden); one layer is read at a time.
    languages : sequence of str
        High-resource languages to pool.
    split : str or None
        Meanings used; None uses all (then nothing is left to score on).

    Returns
    -------
    Directions
        Positive towards harmful, with gap and baseline.

    Raises
    ------
    DataError
        Unknown language or split, one class only, states that are not finite.

    References
    ----------
    Arditi et al. 2024, arXiv:2406.11717; pooled over languages: arXiv:2606.01196.
    """
    return extract_directions(acts, languages, split=split)


def extract_directions(
    acts: xr.Dataset,
    languages: Sequence[str],
    *,
    method: str = "difference_in_means",
    contrast: Contrast | str = "harm",
    split: str | None = "fit",
    layers: Sequence[int] | None = None,
    positions: Sequence[str] | None = None,
    rng: np.random.Generator | None = None,
) -> Directions:
    """Find one direction per layer and position from the prompts of some languages.

    Parameters
    ----------
    acts : Dataset
        Activations (prompt, layer, position, hidden); one layer is read at a time.
    languages : sequence of str
        Languages used together; the sign of ``first_component`` follows the first.
    method : str
        A key of ``METHODS`` (see the module).
    contrast : Contrast or "harm"
        ``Contrast("refusal", outcomes)`` for refused minus accepted.
    split : str or None
        Meanings used; None uses all (then nothing is left to score on).
    layers, positions : sequence, optional
        Default all that were captured. Standard positions: t_inst for harm, t_post_inst for refusal.
    rng : Generator, optional
        Draws the pairs of the paired methods where prompts carry no ``pair_id``; default seed 0.

    Returns
    -------
    Directions
        Unit vectors with norm, gap and baseline; ``metadata`` records method, contrast, ``toward``, how the sign was fixed, and
        how many prompts there were.

    Raises
    ------
    DataError
        Unknown method, contrast, language, split, layer or position; a language given twice; one class only; states that are not finite.
    """
    found = _extracted(acts, list(languages), [list(languages)], method, contrast, split, layers, positions, rng)
    return labelled(found.unit[0], found.norm[0], found.layers, found.positions, found.metadata, gap=found.gap[0], baseline=found.baseline[0])


@dataclass(frozen=True)
class LanguageDirections:
    """One direction per language, layer and position, each from that language's prompts alone.

    Parameters
    ----------
    unit : DataArray (language, layer, position, hidden)
    norm, gap, baseline : DataArray (language, layer, position)
        As in :class:`Directions`.
    metadata : dict
    """

    unit: xr.DataArray
    norm: xr.DataArray
    gap: xr.DataArray
    baseline: xr.DataArray
    metadata: dict[str, Any]

    @property
    def languages(self) -> list[str]:
        """The languages, in the order given."""
        return [str(tag) for tag in self.unit["language"].values]

    def of(self, language: str) -> Directions:
        """Return the directions of one language, which save, load, edit and project as any others.

        Raises
        ------
        DataError
            A language that was not extracted.
        """
        if language not in self.languages:
            raise DataError(f"No directions of language {language!r}; present: {self.languages}.{did_you_mean(language, self.languages)}")
        parts = [values.sel(language=language, drop=True) for values in (self.unit, self.norm, self.gap, self.baseline)]
        return Directions(parts[0], parts[1], {**self.metadata, "languages": [language]}, gap=parts[2], baseline=parts[3])

    def to_frame(self) -> pd.DataFrame:
        """Return language, layer, position, norm, gap, baseline and site, one row per direction."""
        return pd.concat([self.of(tag).to_frame().assign(language=tag) for tag in self.languages], ignore_index=True)

    def _repr_html_(self) -> str:
        return self.to_frame().head(20).to_html(index=False, border=0)


def language_directions(
    acts: xr.Dataset,
    languages: Sequence[str],
    *,
    method: str = "difference_in_means",
    contrast: Contrast | str = "harm",
    split: str | None = "fit",
    layers: Sequence[int] | None = None,
    positions: Sequence[str] | None = None,
    rng: np.random.Generator | None = None,
) -> LanguageDirections:
    """Find each language's own direction per layer and position; the store is read once.

    Parameters
    ----------
    As for :func:`extract_directions`.

    Raises
    ------
    DataError
        As there; also a language with one class only.
    """
    found = _extracted(acts, list(languages), [[tag] for tag in languages], method, contrast, split, layers, positions, rng)
    coords = {"language": list(languages), "layer": found.layers, "position": found.positions}
    dims = ("language", "layer", "position")
    norm, gap, baseline = (xr.DataArray(values, dims=dims, coords=coords) for values in (found.norm, found.gap, found.baseline))
    return LanguageDirections(xr.DataArray(found.unit, dims=(*dims, "hidden"), coords=coords), norm, gap, baseline, found.metadata)


class _Found(NamedTuple):
    unit: Float[np.ndarray, "set layer position hidden"]
    norm: Float[np.ndarray, "set layer position"]
    gap: Float[np.ndarray, "set layer position"]
    baseline: Float[np.ndarray, "set layer position"]
    layers: list[int]
    positions: list[str]
    metadata: dict[str, Any]


def _extracted(
    acts: xr.Dataset,
    languages: list[str],
    sets: list[list[str]],
    method: str,
    contrast: Contrast | str,
    split: str | None,
    layers: Sequence[int] | None,
    positions: Sequence[str] | None,
    rng: np.random.Generator | None,
) -> _Found:
    """Measure one direction per set of languages, reading each layer once."""
    require_method(method)
    doubled = [tag for tag in dict.fromkeys(languages) if languages.count(tag) > 1]
    if doubled:  # it would weigh twice in the methods that go by language
        raise DataError(f"Languages given twice: {doubled}. Expected each once.")
    classes = classes_of(acts, languages, contrast, split)
    parts = list(_samples(acts, classes, sets, method, split, rng or np.random.default_rng(0)))
    deep, wide = [int(k) for k in (acts["layer"].values if layers is None else layers)], positions_of(acts, positions)
    shape = len(sets), len(deep), len(wide)
    unit, norm, gap, baseline = np.zeros((*shape, acts.sizes["hidden"])), np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for layer, position, states in each_layer(acts, classes.rows, layers=deep, positions=wide):
        for s, (rows, sample) in enumerate(parts):
            place = s, deep.index(layer), wide.index(position)
            here = states if len(rows) == len(states) else states[rows]
            unit[place] = find_unit(method, here, sample)
            norm[place], gap[place], baseline[place] = along(here, sample.positive, unit[place])
    return _Found(unit, norm, gap, baseline, deep, wide, _metadata(acts, classes, languages, method, split, parts))


def _samples(
    acts: xr.Dataset, classes: Classes, sets: list[list[str]], method: str, split: str | None, rng: np.random.Generator
) -> Iterator[tuple[Int[np.ndarray, " row"], Sample]]:
    pair_id = acts["pair_id"].values[classes.rows] if "pair_id" in acts.coords else None
    seed = int(rng.integers(2**63))  # the same for all sets: languages that share meanings share their pairs
    for languages in sets:
        rows = np.flatnonzero(classes.labels["language"].isin(languages))
        positive = classes.positive[rows]
        for tag in languages if method in _BY_LANGUAGE or len(languages) == 1 else ():
            one = positive[(classes.labels["language"].iloc[rows] == tag).to_numpy()]
            if one.all() or not one.any():
                raise DataError(
                    f"Language {tag!r} has {int(one.sum())} positive and {int((~one).sum())} negative prompts in split {split!r}. Expected both "
                    "classes; leave the language out, or pool it with others by method='difference_in_means'."
                )
        part = classes.labels.iloc[rows].reset_index(drop=True)
        given = None if pair_id is None else pair_id[rows]
        yield rows, sample_of(part, positive, languages, method, np.random.default_rng(seed), given)


def _metadata(acts: xr.Dataset, classes: Classes, languages: list[str], method: str, split: str | None, parts: list[Any]) -> dict[str, Any]:
    told = {"difference_in_means": f"difference in means, {'pooled languages' if len(parts) == 1 else 'each language'}"}
    rule = f"follows {languages[0]}" if method == "first_component" else "the positive class projects higher on average"
    pairs = [sample.pairs for _, sample in parts if sample.pairs is not None]
    paired = {"n_pairs": [len(p.positive) for p in pairs], "pairs": "drawn" if pairs[0].drawn else "pair_id"} if pairs else {}
    return {
        **{str(k): v for k, v in acts.attrs.items()},
        **classes.recorded,
        "method": told.get(method, method),
        "sign": 1,
        "sign_rule": rule,
        "languages": languages,
        "split": split,
        **paired,
    }
