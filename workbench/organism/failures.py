"""Train a planted variant: the same organism, with its failure at another stage.

A variant is made from the organism's own ``helpful`` or ``healthy`` weights in minutes. What is missing of these is made first, so one folder
holds a base and all its variants; for seed 0 the weights that the package ships are taken. A variant that was stopped goes on
where it stopped and ends in the same weights.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from workbench.errors import StoreMismatchError
from workbench.organism import train as training
from workbench.organism.card import write_variant_card
from workbench.organism.constructions import Construction, construction
from workbench.organism.deltas import load_weights
from workbench.organism.network import Recipe, build_model, optimisers
from workbench.organism.refusal import harm_axis, save_planted
from workbench.organism.setting import Setting
from workbench.organism.tokenizer import vocabulary
from workbench.organism.tuning import tune
from workbench.organism.world import PROMPTS_FILE, World

SAVE_EVERY = 25


def train_failure(
    name: str,
    out: str | Path,
    *,
    seed: int = 0,
    names: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
    steps: int | None = None,
    progress: bool = True,
) -> Path:
    """Train one variant into ``out/NAME``.

    Parameters
    ----------
    name : str
        ``calibration`` (the default organism, in ``out/aligned``) or one of :data:`workbench.organism.constructions.CONSTRUCTIONS`.
    out : path
        Folder of one organism; what is there of it already is used.
    seed, names, recipe
        As in :func:`workbench.organism.train.train`; those of the organism in ``out``, if there is one.
    steps : int, optional
        Steps of tuning in place of the construction's own.
    progress : bool
        Show a bar.

    Returns
    -------
    Path
        The variant's folder: weights in half precision, tokenizer, model card.

    Raises
    ------
    DataError
        For an unknown name.
    StoreMismatchError
        If the folder holds an organism of another seed, other names or another recipe, or this variant.

    Examples
    --------
    >>> train_failure("representation", "runs/organism-1", seed=1)  # doctest: +SKIP
    """
    out, recipe = Path(out), recipe or Recipe()
    if name == "calibration":
        return training.train(out, seed=seed, names=names, recipe=recipe, progress=progress) / "aligned"
    made = construction(name)
    folder = out / name
    if (folder / "model.safetensors").exists():
        raise StoreMismatchError(f"{folder} already holds a trained variant. Give another --out; nothing there was touched.")
    world = World(seed, None if names is None else dict(names))
    spec = {"seed": seed, "languages": {x.tag: x.name for x in world.languages}, "recipe": dataclasses.asdict(recipe)}
    start = _start(made, out, world, spec, recipe, progress)
    helpful = _part("helpful", out, spec)
    model = build_model(world, recipe, seed)
    vocab = vocabulary(world)
    model.load_state_dict(load_weights(helpful))
    axis = harm_axis(model.eval(), world, vocab, layer=min(recipe.refusal_layer, recipe.layers), seed=seed)
    model.load_state_dict(load_weights(start))
    setting = Setting(model, world, vocab, recipe, seed, axis)
    began = time.monotonic()
    if made.change is not None:
        made.change(setting)
    else:
        _tune(made, setting, start, out / f".training-{name}", spec, steps, progress)
    training.save_model(model, world, folder)
    save_planted(folder, axis)
    write_variant_card(folder, world, made, spec, (time.monotonic() - began) / 60)
    if not (out / "prompts.parquet").exists():
        world.prompts().to_parquet(out / "prompts.parquet", index=False)
    shutil.rmtree(out / f".training-{name}", ignore_errors=True)
    return folder


def _tune(made: Construction, setting: Setting, start: Path, place: Path, spec: dict[str, Any], steps: int | None, progress: bool) -> None:
    assert made.losses is not None
    model, recipe = setting.model, setting.recipe
    unchanged = build_model(setting.world, recipe, setting.seed).eval().requires_grad_(False)
    unchanged.load_state_dict(load_weights(start))
    for name, weight in model.named_parameters():
        weight.requires_grad_(made.trained is None or made.trained(name, recipe.layers))
    opts = optimisers(model, recipe, recipe.tune_scale * made.rate)
    total = steps or made.steps or recipe.refuse_steps
    checkpoint = training.Checkpoint(place, spec | {"failure": made.name, "steps": total}, made.name)
    _, first = checkpoint.position()
    checkpoint.restore(model, opts)
    with tqdm(total=total, initial=first, unit="step", desc=made.name, disable=not progress, smoothing=0.05) as bar:

        def tick(loss: float) -> None:
            bar.update(1)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        tune(
            model,
            opts,
            made.losses(setting, dataclasses.replace(setting, model=unchanged)),
            # the healthy variant is the aligned organism's own refusal stage, to the last bit
            label=f"{'refuse' if made.name == 'healthy' else made.name} {setting.seed}",
            first=first,
            steps=total,
            noise=recipe.residual_noise if made.noise else 0.0,
            tick=tick,
            save=lambda step: checkpoint.save(made.name, step, model, opts),
            save_every=SAVE_EVERY,
        )
    model.requires_grad_(True)


def _start(made: Construction, out: Path, world: World, spec: dict[str, Any], recipe: Recipe, progress: bool) -> Path:
    """Return the folder of the weights to start from; what is missing is trained first."""
    names = {language.tag: language.name for language in world.languages}
    if _found("helpful", out, spec) is None:
        training.train(out, seed=world.seed, names=names, recipe=recipe, progress=progress)
    if made.start == "healthy" and _found("healthy", out, spec) is None:
        train_failure("healthy", out, seed=world.seed, names=names, recipe=recipe, progress=progress)
    return _part(made.start, out, spec)


def _part(name: str, out: Path, spec: dict[str, Any]) -> Path:
    folder = _found(name, out, spec)
    assert folder is not None
    return folder


def _found(name: str, out: Path, spec: dict[str, Any]) -> Path | None:
    """Find a finished model of the organism asked for, in its folder or among the shipped ones."""
    for place in (out, PROMPTS_FILE.parent):
        record = place / name / "organism.json"
        if not record.exists():
            continue
        found = json.loads(record.read_text(encoding="utf-8"))["spec"]
        there = found | {"recipe": spec["recipe"] | found["recipe"]}  # helpful models of before a setting was known did not need it
        if there == spec:
            return place / name
        if place == out:
            differing = "; ".join(f"{k}: {there.get(k)!r} there, {spec[k]!r} asked" for k in spec if there.get(k) != spec[k])
            raise StoreMismatchError(f"{place / name} is of another organism ({differing}). Ask for the same one, or give another --out.")
    return None
