#!/usr/bin/env python3
"""Draws docs/llama-cpp.svg from llama-cpp.json, whose figures must be those of docs/performance.md.

    chart.py [--check]    writes the picture, or fails if it is not the one that is there
"""

import json
import sys
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent
PICTURE = DOCS / "llama-cpp.svg"

WIDTH = 760
# Where bars begin, and the length of the longest of a group.
LEFT, LONGEST = 110, 560
BAR, GAP = 14, 12
STYLE = """\
.card { fill: #ffffff; stroke: #d0d7de }
text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px }
.small { font-size: 12px; fill: #59636e }
.p0 { fill: #0a7d55 }
.p1 { fill: #44b78b }
.p2 { fill: #a3abb5 }
@media (prefers-color-scheme: dark) {
  .card { fill: #0d1117; stroke: #3d444d }
  text { fill: #e6edf3 }
  .small { fill: #9198a1 }
  .p0 { fill: #3fc08d }
  .p1 { fill: #1f7a59 }
  .p2 { fill: #656c76 }
}
"""


def table():
    """The rows of the tables of docs/performance.md by their first cell."""
    rows = {}
    for line in (DOCS / "performance.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|"):
            rows.setdefault(cells[0], cells[1:])
    return rows


def check(data):
    """Fails for a figure that its column of the table does not have."""
    rows = table()
    for group in data["groups"]:
        for row in group["rows"]:
            for figure, cell in zip(row["figures"], rows[row["row"]], strict=False):
                words = cell.replace("*", "").replace(",", " ").split()
                if figure not in words and (figure or words):
                    sys.exit(f"{row['row']}: {figure} is not in '{cell}' of docs/performance.md")
    page = (DOCS / "performance.md").read_text()
    for command in data["commands"]:
        if command not in page:
            sys.exit(f"docs/performance.md does not have the command: {command}")


def draw(data):
    parts, y = [], 30

    def text(x, y, words, kind=""):
        parts.append(f'<text x="{x}" y="{y}"{kind and f" class={chr(34)}{kind}{chr(34)}"}>{escape(words)}</text>')

    text(20, y, data["title"], "title")
    y += 20
    text(20, y, f"{data['machine']}; longer is better", "small")
    y += 16
    x = 20
    for number, name in enumerate(data["programs"]):
        parts.append(f'<rect class="p{number}" x="{x}" y="{y}" width="12" height="12" rx="2"/>')
        text(x + 18, y + 11, name, "small")
        x += 46 + 7 * len(name)
    y += 40
    for group in data["groups"]:
        text(20, y, group["title"], "title")
        y += 12
        figures = [float(f) for row in group["rows"] for f in row["figures"] if f]
        scale = LONGEST / max(figures)
        for row in group["rows"]:
            shown = [(n, f) for n, f in enumerate(row["figures"]) if f]
            text(20, y + BAR * len(shown) / 2 + 5, row["label"])
            for number, figure in shown:
                width = round(float(figure) * scale, 1)
                parts.append(f'<rect class="p{number}" x="{LEFT}" y="{y}" width="{width}" height="{BAR - 2}" rx="2"/>')
                text(LEFT + width + 6, y + BAR - 3, figure, "small")
                y += BAR
            y += GAP
        y += 22
    height = y - 16
    label = "; ".join(
        f"{group['title']}, {row['label']}: "
        + ", ".join(f"{name} {f}" for name, f in zip(data["programs"], row["figures"]) if f)
        for group in data["groups"]
        for row in group["rows"]
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">\n'
        f"<title>{escape(data['title'])}</title>\n<desc>{escape(label)}</desc>\n<style>\n{STYLE}</style>\n"
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main():
    data = json.loads((HERE / "llama-cpp.json").read_text())
    check(data)
    drawn = draw(data)
    if sys.argv[1:] == ["--check"]:
        if PICTURE.read_text() != drawn:
            sys.exit(f"{PICTURE.name} is not what chart.py draws")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        PICTURE.write_text(drawn)


main()
