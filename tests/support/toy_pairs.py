"""Made-up harmless preference pairs and queries in three languages, in words the tiny tokenizer knows."""

from __future__ import annotations

from typing import Any

import pandas as pd

_WORDS = ("bread", "rivers", "longest", "home", "three", "bake", "pain")


def toy_pairs(n_meanings: int = 8) -> Any:
    """Return a PreferenceSet: every meaning in en, fr and de, all rows of the fit split, sources in turn."""
    from workbench.alignment.preference import PreferenceSet

    rows = [
        {
            "pair_id": f"{language}-{meaning}",
            "meaning_id": f"m{meaning}",
            "language": language,
            "prompt": f"{language} {' '.join(_WORDS[(meaning + i) % 7] for i in range(1 + (meaning + number) % 4))}?",
            "chosen": f"Name {_WORDS[meaning % 7]} at home.",
            "rejected": f"Tell me which {_WORDS[(meaning + 3) % 7]} {'is ' * (meaning % 3)}three.",
            "harmful": False,
            "source": ("safety", "utility")[meaning % 2],
            "split": "fit",
        }
        for meaning in range(n_meanings)
        for number, language in enumerate(("en", "fr", "de"))
    ]
    return PreferenceSet(pd.DataFrame(rows))


def toy_queries(n: int = 10) -> list[Any]:
    """Return Query rows of made-up token ids; the teacher reads more than the student."""
    from workbench.alignment.distillation import Query

    return [Query(f"q{i}", "fr", i % 2 == 0, tuple(range(10 + i, 14 + 2 * i)), (*range(40, 45), *range(10 + i, 14 + 2 * i))) for i in range(n)]
