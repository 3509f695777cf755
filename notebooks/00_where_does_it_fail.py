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
# # Where does a safety decision fail?
#
# A model refuses a harmful request in one language and answers it in another. That is a symptom. Between the request and the refusal lie five stages, and each of them can
# be the one that fails:
#
# | stage | question | a failure is called |
# | --- | --- | --- |
# | understood | does the model understand the request in this language? | understanding |
# | represented | is its harm in the residual stream, in the direction found in the reference languages? | representation |
# | calibrated | does the reference languages' threshold fit? | calibration |
# | actuated | does the decision reach the reply? | actuation |
# | expressed | does the refusal have the right form? | expression |
#
# This notebook asks two models with the same symptom and gets two answers. Both are offline and small, speak invented languages, and were made to fail where they fail
# ([how](../docs/organism.md)); they say nothing about real models. For a model of your own change the next cell and nothing else.

# %%
MODEL = "organism:aligned"  # such as "Qwen/Qwen2.5-0.5B-Instruct"
OTHER = "organism:representation"  # a second model, to compare with
PROMPTS = "organism"  # such as "polyrefuse:PATH"
LANGUAGES = ["qaa", "qab", "qac", "qad", "qah"]  # such as ["en", "de", "sw"]; None takes all
REFERENCE = None  # languages to compare with; None takes the high tier
LIMIT = None  # meanings per class; None takes all, and fewer may leave verdicts open

# %%
import tempfile
from pathlib import Path

import pandas as pd

import workbench as wb
from workbench import plots
from workbench.diagnosis.restoration import restoration_map

grid = wb.load_prompts(PROMPTS, languages=LANGUAGES, limit=LIMIT).with_splits(seed=0)
reference = grid.reference(REFERENCE)
folder = Path(tempfile.mkdtemp())
pd.set_option("display.max_colwidth", None)
grid

# %% [markdown]
# ## The diagnosis, in one call
#
# `quick=True` measures what the verdicts need and no more; without it come geometry and the language track, and `wb.build_report(run.folder)` makes a page of it all. `workbench diagnose` on the
# command line does the same.

# %%
run = wb.diagnose(MODEL, prompts=grid, reference=reference, quick=True, out=folder / "first", progress=False)

# %% [markdown]
# The symptom: in which languages is what is harmful refused, and what is harmless?

# %%
plots.refusal_gap(run.result("refusal"))

# %% [markdown]
# ## The verdict
#
# Follow a line from left to right: the decision comes as far as the line goes. A filled square is a criterion shown not to be met, an open one a criterion that the interval reaches across;
# the verdict names the first stage that fails, of those that explain the gap. [The list](../docs/diagnosis.md).

# %%
verdicts = run.result("verdicts")
plots.verdicts(verdicts, stages=run.result("stages"))

# %% [markdown]
# The same as a table. The gap is the reference languages' selectivity (harmful refused minus harmless refused) minus the language's.

# %%
verdicts.table[["language", "tier", "verdict", "subtype", "gap", "gap_low", "gap_high"]].round(2).replace(-0.0, 0.0)

# %% [markdown]
# ## Why: the stage that failed
#
# One language with its five stages. Each is a stated hypothesis with a criterion, an interval and a p value corrected for the number of languages.

# %%
failed = verdicts.table[~verdicts.table["verdict"].isin(["healthy", "none", "not enough evidence"])]
tag = failed["language"].iloc[0] if len(failed) else grid.languages[-1]
stages = run.result("stages").table
stages.loc[stages["language"] == tag, ["stage", "statistic", "value", "low", "high", "criterion", "passed"]].round(2)

# %% [markdown]
# And the picture behind the stage that failed. For *calibration*: what is harmful and what is harmless are apart in every language, but the threshold of the reference languages stands beside
# the gap instead of in it.


# %%
def evidence(run, stage):
    """Draw what the stage of a verdict rests on."""
    if stage == "understood":
        return plots.understanding(run.result("understanding"))
    if stage == "represented":
        return plots.auroc_with_nulls(run.result("harm_represented"))
    if stage == "calibrated":
        return plots.projection_ridges(run.result("projections"), thresholds=run.result("thresholds"))
    return plots.refusal_gap(run.result("refusal"))


evidence(run, verdicts.table.set_index("language").loc[tag, "stage"])

# %% [markdown]
# ## What would bring refusal back?
#
# A verdict can be tried out. The decision is taken from the model and given to a gate with the reference languages' threshold, then to one recalibrated with four harmful and four harmless
# examples, then to the true labels; whatever is flagged is pushed towards refusal. Each bar is what a step gains beyond random directions of the same length. If the threshold is what is wrong, the
# second step gains most.


# %%
def walked(run):
    """Draw the waterfall; where none could be walked, say why."""
    return plots.waterfall(run.result("waterfall")) if "waterfall" in run.results else run.result("dropped").table


walked(run)

# %% [markdown]
# ## In which layers?
#
# Each harmful prompt has a twin in a reference language that is refused. Give the prompt, at one layer, what its twin carries along the harm direction (*restore*), or give the twin what the prompt
# carries (*break*): from which layer on does the first token of the reply change its mind? The lowest rows are controls of the same length.

# %%
chat = wb.load_model(MODEL)
acts = wb.open_store(run.folder / "activations" / "after.zarr")
harm = wb.Directions.load(run.folder / "results" / "harm_direction.safetensors")
exchanged = restoration_map(chat, grid, acts, harm, reference=reference, n=16, kinds=["harm_coordinate"], progress=False)
plots.restoration(exchanged)

# %% [markdown]
# ## What would repair it?
#
# Where harm is represented and only misjudged, a threshold per language is enough: `workbench repair gate`, or [notebook 04](04_recalibrated_gate.ipynb). Where the decision does not reach the reply, a gate that
# pushes helps if the failure is *unrouted*, and nothing that pushes along this direction helps if it is *unresponsive*. Where harm is not represented or the request is not understood, there is nothing that a gate could read.
#
# ## The same symptom, another cause
#
# The second model, on the same prompts.

# %%
second = wb.diagnose(OTHER, prompts=grid, reference=reference, quick=True, out=folder / "second", progress=False)
plots.verdicts(second.result("verdicts"), stages=second.result("stages"))

# %%
worst = second.result("verdicts").table.sort_values("gap", na_position="first").iloc[-1]
evidence(second, worst["stage"])

# %% [markdown]
# Harm does not stand out from what permuted labels reach: the direction that tells harmful from harmless in the reference languages tells nothing here.
#
# ## What this cannot say
#
# - *Along the reference's direction* is not *nowhere*: harm that a language keeps along a direction of its own counts as not represented here, since nothing that was learned in the reference languages could use it.
# - That a gate in the model's place works shows that what it needs is there, not that the model itself decides by it.
# - *Not enough evidence* is neither a pass nor a failure. With a quarter of these prompts (`LIMIT = 96`) every verdict of the first model is of that kind.
# - A verdict is relative to the reference languages, to one judge, one chat template and these translations: a stage can look failed because a translation is poor.
#
# ## The answer
#
# The same walk for the second model. A gate gains nothing here, recalibrated or not, since it has nothing to read; true labels bring half of the refusal back and more, so the way from the decision to the
# reply is there. The same symptom, and the repair that works for the first model fails for the second.

# %%
walked(second)
