"""FLORES-200 and NTREX-128: line i is one meaning in every language, only what is asked for is opened, and nothing is harmful."""

from __future__ import annotations

import logging
import statistics
from pathlib import Path

import pandas as pd
import pytest

from tests.prompts.copies import write
from workbench.errors import PromptError
from workbench.prompts import PromptGrid, load_prompts
from workbench.prompts.files import read_lines
from workbench.prompts.flores import read_flores
from workbench.prompts.ntrex import read_ntrex

ENGLISH = ("Bread is baked.", "Rain falls\u2028softly.", "Rivers run.")


def flores_copy(folder: Path, *, metadata: bool = True, end: str = "\n", **files: str) -> Path:
    """Write three sentences in English and Swahili (and others given whole), as the release has them."""
    swahili = ("Mkate huokwa. ", "Mvua hunyesha.", "Mito hutiririka.  ")
    texts = {"eng_Latn": end.join([*ENGLISH, ""]), "swh_Latn": end.join([*swahili, ""])} | files
    for code, text in texts.items():
        write(folder / "devtest" / f"{code}.devtest", text)
    if metadata:
        rows = "".join(f"https://example.org/{i}\t{domain}\tbaking\tno\tno\n" for i, domain in enumerate(("wikinews", "wikinews", "wikibooks")))
        write(folder / "metadata_devtest.tsv", "URL\tdomain\ttopic\thas_image\thas_hyperlink\n" + rows)
    return folder


def ntrex_copy(folder: Path, *, end: str = "\r\n", **files: str) -> Path:
    """Write three sentences in English and Chinese with the release's names and line ends."""
    texts = {"src.eng": end.join([*ENGLISH, ""]), "ref.zho-CN": "烤面包。\n下雨。\n河流。\n"} | files
    for name, text in texts.items():
        write(folder / "NTREX-128" / f"newstest2019-{name}.txt", text)
    write(folder / "NTREX-128" / "README.txt", "notes")
    write(folder / "DOCUMENT_IDS.tsv", "a.1\r\na.1\r\nb.2\r\n")
    return folder


def test_a_line_of_flores_is_a_meaning_counted_from_one(tmp_path):
    grid = load_prompts(f"flores200:{flores_copy(tmp_path)}")
    assert grid.languages == ["en", "sw"]
    assert grid.meanings == ["flores200:1", "flores200:2", "flores200:3"]
    assert grid.missing_cells().empty
    cells = grid.frame.set_index("prompt_id")
    assert cells.loc["flores200:1:sw", "text"] == "Mkate huokwa."
    assert cells.loc["flores200:2:en", "text"] == "Rain falls\u2028softly.", "a line separator inside a sentence ends no line"
    assert cells.loc["flores200:3:sw", ["category", "source", "language_original"]].tolist() == ["wikibooks", "flores200", "swh_Latn"]
    assert not grid.frame["harmful"].any()
    assert load_prompts(f"flores200:{tmp_path / 'devtest'}").hash == grid.hash, "the folder itself, metadata beside it"


def test_line_ends_and_the_optional_metadata_change_no_prompt(tmp_path):
    plain = load_prompts(f"flores200:{flores_copy(tmp_path / 'a')}")
    other = load_prompts(f"flores200:{flores_copy(tmp_path / 'b', end=chr(13) + chr(10), metadata=False)}")
    assert plain.hash == other.hash
    assert other.frame["category"].isna().all()


def test_only_line_feeds_end_a_line(tmp_path):
    text = "one\r\ntwo\u2028still two\nthree\x85still three\n\nfive"
    expected = ["one", "two\u2028still two", "three\x85still three", "", "five"]
    assert read_lines(write(tmp_path / "a", text, bom=True)) == expected
    assert read_lines(write(tmp_path / "b", text + "\r\n")) == expected


def test_only_the_files_of_the_languages_asked_for_are_opened(tmp_path):
    folder = flores_copy(tmp_path)
    (folder / "devtest" / "deu_Latn.devtest").write_bytes(b"\xff no text\n")
    grid = load_prompts(f"flores200:{folder}", languages="swh,eng_Latn")
    assert sorted(grid.languages) == ["en", "sw"]
    with pytest.raises(PromptError, match=r"deu_Latn.devtest, line 1: not UTF-8"):
        load_prompts(f"flores200:{folder}")
    with pytest.raises(PromptError, match=r"'de-AT' \(German \(AT\)\) is not in flores200. Did you mean 'de'.*They have de, en, sw"):
        load_prompts(f"flores200:{folder}", languages=["en", "de-AT"])
    with pytest.raises(PromptError, match=r"Unknown language 'swahilli'.*Did you mean 'swahili'"):
        load_prompts(f"flores200:{folder}", languages="swahilli")


def test_both_chinese_scripts_are_languages_of_their_own(tmp_path):
    folder = flores_copy(tmp_path, zho_Hans="烤面包。\n下雨。\n河流。\n", zho_Hant="烤麵包。\n下雨。\n河流。\n")
    assert load_prompts(f"flores200:{folder}").languages == ["en", "sw", "zh", "zh-Hant"]
    assert load_prompts(f"flores200:{folder}", languages="zho_Hant").frame["language_original"].unique().tolist() == ["zho_Hant"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"deu_Latn": "Brot.\nRegen.\n"},
            r"differ in their number of lines: deu_Latn.devtest have 2; eng_Latn.devtest, swh_Latn.devtest, meta.* have 3",
        ),
        ({"en": "a\nb\nc\n"}, r"en.devtest and eng_Latn.devtest are both of the language en"),
        ({"notes": "a\nb\nc\n"}, r"the name of notes.devtest begins with no language. Expected names such as eng_Latn.devtest"),
        ({"eng_Latn": "", "swh_Latn": ""}, r"eng_Latn.devtest, swh_Latn.devtest have 0"),
    ],
)
def test_files_that_are_not_aligned_are_refused_by_name(tmp_path, files, message):
    with pytest.raises(PromptError, match=message):
        load_prompts(f"flores200:{flores_copy(tmp_path, **files)}")


def test_files_without_lines_and_bad_metadata_are_refused(tmp_path):
    empty = flores_copy(tmp_path / "a", metadata=False, eng_Latn="", swh_Latn="")
    with pytest.raises(PromptError, match=r"eng_Latn.devtest, swh_Latn.devtest have no lines"):
        load_prompts(f"flores200:{empty}")
    folder = flores_copy(tmp_path / "b")
    write(folder / "metadata_devtest.tsv", "URL\ttopic\nx\tbaking\n")
    with pytest.raises(PromptError, match=r"metadata_devtest.tsv has the columns 'URL', 'topic'; expected domain"):
        load_prompts(f"flores200:{folder}")
    write(folder / "metadata_devtest.tsv", "URL\tdomain\nx\twikinews\ny\n")
    with pytest.raises(PromptError, match=r"metadata_devtest.tsv, line 3: 1 cells under a header of 2"):
        load_prompts(f"flores200:{folder}")
    with pytest.raises(PromptError, match=r"no FLORES-200 files in .*devtest/eng_Latn.devtest"):
        load_prompts(f"flores200:{write(tmp_path / 'c' / 'x.txt', 'x').parent}")


def test_a_blank_line_is_a_missing_cell_told_with_its_number_and_shifts_nothing(tmp_path, caplog):
    folder = flores_copy(tmp_path, deu_Latn="Brot.\n \t\nFlüsse.\n")
    grid = load_prompts(f"flores200:{folder}")
    assert grid.missing_cells().values.tolist() == [["flores200:2", "de"]]
    assert grid.frame.set_index("prompt_id").loc["flores200:3:de", "text"] == "Flüsse."
    assert "deu_Latn.devtest: 1 blank line left out (the first is line 2)" in caplog.text
    caplog.clear()
    load_prompts(f"flores200:{folder}", languages="en,sw")
    assert not caplog.records


def test_ntrex_lines_carry_no_carriage_return_and_know_their_document(tmp_path):
    grid = load_prompts(f"ntrex128:{ntrex_copy(tmp_path / 'a')}")
    assert sorted(grid.languages) == ["en", "zh"]
    assert not grid.frame["text"].str.contains("\r").any()
    assert grid.frame.set_index("prompt_id").loc["ntrex128:3:zh", ["text", "category", "language_original"]].tolist() == ["河流。", "b.2", "zho-CN"]
    folder = ntrex_copy(tmp_path / "b", end="\n") / "NTREX-128"
    assert load_prompts(f"ntrex128:{folder}").hash == grid.hash


def test_a_document_list_of_another_length_is_named_among_the_files(tmp_path):
    folder = ntrex_copy(tmp_path)
    write(folder / "DOCUMENT_IDS.tsv", "a.1\n")
    with pytest.raises(PromptError, match=r"DOCUMENT_IDS.tsv have 1; newstest2019-ref.zho-CN.txt, newstest2019-src.eng.txt have 3"):
        load_prompts(f"ntrex128:{folder}")
    with pytest.raises(PromptError, match=r"no NTREX-128 files in .*newstest2019-ref.deu.txt"):
        load_prompts(f"ntrex128:{flores_copy(tmp_path / 'c')}")


@pytest.mark.parametrize("name", ["flores200", "ntrex128"])
def test_without_a_path_the_way_to_a_copy_is_said(name):
    with pytest.raises(PromptError, match=rf"github.com/.* and give {name}:PATH"):
        load_prompts(name)


# ------------------------------------------------------------------------------------------------ no harm labels


def test_sentences_without_labels_load_alone_and_say_so_where_a_label_is_needed(tmp_path):
    grid = load_prompts(f"flores200:{flores_copy(tmp_path)}", limit=2)
    assert len(grid.meanings) == 2
    assert not grid.has_harm_labels
    for refused in (grid.require_both_classes, grid.drop_unusable):
        with pytest.raises(PromptError, match=r"A harm label is needed, and flores200 carries none: all 4 prompts.*polyrefuse, xsafety, textdetox"):
            refused()
    back = load_prompts(grid.save(tmp_path / "grid.csv"))
    assert not back.has_harm_labels
    assert back.hash == grid.hash


def test_harm_labels_of_ones_own_count_and_a_corpus_without_any_serves_what_needs_none(tmp_path):
    frame = load_prompts(f"flores200:{flores_copy(tmp_path)}").frame
    frame["harmful"] = frame["meaning_id"] == "flores200:1"
    assert PromptGrid(frame).has_harm_labels
    PromptGrid(frame).require_both_classes()
    mine = write(tmp_path / "mine.csv", "language,meaning_id,text,harmful\nen,1,bake bread,0\n")
    plain = load_prompts(mine)
    assert not plain.has_harm_labels
    with pytest.raises(PromptError, match=r"A harm label is needed, and .* carries none"):
        plain.require_both_classes()
    with pytest.raises(PromptError, match="harmful prompts only"):
        load_prompts(write(tmp_path / "harm.csv", "language,meaning_id,text,harmful\nen,1,pick a lock,1\n"))


def test_sentences_that_stand_in_for_harmless_prompts_are_told_of(tmp_path, caplog):
    harmful = write(tmp_path / "a.csv", "language,meaning_id,text,harmful\nen,1,pick a lock,1\nsw,1,fungua kufuli,1\n")
    with caplog.at_level(logging.WARNING):
        grid = load_prompts(harmful, harmless=f"flores200:{flores_copy(tmp_path)}")
    assert grid.has_harm_labels
    assert grid.languages_without_both_classes() == {}
    assert "the genre" in caplog.text


# ------------------------------------------------------------------------------------------------ the real sets


def correlations(frame: pd.DataFrame) -> list[float]:
    lengths = frame.assign(length=frame["text"].str.len()).pivot(index="meaning_id", columns="language", values="length")
    first, *others = (lengths[tag] for tag in lengths)
    return [statistics.correlation(first, other) for other in others]


def test_flores_itself_has_the_rows_its_source_says(shared_dir):
    frame, row_name = read_flores(shared_dir / "data/flores200_devtest")
    counts = frame["language"].value_counts()
    assert len(counts) == 53
    assert set(counts) == {1012}
    assert frame["category"].value_counts().div(53).to_dict() == {"wikibooks": 351, "wikinews": 341, "wikivoyage": 320}
    assert frame.attrs["notes"] == []
    assert row_name(len(frame) - 1) == "zul_Latn.devtest, line 1012"
    grid = load_prompts(f"flores200:{shared_dir}/data/flores200_devtest", languages="en,swh,tha,zh-Hant", limit=200)
    assert grid.missing_cells().empty
    assert not (grid.frame["text"] != grid.frame["text"].str.strip()).any()
    assert min(correlations(grid.frame)) > 0.7, "translations are about as long as each other"


def test_ntrex_itself_has_the_rows_its_source_says(shared_dir):
    frame, row_name = read_ntrex(shared_dir / "data/ntrex128")
    counts = frame["language"].value_counts()
    assert len(counts) == 43
    assert set(counts) == {1997}
    assert frame["category"].nunique() == 123
    assert frame.attrs["notes"] == []
    assert row_name(0) == "newstest2019-ref.amh.txt, line 1"
    grid = load_prompts(f"ntrex128:{shared_dir}/data/ntrex128", languages="en,sw,ms,zh", limit=200)
    assert grid.missing_cells().empty
    assert min(correlations(grid.frame)) > 0.7
