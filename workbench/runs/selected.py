"""The direction that a run acts along: chosen by what it does on the select split, from candidates of the fit split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.behavior.first_token import FirstTokenJudge, refusal_tokens
from workbench.behavior.judges import PerLanguageJudge
from workbench.directions import Direction, Directions
from workbench.directions.select import DirectionScores, Selection, SelectionRule, select_direction
from workbench.errors import DataError
from workbench.interventions.refusal_tokens import RefusalTokens
from workbench.interventions.sweep import sweep_directions
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.runs.folder import Run
from workbench.runs.setting import needs_more_than_scored

#: Meanings per class and language that candidates are tried on (Arditi et al. 2024 take 32).
TRIED = 32
Note = tuple[str, str, int | None, str]


@dataclass(frozen=True, eq=False)
class Selected:
    """A direction, why it was chosen, and what it was scored by ("refusal_tokens" or "token_free")."""

    direction: Direction
    selection: Selection
    criterion: str


def selected_direction(
    run: Run,
    chat: ChatModel,
    grid: PromptGrid,
    directions: Directions,
    *,
    reference: Sequence[str],
    notes: list[Note],
    seed: int,
    progress: bool,
    rules: Sequence[str | SelectionRule] = ("arditi",),
) -> Selected:
    """Try every candidate on the model and keep the best; saves the tables ``direction_scores`` and ``selection``, and the direction.

    Parameters
    ----------
    directions : Directions
        Candidates from the fit split, positive towards harm.
    notes : list
        Reference languages without refusal tokens are added to it, and that a later rule was needed.
    rules : sequence of str or SelectionRule
        Tried in turn, until one leaves a candidate.

    Raises
    ------
    DataError
        No candidate passes the filters, or none can be scored.
    """
    tokens, criterion = _criterion(chat, grid, reference, notes)
    scores = sweep_directions(
        chat, grid, directions, tokens=tokens, criterion=criterion, languages=reference, n=TRIED, seed=seed,
        store=run.folder / "results" / "direction_scores.jsonl", progress=progress,
    )  # fmt: skip
    run.save("direction_scores", scores)
    selection = _first_that_leaves_one(scores, rules, chat.n_layers, notes)
    run.save("selection", selection)
    chosen = selection.of(directions)
    chosen.save(run.folder / "results" / "selected_direction.safetensors")
    return Selected(chosen, selection, criterion)


def _first_that_leaves_one(scores: DirectionScores, rules: Sequence[str | SelectionRule], n_layers: int, notes: list[Note]) -> Selection:
    for rule in rules[:-1]:
        try:
            return select_direction(scores, rule=rule, n_layers=n_layers)
        except DataError as reason:
            notes.append(("selection", "all", None, f"no candidate stays under the rule {rule!r}, so the next was taken: {reason}"))
    return select_direction(scores, rule=rules[-1], n_layers=n_layers)


def _criterion(chat: ChatModel, grid: PromptGrid, reference: Sequence[str], notes: list[Note]) -> tuple[RefusalTokens | None, str]:
    """Score by refusal tokens where every reference language has some, else without tokens."""
    tokens = refusal_tokens(chat, grid)
    missing = [tag for tag in reference if tag not in tokens.ids]
    if not missing:
        return tokens, "refusal_tokens"
    reason = "no refusal tokens are known for it: candidates were scored by their states (token-free criterion)"
    notes.extend(("selection", tag, None, reason) for tag in missing)
    return None, "token_free"


def judged_under_edits(judge: PerLanguageJudge, languages: Sequence[str], notes: list[Note]) -> list[str]:
    """Return the languages whose replies under an edit can be judged here; the others are noted with the reason."""
    kept = []
    for tag in languages:
        own = judge.judges[tag]
        reason = ""
        if needs_more_than_scored(own):
            reason = "its judge learns what a refusal is from unedited replies"
        elif isinstance(own, FirstTokenJudge):
            reason = "its judge was measured on the model without edits"
        elif getattr(own, "send_to", None) is not None:
            reason = "its judge would send further replies to a server"
        if reason:
            notes.append(("edits", tag, None, f"no replies under edits: {reason}"))
        else:
            kept.append(tag)
    return kept
