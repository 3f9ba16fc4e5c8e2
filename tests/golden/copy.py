#!/usr/bin/env python3
"""Copies a set of golden vectors here, without the checkpoint whose vocabulary is not ours to ship.

    python3 tests/golden/copy.py SOURCE_DIR

Left out are the checkpoint `vocab32k` (the 32000-piece vocabulary originates from Meta's LLaMA
release), its cases, and the tokenizer vectors made with it. The manifest is reduced to match.
"""

import json
import shutil
import sys
from pathlib import Path

LEFT_OUT_CHECKPOINT = "vocab32k"


def main(source: Path, target: Path) -> None:
    manifest = json.loads((source / "manifest.json").read_text())
    directory = manifest["checkpoints"].pop(LEFT_OUT_CHECKPOINT)["dir"]

    def kept(path: str) -> bool:
        if LEFT_OUT_CHECKPOINT in path:
            return False
        if path.startswith("tokenizer/"):
            vectors = json.loads((source / path).read_text())
            return not (isinstance(vectors, dict) and vectors.get("tokenizer") == directory)
        return True

    manifest["files"] = {path: entry for path, entry in manifest["files"].items() if kept(path)}
    for path in manifest["files"]:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, target / path)
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (target / "manifest.json").write_text(text + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(__file__).parent)
