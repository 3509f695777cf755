"""One prompt as token ids, and the names of places in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.errors import ModelError, PromptError, did_you_mean

#: Names of positions; ``post[i]`` stands for ``post[0]``, ``post[1]``, ...
POSITIONS = ("t_inst", "t_post_inst", "mean_inst", "post[i]")


@dataclass(frozen=True)
class Tokens:
    """One rendered prompt as token ids, and where the user's text is in it.

    Attributes
    ----------
    ids : tuple of int
        The whole rendered prompt.
    inst_start, inst_end : int
        Token span [start, end) of the user's text. A token that straddles the text's edge counts as the text's.
    n_chars : int
        Length of the user's text in characters (Unicode code points).
    """

    ids: tuple[int, ...]
    inst_start: int
    inst_end: int
    n_chars: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_inst(self) -> int:
        """Tokens of the user's text."""
        return self.inst_end - self.inst_start

    @property
    def n_post(self) -> int:
        """Template tokens after the user's text."""
        return len(self.ids) - self.inst_end

    @property
    def tokens_per_character(self) -> float:
        """How finely the tokenizer cuts the user's text (English is about .25)."""
        return self.n_inst / self.n_chars

    def span(self, position: str) -> tuple[int, int]:
        """Find a position's token span [start, end); one token long except for ``mean_inst``.

        Raises
        ------
        ModelError
            For an unknown name.
        PromptError
            If the prompt has no such template token.
        """
        if position == "t_inst":
            return self.inst_end - 1, self.inst_end
        if position == "t_post_inst":
            return len(self.ids) - 1, len(self.ids)
        if position == "mean_inst":
            return self.inst_start, self.inst_end
        at = post_index(position)
        if at >= self.n_post:
            raise PromptError(
                f"position {position} does not exist: {self.n_post} template tokens follow the user's text. "
                f"Expected {f'post[0] to post[{self.n_post - 1}]' if self.n_post else 't_inst, t_post_inst or mean_inst'}."
            )
        return self.inst_end + at, self.inst_end + at + 1


def post_index(position: str) -> int:
    """Read ``i`` of ``post[i]``; refuse any name that is no position."""
    found = re.fullmatch(r"post\[(\d+)\]", position)
    if not found:
        raise ModelError(f"There is no position {position!r}. Expected {', '.join(POSITIONS)}.{did_you_mean(position, POSITIONS)}")
    return int(found[1])


def require_positions(positions: Sequence[str]) -> None:
    """Refuse names that are no position."""
    for position in positions:
        if position not in POSITIONS[:3]:
            post_index(position)
