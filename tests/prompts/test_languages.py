"""One spelling per language, and tiers from the right source."""

from __future__ import annotations

import pytest

from workbench.errors import PromptError
from workbench.prompts.languages import chosen, name_of, normalise, read_tiers, script_of, tier_of


@pytest.mark.parametrize(
    ("given", "tag"),
    [
        ("eng", "en"),
        ("swh", "sw"),
        ("eng_Latn", "en"),
        ("arb_Arab", "ar"),
        ("zho_Hans", "zh"),
        ("zho_Hant", "zh-Hant"),
        ("zh-cn", "zh"),
        ("zh_TW", "zh-Hant"),
        ("jw", "jv"),
        ("iw", "he"),
        ("EN", "en"),
        (" sw ", "sw"),
        ("Swahili", "sw"),
        ("yor_Latn", "yo"),
        ("pt-br", "pt-BR"),
        ("srp_Cyrl", "sr"),
        ("srp_Latn", "sr-Latn"),
        ("qaa", "qaa"),
        ("qth", "qth"),
        ("kmr", "ku"),
        ("arb_Latn", "ar-Latn"),
        ("npi_Deva", "ne"),
        ("zsm_Latn", "ms"),
        ("zho-CN", "zh"),
        ("zho-TW", "zh-Hant"),
        ("spa-MX", "es-MX"),
        ("prs_Arab", "prs"),
        ("bjn_Arab", "bjn-Arab"),
        ("min", "min"),
    ],
)
def test_one_language_has_one_spelling(given, tag):
    assert normalise(given) == tag
    assert normalise(tag) == tag


def test_the_languages_of_parallel_sets_stay_apart_and_agree(shared_dir):
    """All 128 languages and variants of NTREX, and the 53 of FLORES that are there: two sets name the same language alike."""
    ntrex = [line.split()[0] for line in (shared_dir / "data/ntrex128/LANGUAGES.tsv").read_text(encoding="utf-8").splitlines() if line.strip()]
    flores = [file.stem for file in (shared_dir / "data/flores200_devtest/devtest").iterdir()]
    for codes in (ntrex, flores):
        assert len({normalise(code) for code in codes}) == len(codes)
    for code in flores:
        assert normalise(code.split("_")[0]) == normalise(code) or code == "zho_Hant"
    assert {normalise(code) for code in flores} - {normalise(code) for code in ntrex} == {"en", "jv", "min", "su", "tl"}


@pytest.mark.parametrize(
    ("given", "hint"),
    [("sp", "Did you mean 'es'"), ("swahilli", "Did you mean 'swahili'"), ("xx", "'qaa' to 'qtz'"), ("", "BCP-47")],
)
def test_an_unknown_language_is_refused_with_a_way_out(given, hint):
    with pytest.raises(PromptError, match=hint):
        normalise(given)


def test_languages_asked_for_must_be_there():
    assert chosen("eng, swh_Latn", ["en", "sw"]) == chosen(["en", "sw"], ["sw", "en"]) == ["en", "sw"]
    with pytest.raises(PromptError, match=r"'pt-BR' .Portuguese .BR.. is not in that set. Did you mean 'pt'. They have en, pt"):
        chosen("pt-BR", ["en", "pt"], "that set")


def test_names_scripts_and_tiers_fall_back_to_the_language_of_a_variant():
    assert name_of("pt-BR") == "Portuguese (BR)"
    assert name_of("qaa") == "qaa"
    assert script_of("sr-Latn") == "Latn"
    assert script_of("sr") == "Cyrl"
    assert tier_of("zh-Hant") == "high"
    assert tier_of("qaa") is None
    assert [tier_of(tag) for tag in ("en", "ja", "ar", "fa", "sw", "yo", "bn")] == ["high", "high", "mid", "mid", "low", "low", None]


def test_tiers_are_read_from_csv_and_json_in_any_spelling(tmp_path):
    csv, json = tmp_path / "tiers.csv", tmp_path / "tiers.json"
    csv.write_bytes("\ufefflanguage,tier\r\nswh,mid\r\nben_Beng,LOW\r\n".encode())
    json.write_text('{"swh": "mid", "bn": "low"}', encoding="utf-8")
    assert read_tiers(csv) == read_tiers(json) == {"sw": "mid", "bn": "low"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "language,tier\nsw,lowest\n", "entry 1: language 'sw' has the tier 'lowest'; expected one of high, mid, low"),
        ("t.csv", "lang,level\nsw,low\n", r"expected language,tier"),
        ("t.json", '{"sw": low}', "line 1"),
        ("t.json", "[1, 2]", "holds no tiers. Expected a JSON object"),
        ("t.json", "3", "holds no tiers"),
        ("t.csv", "language,tier\nsw,low\nzz,low\n", "entry 2: Unknown language 'zz'"),
        ("t.csv", "", r"has the columns \(none\); expected language,tier"),
        ("t.csv", "language,tier\n,low\n", "entry 1"),
    ],
)
def test_a_bad_tiers_file_is_refused_with_the_entry(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(PromptError, match=message):
        read_tiers(tmp_path / name)


def test_a_prompt_in_a_tiers_file_is_not_shown(tmp_path):
    path = tmp_path / "tiers.csv"
    for content in ("language,tier\nen,Please bake bread\n", "language,tier\nPlease bake bread,low\n", "en,Please bake bread\n"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(PromptError, match="a text of 17 characters") as caught:
            read_tiers(path)
        assert "bake" not in str(caught.value)
