"""Draw the gallery: every figure of the workbench on one page, interactive (``gallery.html``) and as pictures (``README.md``).

``make figures``, or ``python figures/make.py [RUN]``. RUN is a folder of ``workbench demo`` with a repair by a gate in its ``repair/`` and trainings
in ``lasa/``, ``msd/`` and ``dpo/``; without one all are run in a scratch folder, which takes some minutes. The page is one file that opens offline;
pictures need the extra ``export`` and a Chromium or Chrome on this machine, which kaleido drives; neither asks the network for anything.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contents import GROUPS, PRELUDE

HERE = Path(__file__).parent
WIDTH, SCALE, COLOURS = 800, 1.5, 128
#: Trainings that take seconds: what they draw is how a figure looks, not what a method can do.
TRAININGS, LIMIT, STEPS = ("lasa", "msd", "dpo"), 48, 40
TOLD = "A controlled model with invented languages: nothing here says anything about real ones."


def draw(run: Path) -> dict[str, Any]:
    """Run the line of every entry on a run folder; return the figures by name."""
    names: dict[str, Any] = {"RUN": Path(run)}
    exec(PRELUDE, names)
    return {entry.name: eval(entry.line, names) for group in GROUPS for entry in group.entries}


def write_page(run: Path, figures: Mapping[str, Any], target: Path) -> None:
    """Write the interactive page."""
    from workbench.report.build import rendered
    from workbench.report.drawing import plotted, write_whole
    from workbench.report.record import RunRecord

    record = RunRecord.read(run)
    html = {name: plotted(figure, name, list(record.tiers)) for name, figure in figures.items()}
    page = rendered("page.html", folder=HERE, groups=GROUPS, prelude=PRELUDE, html=html, told=TOLD, tags=record.tiers, run=record)
    write_whole(target, page)


def write_pictures(figures: Mapping[str, Any], folder: Path) -> None:
    """Write each figure as a PNG of few colours, and remove pictures of figures that are no more."""
    import kaleido
    from PIL import Image

    # without MathJax, which kaleido would load from a CDN and which no figure here uses
    kaleido.start_sync_server(n=1, page_generator=kaleido.PageGenerator(mathjax=False), silence_warnings=True)
    try:
        for name, figure in figures.items():
            size = dict(format="png", width=WIDTH, height=figure.layout.height, scale=SCALE)
            image = Image.open(io.BytesIO(kaleido.calc_fig_sync(figure, opts=size))).convert("RGB")
            image.quantize(COLOURS).save(folder / f"{name}.png", optimize=True)
    finally:
        kaleido.stop_sync_server()
    for picture in folder.glob("*.png"):
        if picture.stem not in figures:
            picture.unlink()


def write_readme(figures: Mapping[str, Any], target: Path) -> None:
    """Write the page for a forge: the pictures in the same order, with the same sentences."""
    lines = [
        "# Gallery",
        "",
        f"Every figure of the workbench, by the question it answers. {TOLD} `make figures` draws this page anew, and `gallery.html` beside it, where "
        "the same figures are interactive. The line under a figure is the one that draws it, after",
        *["", "```python", PRELUDE, "```", ""],
    ]
    for group in GROUPS:
        lines += [f"## {group.question}", ""]
        for entry in group.entries:
            found = re.sub(r"<[^>]+>", "", figures[entry.name].layout.title.text)
            lines += [f"### {entry.title}", "", entry.read, "", f"![{found}]({entry.name}.png)", "", f"`{entry.line}`", ""]
    target.write_text("\n".join(lines), encoding="utf-8")


def run_demo(folder: Path) -> Path:
    """Diagnose the embedded model as ``workbench demo`` does, and repair it: by a gate, and by trainings that are cut short."""
    import workbench as wb

    run = wb.diagnose("organism:aligned", before="organism:helpful", prompts="organism", out=folder)
    wb.repair_gate("organism:aligned", prompts="organism", elsewhere_sets=["organism:code-switched"], out=folder / "repair")
    for method in TRAININGS:
        wb.repair_training(method, "organism:aligned", prompts="organism", limit=LIMIT, max_steps=STEPS, allow_loss=True, out=folder / method)
    return run.folder


def require_browser() -> None:
    """Stop before minutes are spent where no picture could be drawn."""
    try:
        from choreographer.browsers.chromium import Chromium
    except ImportError:
        sys.exit("Pictures need kaleido: pip install -c constraints.txt -e '.[export]'. Or draw the interactive page alone: --page-only.")
    if not os.environ.get("BROWSER_PATH") and not Chromium.find_browser(skip_local=False):
        sys.exit("Pictures need a Chromium or Chrome. Install one, or give BROWSER_PATH, or draw the interactive page alone: --page-only.")


def main(arguments: list[str]) -> None:
    """Draw the gallery of one run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="a finished demo with its repairs in repair/, lasa/, msd/ and dpo/; default: make one")
    parser.add_argument("--out", type=Path, default=HERE, help="where page and pictures go; default this folder")
    parser.add_argument("--page-only", action="store_true", help="gallery.html and no pictures")
    given = parser.parse_args(arguments)
    if not given.page_only:
        require_browser()
    with tempfile.TemporaryDirectory() as scratch:
        run = given.run or run_demo(Path(scratch) / "demo")
        figures = draw(run)
        given.out.mkdir(parents=True, exist_ok=True)
        write_page(run, figures, given.out / "gallery.html")
        if not given.page_only:
            write_pictures(figures, given.out)
            write_readme(figures, given.out / "README.md")
    sys.stdout.write(f"{given.out / 'gallery.html'}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
