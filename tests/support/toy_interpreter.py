"""Made-up harmless prompts in two classes that a tiny random model's states tell apart, and interpreters fitted on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from workbench.activations.capture import capture
from workbench.alignment.interpreter import SafetyInterpreter
from workbench.alignment.interpreter_network import InterpreterOptions
from workbench.prompts import PromptGrid

LAYER, POSITION = 2, "t_inst"
#: Enough for what is planted here, and quick.
FEW = InterpreterOptions(epochs=6, batch_size=16)


def toy_grid(n: int = 24, languages: tuple[str, ...] = ("en", "fr")) -> PromptGrid:
    """Return prompts of unequal length; those called harmful end in another word than the others."""
    filler = ["bread", "home", "three", "bake", "pain", "longest"]
    rows = [
        {
            "prompt_id": f"{language}-{meaning}",
            "meaning_id": f"m{meaning}",
            "language": language,
            "text": " ".join([language, *(filler[(meaning + i) % 6] for i in range(1 + meaning % 5)), "rivers" if meaning % 2 else "Brot?"]),
            "harmful": meaning % 2 == 0,
            "split": ("fit", "fit", "select", "score")[(meaning // 2) % 4],
        }
        for meaning in range(n)
        for language in languages
    ]
    return PromptGrid(pd.DataFrame(rows))


def toy_interpreter(chat: Any, grid: PromptGrid | None = None, *, layer: int = LAYER, position: str = POSITION, **options: Any) -> SafetyInterpreter:
    """Fit an interpreter on the toy grid as this model reads it."""
    acts = capture(chat, grid or toy_grid(), layers=[layer], positions=[position], progress=False)
    return SafetyInterpreter.fit(acts, layer, position, rng=np.random.default_rng(0), options=FEW, **options)
