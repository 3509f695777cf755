"""How to push: edits of the residual stream during forward passes and generation, and of weights on a copy.

Examples
--------
>>> from workbench.interventions import Add  # doctest: +SKIP
>>> with chat.edited(Add(direction, 1.0, scale="gap", scope=("last_prompt", "decode"))):  # doctest: +SKIP
...     replies = generate(chat, grid)
"""

from workbench.interventions.decisions import Decision, Decisions
from workbench.interventions.edits import Ablate, Add, Compose, Patch
from workbench.interventions.refusal_score import next_token_kl, refusal_score
from workbench.interventions.refusal_tokens import RefusalTokens
from workbench.interventions.routing import Route
from workbench.interventions.scopes import SCOPES
from workbench.interventions.sweep import sweep_directions
from workbench.interventions.weights import orthogonalised

__all__ = [
    "SCOPES",
    "Ablate",
    "Add",
    "Compose",
    "Decision",
    "Decisions",
    "Patch",
    "RefusalTokens",
    "Route",
    "next_token_kl",
    "orthogonalised",
    "refusal_score",
    "sweep_directions",
]
