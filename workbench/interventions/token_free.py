"""Whether an edited prompt looks harmful to the model's later layers: a criterion for languages without refusal tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from workbench.errors import DataError
from workbench.models.batching import batches
from workbench.models.chat import ChatModel
from workbench.models.next_token import require_telling
from workbench.models.tokens import Tokens

#: Share of all layers that are read, of those in the deeper half; two at least.
SHARE = 0.1


@dataclass(frozen=True, eq=False)
class TokenFree:
    """Places each prompt between the harmless (-1) and the harmful ones (+1) of its language, by its states at later layers.

    At each layer read, a state h has the margin cos(h, mean harmful) - cos(h, mean harmless) at the last token of the prompt,
    rescaled so that the language's prompts without any edit average +1 and -1; the score is its mean over layers. The means leave
    out the prompt's own meaning, in whose mean it would recognise itself. 0 is half-way, as even odds are for the refusal score,
    so the same rules of selection apply: bypass low, induce at least 0.

    Inferred: COSMIC (arXiv:2506.00085) is known to us by its idea only, cosines at the layers where the two classes are least
    similar; this rescaling, the choice of layers and the thresholds are our own. It sees whether states move towards the other
    class, not what is said then.

    Attributes
    ----------
    layers : tuple of int
        Blocks passed.
    toward : float64 array [prompt class layer hidden]
        Mean harmless and mean harmful state that each prompt is compared with, of length 1.
    middle, half : float64 array [prompt layer]
        Of the margins of its language.
    """

    layers: tuple[int, ...]
    toward: Float[np.ndarray, "prompt class layer hidden"]
    middle: Float[np.ndarray, "prompt layer"]
    half: Float[np.ndarray, "prompt layer"]

    @classmethod
    def learn(cls, chat: ChatModel, tokens: Sequence[Tokens], frame: pd.DataFrame, *, token_budget: int) -> TokenFree:
        """Choose the layers and the means, on the unedited states of these prompts.

        Parameters
        ----------
        tokens : sequence of Tokens
        frame : DataFrame
            One row per prompt: prompt_id, meaning_id, language, harmful.

        Raises
        ------
        DataError
            A language with fewer than two meanings of a class, or whose later states do not tell the classes apart.
        """
        deeper = list(range(math.ceil((chat.n_layers + 1) / 2), chat.n_layers + 1))
        states = _states(chat, tokens, list(frame["prompt_id"]), deeper, token_budget)
        cosine = np.mean([_cosine_of_means(states[rows], frame["harmful"].to_numpy()[rows]) for rows in _by_language(frame).values()], axis=0)
        n_read = min(max(2, math.ceil(SHARE * (chat.n_layers + 1))), len(deeper))
        read = np.sort(np.argsort(cosine, kind="stable")[:n_read])
        states, layers = states[:, read], tuple(deeper[k] for k in read)
        toward = np.zeros((len(frame), 2, *states.shape[1:]))
        middle, half = np.zeros((2, len(frame), len(layers)))
        for language, rows in _by_language(frame).items():
            part = frame.iloc[rows]
            harmful = part["harmful"].to_numpy()
            toward[rows] = _means(states[rows], harmful, part["meaning_id"].to_numpy(), language)
            margin = _margin(states[rows], toward[rows])
            high, low = margin[harmful].mean(axis=0), margin[~harmful].mean(axis=0)
            if not (high > low).all():
                raise DataError(
                    f"The states of {language} prompts at layers {list(layers)} do not lie nearer to their own class than to the other, so they "
                    "cannot say what an edit does. Leave the language out, or give refusal tokens for it."
                )
            middle[rows], half[rows] = (high + low) / 2, (high - low) / 2
        return cls(layers, toward, middle, half)

    def scores(self, chat: ChatModel, tokens: Sequence[Tokens], names: Sequence[str], rows: np.ndarray, *, token_budget: int) -> np.ndarray:
        """Return the score of some of the prompts, under the edits that are active: float64 [prompt]."""
        margin = _margin(_states(chat, tokens, names, list(self.layers), token_budget), self.toward[rows])
        return ((margin - self.middle[rows]) / self.half[rows]).mean(axis=1)


def _by_language(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    languages = frame["language"].to_numpy()
    return {str(tag): np.flatnonzero(languages == tag) for tag in dict.fromkeys(languages)}


def _states(chat: ChatModel, tokens: Sequence[Tokens], names: Sequence[str], layers: list[int], token_budget: int) -> np.ndarray:
    found = np.zeros((len(tokens), len(layers), chat.hidden_size))
    for rows in batches([len(t) for t in tokens], token_budget):
        ids = [names[i] for i in rows]
        states = chat.states([tokens[i] for i in rows], layers=layers, positions=("t_post_inst",), prompt_ids=ids)[:, :, 0]
        wide = states.float()
        require_telling(chat, torch.cat([wide, wide.square().sum(dim=-1, keepdim=True)], dim=-1), ids, "states")  # a norm squares them
        found[rows] = states.to(device="cpu", dtype=torch.float64).numpy()
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _cosine_of_means(states: np.ndarray, harmful: np.ndarray) -> np.ndarray:
    return (_unit(states[harmful].mean(axis=0)) * _unit(states[~harmful].mean(axis=0))).sum(axis=-1)


def _means(states: np.ndarray, harmful: np.ndarray, meaning: np.ndarray, language: str) -> np.ndarray:
    """Return for each prompt the unit class means without its own meaning: [prompt class layer hidden]."""
    found = np.zeros((len(states), 2, *states.shape[1:]))
    for label in (False, True):
        mine = harmful == label
        n, kind = len(set(meaning[mine])), "harmful" if label else "harmless"
        if n < 2:
            raise DataError(f"{language} has {n} {kind} meanings here. Expected at least two of each class; add some, or leave the language out.")
        for name in set(meaning):
            found[meaning == name, int(label)] = _unit(states[mine & (meaning != name)].mean(axis=0))
    return found


def _margin(states: np.ndarray, toward: np.ndarray) -> np.ndarray:
    unit = _unit(states)
    return np.einsum("plh,plh->pl", unit, toward[:, 1]) - np.einsum("plh,plh->pl", unit, toward[:, 0])
