"""Readers on small made-up copies of the public sets, each trap of their releases in one of them, and on the sets themselves."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pandas as pd
import pytest

from tests.prompts.copies import pretend_hub, write
from workbench.errors import PromptError
from workbench.prompts import load_prompts
from workbench.prompts.polyrefuse import read_polyrefuse
from workbench.prompts.xsafety import CATEGORIES, category_of

# ------------------------------------------------------------------------------------------------ user files


GOOD = "language,meaning_id,text,harmful\nen,a,bake bread,0\nen,b,pick a lock,1\nsw,a,oka mkate,0\nsw,b,fungua kufuli,1\n"


def test_a_csv_file_with_bom_and_crlf_is_the_same_grid_as_a_plain_one(tmp_path):
    plain = load_prompts(write(tmp_path / "plain.csv", GOOD))
    other = load_prompts(write(tmp_path / "other.csv", GOOD.replace("\n", "\r\n"), bom=True))
    assert plain.hash == other.hash
    assert list(plain.frame["source"].unique()) == ["plain"]
    assert plain.provenance["prompts"] == "plain.csv"


def test_json_lines_named_json_and_a_json_list_are_told_apart_by_content(tmp_path):
    records = [dict(zip("language meaning_id text harmful".split(), line.split(","), strict=True)) for line in GOOD.splitlines()[1:]]
    lines = write(tmp_path / "lines.json", "\r\n".join(json.dumps(r) for r in records) + "\r\n", bom=True)
    listed = write(tmp_path / "list.json", json.dumps(records, indent=1))
    jsonl = write(tmp_path / "lines.jsonl", "\n".join(json.dumps(r, ensure_ascii=False) for r in records))
    assert load_prompts(lines).hash == load_prompts(listed).hash == load_prompts(jsonl).hash == load_prompts(write(tmp_path / "x.csv", GOOD)).hash


def test_a_line_separator_inside_a_text_does_not_end_a_json_line(tmp_path):
    records = [{"language": "en", "meaning_id": i, "text": f"one\u2028two {i}", "harmful": i} for i in (0, 1)]
    path = write(tmp_path / "x.jsonl", "\n".join(json.dumps(r, ensure_ascii=False) for r in records))
    assert load_prompts(path).frame["text"].tolist() == ["one\u2028two 0", "one\u2028two 1"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", GOOD + "en,c,one,two,1\n", "x.csv, line 6: 5 cells under a header of 4"),
        ("x.csv", GOOD.replace("oka mkate", '"oka\nmkate"') + "en,c\n", "x.csv, line 7: 2 cells"),
        ("x.csv", GOOD + 'en,c,"unclosed,1\n', "x.csv, line 6"),
        ("x.csv", GOOD.replace("sw,a", ",a"), "x.csv, line 4: column language is empty"),
        ("x.csv", GOOD.replace("oka mkate", ""), "x.csv, line 4: column text is empty"),
        ("x.csv", GOOD.replace("sw,a", "zz,a"), "x.csv, line 4: Unknown language 'zz'"),
        ("x.csv", GOOD + "sw,b,tena,1\n", "x.csv, line 6: meaning 'b' occurs twice in sw .first at x.csv, line 5"),
        ("x.csv", GOOD + "en,c,bread,unsure\n", "x.csv, line 6: the label 'unsure'"),
        ("x.csv", "language,meaning_id,text,text,harmful\n", "line 1: the columns 'text' occur twice"),
        ("x.csv", "", "x.csv is empty"),
        ("x.csv", "language,meaning_id,text,harmful\n", "holds no prompts"),
        ("x.csv", "language;meaning_id;text;harmful\nen;a;b;1\n", "x.csv, line 1: the columns are separated by ';'. Expected commas"),
        ("x.csv", "name\nx\n", "lacks the columns"),
        ("x.csv", GOOD + "en,c,br\0ead,1\n", "x.csv, line 6: a NUL character"),
        ("x.csv", "PK\x03\x04 and so on", "x.csv is a zip archive or a spreadsheet"),
        ("x.csv", "id,en,sw\n1,bread,mkate\n", "one column per language"),
        ("x.jsonl", '{"language": "en"}\n{"language": \n', "x.jsonl, line 2: not JSON"),
        ("x.jsonl", '{"language": "en"}\n["en"]\n', "x.jsonl, line 2: found a list"),
        ("x.json", '[\n{"language": "en"},\n{"language" "sw"}\n]', "x.json, line 3: not JSON"),
        ("x.json", "3", "x.json, line 1: found a single int"),
        ("x.jsonl", "\n\n", "x.jsonl is empty"),
        ("x.parquet", "no parquet", "x.parquet is not a readable Parquet file"),
        ("x.txt", GOOD, "ends in .txt; expected a prompt file"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path, name, text, message):
    with pytest.raises(PromptError, match=f"(?s){message}"):
        load_prompts(write(tmp_path / name, text))


PROMPT = "Please bake the violet marzipan"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"en,a,{PROMPT},1\nen,b,violet,0\n", "lacks the columns language.*found 'en', 'a', a text of 31 characters, '1'"),
        (f"en,{PROMPT},1\nen,b,violet,0\n", "line 2: 4 cells under a header of 3 .'en', a text of 31 characters"),
        (f"{PROMPT},{PROMPT}\na,b\n", "line 1: the columns a text of 31 characters occur twice"),
        ("en,a text?,1\nen,b,0\n", "lacks the columns.*a text of 7 characters"),
        (GOOD + f"sw,b,c,{PROMPT}\n", "line 6: the label a text of 31 characters .*1 such rows, labels a text of 31 characters"),
        (GOOD + f"{PROMPT},sw,b,1\n", "line 6: Unknown language a text of 31 characters"),
    ],
)
def test_a_file_without_header_or_with_shifted_cells_is_refused_without_showing_a_prompt(tmp_path, text, message):
    with pytest.raises(PromptError, match=message) as caught:
        load_prompts(write(tmp_path / "x.csv", text))
    assert "marzipan" not in str(caught.value) and "a text?" not in str(caught.value)


def test_a_prompt_for_an_id_or_a_field_of_multijail_is_not_shown(tmp_path):
    for text in (f"id,en,sw\n{PROMPT},bread,\n", f"{PROMPT},tags\n1,2\n"):
        with pytest.raises(PromptError, match="a text of 31 characters") as caught:
            load_prompts(f"multijail:{write(tmp_path / 'MultiJail.csv', text)}")
        assert "marzipan" not in str(caught.value)


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(GOOD.encode() + "en,c,café,1\n".encode("latin-1"))
    with pytest.raises(PromptError, match=r"x.csv, line 6: not UTF-8"):
        load_prompts(path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("multijial", "Unknown prompt set 'multijial'. Did you mean 'multijail'"),
        ("polyrefus:/tmp", "Did you mean 'polyrefuse'"),
        ("nowhere/prompts.csv", "no prompt file at"),
        ("multijail:/nowhere", "nothing at /nowhere"),
        ("polyrefuse", "polyrefuse:PATH"),
    ],
)
def test_an_unknown_set_is_refused_with_the_nearest_names(spec, message):
    with pytest.raises(PromptError, match=message):
        load_prompts(spec)


def test_a_folder_without_a_set_name_is_refused_with_the_spellings(tmp_path):
    with pytest.raises(PromptError, match="multijail:"):
        load_prompts(tmp_path)


# ------------------------------------------------------------------------------------------------ both classes


def test_the_missing_class_comes_from_another_set(tmp_path):
    harmful = write(tmp_path / "a.csv", "language,meaning_id,text,harmful\nen,1,pick a lock,1\nyo,1,lock,1\n")
    harmless = write(tmp_path / "b.csv", "language,meaning_id,text,harmful\nen,1,bake bread,0\nsw,1,oka mkate,0\nen,2,open a safe,1\nsw,2,sefu,1\n")
    grid = load_prompts(harmful, harmless=harmless)
    assert len(grid) == 4
    assert grid.languages == ["en", "yo", "sw"]
    assert set(grid.languages_without_both_classes()) == {"yo", "sw"}
    assert len(set(grid.meanings)) == 2
    assert grid.meanings == ["a:1", "b:1"]
    with pytest.raises(PromptError, match=r"harmful prompts only.*--harmless SET"):
        load_prompts(harmful)
    with pytest.raises(PromptError, match="has harmful prompts itself"):
        load_prompts(harmless, harmful=harmful)
    with pytest.raises(PromptError, match="has no harmless prompts"):
        load_prompts(harmful, harmless=harmful)


def test_a_file_given_for_one_class_needs_no_labels(tmp_path):
    harmful = write(tmp_path / "a.csv", "language,meaning_id,text,harmful\nen,1,pick a lock,1\n")
    grid = load_prompts(harmful, harmless=write(tmp_path / "b.csv", "language,meaning_id,text\nen,x,bake bread\n"))
    assert dict(zip(grid.meanings, grid.frame["harmful"], strict=True)) == {"1": True, "x": False}


def test_languages_limit_tiers_and_punctuation_apply_to_the_whole(tmp_path):
    text = "language,meaning_id,text,harmful\n" + "".join(f"{tag},{i},text {i}.,{i % 2}\n" for tag in ("en", "swh", "vie") for i in range(20))
    tiers = write(tmp_path / "tiers.csv", "language,tier\nvi,low\n")
    grid = load_prompts(write(tmp_path / "x.csv", text), languages="en,vi", limit=3, seed=1, tiers=tiers, strip_punctuation=True)
    assert grid.languages == ["en", "vi"]
    assert len(grid) == 12
    assert grid.tiers == {"en": "high", "vi": "low"}
    assert not grid.frame["text"].str.endswith(".").any()
    assert grid.missing_cells().empty
    with pytest.raises(PromptError, match="'yo'"):
        load_prompts(tmp_path / "x.csv", languages=["en", "yo"])
    with pytest.raises(PromptError, match="no meaning for"):
        load_prompts(tmp_path / "x.csv", subset="val")


# ------------------------------------------------------------------------------------------------ MultiJail


def multijail_copy(folder: Path, cell: str = "mkate") -> Path:
    text = f"id,source,tags,en,sw\r\n7,a,\"['Baking', 'Other']\",\"bread,\r\nwarm \",{cell}\r\n9,a,['Baking'],oven,tanuri\r\n"
    return write(folder / "MultiJail.csv", text, bom=True)


def test_multijail_has_one_column_per_language_and_keeps_its_ids(tmp_path):
    multijail_copy(tmp_path)
    harmless = write(tmp_path / "b.csv", "language,meaning_id,text\nen,x,bake\nsw,x,oka\n")
    grid = load_prompts(f"multijail:{tmp_path}", harmless=harmless)
    assert grid.meanings == ["multijail:7", "multijail:9", "x"]
    cells = grid.select(harmful=True).frame.set_index("prompt_id")
    assert cells.loc["multijail:7:en", "text"] == "bread,\nwarm"
    assert cells.loc["multijail:7:sw", "category"] == "Baking"
    assert load_prompts(f"multijail:{tmp_path / 'MultiJail.csv'}", harmless=harmless).hash == grid.hash


def test_an_empty_cell_in_a_language_column_is_refused_with_line_language_and_id(tmp_path):
    multijail_copy(tmp_path, cell=" ")
    with pytest.raises(PromptError, match=r"MultiJail.csv, line 2: language column 'sw' of id '7' is empty"):
        load_prompts(f"multijail:{tmp_path}", harmless="organism")


# ------------------------------------------------------------------------------------------------ PolyRefuse


def polyrefuse_copy(folder: Path, *, upstream: bool = False) -> Path:
    """Write the release's shape: translations in different fields, English train and val elsewhere, no Chinese harmless test."""
    main = folder / "PolyRefuse" if upstream else folder
    splits = folder / "dataset" / "splits" if upstream else folder / "splits"
    for label in ("harmful", "harmless"):
        for subset in ("train", "val"):
            name = f"{label}_{subset}" + ("_200_sampled" if label == "harmless" else "")
            english = [{"instruction": f"en {label} {subset} {i}", "category": "baking" if label == "harmful" else None} for i in range(3)]
            write(splits / f"{name}.json", json.dumps(english))
            for tag in ("de", "zh"):
                translated = [{"instruction": f"{tag} {label} {subset} {i}", "category": None} for i in range(3)]
                write(main / f"{label}_{subset}_translated_{tag}.json", json.dumps(translated, ensure_ascii=False), bom=tag == "de")
        for tag in ("de", "en") if label == "harmless" else ("de", "en", "zh"):
            rows = [{"instruction": f"en {label} test {i}", "instruction_translated": f"{tag} {label} test {i}", "category": None} for i in range(3)]
            if tag == "en":
                rows = [{"instruction": row["instruction"], "category": None} for row in rows]
            write(main / f"{label}_test_translated_{tag}.json", json.dumps(rows))
    return folder


@pytest.mark.parametrize("upstream", [False, True])
@pytest.mark.parametrize("subset", [None, "train", "test"])
def test_polyrefuse_takes_each_text_from_the_field_that_holds_the_translation(tmp_path, upstream, subset):
    grid = load_prompts(f"polyrefuse:{polyrefuse_copy(tmp_path, upstream=upstream)}", subset=subset)
    for row in grid.frame.itertuples():
        label = "harmful" if row.harmful else "harmless"
        assert row.text == f"{row.language} {label} {subset or 'val'} {row.meaning_id.rsplit(':', 1)[1]}"
    assert sorted(grid.languages) == ["de", "en", "zh"]
    expected = {"zh": "3 harmful prompts and no harmless ones"} if subset == "test" else {}
    assert grid.languages_without_both_classes() == expected


def test_polyrefuse_translations_share_their_meaning_but_chinese_harmless_ones_do_not(tmp_path, caplog):
    grid = load_prompts(f"polyrefuse:{polyrefuse_copy(tmp_path)}")
    by_language = grid.frame.groupby(["language", "harmful"])["meaning_id"].agg(set).to_dict()
    assert by_language["de", True] == by_language["en", True] == by_language["zh", True]
    assert by_language["de", False] == by_language["en", False]
    assert not by_language["zh", False] & by_language["en", False]
    assert "harmless_val_translated_zh.json" in caplog.text


def test_a_warning_about_a_language_is_given_to_those_who_ask_for_it(tmp_path, caplog):
    load_prompts(f"polyrefuse:{polyrefuse_copy(tmp_path / 'a')}", languages="de,en")
    load_prompts(xsafety_copy(tmp_path / "b", {"ru/Insult": "ru Insult 0\r\n \r\nru Insult 2"}), languages="en,es")
    assert not caplog.records
    load_prompts(f"polyrefuse:{polyrefuse_copy(tmp_path / 'c')}", languages="en,zho")
    assert len(caplog.records) == 1


def test_polyrefuse_without_files_or_subset_says_what_it_expects(tmp_path):
    with pytest.raises(PromptError, match=r"harmful_val_translated_de.json"):
        load_prompts(f"polyrefuse:{tmp_path}")
    with pytest.raises(PromptError, match="Did you mean 'val'"):
        load_prompts(f"polyrefuse:{polyrefuse_copy(tmp_path)}", subset="vall")
    write(tmp_path / "harmful_val_translated_de.json", '[{"instruction": ""}]')
    with pytest.raises(PromptError, match=r"harmful_val_translated_de.json, record 1: no instruction"):
        load_prompts(f"polyrefuse:{tmp_path}")


# ------------------------------------------------------------------------------------------------ XSafety


def xsafety_copy(folder: Path, files: dict[str, str] | None = None) -> str:
    """Write three rows per category and language, in the languages' own line ends and file names; return the spec."""
    windows = ("en/Insult_n", "sp/Insult", "sp/commonsense", "ru/commonsense")
    for name in (*windows, "ru/Insult", "en/commonsense"):
        end = "\r\n" if name in windows else "\n"
        tag, category = name.split("/")
        write(folder / f"{name}.csv", end.join(f"{tag} {category[:6]} {i}" for i in range(3)), bom=end == "\r\n")
    for name, text in (files or {}).items():
        write(folder / f"{name}.csv", text)
    return f"xsafety:{folder}"


def test_xsafety_rows_are_parallel_by_their_place_whatever_the_files_are_called(tmp_path):
    grid = load_prompts(xsafety_copy(tmp_path))
    assert sorted(grid.languages) == ["en", "es", "ru"]
    assert grid.missing_cells().empty
    texts = grid.frame.set_index("prompt_id")["text"]
    assert texts["xsafety:Insult:0:en"] == "en Insult 0"
    assert texts["xsafety:Insult:2:es"] == "sp Insult 2"
    assert not texts.str.contains("[\r\ufeff]").any()
    assert dict(zip(grid.frame["category"], grid.frame["harmful"], strict=True)) == {"Insult": True, "commonsense": False}


def test_a_blank_row_is_a_missing_cell_and_does_not_shift_the_rows_after_it(tmp_path, caplog):
    grid = load_prompts(xsafety_copy(tmp_path, {"ru/Insult": "ru Insult 0\r\n \r\nru Insult 2"}))
    assert grid.missing_cells().values.tolist() == [["xsafety:Insult:1", "ru"]]
    assert grid.frame.set_index("prompt_id").loc["xsafety:Insult:2:ru", "text"] == "ru Insult 2"
    assert "row 1 is blank" in caplog.text


def test_a_file_with_a_row_too_few_is_left_out_with_a_warning_and_the_others_keep_their_ids(tmp_path, caplog):
    whole = load_prompts(xsafety_copy(tmp_path / "a"))
    grid = load_prompts(xsafety_copy(tmp_path / "b", {"ru/Insult": "ru Insult 1\nru Insult 2"}))
    assert set(whole.frame["prompt_id"]) - set(grid.frame["prompt_id"]) == {f"xsafety:Insult:{i}:ru" for i in range(3)}
    assert "ru/Insult has 2 rows, not 3" in caplog.text
    assert grid.languages_without_both_classes() == {"ru": "3 harmless prompts and no harmful ones"}


def test_hindi_common_sense_is_read_once_and_empty_columns_are_ignored(tmp_path):
    files = {"hi/commonsense": "first 0\nfirst 1\nfirst 2", "hi/commen_sense": "other 0\nother 1\nother 2", "hi/Insult": "hi 0,,\nhi 1,,\nhi 2,,"}
    texts = load_prompts(xsafety_copy(tmp_path, files)).select(languages=["hi"]).frame["text"]
    assert sorted(texts) == ["first 0", "first 1", "first 2", "hi 0", "hi 1", "hi 2"]


@pytest.mark.parametrize(
    ("stem", "category"),
    [
        ("Insult_n", "Insult"),
        ("Crimes_And_Illegal_Activities_en", "Crimes_And_Illegal_Activities"),
        ("Crimes_And_Illegal_Activitie", "Crimes_And_Illegal_Activities"),
        ("commen_sense", "commonsense"),
        ("Role_Play_Instruction", "Role_Play_Instruction"),
        ("README", None),
    ],
)
def test_file_names_lead_to_their_category(stem, category):
    assert category_of(stem) == category


# ------------------------------------------------------------------------------------------------ the hub


def test_public_sets_by_name_come_from_their_hub_ids(monkeypatch):
    multijail = [{"id": 1, "source": "a", "tags": "['Baking']", "en": "bread", "sw": "mkate"}]
    xsafety = [
        {"text": f"{tag} {category} {i}", "category": category, "language": tag}
        for tag in ("en", "sp")
        for category in ("Insult" + "_n" * (tag == "en"), "commonsense")
        for i in range(2)
    ]
    asked = pretend_hub(monkeypatch, {"DAMO-NLP-SG/MultiJail": {"train": multijail}, "ToxicityPrompts/XSafety": {"test": xsafety}})
    grid = load_prompts("DAMO-NLP-SG/MultiJail", harmless="xsafety")
    assert asked == ["DAMO-NLP-SG/MultiJail", "ToxicityPrompts/XSafety"]
    harmless = {f"xsafety:commonsense:{i}:{tag}" for i in (0, 1) for tag in ("en", "es")}
    assert set(grid.frame["prompt_id"]) == {"multijail:1:en", "multijail:1:sw"} | harmless
    assert load_prompts("xsafety").missing_cells().empty


def test_any_other_hub_set_needs_the_grids_columns_and_a_choice_of_split(monkeypatch):
    rows = [{"language": "en", "meaning_id": i, "text": f"bread {i}", "harmful": i} for i in (0, 1)]
    pretend_hub(monkeypatch, {"me/one": {"train": rows}, "me/two": {"train": rows, "test": rows[:1]}, "me/bad": {"train": [{"prompt": "x"}]}})
    assert len(load_prompts("me/one")) == 2
    assert len(load_prompts("me/two", subset="train")) == 2
    with pytest.raises(PromptError, match=r"splits train, test.*subset="):
        load_prompts("me/two")
    with pytest.raises(PromptError, match=r"no split 'tset'.*Did you mean 'test'"):
        load_prompts("me/two", subset="tset")
    with pytest.raises(PromptError, match="lacks the columns"):
        load_prompts("me/bad")


def test_without_network_the_error_names_the_local_spelling(monkeypatch):
    pretend_hub(monkeypatch, {})
    with pytest.raises(PromptError, match=r"Could not load DAMO-NLP-SG/MultiJail .*ConnectionError: no network\).*multijail:PATH"):
        load_prompts("multijail", harmless="organism")


# ------------------------------------------------------------------------------------------------ the organism's own set


def test_the_organisms_set_has_keys_splits_and_declared_tiers():
    grid = load_prompts("organism")
    assert {"answer", "refusal"} <= set(grid.frame.columns)
    assert grid.frame["split"].notna().all()
    assert sorted(map(str, grid.tiers.values())) == ["high"] * 3 + ["low"] * 5
    assert grid.missing_cells().empty
    assert len(grid.reference()) == 3


# ------------------------------------------------------------------------------------------------ the real sets


def test_multijail_itself_has_the_rows_its_source_says(shared_dir):
    grid = load_prompts(f"multijail:{shared_dir}/data/multijail", harmless=f"polyrefuse:{shared_dir}/data/polyrefuse")
    harmful = grid.select(harmful=True).frame
    assert harmful["language"].value_counts().to_dict() == dict.fromkeys("en zh it vi ar ko th bn sw jv".split(), 315)
    assert not harmful["text"].str.contains("[\r\ufeff]").any()
    assert set(grid.languages_without_both_classes()) == set("vi bn sw jv de es fr ja nl pl ru yo".split())
    kept, dropped = grid.drop_unusable()
    assert sorted(kept.languages) == sorted("en zh it ar ko th".split())
    assert len(dropped) == 12


def test_polyrefuse_itself_has_the_rows_its_source_says(shared_dir):
    folder = shared_dir / "data/polyrefuse"
    languages = "ar de en es fr it ja ko nl pl ru th yo zh".split()
    sizes = {"train": (260, 200), "val": (39, 200), "test": (572, 500)}
    for subset, (harmful, harmless) in sizes.items():
        counts = read_polyrefuse(folder, subset).groupby(["language", "harmful"]).size().to_dict()
        expected = {(tag, True): harmful for tag in languages} | {(tag, False): harmless for tag in languages}
        if subset == "test":
            del expected["zh", False]
        assert counts == expected


def test_polyrefuse_rows_correlate_in_length_exactly_where_the_reader_calls_them_parallel(shared_dir):
    """Translations are about as long as each other; the Chinese harmless train and val files are the exception."""
    for subset in ("train", "val", "test"):
        frame = read_polyrefuse(shared_dir / "data/polyrefuse", subset)
        for (tag, harmful), part in frame.groupby(["language", "harmful"]):
            english = frame[(frame["language"] == "en") & (frame["harmful"] == harmful)]
            lengths = [len(text) for text in english["text"]], [len(text) for text in part["text"]]
            parallel = set(part["meaning_id"]) == set(english["meaning_id"])
            assert (statistics.correlation(*lengths) > 0.5) == parallel, (subset, tag, harmful)


def test_xsafety_itself_has_the_rows_its_source_says(shared_dir, caplog):
    grid = load_prompts(f"xsafety:{shared_dir}/data/xsafety")
    counts = grid.frame["language"].value_counts().to_dict()
    # Hindi's second common sense is left out (3,000 rows in the files)
    assert counts == {**dict.fromkeys("ar bn de en es fr hi ja zh".split(), 2800), "ru": 2799}
    assert grid.missing_cells().values.tolist() == [["xsafety:Insult:164", "ru"]]
    assert set(grid.frame["category"]) == set(CATEGORIES)
    lengths = grid.frame.assign(length=grid.frame["text"].str.len()).pivot(index="meaning_id", columns="language", values="length")
    for category in CATEGORIES:
        part = lengths[lengths.index.str.startswith(f"xsafety:{category}:")].dropna()
        assert part.corr()["en"].min() > 0.7, category
    assert isinstance(grid.frame, pd.DataFrame)
