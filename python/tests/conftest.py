"""What the tests share. They run from anywhere, with the package installed."""

import json
import os
import subprocess
from pathlib import Path

import pytest

import owl2

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "assets"
GOLDEN = ROOT / "tests/golden-family"


@pytest.fixture(scope="session")
def model():
    return owl2.Model()


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def golden(name):
    """A file of the golden set."""
    return json.loads((GOLDEN / name).read_text())


def _converted(directory, name, *arguments):
    """A checkpoint of the golden set at f32, by the converter that `OWL2_CONVERT` names."""
    program = os.environ.get("OWL2_CONVERT", str(ROOT / "target/release/owl2-convert"))
    target = directory / f"{name}.gguf"
    checkpoint = GOLDEN / "checkpoints/onealign"
    command = [program, checkpoint, "-o", target, "--quant", "f32", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    return str(target)


@pytest.fixture(scope="session")
def one_align(tmp_path_factory):
    return _converted(tmp_path_factory.mktemp("model"), "one-align")


@pytest.fixture(scope="session")
def deqa(tmp_path_factory):
    adapter = ["--lora", GOLDEN / "checkpoints/deqa_lora", "--score-rule", "deqa"]
    return _converted(tmp_path_factory.mktemp("model"), "deqa", *adapter)
