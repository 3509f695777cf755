"""TextDetox and ParaDetox: two labels for each pair, twins that know each other, and no text in both classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prompts.copies import pretend_hub, write
from workbench.errors import PromptError
from workbench.prompts import load_prompts
from workbench.prompts.paradetox import read_paradetox
from workbench.prompts.textdetox import LANGUAGES, read_textdetox

HEADER = "toxic_sentence,neutral_sentence\n"


def textdetox_copy(folder: Path, n: int = 12, **files: str) -> Path:
    """Write harmless stand-ins: a loud and a quiet sentence per row, in two languages."""
    for name in ("english", "german"):
        rows = "".join(f'"{name} loud, {i}",{name} quiet {i}\n' for i in range(1, n + 1))
        write(folder / f"{name}_test.csv", HEADER + rows, bom=name == "german")
    for name, text in files.items():
        write(folder / f"{name}.csv", text)
    return folder


def paradetox_copy(folder: Path) -> Path:
    rows = [
        "loud one\tquiet one\tcalm one\t",
        '"loud ""two"""\t"quiet\ntwo"\t\t',
        "same\tsame\tcalm\t",
        "loud four\tquiet one\t\t",
        "loud five\tquiet five\t\t",
    ]
    return write(folder / "paradetox.tsv", "\n".join(["toxic\tneutral1\tneutral2\tneutral3", *rows, ""]))


def test_a_pair_is_a_harmful_and_a_harmless_meaning_that_share_a_pair_id(tmp_path):
    grid = load_prompts(f"textdetox:{textdetox_copy(tmp_path)}")
    cells = grid.frame.set_index("prompt_id")
    assert len(cells) == 48
    toxic, neutral = cells.loc["textdetox:en:3:toxic:en"], cells.loc["textdetox:en:3:neutral:en"]
    assert (toxic["text"], neutral["text"]) == ("english loud, 3", "english quiet 3")
    assert (toxic["harmful"], neutral["harmful"]) == (True, False)
    assert toxic["pair_id"] == neutral["pair_id"] == "textdetox:en:3"
    assert toxic["language_original"] == "english"
    assert grid.has_pairs
    by_language = grid.frame.groupby("language")["meaning_id"].agg(set)
    assert not by_language["en"] & by_language["de"], "pairs are no translations of each other"


def test_one_file_or_the_files_of_the_languages_asked_for_are_opened(tmp_path):
    folder = textdetox_copy(tmp_path, fr="broken")
    (tmp_path / "am.csv").write_bytes(b"\xff")
    grid = load_prompts(f"textdetox:{folder}", languages="deu,eng")
    assert sorted(grid.languages) == ["de", "en"]
    assert load_prompts(f"textdetox:{folder / 'english_test.csv'}").languages == ["en"]
    with pytest.raises(PromptError, match=r"am.csv, line 1: not UTF-8"):
        load_prompts(f"textdetox:{folder}")
    with pytest.raises(PromptError, match=r"'ru'.*is not in textdetox"):
        load_prompts(f"textdetox:{folder}", languages="ru")


def test_unpaired_takes_one_sentence_of_each_pair_balanced_and_by_the_seed(tmp_path):
    folder = textdetox_copy(tmp_path, n=13)
    grid = load_prompts(f"textdetox:{folder}", subset="unpaired", seed=4)
    assert grid.frame.groupby(["language", "harmful"]).size().unique().tolist() == [6]
    pairs = grid.frame["meaning_id"].str.rsplit(":", n=1).str[0]
    assert not pairs.duplicated().any(), "no two are twins"
    assert not grid.has_pairs
    assert grid.provenance["subset_seed"] == 4
    assert load_prompts(f"textdetox:{folder}", subset="unpaired", seed=4).hash == grid.hash
    assert load_prompts(f"textdetox:{folder}", subset="unpaired", seed=5).hash != grid.hash
    alone = load_prompts(f"textdetox:{folder}", subset="unpaired", seed=4, languages="en")
    assert alone.hash == grid.select(languages=["en"]).hash
    both = load_prompts(f"textdetox:{folder}")
    assert set(grid.frame["prompt_id"]) < set(both.frame["prompt_id"])


def test_a_text_stands_once_and_in_one_class_and_what_is_left_out_is_counted(tmp_path, caplog):
    rows = "a loud,a quiet\nsame,same \nb loud,a quiet\na quiet,c\nd loud,d quiet\n"
    grid = load_prompts(f"textdetox:{write(tmp_path / 'en.csv', HEADER + rows)}")
    assert sorted(grid.frame["pair_id"].unique()) == ["textdetox:en:1", "textdetox:en:5"], "the others keep their numbers"
    assert not grid.frame["text"].duplicated().any()
    assert "1 pair left out: the two sentences are the same" in caplog.text
    assert "2 pairs left out: one of the sentences stands in an earlier pair" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("en", "toxic,neutral\na,b\n", r"en.csv has the columns 'toxic', 'neutral'; expected toxic_sentence and neutral_sentence.*Restore"),
        ("en", "toxic_sentences,neutral_sentence\na,b\n", "Did you mean 'toxic_sentences'"),
        ("en", HEADER + "a,b\nc, \n", "en.csv, line 3: column neutral_sentence is empty"),
        ("en", HEADER + '"a\nb",c\n,d\n', "en.csv, line 4: column toxic_sentence is empty"),
        ("en", HEADER + "a,b\nviolet marzipan\n", "en.csv, line 3: 1 cells under a header of 2"),
        ("en", HEADER + 'a,b\n"open,c\n', "en.csv, line 3: .*record with commas"),
        ("en", HEADER, "en.csv holds no pairs"),
        ("en", "", r"en.csv has the columns \(none\)"),
        ("notes", HEADER + "a,b\n", "the name of notes.csv begins with no language. Expected names such as english_test.csv"),
    ],
)
def test_a_malformed_file_of_pairs_is_refused_with_its_line(tmp_path, name, text, message):
    with pytest.raises(PromptError, match=f"(?s){message}") as caught:
        load_prompts(f"textdetox:{write(tmp_path / f'{name}.csv', text).parent}")
    assert "marzipan" not in str(caught.value)


def test_two_files_of_a_language_no_file_and_an_unknown_subset_are_refused(tmp_path):
    folder = textdetox_copy(tmp_path / "a", en=HEADER + "a,b\n")
    with pytest.raises(PromptError, match=r"en.csv and english_test.csv are both of the language en"):
        load_prompts(f"textdetox:{folder}")
    with pytest.raises(PromptError, match=r"no subset 'unpared'; expected pairs or unpaired. Did you mean 'unpaired'"):
        load_prompts(f"textdetox:{textdetox_copy(tmp_path / 'b')}", subset="unpared")
    (tmp_path / "c").mkdir()
    with pytest.raises(PromptError, match=r"no TextDetox files in .*english_test.csv"):
        load_prompts(f"textdetox:{tmp_path / 'c'}")
    with pytest.raises(PromptError, match="has harmless prompts itself"):
        load_prompts(f"textdetox:{textdetox_copy(tmp_path / 'd')}", harmless="organism")


@pytest.mark.parametrize("where", ["file", "folder", "repository"])
def test_the_first_rewrite_of_paradetox_is_the_twin(tmp_path, where):
    file = paradetox_copy(tmp_path / "paradetox" if where == "repository" else tmp_path)
    grid = load_prompts(f"paradetox:{file if where == 'file' else tmp_path}")
    texts = grid.frame.set_index("prompt_id")["text"].to_dict()
    assert texts == {
        "paradetox:1:toxic:en": "loud one",
        "paradetox:1:neutral:en": "quiet one",
        "paradetox:2:toxic:en": 'loud "two"',
        "paradetox:2:neutral:en": "quiet\ntwo",
        "paradetox:5:toxic:en": "loud five",
        "paradetox:5:neutral:en": "quiet five",
    }
    assert grid.frame["pair_id"].nunique() == 3


def test_paradetox_is_english_tabbed_and_at_the_place_given(tmp_path):
    file = paradetox_copy(tmp_path / "a")
    with pytest.raises(PromptError, match=r"'de' .German. is not in paradetox. They have en"):
        load_prompts(f"paradetox:{file}", languages="de")
    with pytest.raises(PromptError, match=r"no paradetox.tsv in"):
        load_prompts(f"paradetox:{textdetox_copy(tmp_path / 'b')}")
    commas = write(tmp_path / "c.tsv", "toxic,neutral1\na,b\n")
    with pytest.raises(PromptError, match=r"c.tsv has the columns 'toxic,neutral1'; expected toxic and neutral1"):
        load_prompts(f"paradetox:{commas}")
    unclosed = write(tmp_path / "d.tsv", 'toxic\tneutral1\na\tb\n"c\td\n')
    with pytest.raises(PromptError, match=r"line 3: .*record with tabs"):
        load_prompts(f"paradetox:{unclosed}")


# ------------------------------------------------------------------------------------------------ the hub


def test_pairs_from_the_hub_have_ids_of_their_own(monkeypatch):
    rows = {tag: [{"toxic_sentence": f"{tag} loud {i}", "neutral_sentence": f"{tag} quiet {i}"} for i in range(4)] for tag in ("en", "hi", "hin")}
    rewrites = [{"en_toxic_comment": f"loud {i // 2}", "en_neutral_comment": f"quiet {i}"} for i in range(6)]
    asked = pretend_hub(monkeypatch, {"textdetox/multilingual_paradetox": rows, "s-nlp/paradetox": {"train": rewrites}})
    grid = load_prompts("textdetox")
    assert grid.languages == ["en", "hi"], "a split that came later is not one of the nine languages"
    assert grid.frame["pair_id"].tolist()[:2] == ["textdetox-dev:en:1"] * 2
    assert load_prompts("textdetox/multilingual_paradetox", languages="hi", subset="unpaired").frame["harmful"].tolist().count(True) == 2
    with pytest.raises(PromptError, match=r"'de'.*is not in textdetox/multilingual_paradetox"):
        load_prompts("textdetox", languages="de")
    single = load_prompts("paradetox").frame
    assert single.loc[~single["harmful"], "text"].tolist() == ["quiet 0", "quiet 2", "quiet 4"], "the first rewrite of each"
    assert single["source"].unique().tolist() == ["paradetox-hub"]
    assert asked == ["textdetox/multilingual_paradetox"] * 3 + ["s-nlp/paradetox"]


def test_a_hub_copy_of_another_shape_or_out_of_reach_is_refused(monkeypatch):
    pretend_hub(monkeypatch, {"textdetox/multilingual_paradetox": {"train": []}, "s-nlp/paradetox": {"train": [{"text": "violet marzipan"}]}})
    with pytest.raises(PromptError, match=r"has the splits train; expected languages such as en, ru.*textdetox:PATH"):
        load_prompts("textdetox")
    with pytest.raises(PromptError, match="s-nlp/paradetox has the columns 'text'; expected en_toxic_comment and en_neutral_comment"):
        load_prompts("paradetox")
    pretend_hub(monkeypatch, {})
    with pytest.raises(PromptError, match=r"ConnectionError: no network\).*paradetox:PATH"):
        load_prompts("paradetox")


# ------------------------------------------------------------------------------------------------ the real sets


def test_textdetox_itself_has_the_pairs_its_source_says_but_for_those_left_out(shared_dir):
    frame, row_name = read_textdetox(shared_dir / "data/textdetox_2024")
    number = frame["pair_id"].str.rsplit(":", n=1).str[1].astype(int)
    assert number.max() == 600
    kept = frame.groupby("pair_id").size()
    assert set(kept) == {2}
    lost = {"am": 1, "ar": 3, "de": 2, "ru": 2, "uk": 6, "zh": 2}  # the same sentence twice, or one of an earlier pair
    counts = kept.groupby(kept.index.str.split(":").str[1]).size().to_dict()
    assert counts == {tag: 600 - lost.get(tag, 0) for tag in LANGUAGES}
    assert len(frame.attrs["notes"]) == 6
    assert row_name(0) == "amharic_test.csv, line 2"
    unpaired, _ = read_textdetox(shared_dir / "data/textdetox_2024", subset="unpaired", languages="en,uk")
    assert unpaired.groupby(["language", "harmful"]).size().to_dict() == {
        (tag, label): n for tag, n in (("english", 300), ("ukrainian", 297)) for label in (False, True)
    }


def test_paradetox_itself_has_the_rows_its_source_says_but_for_those_left_out(shared_dir):
    frame, _ = read_paradetox(shared_dir / "data/paradetox_en")
    assert len(frame) == 2 * (11927 - 97 - 16)
    assert frame["pair_id"].iloc[-1] == "paradetox:11927"
    assert not frame["text"].duplicated().any()
    assert [note for _, note in frame.attrs["notes"]] == [
        "paradetox en: 97 pairs left out: the two sentences are the same",
        "paradetox en: 16 pairs left out: one of the sentences stands in an earlier pair",
    ]
