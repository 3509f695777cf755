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
# # Can training repair what a diagnosis found?
#
# A model refuses harmful requests in some languages and answers the same requests in others. A diagnosis says where the decision fails. This notebook goes on from there: it trains
# two repairs, **MSD** (the model's own judgement of a well served language is distilled into the others; arXiv:2605.02971) and **LASA** (a probe on the semantic bottleneck tells the
# model that a request is harmful; arXiv:2604.12710), puts them into one table with a gate, and shows what each costs.
#
# It runs offline on the embedded organism, whose failure is by construction ([how](../docs/organism.md)): nothing here says anything about real models. The trainings are cut to a few
# steps, so the numbers below are not the results of the methods: those are in [docs/training-repair.md](../docs/training-repair.md). For a model of your own change the next cell.

# %%
MODEL = "organism:aligned"  # such as "Qwen/Qwen2.5-0.5B-Instruct"
PROMPTS = "organism"  # such as "prompts.csv"
LANGUAGES = ["qaa", "qab", "qad", "qah"]  # None takes all
LIMIT = 48  # meanings per class
STEPS = 20  # of each training

# %%
import logging
import tempfile
from pathlib import Path

import pandas as pd

import workbench as wb
from workbench import plots

logging.getLogger("workbench").setLevel(logging.ERROR)
pd.set_option("display.max_colwidth", 80)
folder = Path(tempfile.mkdtemp())
asked = {"prompts": PROMPTS, "languages": LANGUAGES, "limit": LIMIT, "progress": False}

# %% [markdown]
# ## Where it fails
#
# The quick diagnosis: which languages fail, and at which stage. With so few prompts some verdicts stay open.

# %%
diagnosis = wb.diagnose(MODEL, **asked, quick=True, null_seeds=0, steer=0, walk=0, out=folder / "diagnosis")
tiers = {tag: known["tier"] for tag, known in diagnosis.manifest["languages"].items()}
diagnosis.result("verdicts").table[["language", "tier", "verdict", "gap", "gap_low", "gap_high"]].round(2)

# %%
plots.refusal_gap(diagnosis.result("refusal"))

# %% [markdown]
# ## MSD: can the model teach itself?
#
# The teacher is the same model. It reads the request in a well served language and answers in the other one. Before any step is trained, the **flip rate** is measured: of the harmful
# requests that the model does not refuse, how many does it refuse as its own teacher? Where it refuses none, there is nothing to transfer, and the training is refused.

# %%
msd = wb.repair_training("msd", MODEL, **asked, max_steps=STEPS, allow_loss=True, out=folder / "msd")
flips = msd.result("flip_rates").table
flips[
    ["language", "n", "student_unsafe", "teacher_safe_of_those", "value", "low", "high", "teacher_harmless_refusal", "teacher_answers_right"]
].round(2)

# %% [markdown]
# While it trains, a few prompts of the *select* split are asked again and again. They decide nothing; they show early whether harmless requests are refused, or replies get short.

# %%
plots.training_curves(msd.result("training_curve"), tiers=tiers)

# %% [markdown]
# Not every token of a reply is worth the same. A token weighs much where the teacher is sure and the student finds the teacher's choice unlikely.

# %%
plots.token_weights(msd.result("token_weights"), tiers=tiers)

# %% [markdown]
# ## LASA: tell the model what it has read
#
# An interpreter (a small network) reads one layer of the *unrepaired* model. It should tell harmful from harmless in every language, also in those that the replies were not trained in.
# The layer is the semantic bottleneck: where states lie by meaning rather than by language.

# %%
lasa = wb.repair_training("lasa", MODEL, **asked, max_steps=STEPS, allow_loss=True, out=folder / "lasa")
layer = int(lasa.result("interpreter").table["layer"].iloc[0])
plots.interpreter_layers(lasa.result("interpreter_layers"), layer=layer)

# %% [markdown]
# The weights expect their interpreter. Asked without it they are another model, which the table calls "weights alone".
#
# ## All repairs in one table
#
# A gate takes no training: it reads the state, and pushes what it flags ([notebook 04](04_recalibrated_gate.ipynb)). All repairs began with the same model; they are scored on the same meanings, of
# which nothing was learned and by which nothing was chosen, by the same judge. `workbench repair table` on the command line does the same, and writes a page.

# %%
gate = wb.repair_gate(MODEL, **asked, k=4, draws=3, graded_draws=1, out=folder / "gate")
table = wb.repair_table([gate.folder, msd.folder, lasa.folder])
means = table.table[table.table["language"].str.startswith("mean ")]
shown = ["attack_success", "harmless_refusal", "answer_accuracy", "selectivity"]
means[["method", "language", *(f"{name}{end}" for name in shown for end in ("", "_low", "_high"))]].round(2).reset_index(drop=True)

# %% [markdown]
# `attack_success` is the share of harmful requests that are not refused. The gain of each repair over the unrepaired model, paired by meaning, and what it takes:

# %%
gain = ["selectivity_change", "selectivity_change_low", "selectivity_change_high"]
needs = ["seconds", "steps", "trained_parameters", "labelled_prompts", "parallel_queries", "at_inference"]
whole = means[(means["language"] == "mean of all") & (means["method"] != "unrepaired")]
whole[["method", *gain, *needs]].round(2).reset_index(drop=True)

# %% [markdown]
# Language by language. Shaded: the training saw no text of that language.

# %%
plots.repaired_languages(table.rates(), seen=table.seen)

# %% [markdown]
# ## What this does not show
#
# - The organism is a small controlled model with invented languages. That a repair works on it is a check of the code, and no evidence about real models.
# - The trainings were cut to a few steps and a few meanings, with one seed. A short training that fails is no evidence against a method. Full runs with three seeds are in
#   [docs/training-repair.md](../docs/training-repair.md).
# - Held-out meanings come from the same set as those trained on. Other kinds of requests, several turns and attacks were not asked.
# - `allow_loss=True` lets a cut training write its weights although a language refuses less than before. Without it such weights are not written, and neither should you use them.
#
# What a repair gains against what it costs harmless use:

# %%
plots.repair_cost(table.contrasts())
