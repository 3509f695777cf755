"""Restoration map: at which layer does a language lack what its high-resource twin has, and would having it restore refusal?

Between a harmful prompt and its translation in the reference language one thing is exchanged at one layer and position, and everything
behind is computed anew: the harm coordinate (along the layer's own harm direction), the refusal coordinate (along one selected direction,
the same vector in every layer), or the whole state. *Restore*: the prompt receives what its twin carries. *Break*: the twin receives
what the prompt carries. A level says what the coordinate is worth from that layer on; its increase over the layer before says what
was written there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from workbench.behavior.first_token import refusal_tokens
from workbench.diagnosis.exchanges import RESTORE, exchanges
from workbench.diagnosis.interchanged import KINDS, REFUSAL, interchanged
from workbench.diagnosis.restored import map_rows
from workbench.directions import Directions
from workbench.directions.direction import Direction
from workbench.errors import DataError, PromptError, did_you_mean
from workbench.geometry.cells import positions_of
from workbench.interventions.refusal_tokens import RefusalTokens
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.results import Result

if TYPE_CHECKING:
    from workbench.runs.asked import Asked
    from workbench.runs.folder import Run

#: Control directions of either sort beside every coordinate.
FEWEST_DRAWS = 5


@dataclass(frozen=True)
class Restoration(Result):
    """One row per language, kind of exchange, way, layer and outcome.

    ``language``: the prompt's. The reference language itself stands for exchanges between its harmless and its harmful prompts (``pair``
    "class" instead of "twin"); "mean low" and the like are means over the languages of a tier.

    ``kind``: harm_coordinate, refusal_coordinate, state, and controls that are as long as what they are ``matched`` to, prompt by prompt.
    control_random: along random directions. control_permuted: of a coordinate, along differences in means under permuted labels, without
    what lies along the true direction; of the state, straight towards that of another prompt of the receiver's own language and class.
    Of several directions the mean is given, and the lowest and the highest (``draw_low``, ``draw_high``).

    ``way``: restore or break. ``outcome``: log_odds (of the refusal tokens of both languages together, natural logarithm; 0 is even odds) or
    refusal (share of prompts whose likeliest first token is one of them).

    ``value``: change of the outcome by the exchange, with its interval over meanings; 0 is no effect. ``before`` and ``goal``: outcome of
    receiver and donor without any exchange. ``increment``: value minus that of the layer before, paired by prompt; in the first layer in
    which the prompts differ, the value itself. ``peak``: the layer below the last with the largest increment towards the donor, if any leads
    there; ``peak_share``: how often it is that layer in resamples of meanings. ``trivial``: the whole state in the last layer, which brings the
    donor's reply with it whatever the model does. ``length``: mean displacement in units of the residual stream. ``n``: meanings.
    """

    required: ClassVar[tuple[str, ...]] = (
        "language", "tier", "kind", "way", "layer", "position", "outcome", "value", "low", "high", "increment", "increment_low",
        "increment_high", "n", "trivial",
    )  # fmt: skip

    def read_at(self, kind: str = "harm_coordinate") -> dict[str, int] | None:
        """Return where the reference language itself takes its decision from the coordinate, by exchanges between its own classes.

        Both below the last layer, mean over both ways, on the log-odds: ``increment``, the layer with the largest one (where the coordinate is
        written), and ``level``, the layer in which exchanging it moves most (what follows reads it). From other meanings than
        those of the twins where there is a select split. None without such rows.
        """
        depth = self.provenance.get("n_layers", self.table["layer"].max())
        rows = self.table[(self.table["pair"] == "class") & (self.table["outcome"] == "log_odds") & (self.table["kind"] == kind)]
        rows = rows[(rows["layer"] < depth) & rows["increment"].notna()]
        if rows.empty:
            return None
        signed = rows[["increment", "value"]].mul(np.where(rows["way"] == RESTORE, 1, -1), axis=0).groupby(rows["layer"]).mean()
        return {"increment": int(signed["increment"].idxmax()), "level": int(signed["value"].idxmax())}

    def peaks(self, outcome: str = "log_odds") -> pd.DataFrame:
        """Return the row of the peak of each language, kind and way, and ``control``: the matched control there that moves the outcome most."""
        table = self.table[self.table["outcome"] == outcome]
        rows = table[table["peak"]].copy()
        keys = ["language", "way", "layer"]
        controls = table[table["matched"] != ""].assign(control=lambda t: t["value"].abs())
        most = controls.groupby([*keys, "matched"], sort=False)["control"].max().rename_axis(index={"matched": "kind"}).reset_index()
        return rows.merge(most, on=[*keys, "kind"], how="left").reset_index(drop=True)

    def summary(self) -> pd.DataFrame:
        """Return the peaks on the log-odds, few columns."""
        columns = ["language", "kind", "way", "layer", "peak_share", "value", "low", "high", "control", "n"]
        return self.peaks()[columns]


def restoration_map(
    chat: ChatModel,
    grid: PromptGrid,
    acts: xr.Dataset,
    directions: Directions,
    selected: Direction | None = None,
    *,
    reference: Sequence[str],
    n: int = 24,
    kinds: Sequence[str] = KINDS,
    position: str = "t_post_inst",
    layers: Sequence[int] | None = None,
    split: str | None = "score",
    draws: int = FEWEST_DRAWS,
    tokens: RefusalTokens | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    token_budget: int = 16384,
    progress: bool = True,
) -> Restoration:
    """Exchange coordinates and states between harmful prompts and their high-resource twins, layer by layer and in both directions.

    The beginnings of the prompts are read once. After that a map costs, per layer and exchange, one pass over the tokens from ``position`` on
    for each kind and each control (24 with all kinds and five draws of each control; ``provenance["passes"]``).

    Parameters
    ----------
    chat : ChatModel
        The model that ``acts`` and the directions were taken from.
    grid : PromptGrid
        With splits.
    acts : Dataset
        Its activations of these prompts; donors and receivers are read from here, one layer at a time.
    directions : Directions
        Harm directions of the reference languages from the fit split, positive towards harm; each layer's own is used.
    selected : Direction, optional
        The direction that refusal passes along, carried to every layer as it is: the question is where this one coordinate
        decides. Without it the refusal coordinate is left out.
    reference : sequence of str
        Reference languages. Twins are of the first one with refusal tokens: a real prompt, which a mean over languages is not.
    n : int
        Harmful meanings per language, the same ones where they are there in all.
    kinds : sequence of str
        Of harm_coordinate, refusal_coordinate and state.
    position : str
        Where: one token, by default the last of the prompt, where the reply is decided.
    layers : sequence of int, optional
        Default all that were captured.
    split : str or None
        Meanings of the twins. Those of the reference's own classes come from "select", so that they may choose a layer.
    draws : int
        Control directions of either sort per coordinate, at least five.
    tokens : RefusalTokens, optional
        By default :func:`~workbench.behavior.first_token.refusal_tokens`. A language without any is left out (``provenance["left_out"]``).

    Returns
    -------
    Restoration

    Raises
    ------
    DataError
        Activations or directions of another model or template, an unknown kind, position or layer, fewer than five draws, directions of
        the split that is asked, or nothing to exchange.
    ModelCheckError
        If the model breaks down under an exchange.

    Notes
    -----
    At the last layer no block is left to read anything: what an exchange moves there is the output matrix's doing. Peaks are therefore looked
    for below it. A peak's value is the largest of several layers; to state one, choose the layer on the reference's own classes.

    References
    ----------
    Interchange interventions: Geiger et al. 2021, arXiv:2106.02997. Log-odds of refusal tokens: Arditi et al. 2024, arXiv:2406.11717, section
    2.4 (there of one language; the union of two is ours). Increments, both ways and controls: inferred, no published protocol.
    """
    kinds = [kind for kind in kinds if selected is not None or kind != REFUSAL]
    layers = [int(k) for k in (acts["layer"].values if layers is None else layers)]
    _require(chat, acts, directions, selected, kinds, position, layers, split, draws)
    tokens = refusal_tokens(chat, grid) if tokens is None else tokens
    tokens.require_model(chat)
    asked = exchanges(grid, reference, tokens, split=split, n=n, seed=seed)
    texts = grid.frame.set_index("prompt_id")["text"].loc[asked.table["prompt_id"]].tolist()
    rng = np.random.default_rng(seed)
    found = interchanged(
        chat, asked.table, texts, acts, directions, selected, tokens, reference=asked.reference, kinds=kinds, position=position,
        layers=sorted(layers), draws=draws, rng=rng, token_budget=token_budget, progress=progress,
    )  # fmt: skip
    rows = map_rows(asked.table, found, n_layers=chat.n_layers, confidence=confidence, rng=rng).assign(position=position)
    columns = [*Restoration.required, *(c for c in rows.columns if c not in Restoration.required)]
    told = {
        "twins": asked.reference, "reference": list(reference), "position": position, "layers": sorted(layers), "n_layers": chat.n_layers,
        "kinds": kinds, "split": split, "n_per_language": n, "draws": draws, "seed": seed, "confidence": confidence, "passes": len(found.variants),
        "left_out": asked.left_out, "tokens": tokens.to_dict(), "grid": grid.hash,
        "selected": None if selected is None else {"layer": selected.layer, "position": selected.position},
    }  # fmt: skip
    result = Restoration(rows[columns], {**chat.provenance(), **told})
    return Restoration(result.table, {**result.provenance, "read_at": result.read_at()})


def _require(
    chat: ChatModel,
    acts: xr.Dataset,
    directions: Directions,
    selected: Direction | None,
    kinds: Sequence[str],
    position: str,
    layers: Sequence[int],
    split: str | None,
    draws: int,
) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        near = did_you_mean(str(unknown[0]), KINDS) if unknown else ""
        raise DataError(f"kinds={list(kinds)}: expected some of {', '.join(KINDS)} (refusal_coordinate needs a selected direction).{near}")
    if draws < FEWEST_DRAWS:
        raise DataError(f"draws={draws}: expected at least {FEWEST_DRAWS} random directions, since a single one may point along refusal by chance.")
    positions_of(acts, [position])
    if position == "mean_inst":
        raise DataError("position='mean_inst' is a mean over tokens, and one state is exchanged. Expected t_post_inst, t_inst or post[i].")
    _ = [directions.at(layer, position) for layer in layers]
    if split is not None and directions.metadata.get("split") == split:
        raise DataError(f"The directions were taken from the split {split!r}, which is to be asked. Expected another: extract them on 'fit'.")
    here = {"fingerprint": chat.fingerprint, "template": chat.template.hash, "system": chat.system or ""}
    given = {"activations": acts.attrs, "directions": directions.metadata, **({} if selected is None else {"selected direction": selected.metadata})}
    for name, known in given.items():
        unlike = [key for key, value in here.items() if (known.get(key) or "") != value]
        if unlike:
            raise DataError(
                f"The {name} differ from {chat.name} in {', '.join(unlike)}. Expected states of this model as it is asked here: what is "
                "exchanged is read from the activations. Capture with this model and template."
            )


def measure_restoration(run: Run, asked: Asked, acts: xr.Dataset, directions: Directions, *, seed: int, progress: bool) -> None:
    """Save the table ``restoration`` of a run; what cannot be had goes to ``dropped`` with the reason."""
    decided = run.result("verdicts").table if "verdicts" in run.results else pd.DataFrame({"verdict": []})
    if len(decided) and (decided["verdict"] == "none").all():
        _tell(run, [("all", f"not mapped, {decided['reason'].iloc[0]}")])
        return
    file = run.folder / "results" / "selected_direction.safetensors"
    selected = Direction.load(file) if file.exists() else None
    notes = [] if selected is not None else [("all", "no refusal coordinate: no direction was selected")]
    try:
        found = restoration_map(asked.after, asked.grid, acts, directions, selected, reference=asked.reference, seed=seed, progress=progress)
        run.save("restoration", found)
        notes += list(found.provenance["left_out"].items())
    except (DataError, PromptError) as reason:
        notes = [("all", f"no restoration map: {reason}")]
    if notes:
        _tell(run, notes)


def _tell(run: Run, notes: Sequence[tuple[str, str]]) -> None:
    """Add to ``dropped`` what cannot be had, and why."""
    rows = pd.DataFrame([("restoration", tag, None, why) for tag, why in notes], columns=["what", "language", "n", "reason"])
    known = run.result("dropped").table
    run.save("dropped", pd.concat([known, rows], ignore_index=True) if len(known) else rows)
