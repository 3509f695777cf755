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
# # Is there a layer that is organised by meaning and not by language?
#
# The hypothesis (LASA, arXiv:2604.12710): a model's early and late layers sort prompts by language, and somewhere between
# lies a *semantic bottleneck* that sorts them by what they mean. An argmax over layers always finds a "best" layer, in noise
# too. Here a layer counts only if it beats both ends, its interval excludes zero, and shuffled translations do worse.
#
# The first run is offline, on the embedded organism: a small trained model with eight invented languages. What it shows is true of
# the organism only. For a model of your own change the next cell and nothing else.

# %%
MODEL = "organism:base"  # a hub id or a directory, such as "Qwen/Qwen2.5-0.5B-Instruct"
PROMPTS = "organism"  # a parallel set, such as "polyrefuse:PATH", "flores200:PATH" or your own .csv
LANGUAGES = None  # such as ["en", "de", "sw"]; None takes all
TEMPLATE = None  # "raw" switches the chat template off, as LASA reads its prompts
LIMIT = 60  # meanings per class
REFERENCE = None  # languages to compare with; None takes the high tier

# %%
import numpy as np

import workbench as wb
from workbench import plots

model = wb.load_model(MODEL, template=TEMPLATE)
grid = wb.load_prompts(PROMPTS, languages=LANGUAGES, limit=LIMIT).complete().with_splits(seed=0)
reference = grid.reference(REFERENCE)
acts = wb.capture(model, grid, progress=False)
grid

# %% [markdown]
# ## How much of the spread is language, and how much is meaning?
#
# Two-way analysis of variance on the complete grid, layer by layer. Noise alone gives each factor a share too (dotted); the part
# that is neither is language-specific meaning and noise, which one prompt per cell cannot tell apart.

# %%
shares = wb.variance_shares(acts)
plots.variance_shares(shares)

# %% [markdown]
# Which factor does harm belong to? With harm as a third factor, the *transfer index* asks in one number whether safety transfers: 0 where harm
# is the same direction in every language, 1 where each language has one of its own. A set of one class (FLORES, say) has no such factor.

# %%
both = 0 < acts["harmful"].values.mean() < 1
plots.harm_variance(wb.harm_variance(acts, rng=np.random.default_rng(0))) if both else "one class only"

# %% [markdown]
# ## Does a prompt lie nearest to its translations or to its own language?

# %%
profile = wb.silhouettes(acts, rng=np.random.default_rng(0))
verdict = wb.find_bottleneck(profile, n_layers=model.n_layers)
plots.silhouettes(profile, bottleneck=verdict)

# %%
verdict

# %% [markdown]
# ## Do the languages share coordinates, or only their shape?
#
# Retrieval, MEXA and cosine ask whether a translation is the *nearest* state; CKA, Procrustes and principal angles whether the languages' clouds have
# the same shape. An untrained copy of the model is the control: what it reaches comes from the tokens, not from what was learned.

# %%
control = wb.capture(wb.untrained_like(model, seed=0), grid, progress=False)
similar = wb.similarity(acts, reference, split=None, control=control, rng=np.random.default_rng(0))
plots.similarity_by_layer(similar)

# %% [markdown]
# ## Which language would the middle layers speak?
#
# The logit lens (TransformerLens' own) reads every layer through the final norm and the unembedding; each token counts for the languages that use it in this
# grid. The dotted lines are the control.

# %%
spoken = wb.track_languages(model, grid, rng=np.random.default_rng(0), progress=False)
plots.language_track(spoken)

# %% [markdown]
# ## The answer
#
# One row per position: is there a bottleneck, between which layers, and why or why not.

# %%
for row in verdict.table.itertuples():
    where = f", layers {row.low} to {row.high}" if row.verdict == "bottleneck" else ""
    print(f"{row.position}: {row.verdict}{where}. {row.reason}")

# %%
plots.variance_shares(shares, bottleneck=verdict)
