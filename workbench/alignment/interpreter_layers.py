"""Which layer the interpreter reads, and whether the bottleneck is any better for it than the layers around.

LASA's claim is that harm transfers best between languages at the bottleneck. The release never tests it (card 1.10, trap 10), so here the
same interpreter is trained at every layer around it and compared, and the claim can fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from workbench.alignment.interpreter import SafetyInterpreter
from workbench.alignment.interpreter_network import InterpreterOptions
from workbench.alignment.interpreter_scores import InterpreterScores, permuted_interpreters, score_interpreter
from workbench.errors import DataError
from workbench.gates.place import gate_data
from workbench.geometry.bottleneck import Bottleneck
from workbench.results import Result
from workbench.statistics import newcombe, wilson

GROUPS = ("all", "seen", "unseen")
#: A model of so many layers is compared at each; of a deeper one, layers on either side of the one that is used.
ALL_OF, AROUND = 12, 3


class ReadingLayer(NamedTuple):
    """Where the interpreter reads, and why.

    Attributes
    ----------
    layer : int
    low, high : float
        Layer range of the bottleneck (card 1.10, trap 8: a layer comes with an interval); NaN where none was found.
    verdict, reason : str
        What :func:`workbench.geometry.find_bottleneck` said.
    asked : bool
        Whether the layer was asked for instead of found.
    """

    layer: int
    low: float
    high: float
    verdict: str
    reason: str
    asked: bool


def reading_layer(bottleneck: Bottleneck, position: str = "t_inst", *, asked: int | None = None, model: str = "after") -> ReadingLayer:
    """Return the bottleneck layer of a position, or the layer asked for.

    Parameters
    ----------
    bottleneck : Bottleneck
        From ``find_bottleneck``, or ``Bottleneck.load`` of a run's ``results/bottleneck.parquet``.
    asked : int, optional
        Read there whatever the verdict is; the verdict is kept beside it.
    model : str
        Which model, where the table holds several (a run that compares "before" and "after").

    Raises
    ------
    DataError
        No bottleneck at this position, and no layer asked for; or a position that was not analysed.
    """
    table = bottleneck.table
    if "model" in table:
        table = table[table["model"] == model]
    found = table[table["position"] == position]
    if not len(found):
        raise DataError(f"No bottleneck was looked for at {position!r}; there: {sorted(set(table['position']))}. Choose one of these positions.")
    row = found.iloc[0]
    verdict, reason = str(row["verdict"]), str(row["reason"])
    is_one = verdict == "bottleneck"
    if asked is None and not is_one:
        raise DataError(
            f"There is no bottleneck layer to read at ({position}: {verdict}; {reason}) Give the layer to read at yourself (layer=...), another "
            "position, or more meanings, which would settle what is undecided."
        )
    low, high = (float(row["low"]), float(row["high"])) if is_one else (float("nan"), float("nan"))
    return ReadingLayer(int(row["layer"]) if asked is None else asked, low, high, verdict, reason, asked is not None)


def layers_to_compare(n_layers: int, used: int) -> list[int]:
    """Return the layers at which an interpreter is compared with the one that is used.

    Parameters
    ----------
    n_layers : int
        Blocks of the model; layer k is the residual stream after k of them.
    used : int
        Where the interpreter reads.

    Returns
    -------
    list of int
        Every layer from 1 on of a model with at most 12; of a deeper one the layers within 3 of the one used, and the first, the middle and the
        last, so that the claim is also tested far from it.

    Examples
    --------
    >>> layers_to_compare(8, 5)
    [1, 2, 3, 4, 5, 6, 7, 8]
    >>> layers_to_compare(32, 10)
    [1, 7, 8, 9, 10, 11, 12, 13, 16, 32]
    """
    if n_layers <= ALL_OF:
        return list(range(1, n_layers + 1))
    near = range(max(1, used - AROUND), min(n_layers, used + AROUND) + 1)
    return sorted({1, n_layers // 2, n_layers, *near})


@dataclass(frozen=True)
class InterpreterLayers(Result):
    """One row per layer and group of languages ("all", "seen", "unseen"): mean accuracy, and how it compares with the reference layer.

    ``value`` is accuracy averaged over the languages of the group, its interval a Wilson interval with as many cases as there are meanings:
    as if the languages of a meaning erred together, which errs wide. ``difference`` is the reference layer's accuracy minus this layer's
    (Newcombe, unpaired, which errs wide too; each at 1 - .05 / number of other layers, so that together they hold at 95 %). ``verdict``: the
    reference layer is "better", "worse", or they are "not told apart". ``null`` is the mean over languages of what permuted labels reach.
    """

    required: ClassVar[tuple[str, ...]] = (
        "layer", "position", "group", "n_languages", "n_meanings", "value", "low", "high", "null",
        "reference", "difference", "difference_low", "difference_high", "verdict",
    )  # fmt: skip

    def summary(self) -> pd.DataFrame:
        """Return the rows of the unseen languages, or of all where every language was seen."""
        unseen = self.table[self.table["group"] == "unseen"]
        return unseen if len(unseen) else self.table[self.table["group"] == "all"]


def interpreter_by_layer(
    acts: xr.Dataset,
    layers: Iterable[int] | None = None,
    position: str = "t_inst",
    languages: Sequence[str] | None = None,
    *,
    width: str = "deep",
    repeats: int = 3,
    permutations: int = 3,
    options: InterpreterOptions | None = None,
    rng: np.random.Generator | None = None,
) -> InterpreterScores:
    """Train the same interpreter at several layers and score each in every language.

    Parameters
    ----------
    acts : Dataset
        With splits; fitted on fit, chosen on select, scored on score.
    layers : iterable of int, optional
        Default every captured layer from 1 on.
    languages : sequence of str, optional
        What it is trained in. With some left out, the table shows at which layer harm transfers.
    repeats : int
        Networks per layer, from different seeds; their values are averaged, so that one unlucky start decides nothing.
    permutations : int
        Networks per layer on permuted labels, for column ``null``.
    rng : Generator, optional
        Default ``default_rng(0)``; every layer starts from the same draws.

    Returns
    -------
    InterpreterScores
        See :func:`compare_layers` for the comparison with the bottleneck. Layers where harm cannot be read are rows like others; nothing is
        logged about them.
    """
    if repeats < 1 or permutations < 0:
        raise DataError(f"repeats={repeats}, permutations={permutations}: expected at least 1 network per layer, and 0 or more permutations.")
    wanted = [int(k) for k in acts["layer"].values if k > 0] if layers is None else [int(k) for k in layers]
    if not wanted:
        raise DataError("No layer was asked for. Expected at least one; leave layers out for every captured one.")
    seed = int((rng or np.random.default_rng(0)).integers(2**31))
    parts = []
    for layer in wanted:
        drawn = np.random.default_rng(seed)
        common: dict[str, Any] = {"width": width, "options": options, "rng": drawn}
        rows = [gate_data(acts, layer, position, split, languages) for split in ("fit", "select")]
        found = [SafetyInterpreter.fit_rows(*rows, **common) for _ in range(repeats)]
        controls = permuted_interpreters(acts, layer, position, languages, n=permutations, **common)
        parts.append(score_interpreter(found, acts, controls=controls))
    table = pd.concat([part.table for part in parts], ignore_index=True)
    kept = {k: v for k, v in parts[0].provenance.items() if k not in ("threshold", "record")}
    return InterpreterScores(table, {**kept, "layers": wanted, "repeats": repeats, "seed": seed})


def compare_layers(scores: InterpreterScores, reference: int | ReadingLayer, confidence: float = 0.95) -> InterpreterLayers:
    """Compare the interpreter's mean accuracy at every layer with that at one, the bottleneck.

    Parameters
    ----------
    scores : InterpreterScores
        From :func:`interpreter_by_layer`.
    reference : int or ReadingLayer
        The layer the others are compared with.

    Raises
    ------
    DataError
        The reference layer was not scored.
    """
    at = reference.layer if isinstance(reference, ReadingLayer) else reference
    accuracy = scores.table[scores.table["statistic"] == "accuracy"]
    layers = list(dict.fromkeys(accuracy["layer"]))
    if at not in layers:
        raise DataError(f"Layer {at} was not scored; there: {layers}. Expected the bottleneck among the layers of interpreter_by_layer().")
    level = 1 - (1 - confidence) / max(len(layers) - 1, 1)
    rows = []
    for group in GROUPS:
        part = accuracy if group == "all" else accuracy[accuracy["seen"] == (group == "seen")]
        if not len(part):
            continue
        means = part.groupby("layer", sort=False)[["value", "null"]].mean()
        n_languages, n = part["language"].nunique(), int(part["n"].min())
        for layer in layers:
            value = float(means.loc[layer, "value"])
            difference = newcombe(float(means.loc[at, "value"]) * n, n, value * n, n, level)
            low, high = wilson(value * n, n, confidence)
            told = "" if layer == at else "better" if difference.low > 0 else "worse" if difference.high < 0 else "not told apart"
            where = {"layer": layer, "position": part["position"].iloc[0], "group": group, "n_languages": n_languages, "n_meanings": n}
            measured = {"value": value, "low": low, "high": high, "null": float(means.loc[layer, "null"]), "reference": at}
            compared = {"difference": difference.difference, "difference_low": difference.low, "difference_high": difference.high, "verdict": told}
            rows.append({**where, **measured, **compared})
    told_of = reference._asdict() if isinstance(reference, ReadingLayer) else {"layer": at}
    return InterpreterLayers(pd.DataFrame(rows), {**scores.provenance, "reference": told_of, "confidence": confidence})
