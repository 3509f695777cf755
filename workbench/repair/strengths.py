"""What each method gives at every strength that was tried, on the select split where the strength was chosen.

The oracle gate chooses the strength for all; this table shows what the others would have done at the other strengths, and so whether the
choice favours one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from workbench.errors import DataError
from workbench.gates import Gate, GateData, ThresholdPolicy
from workbench.repair.actions import LEAVE, Answered
from workbench.repair.few_shot import aligned_rows
from workbench.repair.kinds import ALWAYS, ORACLE, UNREPAIRED
from workbench.repair.methods import Draws, always, decisions, routed
from workbench.repair.rates import RATES, MethodRun, Resampler, entry
from workbench.repair.strength import OracleStrength, strength_action
from workbench.results import Result


@dataclass(frozen=True)
class StrengthByMethod(Result):
    """One row per method, strength (in gaps of the direction), language (or mean over a tier's target languages) and statistic.

    Select split, so nothing here is a claim about the repair. Statistics: harmful_refusal, harmless_refusal, selectivity, answer_accuracy;
    ``low`` and ``high`` over meanings and draws of examples; ``chosen`` marks the strength that all methods share. "unrepaired" has strength 0.
    """

    required: ClassVar[tuple[str, ...]] = (
        "method", "strength", "language", "tier", "statistic", "value", "low", "high", "n", "draws", "chosen",
    )  # fmt: skip

    def summary(self) -> pd.DataFrame:
        """Return selectivity as mean over tiers, a column for each strength."""
        part = self.table[self.table["language"].str.startswith("mean ") & (self.table["statistic"] == "selectivity")]
        return part.pivot_table(index=["language", "method"], columns="strength", values="value", sort=False).reset_index()


def strength_by_method(
    found: OracleStrength,
    select: GateData,
    examples: Draws,
    gates: Mapping[str, tuple[Gate, ThresholdPolicy | None]],
    *,
    reference: Sequence[str] = (),
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> StrengthByMethod:
    """Count every method at every strength tried, from the replies that chose the strength.

    Parameters
    ----------
    found : OracleStrength
        As :func:`~workbench.repair.strength.oracle_strength` returned it, with its judged replies.
    select : GateData
        States of the select split, with the target languages.
    examples : Draws
        What the gates are recalibrated with; from the fit split, so that no prompt counted here was among them.
    gates : mapping of name to (gate, policy)
        Fitted on the source languages.
    reference : sequence of str
        Languages whose mean is told apart from that of the languages repaired.

    Returns
    -------
    StrengthByMethod
        "unrepaired", "always steer", the gates, and "oracle gate" (true labels).

    Raises
    ------
    DataError
        A strength read from a file (its replies are not kept there), examples among the prompts counted, or prompts without a state.
    """
    answered = found.answered
    if answered is None:
        raise DataError(
            "The judged replies of this OracleStrength were not kept (a saved table holds none). Expected what oracle_strength() returned."
        )
    states = select.take(aligned_rows(answered, select))
    _require_unseen(states, examples)
    runs: dict[str, MethodRun] = {}
    cases: list[tuple[str, float]] = []
    flagged = {name: decisions(gate, states, examples, policy=policy) for name, (gate, policy) in gates.items()}
    for strength, method, run in _cases(answered, found.table["strength"].tolist(), flagged, states.y, examples.k):
        runs[f"{method} at {strength:g}"] = run
        cases.append((method, strength))
    resampler = Resampler(answered.prompts, runs, resamples=resamples, rng=np.random.default_rng(seed), reference=reference)
    rows = []
    for (method, strength), (name, run) in zip(cases, runs.items(), strict=True):
        estimates = resampler.estimates(name)
        about = {"method": method, "strength": strength, "draws": len(run.refused), "chosen": strength == found.strength}
        for statistic in RATES:
            for language, values in resampler.grouped(estimates[statistic]).items():
                meanings, within = resampler.meanings(name, statistic, language), (-1.0 if statistic == "selectivity" else 0.0, 1.0)
                rows.append(about | {"statistic": statistic} | entry(resampler, language, values, confidence, meanings, within))
    told = {name: {"gate": type(gate).__name__, "policy": repr(policy)} for name, (gate, policy) in gates.items()}
    about = {"split": "select", "k": examples.k, "gates": told, "seed": seed, "resamples": resamples, "confidence": confidence}
    return StrengthByMethod(pd.DataFrame(rows)[list(StrengthByMethod.required)], about | {"scale": found.provenance.get("scale")})


def _require_unseen(states: GateData, examples: Draws) -> None:
    shown = {str(meaning) for draw in examples.examples for part in draw.values() for meaning in part.meaning_id}
    both = sorted(shown & {str(meaning) for meaning in states.meaning_id})
    if both:
        raise DataError(f"{len(both)} meanings are examples and counted (first: {both[0]}). Expected examples from the fit split.")


def _cases(
    answered: Answered, strengths: list[float], flagged: Mapping[str, np.ndarray], harmful: np.ndarray, k: int
) -> list[tuple[float, str, MethodRun]]:
    found = [(0.0, UNREPAIRED, always(answered, LEAVE))]
    for strength in strengths:
        action = strength_action(strength)
        found.append((strength, ALWAYS, always(answered, action)))
        found += [(strength, name, routed(answered, fired, labels=f"{k} + {k}", flagged_action=action)) for name, fired in flagged.items()]
        found.append((strength, ORACLE, routed(answered, harmful[None], labels="all", flagged_action=action)))
    return found
