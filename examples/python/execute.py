"""Runs pictures.ipynb and keeps what it prints and shows: `execute.py`, or `execute.py --check`, which changes
nothing and fails where the page has other texts than it should.

Needs the wheel of owl2, and `pip install nbclient ipykernel pillow`.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(__file__).with_name("pictures.ipynb")
NUMBER = re.compile(r"(-?\d+\.\d*)")
BLANKS_OF_ARRAYS = re.compile(r"(?<=[\[\],])\s+|\s+(?=[\[\],])")


def texts(page):
    """What each cell prints and shows, but for the pictures, whose bytes depend on versions."""
    for cell in page.cells:
        outputs = cell.get("outputs", [])
        yield "".join(output.get("text") or output["data"]["text/plain"] for output in outputs)


def is_near(kept, found):
    """Whether texts differ in the last digits of numbers alone, as those of two processors do. NumPy aligns
    a column with blanks where a number has a sign, so that those of arrays do not count."""
    kept, found = (NUMBER.split(BLANKS_OF_ARRAYS.sub("", text)) for text in (kept, found))
    if kept[::2] != found[::2]:
        return False
    numbers = zip(kept[1::2], found[1::2])
    return all(abs(float(a) - float(b)) < 0.1 for a, b in numbers)


def executed():
    """The page, run at the root of the repository."""
    page = nbformat.read(PAGE, as_version=4)
    NotebookClient(page, resources={"metadata": {"path": str(ROOT)}}).execute()
    for cell in page.cells:
        # Times and versions of one machine.
        cell.metadata.clear()
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs)
    page.metadata["language_info"] = {"name": "python"}
    return page


def joined(outputs):
    """Outputs of which no two that follow one another are printed text; it comes in pieces of any size."""
    parts = []
    for output in outputs:
        if output.output_type == "stream" and parts and parts[-1].output_type == "stream":
            parts[-1].text += output.text
        else:
            parts.append(output)
    return parts


def main():
    page = executed()
    if sys.argv[1:] == ["--check"]:
        kept = texts(nbformat.read(PAGE, as_version=4))
        for kept, found in zip(kept, texts(page)):
            if not is_near(kept, found):
                sys.exit(f"{PAGE.name} has {kept}\nbut should have {found}")
    else:
        nbformat.write(page, PAGE)


if __name__ == "__main__":
    main()
