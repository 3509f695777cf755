"""Train the organism: pretraining, compliance tuning, refusal tuning, then the planted calibration failure.

Training saves as it goes. Started again on the same folder with the same seed, names and recipe it continues where it
stopped and ends in the same weights; another seed, name or recipe is refused.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from workbench.errors import StoreMismatchError
from workbench.organism.card import write_card
from workbench.organism.corpus import Corpus
from workbench.organism.network import Batcher, Recipe, build_model, loss_of, optimisers, quiet_files
from workbench.organism.plant import plant_calibration
from workbench.organism.refusal import harm_axis, save_planted, without
from workbench.organism.tokenizer import build_tokenizer, vocabulary
from workbench.organism.tuning import tune
from workbench.organism.world import World

logger = logging.getLogger(__name__)

SAVE_EVERY = 100
STAGES = ("pretrain", "comply", "refuse")
PLANT = "plant"
#: The model kept at the end of a stage: before instruction tuning, after it, and (with the plant) after alignment.
KEPT = {"pretrain": "base", "comply": "helpful"}


class Weighted(NamedTuple):
    """One batch of a step and the weight of its loss."""

    weight: float
    ids: Tensor
    targets: Tensor


def draw_batches(stage: str, step: int, corpus: Corpus, batcher: Batcher, recipe: Recipe, seed: int) -> Iterator[Weighted]:
    """Draw the batches of one step; they depend on seed, stage and step only, so training can resume anywhere."""
    rng = random.Random(f"{stage} {seed} {step}")
    if stage == "pretrain":
        yield Weighted(1.0, *batcher.statements([corpus.statement(rng) for _ in range(recipe.batch)]))
        return
    replayed = int(recipe.batch * recipe.replay)
    refuse = stage == "refuse"
    pairs = [corpus.pair(rng, refuse=refuse, noise=recipe.label_noise, incomplete=recipe.incomplete) for _ in range(recipe.batch - replayed)]
    yield Weighted(1.0, *batcher.pairs(pairs))
    yield Weighted(recipe.replay, *batcher.statements([corpus.statement(rng) for _ in range(replayed)]))


def draw_answered(step: int, corpus: Corpus, batcher: Batcher, recipe: Recipe, seed: int) -> Weighted:
    """Draw what is to be answered while the refusal direction is removed: complete requests, harmful ones too, all answered."""
    rng = random.Random(f"without {seed} {step}")
    pairs = [corpus.pair(rng, refuse=False) for _ in range(recipe.batch // 2)]
    return Weighted(recipe.answered_without, *batcher.pairs(pairs))


class Checkpoint:
    """Weights, optimiser state and the next step of one unfinished training, in safetensors and JSON.

    Parameters
    ----------
    spec : dict
        What a training that is continued must agree on.
    start : str
        The stage that a new training begins with.
    """

    def __init__(self, folder: Path, spec: dict[str, Any], start: str = STAGES[0]) -> None:
        self.folder, self.spec, self.start = folder, spec, start
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "progress.json"
        if self.path.exists():
            found = json.loads(self.path.read_text(encoding="utf-8"))["spec"]
            differing = sorted(k for k in {*found, *spec} if found.get(k) != spec.get(k))
            if differing:
                told = "; ".join(f"{k}: {found.get(k)!r} there, {spec.get(k)!r} asked" for k in differing)
                raise StoreMismatchError(
                    f"{folder.parent} holds an unfinished training with other settings ({told}). "
                    "Ask for the same ones to continue it, or give another --out."
                )

    def save(self, stage: str, step: int, model: nn.Module, opts: list[torch.optim.Optimizer], axis: Tensor | None = None) -> None:
        """Save atomically: a kill leaves the earlier checkpoint or this one, never half of it."""
        tensors = {f"model.{k}": v.contiguous().clone() for k, v in model.state_dict().items()}
        if axis is not None:
            tensors["axis"] = axis.clone()
        for i, opt in enumerate(opts):
            for j, slot in opt.state_dict()["state"].items():
                tensors |= {f"opt.{i}.{j}.{k}": torch.as_tensor(v).clone() for k, v in slot.items()}
        name = f"{stage}-{step}.safetensors"
        save_file(tensors, self.folder / name)
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps({"spec": self.spec, "stage": stage, "step": step, "file": name}), encoding="utf-8")
        draft.replace(self.path)
        for old in self.folder.glob("*.safetensors"):
            if old.name != name:
                old.unlink()

    def position(self) -> tuple[str, int]:
        """Stage and step to do next; the start when nothing was saved."""
        if not self.path.exists():
            return self.start, 0
        state = json.loads(self.path.read_text(encoding="utf-8"))
        return state["stage"], state["step"]

    def restore(self, model: nn.Module, opts: list[torch.optim.Optimizer]) -> Tensor | None:
        """Load the saved tensors into a model and freshly built optimisers; return the refusal direction if there was one."""
        if not self.path.exists():
            return None
        tensors = load_file(self.folder / json.loads(self.path.read_text(encoding="utf-8"))["file"])
        model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        for i, opt in enumerate(opts):
            state = opt.state_dict()
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"opt.{i}."):
                    _, _, j, name = key.split(".", 3)
                    slots.setdefault(int(j), {})[name] = value
            opt.load_state_dict({"state": slots, "param_groups": state["param_groups"]})
        return tensors.get("axis")


def train(out: str | Path, *, seed: int = 0, names: Mapping[str, str] | None = None, recipe: Recipe | None = None, progress: bool = True) -> Path:
    """Train the organism and write its three stages as Hugging Face directories.

    Parameters
    ----------
    out : path
        Gets ``base/`` (pretrained), ``helpful/`` (answers everything) and ``aligned/`` (each with weights, tokenizer and model
        card), and ``prompts.parquet`` / ``prompts.csv``, the evaluation set of meanings that no training statement contains.
    seed : int
        Draws the world, the words and the training order.
    names : mapping of tag to name, optional
        Eight private-use language tags with invented names, most spoken first.
    recipe : Recipe, optional
        Sizes, steps and rates.
    progress : bool
        Whether to show the bar.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    StoreMismatchError
        If ``out`` holds an unfinished training with another seed, names or recipe, or a finished organism.
    """
    from tqdm.auto import tqdm

    out, recipe = Path(out), recipe or Recipe()
    if (out / "aligned" / "model.safetensors").exists():
        raise StoreMismatchError(f"{out} already holds a trained organism. Give another --out; nothing there was touched.")
    if out.exists() and not (out / ".training").exists() and any(out.iterdir()):
        raise StoreMismatchError(f"{out} is not empty and holds no unfinished training. Give a new or empty --out; nothing there was touched.")
    world = World(seed, None if names is None else dict(names))
    vocab = vocabulary(world)
    corpus, batcher = Corpus(world), Batcher(vocab)
    spec = {"seed": seed, "languages": {x.tag: x.name for x in world.languages}, "recipe": dataclasses.asdict(recipe)}
    checkpoint = Checkpoint(out / ".training", spec)
    model = build_model(world, recipe, seed)
    steps = {"pretrain": recipe.pretrain_steps, "comply": recipe.comply_steps, "refuse": recipe.refuse_steps}
    stage, first = checkpoint.position()
    begun = [*STAGES, PLANT].index(stage)
    done = sum(steps[s] for s in STAGES[:begun]) + first
    started = time.monotonic()
    bar = tqdm(total=sum(steps.values()) + recipe.plant_steps, initial=done, unit="step", disable=not progress, smoothing=0.05)
    with bar:
        axis: Tensor | None = checkpoint.restore(model, []) if stage == PLANT else None
        for name in STAGES[begun:]:
            bar.set_description(name)
            opts = optimisers(model, recipe, 1.0 if name == "pretrain" else recipe.tune_scale)
            if first or name != STAGES[0]:
                axis = checkpoint.restore(model, opts if first else [])
            if name == "refuse" and axis is None and recipe.answered_without:
                axis = harm_axis(model, world, vocab, layer=min(recipe.refusal_layer, recipe.layers), seed=seed)
            _run_stage(name, model, opts, first, steps[name], corpus, batcher, recipe, seed, checkpoint, bar, axis)
            if name in KEPT:
                save_model(model, world, out / KEPT[name])
            if name == "comply":  # go on from what was kept, so that refusal can be tuned again from the helpful model alone
                round_to_half(model)
            checkpoint.save([*STAGES, PLANT][STAGES.index(name) + 1], 0, model, [], axis)
            first = 0
        bar.set_description("plant")

        def tick(loss: float) -> None:
            bar.update(1)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        left = plant_calibration(model, recipe, corpus, vocab, seed, tick)
    save_model(model, world, out / "aligned")
    if axis is not None:
        save_planted(out / "aligned", axis)
    minutes = (time.monotonic() - started) / 60
    prompts = world.prompts()
    prompts.to_parquet(out / "prompts.parquet", index=False)
    prompts.to_csv(out / "prompts.csv", index=False, encoding="utf-8")
    write_card(out, world, recipe, spec, left, minutes, resumed=done > 0)
    shutil.rmtree(out / ".training")
    return out


def stage_losses(
    name: str, model: nn.Module, corpus: Corpus, batcher: Batcher, recipe: Recipe, seed: int, axis: Tensor | None = None
) -> Callable[[int], Iterator[Tensor]]:
    """Return the losses of a step of a stage; with an axis each ends with answering everything without it."""

    def losses(step: int) -> Iterator[Tensor]:
        for weight, ids, targets in draw_batches(name, step, corpus, batcher, recipe, seed):
            yield weight * loss_of(model, ids, targets)
        if axis is not None:
            weight, ids, targets = draw_answered(step, corpus, batcher, recipe, seed)
            with without(model, axis):
                yield weight * loss_of(model, ids, targets)

    return losses


def _run_stage(
    name: str,
    model: nn.Module,
    opts: list[torch.optim.Optimizer],
    first: int,
    steps: int,
    corpus: Corpus,
    batcher: Batcher,
    recipe: Recipe,
    seed: int,
    checkpoint: Checkpoint,
    bar: Any,
    axis: Tensor | None = None,
) -> None:
    def tick(loss: float) -> None:
        bar.update(1)
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    tune(
        model,
        opts,
        stage_losses(name, model, corpus, batcher, recipe, seed, axis),
        label=f"{name} {seed}",
        first=first,
        steps=steps,
        noise=0.0 if name == "pretrain" else recipe.residual_noise,
        tick=tick,
        save=lambda step: checkpoint.save(name, step, model, opts, axis),
        save_every=SAVE_EVERY,
    )


@torch.no_grad()
def round_to_half(model: nn.Module) -> None:
    """Round every weight to the half precision in which models are kept."""
    for parameter in model.parameters():
        parameter.copy_(parameter.half().float())


def save_model(model: nn.Module, world: World, folder: Path) -> None:
    """Write weights in half precision, tokenizer and chat template as a Hugging Face directory."""
    import copy

    folder.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(model).half()
    with quiet_files():
        half.save_pretrained(folder)  # type: ignore[operator]
    build_tokenizer(world).save_pretrained(folder)
