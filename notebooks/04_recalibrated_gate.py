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
# # Can four labelled examples repair a language?
#
# A model may represent harm in every language and still refuse in some only, because the threshold of its decision does not fit the others. Then it is enough to move
# the threshold: a **gate** reads the state of a prompt, says harmful or harmless by a threshold of that language, and steers what it flags towards refusal
# (Aziz et al. 2026, arXiv:2606.01196). This notebook fits a gate on three languages, sets the thresholds of five others with four harmful and four harmless examples
# each, and asks whether refusal follows: beside other gates, steering without any gate, random directions, and a gate that knows the truth.
#
# It runs offline on the embedded organism, whose failure *is* a shifted threshold, by construction ([how](../docs/organism.md)): a positive control, which says nothing about real
# models. For a model of your own change the next cell and nothing else.

# %%
MODEL = "organism:aligned"  # such as "Qwen/Qwen2.5-0.5B-Instruct"
PROMPTS = "organism"  # such as "polyrefuse:PATH"
LANGUAGES = None  # such as ["en", "de", "sw"]; None takes all
LIMIT = 96  # meanings per class
K = 4  # harmful, and harmless, examples per language
DRAWS = 6  # how often they are drawn anew
NEW_TOKENS = 8  # longest reply; 64 for a real model

# %%
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import workbench as wb
from workbench import plots
from workbench.gates import BalancedF1, ConformalMiss, MomentMatching, Shrinkage

chat = wb.load_model(MODEL)
grid = wb.load_prompts(PROMPTS, languages=LANGUAGES).with_splits(seed=0).limit(LIMIT)
reference = grid.reference(None)
targets = [tag for tag in grid.languages if tag not in reference]
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The protocol, in one call
#
# Examples come from the fit split; layer, position and strength from the select split; everything shown below from the score split. `workbench repair gate` on the command line does the same.

# %%
run = wb.repair_gate(chat, prompts=grid, k=K, draws=DRAWS, graded_draws=2, max_new_tokens=NEW_TOKENS, out=folder / "repair", progress=False)
run.summary["place"]

# %% [markdown]
# ## Old thresholds, new thresholds
#
# Scores of held-out prompts by language. The source languages' threshold cuts the others in the wrong place; the new one comes from the examples of the first draw.

# %%
plots.gate_ridges(run.result("gate_scores"))

# %%
plots.gate_roc(run.result("gate_roc"))

# %% [markdown]
# The curves say that the *score* is good in every language; the points on them say at which *threshold* the gate sits without examples (open) and with them (filled).
#
# ## What the model then does
#
# Every method pushes along the same direction and equally hard; they differ in *whom* they push. "Oracle gate" pushes by the true labels: no gate can do better at this strength.

# %%
plots.selectivity_by_method(run.result("repair_rates"))

# %% [markdown]
# The gate minus every other method, on the same meanings and draws (95 % intervals over both):

# %%
apart = run.result("repair_contrasts").table
apart = apart[(apart["language"] == "mean low") & (apart["statistic"] == "selectivity")]
apart[["other", "value", "low", "high"]].round(2).reset_index(drop=True)

# %% [markdown]
# Whom it costs: refusal and right answers in each language, before and after.

# %%
rates = run.result("repair_rates").table
told = rates[rates["method"].isin(["unrepaired", "gate, shrinkage", "oracle gate"]) & ~rates["language"].str.startswith("mean ")]
told.pivot_table(index=["language", "statistic"], columns="method", values="value", sort=False).loc[
    pd.IndexSlice[:, ["harmful_refusal", "harmless_refusal", "answer_accuracy"]], :
].round(2)

# %% [markdown]
# ## How many examples does it take?
#
# The paper's rule takes the threshold with the best F1 on the examples alone. With one pair that is a coin toss when the pair lies the wrong way round. Shrinkage also learns from how the
# *other* languages' scores lie.

# %%
plots.few_shot_curve(run.result("few_shot"))

# %% [markdown]
# ## By hand
#
# What the protocol did, in a few lines: states at one place, a gate on the source languages, a threshold for one language, and the two lines that apply it to a model.

# %%
place = run.summary["place"]
acts = wb.open_store(run.folder / "activations" / "after.zarr")
data = wb.gate_data(acts, layer=place["layer"], position=place["position"])
fitted = wb.RecalibratedGate().fit(data.select(split="fit", languages=reference))
tag, rng = targets[0], np.random.default_rng(0)
gate = fitted.recalibrate(data.select(split="fit").draw(K, tag, rng), policy=Shrinkage())
{name: round(value, 2) for name, value in gate.thresholds_.items()}

# %% [markdown]
# Which rule sets the threshold matters most where labels are fewest. `ConformalMiss` promises a miss rate and therefore abstains until it has 19 examples; `MomentMatching` needs no labels at all.

# %%
curve = wb.label_curve(
    fitted, data, tag, ks=[1, 4, 20], policies=[BalancedF1(), Shrinkage(), ConformalMiss(), MomentMatching()], draws=50, rng=rng, examples="fit"
)
plain = curve.table[curve.table["statistic"].isin(["miss", "balanced_accuracy"])]
plain.pivot_table(index=["policy", "statistic"], columns="k", values="mean", sort=False).round(2)

# %% [markdown]
# A gate is one file without code in it. Two lines apply it to a loaded model:

# %%
direction = wb.Direction.load(run.folder / "results" / "selected_direction.safetensors")
gate = wb.load_gate(run.folder / "gate.safetensors")
route = wb.Route.along(gate, direction, strength=place["strength"], languages=grid)

few = grid.select(split="score", languages=[reference[0], tag]).limit(8)
with chat.edited(route):
    wb.generate(chat, few, max_new_tokens=NEW_TOKENS, progress=False)
route.decisions.summary()

# %% [markdown]
# ## Does it carry over?
#
# Gates fitted on one language (rows) and asked in another (columns) at the first one's threshold; the top row leaves out only the language asked.

# %%
plots.gate_transfer(run.result("gate_transfer"))
