"""What the paper's 80 optimiser steps change, compared with a converged readout; and what another seed of them changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from workbench.errors import DataError
from workbench.gates.place import GateData
from workbench.gates.policy import Context
from workbench.gates.readout import RecalibratedGate
from workbench.gates.solvers import L2
from workbench.gates.thresholds import BalancedF1
from workbench.results import Result
from workbench.statistics import wilson


@dataclass(frozen=True)
class SolverComparison(Result):
    """One row per pair of solvers and language.

    ``pair`` is "paper - converged" or the control "paper - paper, another seed". ``logit_correlation`` and ``logit_difference`` (root mean squared,
    after both are divided by their own standard deviation over all rows) compare the scores, ``threshold_first`` and ``threshold_second`` are each
    solver's threshold at k = 0 in those units, ``decisions_differ`` the share of prompts decided otherwise, with a Wilson interval;
    ``own_decisions_differ`` the same when each solver's threshold is set on the language's own rows.
    """

    required: ClassVar[tuple[str, ...]] = (
        "pair", "language", "logit_correlation", "logit_difference", "threshold_first", "threshold_second", "decisions_differ", "low", "high",
        "own_decisions_differ", "n",
    )  # fmt: skip


def compare_solvers(
    train: GateData, scored: GateData, *, rank: int | None = None, l2: float = L2, seeds: tuple[int, int] = (0, 1), confidence: float = 0.95
) -> SolverComparison:
    """Fit the same gate by both solvers and compare logits, thresholds and decisions per language.

    Parameters
    ----------
    train : GateData
        Source languages' training rows.
    scored : GateData
        Rows to compare on, any languages.
    seeds : two int
        Starts of the paper's solver; the second is the control.

    Raises
    ------
    DataError
        As fitting raises, or another place.
    """
    if seeds[0] == seeds[1]:
        raise DataError(f"Both seeds are {seeds[0]}. Expected two, so that the control says what a seed changes.")
    kinds = {"converged": ("converged", seeds[0]), "paper": ("paper", seeds[0]), "paper, another seed": ("paper", seeds[1])}
    gates = {name: RecalibratedGate(rank=rank, solver=solver, l2=l2, random_state=seed).fit(train) for name, (solver, seed) in kinds.items()}
    logits = {name: gate.decision_function(scored) for name, gate in gates.items()}
    rows = []
    for first, second in (("paper", "converged"), ("paper", "paper, another seed")):
        for tag in scored.languages:
            here = scored.language == tag
            harmful = scored.y[here]
            scale = [logits[name].std() for name in (first, second)]
            a, b = (logits[name][here] for name in (first, second))
            fires = [v >= gates[name].fallback_ for v, name in ((a, first), (b, second))]
            own = [v >= _own(v, harmful, tag) for v in (a, b)]
            differ = int((fires[0] != fires[1]).sum())
            interval = wilson(differ, len(a), confidence)
            rows.append(
                {
                    "pair": f"{first} - {second}",
                    "language": tag,
                    "logit_correlation": float(np.corrcoef(a, b)[0, 1]),
                    "logit_difference": float(np.sqrt(((a / scale[0] - b / scale[1]) ** 2).mean())),
                    "threshold_first": gates[first].fallback_ / scale[0],
                    "threshold_second": gates[second].fallback_ / scale[1],
                    "decisions_differ": differ / len(a),
                    "low": interval.low,
                    "high": interval.high,
                    "own_decisions_differ": float((own[0] != own[1]).mean()),
                    "n": len(a),
                }
            )
    return SolverComparison(pd.DataFrame(rows), {"rank": rank, "l2": l2, "seeds": list(seeds), "sources": train.languages, "confidence": confidence})


def _own(scores: np.ndarray, harmful: np.ndarray, tag: str) -> float:
    return BalancedF1().choose(scores[harmful], scores[~harmful], Context(language=tag)).threshold
