# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does alignment separate harmful from harmless in every language alike?
#
# The Hidden Space of Safety (arXiv:2504.02708) compares a model before and after alignment: in English the classes move far apart, in other languages much less.
# Here the same prompts go through both models, in every layer, with paired intervals for *after minus before*.
#
# The first run is offline, on the embedded organism: `helpful` answers everything, `aligned` is the same model after refusals were tuned and after a
# calibration failure was planted in five of its eight languages ([how](../docs/organism.md)). It says nothing about real models. For models of your own change the next
# cell and nothing else.

# %%
BEFORE = "organism:helpful"  # such as "Qwen/Qwen2.5-0.5B"
AFTER = "organism:aligned"  # such as "Qwen/Qwen2.5-0.5B-Instruct"
PROMPTS = "organism"  # such as "polyrefuse:PATH" or "textdetox:PATH"
LANGUAGES = None  # such as ["en", "de", "sw"]; None takes all
TEMPLATE = None  # both models are asked with the chat template of AFTER; "plain" where it has none
LIMIT = 100  # meanings per class
TUNED = None  # languages whose refusal was tuned, as far as is known; None takes the high tier

# %%
import numpy as np

import workbench as wb
from workbench import plots

after = wb.load_model(AFTER, template=TEMPLATE)
before = wb.load_model(BEFORE, template=after.template)
grid = wb.load_prompts(PROMPTS, languages=LANGUAGES).with_splits(seed=0).select(split="score").limit(LIMIT)
tuned = grid.reference(TUNED)
others = [tag for tag in grid.languages if tag not in tuned]
acts_before = wb.capture(before, grid, progress=False)
acts_after = wb.capture(after, grid, progress=False)
grid

# %% [markdown]
# ## A picture first
#
# Principal components fitted on both models together, so that the panels share their axes. Move the slider through the layers. A picture is not evidence:
# with hundreds of dimensions two classes can be apart in directions that these two axes do not show.

# %%
points = wb.clusters(acts_after, before=acts_before, basis="common", rng=np.random.default_rng(0))
plots.clusters(points)

# %% [markdown]
# ## Four measures of separation
#
# *Between-class share*, the paper's number; *Bhattacharyya distance*, which also sees different spreads; *silhouette*; and the AUROC of a linear probe, cross-validated over
# meanings, which sees every direction.

# %%
found = wb.separation(acts_after, acts_before, rng=np.random.default_rng(0))
plots.separation(found)

# %% [markdown]
# ## What alignment changed

# %%
change = found.change()
plots.separation_change(change)

# %% [markdown]
# ## The answer
#
# Mean change in the tuned languages minus mean change in the others: positive where alignment did more for the tuned ones. Meanings are the same in all
# languages and both models, so everything is paired.

# %%
contrast = found.contrast(tuned, others)
last = contrast.table[(contrast.table["layer"] == after.n_layers) & (contrast.table["basis"] == "own")]
last[["position", "statistic", "contrast", "low", "high"]]

# %%
plots.separation_change(change, contrast=contrast)
