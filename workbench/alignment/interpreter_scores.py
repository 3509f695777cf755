"""How well an interpreter decides, per language: accuracy, false alarms, hits and AUROC, on meanings it has not seen.

Card 1.5 reports accuracy, FPR and TPR per language, and a set of other prompts. Seen and unseen languages are told apart, every number has
an interval and beside it what interpreters reach that were trained on permuted labels. Harmless twins of the harmful prompts, or any
other set, are scored the same way under their own name (card 1.10, trap 9: harmful prompts and harmless ones from elsewhere differ in
topic and style too).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from workbench.alignment.interpreter import SafetyInterpreter
from workbench.alignment.interpreter_network import InterpreterOptions
from workbench.errors import DataError
from workbench.gates.place import GateData, gate_data
from workbench.geometry.cells import labels_of, provenance_of, tiers_of
from workbench.results import Result
from workbench.statistics import Interval, auroc, auroc_score_interval, wilson

STATISTICS = ("accuracy", "fpr", "tpr", "auroc")


@dataclass(frozen=True)
class InterpreterScores(Result):
    """One row per set, layer, language and statistic.

    ``seen`` says whether the interpreter was trained in that language. ``fpr`` is the share of harmless prompts flagged, ``tpr`` that of
    harmful ones; chance is .5 for ``accuracy`` and ``auroc``. ``n`` counts the prompts (meanings) behind the value. ``null`` is the largest
    value over interpreters trained on permuted labels (NaN without any).
    """

    required: ClassVar[tuple[str, ...]] = (
        "set", "layer", "position", "language", "tier", "seen", "statistic", "value", "low", "high", "n", "null",
    )  # fmt: skip

    def summary(self) -> pd.DataFrame:
        """Return one row per set, layer and language with the four values."""
        index = ["set", "layer", "language", "seen"]
        wide = self.table.pivot_table(index=index, columns="statistic", values="value", sort=False)
        return wide.reindex(columns=[s for s in STATISTICS if s in wide]).reset_index().rename_axis(columns=None)

    def joined(self, other: InterpreterScores) -> InterpreterScores:
        """Return both tables as one: other layers, or another set."""
        return InterpreterScores(pd.concat([self.table, other.table], ignore_index=True), self.provenance)


def score_interpreter(
    interpreter: SafetyInterpreter | Sequence[SafetyInterpreter],
    acts: xr.Dataset,
    *,
    split: str | None = "score",
    name: str = "score",
    controls: Sequence[SafetyInterpreter] = (),
) -> InterpreterScores:
    """Score an interpreter in every language of some activations.

    Parameters
    ----------
    interpreter : SafetyInterpreter or sequence of them
        Several of one place and the same languages (other seeds) are averaged.
    acts : Dataset
        States of the model it was fitted on. One class alone will do: what needs both is then NaN.
    split : str, optional
        None for a set without splits.
    name : str
        Goes into column ``set``: "score", or for example "twins".
    controls : sequence of SafetyInterpreter
        From :func:`permuted_interpreters`.

    Raises
    ------
    StoreMismatchError
        States from another place than the interpreter's.
    DataError
        A split that is not there, interpreters of several places, or none.
    """
    several = [interpreter] if isinstance(interpreter, SafetyInterpreter) else list(interpreter)
    if not several or any(one.place != several[0].place or one.languages != several[0].languages for one in several):
        raise DataError(f"Got {len(several)} interpreters of different places or languages. Expected at least one, all of one place.")
    first = several[0]
    data = gate_data(acts, first.place.layer, first.place.position, split)
    first.require_place(data.place, str(acts.attrs.get("model", "these states")))
    tiers = tiers_of(labels_of(acts))
    values = [_by_language(one, data) for one in several]
    chance = [_by_language(one, data) for one in controls]
    rows: list[dict[str, Any]] = []
    for tag in data.languages:
        harmful = data.y[data.language == tag]
        for statistic in STATISTICS:
            value = float(np.mean([found[tag][statistic] for found in values]))
            interval, n = _interval(statistic, value, harmful)
            null = max((found[tag][statistic] for found in chance), default=float("nan"))
            where = {"set": name, "layer": first.place.layer, "position": first.place.position, "language": tag, "tier": tiers.get(tag)}
            seen = {"seen": tag in first.languages, "statistic": statistic}
            rows.append({**where, **seen, "value": value, "low": interval.low, "high": interval.high, "n": n, "null": null})
    told = {"width": first.width, "languages": list(first.languages), "threshold": [one.threshold for one in several], "n_controls": len(controls)}
    return InterpreterScores(pd.DataFrame(rows), provenance_of(acts, **told, record=first.record))


def _by_language(interpreter: SafetyInterpreter, data: GateData) -> dict[str, dict[str, float]]:
    probability = interpreter.probability(data.X)
    found = {}
    for tag in data.languages:
        here = data.language == tag
        y, p = data.y[here], probability[here]
        flagged = p > interpreter.threshold
        both = y.any() and not y.all()
        found[tag] = {
            "accuracy": float((flagged == y).mean()),
            "fpr": float(flagged[~y].mean()) if not y.all() else float("nan"),
            "tpr": float(flagged[y].mean()) if y.any() else float("nan"),
            "auroc": float(auroc(y, p)) if both else float("nan"),
        }
    return found


def _interval(statistic: str, value: float, harmful: np.ndarray) -> tuple[Interval, int]:
    """Within a language every meaning occurs once, so rows are the resampling unit."""
    n_harmful, n = int(harmful.sum()), len(harmful)
    counted = {"accuracy": n, "fpr": n - n_harmful, "tpr": n_harmful, "auroc": n}[statistic]
    if np.isnan(value):
        return Interval(float("nan"), float("nan")), counted
    if statistic == "auroc":
        return auroc_score_interval(value, n_harmful, n - n_harmful), counted
    return wilson(value * counted, counted), counted


def permuted_interpreters(
    acts: xr.Dataset,
    layer: int,
    position: str = "t_inst",
    languages: Sequence[str] | None = None,
    *,
    n: int = 5,
    width: str = "deep",
    options: InterpreterOptions | None = None,
    rng: np.random.Generator | None = None,
) -> list[SafetyInterpreter]:
    """Train interpreters on labels without meaning: the null of everything that training and choosing by themselves can reach.

    See :func:`permuted`; the same labels in every language, on the fit and on the select split.

    Returns
    -------
    list of SafetyInterpreter
        ``n`` of them.
    """
    rng = rng or np.random.default_rng(0)
    parts = [gate_data(acts, layer, position, split, languages) for split in ("fit", "select")]
    return [SafetyInterpreter.fit_rows(*(permuted(part, rng) for part in parts), width=width, options=options, rng=rng) for _ in range(n)]


def permuted(data: GateData, rng: np.random.Generator) -> GateData:
    """Return the rows with labels that know nothing of harm: drawn over meanings, translations alike, in equal shares within either class.

    A plain permutation would not do. By chance it agrees or disagrees with the true labels a little, and where harm is most of what the
    states say, the network learns just that: such controls scatter from .1 to .9 instead of around chance.
    """
    meanings, first, which = np.unique(data.meaning_id, return_index=True, return_inverse=True)
    truth = data.y[first]
    drawn = np.zeros(len(meanings), dtype=bool)
    for label in (True, False):
        members = rng.permutation(np.flatnonzero(truth == label))
        share = truth.mean() * len(members)
        drawn[members[: int(share) + int(rng.random() < share % 1)]] = True
    return replace(data, y=drawn[which])
