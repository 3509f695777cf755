"""What is asked: prompt grids, and the readers that make them."""

from workbench.prompts.grid import PromptGrid
from workbench.prompts.languages import name_of, normalise, read_tiers, tier_of
from workbench.prompts.sources import load_prompts

__all__ = ["PromptGrid", "load_prompts", "name_of", "normalise", "read_tiers", "tier_of"]
