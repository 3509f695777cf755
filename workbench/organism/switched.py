"""The organism's scored requests said otherwise than it was tuned on: a set that a repair was not made for."""

from __future__ import annotations

import random

import pandas as pd

from workbench.organism.corpus import Corpus, Mixture
from workbench.organism.world import World

CODE_SWITCHED = "code-switched"


def code_switched_prompts(seed: int = 0) -> pd.DataFrame:
    """Return the score split's requests with content words of other languages in them, as a table like the organism's own.

    The verb and the object are each replaced by another language's word with probability .45 (more often one that is spoken much), as in
    the pretraining statements; tuning never switched. Function words and word order stay, so does what is asked: meaning ids, labels, answers and
    refusals are those of the plain requests.

    Parameters
    ----------
    seed : int
        Of the words; each prompt's depend on the seed, its meaning and its language only.

    Returns
    -------
    DataFrame
        The columns of :func:`~workbench.organism.world.organism_prompts` and ``switched``, how many words were replaced (0 to 2; in .55 squared =
        30 % of the prompts none was).
    """
    world, mixture = World(), Mixture()
    corpus, rows = Corpus(world, mixture), []
    plain = world.prompts()
    plain = plain[plain["split"] == "score"].reset_index(drop=True)
    meanings = [meaning for meaning in world.evaluation_meanings()["score"] for _ in world.languages]
    languages = list(world.languages) * (len(plain) // len(world.languages))
    for meaning, language, (_, row) in zip(meanings, languages, plain.iterrows(), strict=True):
        rng = random.Random(f"{CODE_SWITCHED} {seed} {row['meaning_id']} {language.tag}")
        said = corpus.switched_request(meaning, language, rng)
        switched = sum(one != other for one, other in zip(said, world.request(meaning, language), strict=True))
        rows.append({**row.to_dict(), "text": " ".join(said), "switched": switched})
    return pd.DataFrame(rows)
