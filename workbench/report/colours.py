"""The dark page: which colour of a figure becomes which, so that a figure drawn once reads on both backgrounds."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.plots.style import FACTOR_COLOURS, GRID, INK, MUTED, NULL, TIER_COLOURS

PAPER = "#171a20"
#: Light -> dark. Tiers keep their hue and gain lightness; what is between paper and ink changes sides.
DARK: Mapping[str, str] = {
    INK: "#e7e9ed",
    MUTED: "#a3aab7",
    GRID: "#30363f",
    NULL: "#565d69",
    "#ECEDF0": "#262b33",
    TIER_COLOURS["high"]: "#55aee0",
    TIER_COLOURS["mid"]: "#2fc79d",
    TIER_COLOURS["low"]: "#f28a45",
    TIER_COLOURS["unknown"]: "#adadad",
    FACTOR_COLOURS["language"]: "#c3c6cc",
    FACTOR_COLOURS["meaning"]: "#d98bcb",
    FACTOR_COLOURS["difference"]: "#f4f5f7",
    "#882255": "#dd7fae",
    "#3E103A": "#f3d3ec",
    "#444444": "#d0d3d8",
}


def dark_figures() -> str:
    """Return the style rules that repaint figures on the dark page; numbers on a heat map's cells keep the colour they have there."""
    rules = [_rule(light, dark, ":not(.heatmap-label *)") for light, dark in DARK.items()]
    paper = ':root[data-theme="dark"] .js-plotly-plot .main-svg { background:transparent !important; }'
    return "\n".join([*rules, _rule("#FFFFFF", PAPER, ":not(text, tspan)"), paper])


def tier_variables(*, dark: bool = False) -> str:
    """Return the tiers' colours as style variables."""
    return " ".join(f"--tier-{tier}:{DARK[colour] if dark else colour};" for tier, colour in TIER_COLOURS.items())


def _rule(light: str, dark: str, but: str) -> str:
    red, green, blue = (int(light[i : i + 2], 16) for i in (1, 3, 5))
    plain = f"rgb({red}, {green}, {blue})"  # as browsers write it; a span of a title keeps what it was given
    out = []
    for part in ("fill", "stroke"):
        written = [f'[style*="{part}: {plain}"]', f'[style*="{part}: {light}" i]', f'[style*="{part}:{light}" i]']
        where = ", ".join(f':root[data-theme="dark"] .js-plotly-plot {one}{but}' for one in written)
        out.append(f"{where} {{ {part}:{dark} !important; }}")
    return "\n".join(out)
