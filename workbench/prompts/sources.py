"""Where prompts come from: one spelling for built-in sets, local copies, files and the hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from workbench.errors import PromptError, did_you_mean
from workbench.prompts import flores, multijail, ntrex, paradetox, polyrefuse, textdetox, twins, xsafety
from workbench.prompts.cells import UNLABELLED
from workbench.prompts.files import SUFFIXES, read_table
from workbench.prompts.grid import PromptGrid
from workbench.prompts.languages import normalise, read_tiers, tags_of

logger = logging.getLogger(__name__)

NAMES = ("multijail", "polyrefuse", "xsafety", "textdetox", "paradetox", "flores200", "ntrex128", "organism")
HUB_IDS = {"multijail": multijail.HUB_ID, "xsafety": xsafety.HUB_ID, "textdetox": textdetox.HUB_ID, "paradetox": paradetox.HUB_ID}
#: Shipped sets beside ``organism`` itself, spelled ``organism:NAME``.
ORGANISM_SETS = ("code-switched",)
#: Sets that are read from local copies only, and where to get them.
_CLONE = {
    "polyrefuse": "PolyRefuse has no copy on the hub that this package knows. Clone github.com/mainlp/Multilingual-Refusal",
    "flores200": "FLORES-200 has no copy on the hub that this package reads. Unpack the release of github.com/facebookresearch/flores",
    "ntrex128": "NTREX-128 has no copy on the hub that this package reads. Clone github.com/MicrosoftTranslator/NTREX",
}


class _Part(NamedTuple):
    frame: pd.DataFrame
    row_name: Callable[[int], str]
    used_subset: bool = False


class _Wish(NamedTuple):
    """What of a set is wanted."""

    subset: str | None
    languages: list[str] | None
    seed: int


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
    allow_one_class: bool = False,
) -> PromptGrid:
    """Load a prompt set as a grid.

    Parameters
    ----------
    spec : str or path
        ``organism`` or ``organism:code-switched``; ``multijail``, ``xsafety``, ``textdetox`` or ``paradetox``, alone (from the hub) or as
        ``NAME:PATH`` (a local copy); ``polyrefuse:PATH``, ``flores200:PATH`` or ``ntrex128:PATH``; a ``.csv``, ``.jsonl``, ``.json`` or
        ``.parquet`` file with the grid's columns; or the id of such a set on the hub.
    harmless, harmful : str or path, optional
        Another set, spelled the same way, that gives the class the first one lacks.
    subset : str, optional
        PolyRefuse: ``train``, ``val`` (the default) or ``test``; TextDetox and ParaDetox: ``pairs`` (the default) or
        ``unpaired``; sets from the hub: the split.
    languages : iterable of str, or str with commas, optional
        Keep only these; sets of one file per language open only theirs.
    limit : int, optional
        Keep this many meanings per class, seeded, the same in every language.
    seed : int
        Of ``limit``, and of ``unpaired``.
    tiers : path, optional
        File of ``language,tier`` that wins over every other source of tiers.
    strip_punctuation : bool
        Remove sentence-final punctuation, which tells the classes apart in some sets.

    allow_one_class : bool
        Harmful or harmless prompts alone will do: for sets that are only asked, and not learned from.

    Returns
    -------
    PromptGrid
        Every row of the sets; languages that lack a class are named by ``languages_without_both_classes()``. Sentences without
        harm labels (FLORES-200, NTREX-128) are harmless, all of them. Splits are those of the set, if any; ``with_splits()``
        assigns the others.

    Raises
    ------
    PromptError
        For an unknown set or language, a missing class, or bad cells; with the line for files, and the remedy.
    """
    wish = _Wish(subset, None if languages is None else tags_of(languages), seed)
    provenance: dict[str, Any] = {"prompts": _spelled(spec), "harmless": _spelled(harmless), "harmful": _spelled(harmful), "subset": subset}
    if subset == "unpaired":
        provenance["subset_seed"] = seed
    given_tiers = read_tiers(tiers) if tiers else None
    part = _read(spec, wish)
    notes = list(part.frame.attrs.get("notes", []))
    grids = [PromptGrid(part.frame, tiers=given_tiers, provenance=provenance, row_name=part.row_name)]
    used = part.used_subset
    present = {bool(label) for label in grids[0].frame["harmful"]}
    for label, other, option in ((False, harmless, "--harmless"), (True, harmful, "--harmful")):
        if other is None:
            continue
        if label in present:
            name = option.removeprefix("--")
            raise PromptError(f"{spec} has {name} prompts itself, so {option} {other} is not needed. Leave it out, or give a set without that class.")
        part = _read(other, wish, default_label=label)
        notes += part.frame.attrs.get("notes", [])
        used |= part.used_subset
        grid = PromptGrid(part.frame, row_name=part.row_name)
        if label not in set(grid.frame["harmful"]):
            raise PromptError(f"{option} {other} has no {option.removeprefix('--')} prompts. Name a set that has them.")
        grids.append(grid.select(harmful=label))
    if subset is not None and not used:
        raise PromptError(
            f"subset={subset!r} has no meaning for {spec}; it names PolyRefuse's {', '.join(polyrefuse.SUBSETS)}, TextDetox's and ParaDetox's "
            f"{', '.join(twins.SUBSETS)}, or a split on the hub. Leave it out."
        )
    merged = grids[0] if len(grids) == 1 else PromptGrid(_combined([grid.frame for grid in grids]), tiers=given_tiers, provenance=provenance)
    labels = set(merged.frame["harmful"])
    if len(labels) < 2 and merged.has_harm_labels and not allow_one_class:
        has, lacks = ("harmful", "harmless") if True in labels else ("harmless", "harmful")
        raise PromptError(
            f"{spec} has {has} prompts only; both classes are needed. Add the other with --{lacks} SET, for example --{lacks} polyrefuse:PATH."
        )
    if len(grids) > 1 and any(grid.frame["source"].isin(UNLABELLED).all() for grid in grids):
        logger.warning("%s", _GENRE)
    if wish.languages is not None:
        merged = merged.select(languages=wish.languages)
    for tag, note in notes:  # of the languages asked for only
        if wish.languages is None or normalise(tag) in merged.languages:
            logger.warning("%s", note)
    if limit is not None:
        merged = merged.limit(limit, seed=seed)
    return merged.strip_final_punctuation() if strip_punctuation else merged


_GENRE = (
    "Sentences of FLORES-200 and NTREX-128 stand in for harmless prompts. They are no requests and nobody labelled them: what tells the classes "
    "apart may be the genre."
)


def _spelled(spec: str | Path | None) -> str | None:
    """Return a spec for the record: the file's or folder's name without the way to it on this machine."""
    if spec is None:
        return None
    name, colon, path = str(spec).partition(":")
    if name in NAMES:
        return name + colon + Path(path).name
    return Path(name).name if Path(str(spec)).suffix.lower() in SUFFIXES else str(spec)


def _read(spec: str | Path, wish: _Wish, *, default_label: bool | None = None) -> _Part:
    text = str(spec)
    name, colon, path = text.partition(":")
    if name in NAMES and (colon or name == text):
        return _read_named(name, path, wish)
    by_hub_id = {hub.casefold(): known for known, hub in HUB_IDS.items()}
    if text.casefold() in by_hub_id:
        return _read_named(by_hub_id[text.casefold()], "", wish)
    given = Path(text)
    if given.suffix.lower() in SUFFIXES or given.is_file():
        frame, row_name = read_table(given, default_label=default_label)
        if "source" not in frame:
            frame["source"] = given.stem
        return _Part(frame, row_name)
    if given.is_dir():
        spelled = ", ".join(f"{n}:{text}" for n in NAMES[:-1])
        raise PromptError(f"{text} is a folder, and which set it holds is not said. Expected {spelled} or a file; give one of these.")
    if text.count("/") == 1 and not text.startswith(("/", ".", "~")) and not colon:
        records = _from_hub(text, wish.subset)
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


def _read_named(name: str, path: str, wish: _Wish) -> _Part:
    if name == "organism" and path in ORGANISM_SETS:
        from workbench.organism.switched import code_switched_prompts

        return _Part(code_switched_prompts(), lambda i: f"organism:{path}, row {i}")
    if path and not Path(path).exists():
        also = f", or organism:{' or organism:'.join(ORGANISM_SETS)}" if name == "organism" else ""
        near = did_you_mean(path, ORGANISM_SETS) if name == "organism" else ""
        raise PromptError(f"There is nothing at {path}. Expected {name}:PATH to name a local copy of {name}{also}; check the path.{near}")
    if name in _CLONE and not path:
        raise PromptError(f"{_CLONE[name]} and give {name}:PATH.")
    folder = Path(path)
    twin_options: dict[str, Any] = {"subset": wish.subset, "languages": wish.languages, "seed": wish.seed}
    match name:
        case "organism":
            if path:
                return _Part(*read_table(path))
            from workbench.organism.world import organism_prompts

            return _Part(organism_prompts(), lambda i: f"organism, row {i}")
        case "polyrefuse":
            return _Part(polyrefuse.read_polyrefuse(folder, wish.subset), lambda i: f"polyrefuse, row {i}", True)
        case "flores200":
            return _Part(*flores.read_flores(folder, languages=wish.languages))
        case "ntrex128":
            return _Part(*ntrex.read_ntrex(folder, languages=wish.languages))
        case "textdetox":
            if path:
                return _Part(*textdetox.read_textdetox(folder, **twin_options), True)
            return _Part(*textdetox.textdetox_hub_rows(_hub_splits(textdetox.HUB_ID, "textdetox:PATH"), **twin_options), True)
        case "paradetox":
            if path:
                return _Part(*paradetox.read_paradetox(folder, **twin_options), True)
            return _Part(*paradetox.paradetox_hub_rows(_from_hub(paradetox.HUB_ID, None, remedy="paradetox:PATH"), **twin_options), True)
        case "multijail":
            if path:
                return _Part(multijail.read_multijail(folder), lambda i: f"multijail, row {i}")
            records = _from_hub(multijail.HUB_ID, None, remedy="multijail:PATH")
            named = [(f"{multijail.HUB_ID}, row {i}", record) for i, record in enumerate(records)]
            return _Part(multijail.multijail_rows(named), lambda i: f"multijail, row {i}")
        case _:
            rows = xsafety.read_xsafety(folder) if path else xsafety.xsafety_hub_rows(_from_hub(xsafety.HUB_ID, None, remedy="xsafety:PATH"))
            return _Part(rows, lambda i: f"xsafety, row {i}")


def _from_hub(hub_id: str, subset: str | None, remedy: str = "a local .csv, .jsonl or .parquet file") -> list[dict[str, Any]]:
    """Return a hub set's records; of several splits, the one that ``subset`` names."""
    splits = _hub_splits(hub_id, remedy)
    if subset is not None and subset not in splits:
        raise PromptError(f"{hub_id} has no split {subset!r}; it has {', '.join(splits)}.{did_you_mean(subset, splits)}")
    if subset is None and len(splits) > 1:
        raise PromptError(f"{hub_id} has the splits {', '.join(splits)}. Choose one with subset= (--subset).")
    return [dict(record) for record in splits[subset or next(iter(splits))]]


def _hub_splits(hub_id: str, remedy: str) -> Any:
    """Return a hub set by split."""
    try:
        import datasets
    except ImportError as error:
        raise PromptError(f"Loading {hub_id} needs the package datasets. Install multilingual-safety-workbench[eval], or give {remedy}.") from error
    try:
        return datasets.load_dataset(hub_id)
    except Exception as error:  # the hub client raises many kinds: no network, gated, unknown, a bad file
        raise PromptError(
            f"Could not load {hub_id} from the hub ({type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no message'}). "
            f"Check the name and the network, or download the set and give {remedy}."
        ) from error


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
