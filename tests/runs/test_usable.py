"""What cannot be measured is left out with its reason, and refused before anything long begins."""

import pandas as pd
import pytest

from workbench.errors import PromptError
from workbench.prompts import PromptGrid
from workbench.runs.usable import comparable, drop_thin, reference_of

NOTHING = pd.DataFrame({"what": [], "language": [], "n": [], "reason": []})


def grid_of(languages=("en", "sw", "th"), n=8, meaning=lambda language, m: m):
    rows = [
        {"language": language, "meaning_id": f"{label}-{meaning(language, m)}", "text": f"{language} {label} {m}", "harmful": label == "harmful"}
        for language in languages
        for label in ("harmful", "harmless")
        for m in range(n)
    ]
    return PromptGrid(pd.DataFrame(rows)).with_splits(seed=0)


def test_eight_meanings_per_class_are_enough():
    grid, dropped = drop_thin(grid_of(n=8))
    assert dropped.empty and grid.languages == ["en", "sw", "th"]
    comparable(grid, ["en"], dropped)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_too_few_meanings_are_refused_with_the_number_that_is_enough(n):
    with pytest.raises(PromptError, match=r"en, sw, th: \d harmful and \d harmless prompts in split (select|score).*--limit.*8 meanings per class"):
        drop_thin(grid_of(n=n))


def test_a_thin_language_is_left_out_and_the_others_stay():
    frame = grid_of().frame
    thin = (frame["language"] == "sw") & (frame["split"] == "score") & frame["harmful"]
    grid, dropped = drop_thin(PromptGrid(frame[~thin].reset_index(drop=True)))
    assert grid.languages == ["en", "th"]
    assert dropped[["language", "n"]].values.tolist() == [["sw", 14]]
    assert dropped["reason"].tolist() == ["0 harmful and 2 harmless prompts in split score; at least 2 of each are needed"]


def test_one_language_is_nothing_to_compare_and_the_lost_ones_are_named():
    lost = pd.DataFrame({"what": ["language"], "language": ["sw"], "n": [3], "reason": ["no harmful ones"]})
    with pytest.raises(PromptError, match=r"Only one language \(en\).*Left out: sw: no harmful ones.*--languages"):
        comparable(grid_of(("en",)), ["en"], lost)


def test_a_reference_without_both_classes_to_fit_on_is_refused():
    frame = grid_of().frame
    unfit = (frame["language"] == "en") & (frame["split"] == "fit") & frame["harmful"]
    grid = PromptGrid(frame[~unfit].reset_index(drop=True))
    with pytest.raises(PromptError, match="en have 0 harmful and 4 harmless prompts in split fit"):
        comparable(grid, ["en"], NOTHING)
    comparable(grid, ["en", "th"], NOTHING)


def test_languages_are_compared_on_the_meanings_they_share():
    grid = grid_of(meaning=lambda language, m: m + 100 * (language == "th"))
    part = comparable(grid, ["en"], NOTHING)
    assert part.languages == ["en", "sw"] and len(part.meanings) == 16


def test_a_set_that_is_not_parallel_at_all_has_no_part_to_compare():
    grid = grid_of(("en", "sw"), meaning=lambda language, m: m + 100 * (language == "sw"))
    assert comparable(grid, ["en"], NOTHING) is None


def test_languages_with_hardly_a_meaning_in_common_are_refused():
    grid = grid_of(("en", "sw"), meaning=lambda language, m: m + 100 * (language == "sw" and m >= 1))
    with pytest.raises(PromptError, match=r"Too few meanings are there in several of the languages en, sw: none.*one meaning_id"):
        comparable(grid, ["en"], NOTHING)


def test_a_reference_that_was_left_out_is_said_to_be():
    lost = pd.DataFrame({"what": ["language"], "language": ["sw"], "n": [3], "reason": ["3 harmful prompts and no harmless ones"]})
    grid = grid_of(("en", "th"))
    with pytest.raises(PromptError, match="The reference language sw was left out: 3 harmful prompts and no harmless ones"):
        reference_of(grid, ["swh"], lost)
    with pytest.raises(PromptError, match=r"names no language\. Expected some of en, th"):
        reference_of(grid, [], lost)
    assert reference_of(grid, None, NOTHING) == ["en"]
