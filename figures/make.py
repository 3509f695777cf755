"""Draw the gallery: every figure of a run folder as a PNG beside this file, and the page that shows them.

Run ``workbench demo --out runs/demo && python figures/make.py runs/demo``; needs a chromium or chrome on the PATH.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
WIDTH, HEIGHT = 800, 1400
FLAGS = (
    "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-quic --virtual-time-budget=10000 --force-device-scale-factor=1.5"
).split()


def picture(browser: str, page: Path, target: Path) -> None:
    """Screenshot one figure and trim the white below it."""
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={target}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    image = Image.open(target).convert("RGB")
    inked = np.flatnonzero((np.asarray(image) < 250).any(axis=(1, 2)))
    image.crop((0, 0, image.width, min(image.height, int(inked[-1]) + 24))).quantize(128).save(target, optimize=True)


def main(run: Path) -> None:
    """Draw all figures of a run and write the page."""
    browser = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("No chromium or chrome on the PATH. Install one; the interactive figures in the run folder need nothing.")
    pages = sorted((run / "figures").glob("*.html"))
    if not pages:
        sys.exit(f"{run} holds no figures. Run `workbench demo --out {run}` first.")
    told = "Drawn by `python figures/make.py RUN` from the run folder of `workbench demo`: a controlled model with invented languages."
    lines = ["# Gallery", "", told, ""]
    for page in pages:
        picture(browser, page.resolve(), HERE / f"{page.stem}.png")
        lines += [f"## {page.stem.replace('_', ' ')}", "", f"![{page.stem.replace('_', ' ')}]({page.stem}.png)", ""]
    (HERE / "README.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
