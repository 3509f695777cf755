"""The report in a real browser without a network: it draws, is steered by mouse and by keyboard, repaints in the dark, and asks for nothing."""

from __future__ import annotations

import json
import shutil

import pytest
from fake_run import fake_tables, write_fake_run

from workbench.report import build_report
from workbench.report.compare import compare_runs
from workbench.results import Result

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: install it to check that the report renders offline"),
]
SMALL = dict(languages=4, layers=3, meanings=8)
ATTACK = "</script><script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run in which names, ids and reasons are HTML and script."""
    folder = write_fake_run(tmp_path_factory.mktemp("run"), **SMALL)
    tables = fake_tables(**SMALL)
    for name in ("projections", "clusters", "prompts"):
        Result(tables[name].assign(prompt_id=tables[name]["prompt_id"] + ATTACK)).save(folder / "results" / f"{name}.parquet")
    Result(tables["verdicts"].assign(reason=ATTACK)).save(folder / "results" / "verdicts.parquet")
    Result(tables["dropped"].assign(reason=ATTACK)).save(folder / "results" / "dropped.parquet")
    (folder / "summary.json").unlink()
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["spec"]["model"]["model"] = f"model {ATTACK}"
    manifest["languages"]["qad"]["name"] = ATTACK
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def opened(browser, path, **options):
    """Open a file; return the page with what it said and what it asked for. Nothing but the file itself is let through."""
    page = browser.new_context(viewport={"width": 1200, "height": 900}, **options).new_page()
    page.set_default_timeout(120_000)
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.said.append(str(error)))

    def route(one):
        if one.request.url == path.as_uri():
            return one.continue_()
        page.asked.append(one.request.url)
        return one.abort()

    page.route("**/*", route)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    return page


@pytest.fixture(scope="module")
def page(browser, folder):
    page = opened(browser, build_report(folder), color_scheme="light")
    yield page
    page.context.close()


def settled(page):
    page.wait_for_selector("html:not([data-filtering])", state="attached")


def test_every_figure_draws_without_an_error_and_without_a_request(page):
    drawn = page.evaluate("[...document.querySelectorAll('figure .plot')].map(p => p.querySelectorAll('svg.main-svg').length)")
    assert len(drawn) == 24 and all(drawn)
    empty = page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].filter(p => !p.data.length || !p.querySelector('.cartesianlayer *')).length"
    )
    assert empty == 0 and page.locator("canvas").count() == 0
    assert page.said == [] and page.asked == []


def test_html_and_script_in_names_ids_and_reasons_stay_text(page):
    assert page.evaluate("window.attacked") is None and page.locator("img").count() == 0
    assert "<script>window.attacked" in page.locator("h1").inner_text()
    assert "<img src=x" in page.locator("#verdicts tr.detail dd").first.text_content()


def test_the_verdict_table_stands_before_every_figure(page):
    tops = page.evaluate("['#verdicts', 'figure'].map(one => document.querySelector(one).getBoundingClientRect().top)")
    assert tops[0] < tops[1]
    assert page.locator("#verdicts tbody tr:not(.detail)").count() == 4


def points(page, name="retrieval"):
    """Count the points of every language that a figure draws now."""
    told = """(name) => { const plot = document.querySelector(`#fig-${name}`), out = {};
        plot.data.forEach((t, i) => { if (t.meta && typeof t.meta.of === 'string')
            out[t.meta.of] = (out[t.meta.of] || 0) + Array.from(plot._fullData[i].x || []).filter(Number.isFinite).length; });
        return out; }"""
    return page.evaluate(told, name)


def test_the_filter_hides_and_returns_a_language_by_mouse(page):
    before = points(page)
    assert all(before.values()) and set(before) == {"qaa", "qab", "qac", "qad"}
    page.locator("#filter > summary").click()
    page.locator("#filter input[value=qad]").click()
    settled(page)
    after = points(page)
    assert after["qad"] == 0 and {k: after[k] for k in ("qaa", "qab")} == {k: before[k] for k in ("qaa", "qab")}
    hidden = page.locator("[data-language=qad]")
    assert hidden.count() > 3 and not any(hidden.nth(i).is_visible() for i in range(hidden.count()))
    assert page.locator("#verdicts [data-language=qaa]").first.is_visible()
    ticks = page.locator("#fig-refusal_gap .yaxislayer-above").all_text_contents()
    assert any("qaa" in text for text in ticks)
    assert not any("qad" in text for text in ticks) and page.locator("#filter-count").inner_text() == "3 of 4"
    page.locator("#filter button[data-tier=all]").click()
    settled(page)
    assert points(page) == before and page.locator("#verdicts [data-language=qad]").first.is_visible()
    page.keyboard.press("Escape")


def test_the_filter_works_by_keyboard_alone(page):
    before = points(page)
    page.locator("#filter > summary").focus()
    page.keyboard.press("Enter")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.value") == "qab":
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Space")
    settled(page)
    assert points(page)["qab"] == 0
    page.keyboard.press("Space")
    settled(page)
    assert points(page) == before
    page.keyboard.press("Escape")
    assert not page.evaluate("document.querySelector('#filter').open")


def test_the_layer_slider_moves_by_keyboard_and_by_mouse_and_keeps_the_filter(page):
    slider = page.locator("figure[data-figure=clusters] input[type=range]")
    first = "() => Array.from(document.querySelector('#fig-clusters')._fullData[0].x).slice(0, 3)"
    slider.focus()
    start, place = page.evaluate(first), int(slider.input_value())
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"JSON.stringify(({first})()) !== '{json.dumps(start, separators=(',', ':'))}'")
    assert int(slider.input_value()) == place - 1 and slider.get_attribute("aria-valuetext") == f"layer {place - 1}"
    page.evaluate("() => { const box = document.querySelector('#filter input[value=qaa]'); box.click(); }")
    settled(page)
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    assert int(slider.input_value()) == 2
    shown = """() => { const plot = document.querySelector('#fig-clusters'); let seen = 0, kept = 0;
        plot.data.forEach((t, i) => (t.meta && t.meta.of || []).forEach((tag, at) => {
            const drawn = Number.isFinite(plot._fullData[i].x[at]); if (tag === 'qaa' && drawn) seen++; if (tag === 'qab' && drawn) kept++; }));
        return [seen, kept]; }"""
    page.wait_for_function(f"(() => {{ const [seen, kept] = ({shown})(); return seen === 0 && kept > 0; }})()")
    page.evaluate("() => { const box = document.querySelector('#filter input[value=qaa]'); box.click(); }")
    settled(page)
    assert page.evaluate(shown)[0] > 0


def test_a_menu_of_a_figure_is_a_list_that_a_keyboard_reaches(page):
    menu = page.locator("figure[data-figure=variance_shares] select")
    title = page.evaluate("document.querySelector('#fig-variance_shares').layout.title.text")
    menu.focus()
    page.keyboard.press("ArrowDown")
    assert menu.evaluate("one => one.selectedIndex") == 1
    assert page.evaluate("document.querySelector('#fig-variance_shares').layout.title.text") != title or page.said == []
    assert page.said == [] and page.asked == []


def test_the_page_and_its_figures_turn_dark_and_back(page):
    ink = "getComputedStyle(document.querySelector('#fig-retrieval .gtitle')).fill"
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ink) == "rgb(31, 36, 48)" and page.evaluate(paper) == "rgb(255, 255, 255)"
    page.locator("#theme").select_option("dark")
    assert page.evaluate(ink) == "rgb(231, 233, 237)" and page.evaluate(paper) == "rgb(23, 26, 32)"
    page.locator("#theme").select_option("light")
    assert page.evaluate(ink) == "rgb(31, 36, 48)"


def test_the_first_tab_leads_past_the_navigation(page):
    page.evaluate("document.body.tabIndex = -1; document.body.focus()")
    page.keyboard.press("Tab")
    focused = page.evaluate("[document.activeElement.className, document.activeElement.getBoundingClientRect().left >= 0]")
    assert focused == ["skip", True]


def test_two_runs_side_by_side_draw_filter_and_follow_the_system_s_dark(browser, folder, tmp_path):
    other = write_fake_run(tmp_path / "other", **SMALL)
    page = opened(browser, compare_runs(folder, other, tmp_path / "compare.html"), color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 26, 32)"
    assert page.locator("#fig-two_runs svg.main-svg").count() and page.evaluate("window.attacked") is None
    page.locator("#filter > summary").click()
    page.locator("#filter input[value=qaa]").click()
    settled(page)
    assert not page.locator("[data-language=qaa]").first.is_visible()
    assert page.said == [] and page.asked == []
    page.context.close()
