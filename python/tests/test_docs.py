"""The snippets of docs/python.md and of the README run."""

import re

import pytest
from conftest import ROOT

PAGES = [ROOT / "docs/python.md", ROOT / "README.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page, capsys):
    # Those of a page belong together: later ones use the names of earlier ones.
    names = {}
    text = page.read_text()
    blocks = list(BLOCK.finditer(text))
    assert page.name == "README.md" or len(blocks) >= 5
    for block in blocks:
        line = text[: block.start()].count("\n") + 1
        code = "\n" * line + block[1]
        exec(compile(code, str(page), "exec"), names)
