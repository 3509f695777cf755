"""From a gate's strengths to what an ``Add`` takes: one factor per prompt, with the sign that the direction at hand asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from workbench.errors import DataError, did_you_mean
from workbench.gates.adasteer import AdaSteer
from workbench.gates.place import GateData


class RowStrengths(NamedTuple):
    """What ``Add(direction, 1.0, scale=..., rows=rows, scope=scope)`` needs, and whether the sign was turned for the direction.

    ``rows``: prompt id to strength. ``turned``: the law is for vectors towards complying and the direction points towards refusal, or the reverse.
    """

    rows: dict[str, float]
    scope: str
    turned: bool


def row_strengths(
    gate: AdaSteer,
    data: GateData | Float[np.ndarray, "prompt hidden"],
    prompt_ids: Sequence[str] | None = None,
    *,
    language: Any = None,
    toward: str = "refusal",
    as_ported: bool = False,
) -> RowStrengths:
    """Turn a gate's strengths into factors per prompt, with the sign that the direction at hand asks for.

    Parameters
    ----------
    data : GateData, or array (prompt, hidden) with ``prompt_ids``
        States of the unedited model at the gate's place.
    toward : {"refusal", "harmful", "compliance"}
        Where the vector that will be added points (``direction.metadata["toward"]``; :func:`~workbench.gates.adasteer_vectors.sign_check` finds
        out for a released one). Released constants are for vectors towards compliance, all other ramps for vectors towards refusal.
    as_ported : bool
        As in the port of the low-resource comparison: generated tokens only, and the constants as they are, although its vector (harmful minus
        harmless) points the other way than the released one. The released method acts on every token of the prompt and on no generated
        one (there on padding as well, which no edit of the workbench touches).

    Raises
    ------
    DataError
        No prompt ids, not one per row, an unknown ``toward``; as :meth:`AdaSteer.strengths`.
    """
    known = ("refusal", "harmful", "compliance")
    if toward not in known:
        raise DataError(f"toward={toward!r}: expected one of {list(known)}.{did_you_mean(str(toward), known)}")
    given = data.prompt_id if prompt_ids is None and isinstance(data, GateData) else prompt_ids
    strengths = gate.strengths(data, language)
    if given is None or len(given) != len(strengths) or len(set(given)) != len(given):
        told = "none" if given is None else f"{len(given)}, {len(set(given))} of them different,"
        raise DataError(f"Got {told} prompt ids for {len(strengths)} states. Expected GateData, or prompt_ids=[...] with a different one for each.")
    turned = not as_ported and (gate.law is None) == (toward == "compliance")
    values = -strengths if turned else strengths
    return RowStrengths({str(name): float(v) for name, v in zip(given, values, strict=True)}, "decode" if as_ported else "prompt", turned)
