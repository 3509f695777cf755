"""Make every exchange of a restoration map: displace one state of each receiver, read the next token, count what was read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float, Int
from tqdm import tqdm

from workbench.directions import Directions
from workbench.directions.direction import Direction
from workbench.directions.means import difference_in_means
from workbench.directions.nulls import shuffle_by_meaning
from workbench.errors import DataError
from workbench.geometry.cells import each_layer, labels_of, rows_of
from workbench.interventions.interchange import Displace, along, as_long_as, in_another_way, swapped
from workbench.interventions.refusal_score import refusal_score
from workbench.interventions.refusal_tokens import RefusalTokens
from workbench.models.chat import ChatModel
from workbench.models.halfway import Halfway, halfway

HARM, REFUSAL, STATE = "harm_coordinate", "refusal_coordinate", "state"
KINDS = (HARM, REFUSAL, STATE)
RANDOM, PERMUTED = "control_random", "control_permuted"
OUTCOMES = ("log_odds", "refusal")


class Variant(NamedTuple):
    """What is exchanged, or a control, of which kind, and which of several draws."""

    kind: str
    matched: str
    draw: int


class Interchanged(NamedTuple):
    """What the model was about to say after every exchange.

    Attributes
    ----------
    before : float array [outcome prompt]
        Without any exchange: log-odds of a refusal token, and 1 where the likeliest token is one.
    after : float array [outcome layer variant prompt]
        Under the exchange; NaN in a layer where nothing differs between any receiver and its donor.
    length : float array [layer variant prompt]
        How far the state was moved, in units of the residual stream.
    final : bool
        Whether the state exchanged is that of the last token of every prompt.
    """

    before: Float[np.ndarray, "outcome prompt"]
    after: Float[np.ndarray, "outcome layer variant prompt"]
    length: Float[np.ndarray, "layer variant prompt"]
    variants: tuple[Variant, ...]
    layers: tuple[int, ...]
    final: bool


def variants_of(kinds: Sequence[str], draws: int) -> tuple[Variant, ...]:
    """List the exchanges and their controls: for coordinates several directions of either sort, for the state another prompt's."""
    plain = [Variant(kind, "", 0) for kind in kinds]
    controls = [Variant(name, kind, draw) for kind in kinds if kind != STATE for name in (RANDOM, PERMUTED) for draw in range(draws)]
    return (*plain, *controls, *(Variant(PERMUTED, kind, 0) for kind in kinds if kind == STATE))


def interchanged(
    chat: ChatModel,
    table: pd.DataFrame,
    texts: Sequence[str],
    acts: xr.Dataset,
    directions: Directions,
    selected: Direction | None,
    tokens: RefusalTokens,
    *,
    reference: str,
    kinds: Sequence[str],
    position: str,
    layers: Sequence[int],
    draws: int,
    rng: np.random.Generator,
    token_budget: int,
    progress: bool,
) -> Interchanged:
    """Make every exchange in every layer: one pass over the tokens from ``position`` on for each layer and variant.

    Parameters
    ----------
    table : DataFrame
        Of :class:`~workbench.diagnosis.exchanges.Exchanges`.
    texts : sequence of str
        User text of each receiver.

    Raises
    ------
    DataError
        Prompts without activations.
    """
    variants = variants_of(kinds, draws)
    ids = acts["prompt"].values.astype(str)
    place = dict(zip(ids, range(len(ids)), strict=True))
    absent = [name for name in table["prompt_id"] if name not in place]
    if absent:
        raise DataError(
            f"{len(absent)} prompts have no activations: {', '.join(absent[:5])}. Expected states of all prompts asked: capture this grid."
        )
    own, donor = (np.array([place[name] for name in table[column]]) for column in ("prompt_id", "donor"))
    another = own[swapped((table["language"] + "|" + table["way"]).to_numpy().astype(str), rng)]
    ways = _control_ways(acts, directions, position, layers, draws, rng)
    rendered = chat.tokenise(list(texts), names=list(table["prompt_id"]))
    from_end = np.array([len(t) - t.span(position)[0] for t in rendered])
    lists = [tokens.union([reference, tag]) for tag in table["language"]]
    shape = len(layers), len(variants), len(table)
    before, after, length = np.full((2, shape[2]), np.nan), np.full((2, *shape), np.nan), np.zeros(shape)
    batches = halfway(chat, rendered, list(table["prompt_id"]), tail=int(from_end.max()), token_budget=token_budget)
    with tqdm(total=shape[0] * shape[1] * shape[2], unit="exchange", desc="restoration", disable=not progress) as bar:
        for batch in batches:
            rows = batch.rows
            before[:, rows] = _outcomes(batch.logits(), [lists[i] for i in rows])
            read, back = np.unique(np.r_[own[rows], donor[rows], another[rows]], return_inverse=True)
            for k, (layer, _, states) in enumerate(each_layer(acts, read, layers=list(layers), positions=[position])):
                here, there, elsewhere = np.split(states[back], 3)
                units = {HARM: directions.at(layer, position).unit, REFUSAL: None if selected is None else selected.unit}
                shifts = _shifts(there - here, elsewhere - here, units, variants, {name: some[k] for name, some in ways.items()})
                for v, shift in enumerate(shifts):
                    length[k, v, rows] = np.linalg.norm(shift, axis=1)
                    if length[k, v, rows].any():
                        after[:, k, v, rows] = _pushed(batch, layer, shift, from_end[rows], [lists[i] for i in rows])
                    else:
                        after[:, k, v, rows] = before[:, rows]
                    bar.update(len(rows))
    nowhere = ~length.any(axis=2)  # no receiver differs from its donor: there is nothing to exchange
    after[:, nowhere] = np.nan
    return Interchanged(before, after, length, variants, tuple(layers), bool((from_end == 1).all()))


def _control_ways(
    acts: xr.Dataset, directions: Directions, position: str, layers: Sequence[int], draws: int, rng: np.random.Generator
) -> dict[str, Float[np.ndarray, "layer draw hidden"]]:
    """Draw control directions per layer: random ones, and differences in means under permuted labels where the harm directions come from."""
    shape = len(layers), draws, acts.sizes["hidden"]
    labels = labels_of(acts)
    rows = rows_of(labels, split=directions.metadata.get("split"), languages=directions.metadata.get("languages"))
    shuffled = shuffle_by_meaning(labels, rows, draws, rng, within_class=True)
    permuted = np.zeros(shape)
    for k, (_, _, states) in enumerate(each_layer(acts, rows, layers=list(layers), positions=[position])):
        permuted[k] = [difference_in_means(states, positive)[0] for positive in shuffled]
    return {RANDOM: np.broadcast_to(rng.normal(size=shape[1:]), shape), PERMUTED: permuted}


def _shifts(
    twin: np.ndarray, another: np.ndarray, units: dict[str, np.ndarray | None], variants: Sequence[Variant], ways: dict[str, np.ndarray]
) -> list[Float[np.ndarray, "prompt hidden"]]:
    """Return the displacement of every variant; controls as long as what they are matched to."""
    plain = {kind: twin if (unit := units.get(kind)) is None else along(twin, unit) for kind in {v.matched or v.kind for v in variants}}
    found = []
    for kind, matched, draw in variants:
        if not matched:
            found.append(plain[kind])
        elif (unit := units.get(matched)) is None:
            found.append(as_long_as(another, plain[matched]))
        else:
            way = ways[kind][draw]
            found.append(in_another_way(plain[matched], unit, way if kind == RANDOM else way - (way @ unit) * unit))
    return found


def _pushed(
    batch: Halfway, layer: int, shift: np.ndarray, from_end: Int[np.ndarray, " prompt"], lists: Sequence[tuple[int, ...]]
) -> Float[np.ndarray, "outcome prompt"]:
    with batch.chat.edited({layer: Displace(shift, from_end)}):
        return _outcomes(batch.logits(), lists)


def _outcomes(logits: torch.Tensor, lists: Sequence[tuple[int, ...]]) -> Float[np.ndarray, "outcome prompt"]:
    """Return the log-odds of each prompt's refusal tokens, and whether the likeliest token is one of them."""
    found = np.zeros((2, len(lists)))
    likeliest = logits.argmax(dim=-1).cpu().numpy()
    for some in dict.fromkeys(lists):
        rows = np.array([row for row, own in enumerate(lists) if own == some])
        found[0, rows] = refusal_score(logits[torch.from_numpy(rows).to(logits.device)], some).cpu().numpy()
        found[1, rows] = np.isin(likeliest[rows], some)
    return found
