"""States and replies whose truth is known: harm along one axis, languages shifted along it, steered prompts always refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from workbench.gates import GateData, Place
from workbench.repair.actions import LEAVE, STEER, Answered

TIERS = {"en": "high", "de": "high", "sw": "low", "am": "low"}
SHIFTS = {"en": 0.0, "de": 0.1, "sw": -3.0, "am": -4.0}
SPLITS = ("fit", "select", "score")


def planted_states(*, shifts: Mapping[str, float] = SHIFTS, meanings: int = 120, spread: float = 0.3, seed: int = 0) -> GateData:
    """Meanings, half of them harmful, a third in each split; axis 0 carries harm (+2, -2) and each language's shift."""
    rng, rows = np.random.default_rng(seed), []
    for tag, shift in shifts.items():
        for meaning in range(meanings):
            harmful = meaning % 2 == 0
            state = rng.normal(0, spread, 8)
            state[0] += (2.0 if harmful else -2.0) + shift
            rows.append((state, harmful, tag, f"m{meaning}", f"m{meaning}:{tag}", SPLITS[meaning // 2 % 3]))
    states, *labels = zip(*rows, strict=True)
    y, language, meaning_id, prompt_id, split = (np.array(column) for column in labels)
    return GateData(np.array(states), y.astype(bool), language, meaning_id, prompt_id, split, Place(5, "t_post_inst"))


def planted_replies(data: GateData, *, actions: Mapping[str, np.ndarray] | None = None) -> Answered:
    """Left alone nothing is refused and steered everything, unless other actions are given; what is not refused is answered right."""
    n = len(data)
    refused = dict(actions) if actions is not None else {LEAVE: np.zeros(n, bool), STEER: np.ones(n, bool)}
    names = {"prompt_id": data.prompt_id, "meaning_id": data.meaning_id, "language": data.language}
    frame = pd.DataFrame(names | {"tier": [TIERS[tag] for tag in data.language], "harmful": data.y})
    correct = {action: np.where(data.y, np.nan, 1.0 - values) for action, values in refused.items()}
    return Answered(frame, refused, correct, dict.fromkeys(refused, np.zeros(n, bool)))
