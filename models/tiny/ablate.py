"""Copies a checkpoint with other K, V and norms for pictures or text, to see what having two sets is for.

    python ablate.py CHECKPOINT --pictures text --out DIR        pictures use the set of text
    python ablate.py CHECKPOINT --text pictures --out DIR        text uses the set of pictures
    python ablate.py CHECKPOINT --pictures text --text pictures --out DIR
"""

import argparse
import re
import shutil
from pathlib import Path

from safetensors.numpy import load_file, save_file

SETS = {"text": 0, "pictures": 1}  # as the published names number them


def ablated(tensors, source):
    """`source` says for each set which one stands in its place."""
    def of(name):
        return re.sub(r"\.multiway\.([01])\.", lambda found: f".multiway.{source[int(found[1])]}.", name)
    return {name: tensors[of(name)] for name in tensors}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pictures", choices=SETS, default="pictures", help="the set that pictures use")
    parser.add_argument("--text", choices=SETS, default="text", help="the set that text uses")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    shutil.copytree(options.checkpoint, options.out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    for path in options.checkpoint.glob("*.safetensors"):
        tensors = ablated(load_file(path), [SETS[options.text], SETS[options.pictures]])
        save_file(tensors, options.out / path.name, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
