"""The judge that a run is asked to use, read before anything is loaded."""

from __future__ import annotations

from typing import Any

from workbench.behavior.choice import ASKING, JudgeChoice, as_choice, sends
from workbench.errors import DataError


def judges_asked(judge: Any, fallback: Any, options: dict[str, Any], *, redact: bool, progress: bool) -> tuple[Any, Any]:
    """Read the judge asked for and its fallback before anything is loaded; model and address go to the one that takes them."""
    given = {name: value for name, value in options.items() if name != "cache" and value is not None}
    asking = [isinstance(one, str) and one.partition(":")[0] in ASKING for one in (judge, fallback)]
    if given and not isinstance(judge, str) and not asking[1]:
        raise DataError(f"{', '.join(given)} given together with a judge in memory. They shape how one is made: build it with them instead.")
    to_fallback = asking[1] and not asking[0]
    read = []
    for one, takes in ((judge, not to_fallback), (fallback, to_fallback)):
        read.append(
            JudgeChoice(one, **(options if takes else {}), progress=progress) if isinstance(one, str) else None if one is None else as_choice(one)
        )
    if redact and any(sends(one) for one in read):
        raise DataError(
            "A redacted run keeps no reply, and the endpoint judge sends prompts and replies to a server: nothing was sent. Leave out --redact, or "
            "take a judge that stays on this machine (markers, first_token, classifier:MODEL, guard:MODEL)."
        )
    return read[0], read[1]
