"""The style of the page, in light and dark mode."""

from covey.view.look import CLASSES, INK, LINES, PAPER, RULE, SOFT

COLOURS = {
    INK: "ink", SOFT: "soft", RULE: "rule", PAPER: "paper",
    **{colour: f"line{index}" for index, colour in enumerate(LINES)},
    **{colour: f"class{index}" for index, colour in enumerate(CLASSES)},
}  # fmt: skip
"""The page's CSS variables for colours of figures: colour -> variable."""

_DARK = {
    INK: "#e3e7eb", SOFT: "#9aa4ae", RULE: "#3a424b", PAPER: "#15191e",
    "#0072b2": "#4aa8e0", "#d55e00": "#f0803c", "#009e73": "#2fc29a",
    "#332288": "#7a6ad8", "#117733": "#3da761", "#882255": "#c9578c", "#aa4499": "#c973bb",
}  # fmt: skip


def _variables(instead: dict[str, str]) -> str:
    return " ".join(f"--{name}: {instead.get(colour, colour)};" for colour, name in COLOURS.items())


STYLE = f"""
:root {{ color-scheme: light dark; {_variables({})} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(_DARK)} }} }}
* {{ box-sizing: border-box; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 78rem; padding: 2rem 1.25rem 4rem; }}
h1 {{ font-size: 1.75rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.25rem; margin: 2.5rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--rule);
  overflow-wrap: anywhere; }}
.lead {{ color: var(--soft); margin: .3rem 0 0; }}
.note {{ color: var(--soft); font-size: .9rem; margin: 0 0 .8rem; }}
.scroll {{ overflow-x: auto; margin: .6rem 0 1.2rem; }}
table {{ border-collapse: collapse; font-size: .925rem; }}
th, td {{ padding: .35rem .9rem .35rem 0; vertical-align: top; text-align: left; }}
th {{ color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--rule); white-space: nowrap; }}
tr + tr td {{ border-top: 1px solid var(--rule); }}
.figures th:not(:first-child), .figures td:not(:first-child) {{ text-align: right; padding: .35rem 0 .35rem .9rem;
  white-space: nowrap; font-variant-numeric: tabular-nums; }}
.figures td:first-child {{ min-width: 9rem; }}
.words td:first-child {{ color: var(--soft); white-space: nowrap; }}
.words td {{ overflow-wrap: anywhere; min-width: 9rem; }}
.tiles {{ display: flex; flex-wrap: wrap; gap: .6rem 2rem; margin: .8rem 0 1.4rem; }}
.tiles b {{ display: block; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }}
.tiles span {{ color: var(--soft); font-size: .85rem; }}
.pictures {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.6rem; }}
figure {{ margin: 0; }}
.wide {{ grid-column: 1 / -1; max-width: 52rem; }}
figure svg, figure img {{ display: block; width: 100%; height: auto; }}
figure svg text {{ font-family: system-ui, sans-serif !important; }}
figcaption {{ font-weight: 600; font-size: .95rem; margin-bottom: .3rem; }}
details {{ margin: .8rem 0; }}
summary {{ cursor: pointer; overflow-wrap: anywhere; }}
pre {{ font-size: .85rem; line-height: 1.45; padding: .8rem 1rem; overflow-x: auto; border: 1px solid var(--rule);
  border-radius: 6px; }}
@media print {{ body {{ max-width: none; padding: 0; }} figure, tr {{ break-inside: avoid; }} }}
"""
