"""What type checkers are told is what there is."""

import ast
import inspect
from pathlib import Path

import owl2
from owl2 import _owl2


def test_the_stub_names_what_the_native_half_has():
    stub = ast.parse(Path(owl2.__file__).with_name("_owl2.pyi").read_text())
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    assert set(classes) == {"Model", "Stream"}
    for name, node in classes.items():
        native = getattr(_owl2, name)
        told = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        there = {part for part in vars(native) if not part.startswith("__")}
        assert {part for part in told if not part.startswith("__")} == there
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and part.name in there:
                method = getattr(native, part.name)
                if callable(method):
                    names = [argument.arg for argument in part.args.args]
                    assert names == list(inspect.signature(method).parameters), part.name


def test_the_package_is_marked_as_typed():
    assert Path(owl2.__file__).with_name("py.typed").exists()


def test_everything_public_is_described():
    for name in owl2.__all__:
        if name not in ("__version__", "Picture"):
            assert getattr(owl2, name).__doc__, name
