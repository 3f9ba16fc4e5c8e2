#!/usr/bin/env python3
"""Draws docs/recording.svg: a terminal in which owl2, with its built-in model, is asked about pictures of assets/.

    recording.py [--check] OWL2    writes the picture, or fails if it is not the one that is there

OWL2 is the program. The commands below are run by bash, and what they print is drawn.
"""

import base64
import os
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
PICTURE = HERE.parent / "recording.svg"
ASSETS = HERE.parent.parent / "assets"

# What is typed, and the picture to show beside it.
COMMANDS = [
    ('owl2 cat.png "Describe the image."', "cat.png"),
    ('owl2 three-apples.png "How many apples are there?"', "three-apples.png"),
    ('cat dog-and-car.png | owl2 "What is in the top left?"', "dog-and-car.png"),
    ('owl2 cat.png "Is there a dog?" --choices yes,no --json | grep \'"text"\'', "cat.png"),
    ('owl2 -p "Describe the image." --each *.png', None),
    ('owl2 score --words cat,dog -p "What animal is this?" cat.png dog-and-car.png', None),
]

COLUMNS = 84
CHARACTER, LINE = 8.0, 19
LEFT, TOP = 18, 46
TYPING, PAUSE, ANSWER, READING = 0.035, 0.3, 0.25, 1.1
THUMBNAIL = 84

STYLE = """\
.card { fill: #161b22; stroke: #57606a }
.bar { fill: #8b949e; font: 12px system-ui, sans-serif }
.t { font: 13.3px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre; fill: #d5dbe1 }
.c { fill: #f0f6fc; font-weight: 600 }
.s { fill: #3fc08d }
.cover { fill: #161b22; transform-origin: 0 0 }
.on { opacity: 0; animation: on 0.01s linear forwards }
.cover, .off { animation: off 0.01s linear forwards }
@keyframes on { to { opacity: 1 } }
@keyframes off { to { opacity: 0 } }
@keyframes type { to { transform: translateX(var(--w)) } }
@media (prefers-reduced-motion: reduce) {
  .on { animation: none; opacity: 1 }
  .cover { display: none }
}
"""


def run(owl2):
    """What the commands print, a list of lines each."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in {name for _, name in COMMANDS if name}:
            (home / name).write_bytes((ASSETS / name).read_bytes())
        bin = home / ".bin"
        bin.mkdir()
        (bin / "owl2").symlink_to(Path(owl2).resolve())
        variables = {k: v for k, v in os.environ.items() if not k.startswith("OWL2_")}
        variables["PATH"] = f"{bin}:{variables['PATH']}"
        # Without the notice about the built-in model, and with the numbers of every machine.
        variables |= {"OWL2_QUIET": "true", "OWL2_ISA": "scalar"}
        printed = []
        for command, _ in COMMANDS:
            done = subprocess.run(
                ["bash", "-c", command], cwd=home, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True
            )
            if done.returncode or done.stderr:
                sys.exit(f"{command}: {done.returncode}: {done.stderr}")
            printed.append(done.stdout.splitlines())
        return printed


def wrap(line):
    return [line[i : i + COLUMNS] for i in range(0, len(line), COLUMNS)] or [""]


def draw(printed):
    parts, y, time = [], TOP, 0.6
    shown = None
    thumbnails = []
    for (command, name), lines in zip(COMMANDS, printed):
        n = len(command)
        parts.append(f'<text class="t on" style="animation-delay:{time:.2f}s" x="{LEFT}" y="{y}"><tspan class="s">$ </tspan><tspan class="c">{escape(command)}</tspan></text>')
        # A cover that moves to the right by a character at a time lets the command appear.
        width = n * CHARACTER + 40
        typing = n * TYPING
        parts.append(
            f'<rect class="cover" style="--w:{width}px;animation:type {typing:.2f}s {time + PAUSE:.2f}s steps({n}) forwards,'
            f'off 0.01s {time + PAUSE + typing:.2f}s forwards" x="{LEFT + 2 * CHARACTER}" y="{y - 14}" width="{width}" height="{LINE}"/>'
        )
        if name != shown:
            if shown:
                thumbnails[-1][2] = time
            if name:
                thumbnails.append([name, time, None])
            shown = name
        time += PAUSE + typing + ANSWER
        y += LINE
        for line in (part for line in lines for part in wrap(line)):
            parts.append(f'<text class="t on" style="animation-delay:{time:.2f}s" x="{LEFT}" y="{y}">{escape(line)}</text>')
            y += LINE
        time += READING
        y += LINE // 2
    width, height = round(2 * LEFT + COLUMNS * CHARACTER), y
    pictures = []
    for name, begin, end in thumbnails:
        data = base64.b64encode((ASSETS / name).read_bytes()).decode()
        x = width - LEFT - THUMBNAIL
        style = f"animation:on 0.01s {begin:.2f}s forwards" + (f",off 0.01s {end:.2f}s forwards" if end else "")
        pictures.append(
            f'<image class="on" style="{style}" x="{x}" y="{TOP - 10}" width="{THUMBNAIL}" height="{THUMBNAIL}" href="data:image/png;base64,{data}"/>'
        )
    words = " ".join(f"$ {command} {' '.join(lines)}" for (command, _), lines in zip(COMMANDS, printed))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">\n'
        f"<title>owl2 in a terminal</title>\n<desc>{escape(words)}</desc>\n<style>\n{STYLE}</style>\n"
        f'<rect class="card" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>\n'
        f'<circle cx="20" cy="16" r="5" fill="#f0655a"/><circle cx="37" cy="16" r="5" fill="#f2bd4a"/><circle cx="54" cy="16" r="5" fill="#53c25c"/>\n'
        f'<text class="bar" x="{width / 2}" y="20" text-anchor="middle">owl2, built-in model</text>\n'
        + "\n".join(parts + pictures)
        + "\n</svg>\n"
    )


def main():
    arguments = sys.argv[1:]
    is_check = arguments[:1] == ["--check"]
    arguments = arguments[is_check:]
    if len(arguments) != 1:
        sys.exit(__doc__)
    drawn = draw(run(arguments[0]))
    if is_check:
        if PICTURE.read_text() != drawn:
            sys.exit(f"{PICTURE.name} is not what recording.py draws")
    else:
        PICTURE.write_text(drawn)


main()
