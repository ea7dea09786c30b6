"""How a page looks: one column, light or dark as the reader's system is."""

from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #212529; --rule: #dee2e6; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #dee2e6; --rule: #343a40; } }
body { font: 15px/1.5 system-ui, sans-serif; background: var(--paper); color: var(--ink); margin: 0 auto;
  padding: 1rem; max-width: 1100px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
td, th { padding: .25rem .75rem; border-bottom: 1px solid var(--rule); text-align: right;
  white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
.note { border-left: 3px solid #f08c00; padding-left: .75rem; }
summary { cursor: pointer; font-weight: 600; margin: .5rem 0; }
"""
# Figures are transparent, with a grey that reads on light and on dark paper.
LAYOUT: dict[str, Any] = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": "#868e96"},
    "margin": {"l": 60, "r": 60, "t": 50, "b": 50},
}
GRID: dict[str, Any] = {"gridcolor": "rgba(134,142,150,.25)", "zerolinecolor": "rgba(134,142,150,.4)"}


def page(title: str, body: str) -> str:
    """A whole HTML page."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    return f"<!doctype html><html><head>{head}</head><body>{body}</body></html>"
