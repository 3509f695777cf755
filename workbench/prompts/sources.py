"""Where prompts come from: one spelling for built-in sets, local copies, files and the hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from workbench.errors import PromptError, did_you_mean
from workbench.prompts import multijail, polyrefuse, xsafety
from workbench.prompts.files import SUFFIXES, read_table
from workbench.prompts.grid import PromptGrid
from workbench.prompts.languages import normalise, read_tiers

logger = logging.getLogger(__name__)

NAMES = ("multijail", "polyrefuse", "xsafety", "organism")
HUB_IDS = {"multijail": multijail.HUB_ID, "xsafety": xsafety.HUB_ID}


class _Part(NamedTuple):
    frame: pd.DataFrame
    row_name: Callable[[int], str]
    used_subset: bool = False


def load_prompts(
    spec: str | Path,
    *,
    harmless: str | Path | None = None,
    harmful: str | Path | None = None,
    subset: str | None = None,
    languages: Iterable[str] | str | None = None,
    limit: int | None = None,
    seed: int = 0,
    tiers: str | Path | None = None,
    strip_punctuation: bool = False,
) -> PromptGrid:
    """Load a prompt set as a grid.

    Parameters
    ----------
    spec : str or path
        ``organism``; ``multijail``, ``polyrefuse`` or ``xsafety``, alone (from the hub) or as ``NAME:PATH`` (a local copy);
        a ``.csv``, ``.jsonl``, ``.json`` or ``.parquet`` file with the grid's columns; or the id of such a set on the hub.
    harmless, harmful : str or path, optional
        Another set, spelled the same way, that gives the class the first one lacks.
    subset : str, optional
        PolyRefuse: ``train``, ``val`` (the default) or ``test``; sets from the hub: the split.
    languages : iterable of str, or str with commas, optional
        Keep only these.
    limit : int, optional
        Keep this many meanings per class, seeded, the same in every language.
    seed : int
        Of ``limit``.
    tiers : path, optional
        File of ``language,tier`` that wins over every other source of tiers.
    strip_punctuation : bool
        Remove sentence-final punctuation, which tells the classes apart in some sets.

    Returns
    -------
    PromptGrid
        Every row of the sets; languages that lack a class are named by ``languages_without_both_classes()``. Splits are
        those of the set, if any; ``with_splits()`` assigns the others.

    Raises
    ------
    PromptError
        For an unknown set or language, a missing class, or bad cells; with the line for files, and the remedy.
    """
    part = _read(spec, subset=subset)
    notes = list(part.frame.attrs.get("notes", []))
    grids = [PromptGrid(part.frame, row_name=part.row_name)]
    used = part.used_subset
    present = {bool(label) for label in grids[0].frame["harmful"]}
    for label, other, option in ((False, harmless, "--harmless"), (True, harmful, "--harmful")):
        if other is None:
            continue
        if label in present:
            name = option.removeprefix("--")
            raise PromptError(f"{spec} has {name} prompts itself, so {option} {other} is not needed. Leave it out, or give a set without that class.")
        part = _read(other, subset=subset, default_label=label)
        notes += part.frame.attrs.get("notes", [])
        used |= part.used_subset
        grid = PromptGrid(part.frame, row_name=part.row_name)
        if label not in set(grid.frame["harmful"]):
            raise PromptError(f"{option} {other} has no {option.removeprefix('--')} prompts. Name a set that has them.")
        grids.append(grid.select(harmful=label))
    if subset is not None and not used:
        known = ", ".join(polyrefuse.SUBSETS)
        raise PromptError(f"subset={subset!r} has no meaning for {spec}; it names PolyRefuse's {known} or a split on the hub. Leave it out.")
    provenance = {"prompts": _spelled(spec), "harmless": _spelled(harmless), "harmful": _spelled(harmful), "subset": subset}
    merged = PromptGrid(_combined([grid.frame for grid in grids]), tiers=read_tiers(tiers) if tiers else None, provenance=provenance)
    labels = set(merged.frame["harmful"])
    if len(labels) < 2:
        has, lacks = ("harmful", "harmless") if True in labels else ("harmless", "harmful")
        raise PromptError(
            f"{spec} has {has} prompts only; both classes are needed. Add the other with --{lacks} SET, for example --{lacks} polyrefuse:PATH."
        )
    if languages is not None:
        merged = merged.select(languages=languages)
    for tag, note in notes:  # of the languages asked for only
        if languages is None or normalise(tag) in merged.languages:
            logger.warning("%s", note)
    if limit is not None:
        merged = merged.limit(limit, seed=seed)
    return merged.strip_final_punctuation() if strip_punctuation else merged


def _spelled(spec: str | Path | None) -> str | None:
    """Return a spec for the record: the file's or folder's name without the way to it on this machine."""
    if spec is None:
        return None
    name, colon, path = str(spec).partition(":")
    if name in NAMES:
        return name + colon + Path(path).name
    return Path(name).name if Path(str(spec)).suffix.lower() in SUFFIXES else str(spec)


def _read(spec: str | Path, *, subset: str | None, default_label: bool | None = None) -> _Part:
    text = str(spec)
    name, colon, path = text.partition(":")
    if name in NAMES and (colon or name == text):
        return _read_named(name, path, subset)
    by_hub_id = {hub.casefold(): known for known, hub in HUB_IDS.items()}
    if text.casefold() in by_hub_id:
        return _read_named(by_hub_id[text.casefold()], "", subset)
    given = Path(text)
    if given.suffix.lower() in SUFFIXES or given.is_file():
        frame, row_name = read_table(given, default_label=default_label)
        if "source" not in frame:
            frame["source"] = given.stem
        return _Part(frame, row_name)
    if given.is_dir():
        spelled = ", ".join(f"{n}:{text}" for n in NAMES[:3])
        raise PromptError(f"{text} is a folder, and which set it holds is not said. Expected {spelled} or a file; give one of these.")
    if text.count("/") == 1 and not text.startswith(("/", ".", "~")) and not colon:
        records = _from_hub(text, subset)
        frame = pd.DataFrame(records, dtype=object)
        if default_label is not None and "harmful" not in frame:
            frame["harmful"] = default_label
        if "source" not in frame:
            frame["source"] = text
        return _Part(frame, lambda i: f"{text}, row {i}", True)
    raise PromptError(
        f"Unknown prompt set {text!r}.{did_you_mean(name, NAMES)} Expected one of {', '.join(NAMES)}, NAME:PATH for a local copy, "
        f"a file that ends in {', '.join(SUFFIXES)}, or a hub id such as {multijail.HUB_ID}."
    )


def _read_named(name: str, path: str, subset: str | None) -> _Part:
    if path and not Path(path).exists():
        raise PromptError(f"There is nothing at {path}. Expected {name}:PATH to name a local copy of {name}; check the path.")
    if name == "organism":
        if path:
            return _Part(*read_table(path))
        from workbench.organism.world import organism_prompts

        return _Part(organism_prompts(), lambda i: f"organism, row {i}")
    if name == "polyrefuse":
        if not path:
            raise PromptError(
                "PolyRefuse has no copy on the hub that this package knows. Clone github.com/mainlp/Multilingual-Refusal and give polyrefuse:PATH."
            )
        return _Part(polyrefuse.read_polyrefuse(Path(path), subset), lambda i: f"polyrefuse, row {i}", True)
    if name == "multijail":
        if path:
            return _Part(multijail.read_multijail(Path(path)), lambda i: f"multijail, row {i}")
        records = _from_hub(multijail.HUB_ID, None, remedy="multijail:PATH")
        named = [(f"{multijail.HUB_ID}, row {i}", record) for i, record in enumerate(records)]
        return _Part(multijail.multijail_rows(named), lambda i: f"multijail, row {i}")
    rows = xsafety.read_xsafety(Path(path)) if path else xsafety.xsafety_hub_rows(_from_hub(xsafety.HUB_ID, None, remedy="xsafety:PATH"))
    return _Part(rows, lambda i: f"xsafety, row {i}")


def _from_hub(hub_id: str, subset: str | None, remedy: str = "a local .csv, .jsonl or .parquet file") -> list[dict[str, Any]]:
    """Return a hub set's records; of several splits, the one that ``subset`` names."""
    try:
        import datasets
    except ImportError as error:
        raise PromptError(f"Loading {hub_id} needs the package datasets. Install multilingual-safety-workbench[eval], or give {remedy}.") from error
    try:
        splits = datasets.load_dataset(hub_id)
    except Exception as error:  # the hub client raises many kinds: no network, gated, unknown, a bad file
        raise PromptError(
            f"Could not load {hub_id} from the hub ({type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no message'}). "
            f"Check the name and the network, or download the set and give {remedy}."
        ) from error
    if subset is not None and subset not in splits:
        raise PromptError(f"{hub_id} has no split {subset!r}; it has {', '.join(splits)}.{did_you_mean(subset, splits)}")
    if subset is None and len(splits) > 1:
        raise PromptError(f"{hub_id} has the splits {', '.join(splits)}. Choose one with subset= (--subset).")
    return [dict(record) for record in splits[subset or next(iter(splits))]]


def _combined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Stack sets; where their meaning ids collide, each is prefixed with its source."""
    if len(frames) == 1:
        return frames[0]
    first, second = frames
    shared = set(first["meaning_id"]) & set(second["meaning_id"])
    if shared:
        logger.info("%d meaning ids occur in both sets; they are prefixed with their sources", len(shared))
        for frame, label in ((first, "a"), (second, "b")):
            source = frame["source"].where(frame["source"].notna(), label)
            prefix = source if first["source"].iloc[0] != second["source"].iloc[0] else source + f"-{label}"
            frame["meaning_id"] = prefix + ":" + frame["meaning_id"]
            frame["prompt_id"] = frame["meaning_id"] + ":" + frame["language"]
    return pd.concat([first, second], ignore_index=True)
