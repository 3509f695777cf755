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
# # Which direction does a model refuse by, and is it the same in every language?
#
# Three questions, each answered on prompts that the answer before did not see. *Where do harmful and harmless requests differ*, and do languages agree? (fit split.)
# *Which of these directions does the model use*: what happens when one is removed, or added? (select split.) *How much* is refused then, in each language, and
# do random directions do the same? (score split.)
#
# The first run is offline, on the embedded organism, whose refusal passes along one direction by construction ([how](../docs/organism.md)). It says nothing about
# real models. For a model of your own change the next cell and nothing else.

# %%
MODEL = "organism:aligned"  # such as "Qwen/Qwen2.5-0.5B-Instruct"
PROMPTS = "organism"  # such as "polyrefuse:PATH"
LANGUAGES = None  # such as ["en", "de", "sw"]; None takes all
LIMIT = 200  # meanings per class
TRIED = 16  # meanings per class and language that are answered under each edit
NEW_TOKENS = 8  # longest reply; 64 for a real model

# %%
import numpy as np
import pandas as pd

import workbench as wb
from workbench import plots

chat = wb.load_model(MODEL)
grid = wb.load_prompts(PROMPTS, languages=LANGUAGES).with_splits(seed=0).limit(LIMIT)
reference = grid.reference(None)
acts = wb.capture(chat, grid, progress=False)
grid

# %% [markdown]
# ## Do languages share a harm direction?
#
# The difference in means of each language, compared with that of the first. Two directions measured with noise cannot agree perfectly even where they are the
# same: the upright stroke is what equal directions would show if their noise were unrelated. A dot beyond it shares meanings, not only direction.

# %%
cosines = wb.compare_directions(acts, grid.languages, rng=np.random.default_rng(0))
plots.direction_cosines(cosines)

# %% [markdown]
# ## Which one does the model use?
#
# Every candidate (layer, position) is removed from all that is written to the residual stream, and added at its own layer. The rule of Arditi et al. (arXiv:2406.11717): drop the
# last fifth of the layers, candidates whose removal disturbs harmless prompts (KL above 0.1), and those whose addition does not induce refusal; of the rest take the one
# whose removal lowers refusal most.

# %%
directions = wb.harm_direction(acts, reference)
tokens = wb.refusal_tokens(chat, grid)
criterion = "refusal_tokens" if set(reference) <= set(tokens.ids) else "token_free"
scores = wb.sweep_directions(chat, grid, directions, tokens=tokens, criterion=criterion, languages=reference, progress=False)
chosen = wb.select_direction(scores, n_layers=chat.n_layers)
plots.selection_curves(chosen)

# %% [markdown]
# ## How hard must one push?
#
# Rates in all languages by strength, in multiples of the measured difference. Grey: random directions of the same length.

# %%
direction = chosen.of(directions)
judge = wb.choose_judge(grid, chat)
some = grid.select(split="select").limit(TRIED)
tried = wb.strength_sweep(chat, some, direction, [0.5, 1.0, 1.5, 2.0], judge=judge, max_new_tokens=NEW_TOKENS, progress=False)
plots.strength_curve(tried)

# %% [markdown]
# ## An edit by hand
#
# Every edit is a small value with layers, scope and strength; it acts inside the `with` and nowhere else ([edits](../docs/edits.md)).

# %%
scored = grid.select(split="score").limit(TRIED)
with chat.edited(wb.Ablate(direction)):
    replies = wb.generate(chat, scored, max_new_tokens=NEW_TOKENS, progress=False)
wb.refusal_rates(judge.outcomes(replies, scored), scored)

# %% [markdown]
# ## Removed and added, on prompts that chose nothing

# %%
strength = wb.choose_strength(tried, statistic="harmless_refusal", margin=1.0).strength or 1.0  # 0 where no strength gains anything
options = dict(judge=judge, split="score", max_new_tokens=NEW_TOKENS, progress=False)
removed = wb.strength_sweep(chat, scored, direction, [1.0], kind="ablate", **options).table.assign(edit="ablate")
added = wb.strength_sweep(chat, scored, direction, [strength], **options).table.assign(edit="add")
plots.steered(pd.concat([removed, added]))
