"""What the gallery shows: every figure of the workbench, by the question it answers, how to read it, and the line that draws it."""

from __future__ import annotations

from typing import NamedTuple

#: What the lines below find in place: shown on the page, and run before they are.
PRELUDE = """\
import numpy as np
import workbench as wb
from workbench import plots
from workbench.behavior.agreement import marker_judge_agreement
from workbench.report.compare import compared, rates_of_both

run, repair = wb.Run.open(RUN), wb.Run.open(RUN / "repair")  # a diagnosis, and the repair by a gate in its folder
acts = wb.open_store(run.folder / "activations" / "after.zarr")
layer = int(run.result("harm_represented").table["layer"].iloc[-1])
lasa, msd, dpo = (wb.Run.open(RUN / name) for name in ("lasa", "msd", "dpo"))  # repairs by a training of a few steps
repairs = wb.repair_table([lasa.folder, msd.folder, dpo.folder])
tiers = {tag: known["tier"] for tag, known in msd.manifest["languages"].items()}
read_at = int(lasa.result("interpreter").table["layer"].iloc[0])"""


class Entry(NamedTuple):
    """A figure: the name of its picture, one sentence on how to read it, and the line that draws it."""

    name: str
    read: str
    line: str

    @property
    def title(self) -> str:
        """The name in words."""
        words = self.name.replace("_", " ").capitalize().replace("Auroc", "AUROC").replace(" roc", " ROC")
        return words.replace("Restoration ", "Restoration: ")


class Group(NamedTuple):
    """The figures that answer one question."""

    id: str
    question: str
    entries: tuple[Entry, ...]


GROUPS = (
    Group(
        "verdict",
        "Where does it fail?",
        (
            Entry(
                "verdicts",
                "A line runs from left to right as far as the safety decision comes; it ends at the stage that the verdict at the right names.",
                'plots.verdicts(run.result("verdicts"), stages=run.result("stages"))',
            ),
            Entry(
                "waterfall",
                "From left to right the decision is handed from the model to a gate, then to a recalibrated one, then to true labels, and the push "
                "is fitted: the first large step names what was missing, and the number above it is its share of the gap, net of random directions.",
                'plots.waterfall(run.result("waterfall"))',
            ),
            Entry(
                "restoration_harm_coordinate",
                "Dark is a large change of the refusal log-odds when one coordinate is exchanged with the twin in a reference language at that "
                "layer; look for the frame (the largest increment), and compare with the controls in the lowest rows.",
                'plots.restoration(run.result("restoration"))',
            ),
            Entry(
                "restoration_refusal_coordinate",
                "The same map for the coordinate along the direction that the model refuses by.",
                'plots.restoration(run.result("restoration"), kind="refusal_coordinate")',
            ),
            Entry(
                "restoration_state",
                "The same map for the whole state: what no exchange at a layer restores was lost before it, and the last layer (hatched) restores "
                "trivially.",
                'plots.restoration(run.result("restoration"), kind="state")',
            ),
        ),
    ),
    Group(
        "understood",
        "Does it understand?",
        (
            Entry(
                "understanding",
                "A language is understood where the whole interval lies right of the criterion's stroke.",
                'plots.understanding(run.result("understanding"))',
            ),
            Entry(
                "retrieval",
                "How often a request's nearest neighbour in a reference language is its own translation, by layer; only what lies above the grey "
                "null counts.",
                'plots.retrieval_by_layer(run.result("retrieval"))',
            ),
            Entry(
                "tokens_per_character",
                "Right is worse: the same request becomes a longer sequence for the model.",
                'plots.tokens_per_character(run.result("tokens_per_character"))',
            ),
        ),
    ),
    Group(
        "represented",
        "Is harm represented?",
        (
            Entry(
                "auroc_by_layer",
                "A dark cell ranks harmful above harmless along the reference's direction (.5 is chance); an outlined one does so in a language in "
                "which the model refuses less than half of what is harmful.",
                'plots.auroc_by_layer(run.result("auroc").table.query("model == \'after\'"), refusal=run.result("refusal"))',
            ),
            Entry(
                "auroc_with_nulls",
                "Harm is represented only where the dot's whole interval lies right of every grey mark: permuted labels, an untrained model, the "
                "surface.",
                'plots.auroc_with_nulls(run.result("harm_represented"))',
            ),
            Entry(
                "direction_cosines",
                "Filled dots are cosines between the harm directions of two languages; a dot beyond the upright stroke shares meanings, one inside "
                "the grey bar is no more than chance.",
                'plots.direction_cosines(run.result("direction_cosines"))',
            ),
        ),
    ),
    Group(
        "calibrated",
        "Is it calibrated?",
        (
            Entry(
                "projection_ridges",
                "Two humps per language, harmful and harmless: a threshold works where it stands between them, and the reference's stands beside "
                "them in a language that is badly calibrated.",
                'plots.projection_ridges(run.result("projections"), thresholds=run.result("thresholds"))',
            ),
            Entry(
                "threshold_transfer",
                "The longer the pale line between the two triangles, the more a language loses by being judged with the reference's threshold.",
                'plots.threshold_transfer(run.result("thresholds"))',
            ),
        ),
    ),
    Group(
        "acted-on",
        "Is it acted on?",
        (
            Entry(
                "refusal_gap",
                "Diamonds are harmful requests refused, circles harmless ones: far apart is selective, and a diamond at the left answers what "
                "it should refuse.",
                'plots.refusal_gap(run.result("refusal"))',
            ),
            Entry(
                "steered",
                "Crosses are the model as it is; diamonds show it with the direction removed, circles with it added; the pale line is what random "
                "directions of the same length do.",
                'plots.steered(run.result("steering"))',
            ),
            Entry(
                "strength_curve",
                "From left to right the direction is pushed harder; a curve must leave the grey range of random directions before it means anything.",
                'plots.strength_curve(run.result("strength"), chosen=run.summary["steering"]["strength"])',
            ),
            Entry(
                "selection_curves",
                "One point per candidate layer: removing the direction must lower refusal (top), adding it must induce it (middle) and harmless "
                "prompts must stay as they are (bottom); shaded candidates failed a filter, the mark is the one taken.",
                'plots.selection_curves(run.result("selection"))',
            ),
            Entry(
                "judge_agreement",
                "Who says what a refusal is can be wrong: κ is agreement beyond chance, beside it refusals found and other replies left alone. Of "
                "real languages, as the one figure of this page: the shipped patterns against a labelled set.",
                "plots.judge_agreement(marker_judge_agreement())",
            ),
        ),
    ),
    Group(
        "geometry",
        "What is its geometry?",
        (
            Entry(
                "clusters",
                "Each point is a prompt; move the slider through the layers, look whether shapes (classes) or colours (tiers) part, and conclude "
                "nothing from it alone.",
                'plots.clusters(run.result("clusters"), axes=run.result("cluster_axes"), layer=layer)',
            ),
            Entry(
                "separation",
                "Open is before alignment, filled after: the further right, the more of the spread in a language is harmful against harmless.",
                'plots.separation(run.result("separation"), layer=layer)',
            ),
            Entry(
                "separation_change",
                "Above 0 alignment moved the classes apart; below, tuned languages minus the others: a bar that excludes 0 says that alignment did "
                "more for one side.",
                'plots.separation_change(run.result("separation_change"), contrast=run.result("separation_contrast"))',
            ),
            Entry(
                "variance_shares",
                "Which factor sorts a layer: a layer where meaning lies above language, and above what noise would give (dotted), is organised by "
                "meaning.",
                'plots.variance_shares(run.result("variance_shares"), bottleneck=run.result("bottleneck"))',
            ),
            Entry(
                "harm_variance",
                "The transfer index asks in one number whether safety transfers: 0 is one harm for all languages, 1 is one for each.",
                'plots.harm_variance(run.result("harm_variance").table.query("model == \'after\'"))',
            ),
            Entry(
                "silhouettes",
                "Above 0 a prompt lies nearer to its translations than to its own language; grey is what permuted meanings reach.",
                'plots.silhouettes(run.result("silhouettes"), bottleneck=run.result("bottleneck"))',
            ),
            Entry(
                "similarity",
                "How alike a language is to the reference languages by layer; grey is what permuted translations reach, dotted an untrained model.",
                'plots.similarity_by_layer(run.result("similarity").table.query("model == \'after\'"))',
            ),
            Entry(
                "similarity_matrix",
                "Dark pairs are alike: blocks along the diagonal would be families of languages; the slider moves through the layers.",
                'plots.similarity_matrix(wb.pairwise_similarity(acts, "mexa", permutations=20, rng=np.random.default_rng(0)))',
            ),
            Entry(
                "language_track",
                "Read through the unembedding, each layer speaks the language whose area is largest there: its own, the reference's, or neither.",
                'plots.language_track(run.result("language_track"))',
            ),
        ),
    ),
    Group(
        "repair",
        "What repairs it?",
        (
            Entry(
                "two_runs",
                "Open is the model as it was diagnosed, filled with the gate: harmful refusals should move right and harmless ones stay at the left.",
                "plots.two_runs(rates_of_both(compared(run.folder, repair.folder)))",
            ),
            Entry(
                "selectivity_by_method",
                "Methods from the model as it is to an oracle that knows the truth: right is better at the left, left is better in the middle, and "
                "what is not right of random directions repairs nothing.",
                'plots.selectivity_by_method(repair.result("repair_rates"))',
            ),
            Entry(
                "few_shot",
                "From left to right more labelled examples per language; the band is the interval, and a curve that is flat from the start needs "
                "few.",
                'plots.few_shot_curve(repair.result("few_shot"), rates=repair.result("repair_rates"))',
            ),
            Entry(
                "gate_scores",
                "The gate's two humps per language, with the threshold before (dotted) and after the examples (solid): it should move to between "
                "them.",
                'plots.gate_ridges(repair.result("gate_scores"))',
            ),
            Entry(
                "gate_roc",
                "The curve says how good the score is, the points on it at which threshold the gate sits without the examples (open) and with them "
                "(filled); top left is best.",
                'plots.gate_roc(repair.result("gate_roc"))',
            ),
            Entry(
                "gate_transfer",
                "A row is the language a gate was fitted on, a column the one it is asked in; pale cells do not carry over.",
                'plots.gate_transfer(repair.result("gate_transfer"))',
            ),
            Entry(
                "strength_by_method",
                "Rates against the strength of the push, on the prompts that chose it; the upright line is the choice, the same for every method.",
                'plots.strength_by_method(repair.result("repair_strength"))',
            ),
            Entry(
                "elsewhere",
                "The same gate, unchanged, on another prompt set: harmful refusals should still move right.",
                'plots.elsewhere(repair.result("elsewhere"))',
            ),
        ),
    ),
    Group(
        "training",
        "What does training repair?",
        (
            Entry(
                "repaired_languages",
                "Per language an arrow from the model as it is (hollow) to the repaired one (filled): diamonds, harmful requests, should move right, "
                "and circles, harmless ones, should not move; a language that a training saw nothing of is shaded. These trainings are short.",
                "plots.repaired_languages(repairs.rates(), seen=repairs.seen)",
            ),
            Entry(
                "repair_cost",
                "High is a repair that refuses more of what is harmful and no more of the rest, left one that costs harmless use little; right of "
                "the dashed line it costs more than the budget.",
                "plots.repair_cost(repairs.contrasts())",
            ),
            Entry(
                "training_curves",
                "From left to right the training goes on: the loss should fall, harmful refusal rise in every language, and the rates of harmless "
                "requests stay where they were.",
                'plots.training_curves(msd.result("training_curve"), tiers=tiers)',
            ),
            Entry(
                "interpreter_layers",
                "How well a probe that was trained in these languages tells harmful from harmless, by layer; the marked layer is used, and only what "
                "lies above the dotted line (permuted labels) counts.",
                'plots.interpreter_layers(lasa.result("interpreter_layers"), layer=read_at)',
            ),
            Entry(
                "token_weights",
                "Where in a reply a self-distillation learns: the weight of a token is how sure the teacher is of it times how unlikely the student "
                "finds it.",
                'plots.token_weights(msd.result("token_weights"), tiers=tiers)',
            ),
            Entry(
                "token_weight_strips",
                "The same for single replies, token by token: dark in both upper rows makes a heavy token in the lowest.",
                'plots.token_weight_strips(msd.result("token_weights"), tiers=tiers)',
            ),
        ),
    ),
)
