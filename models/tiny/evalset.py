"""Writes new scenes with their questions for `owl2 eval`: pictures, and one JSON object a line with split, type,
question, answer and, where there is one, image.

    python evalset.py --packages DIR --out DIR [--scenes 200] [--unseen]

Without --unseen everything may be passed on: its pictures are of the sets that the model is trained on.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

import questions
from scenes import STYLES, UNSEEN, Sprites, compose

ONE = {"naming": .5, "caption": .3, "background": .2}  # what is asked where there is one object only


def scenes(rng, split, sprites, number, each, out, shares, **scene):
    """`each` questions about each of `number` scenes, as evaluation lines; the pictures go to out/images."""
    for index in range(number):
        made = compose(rng, sprites, distort=False, **scene)
        image = f"images/{split}-{index:04}.png"
        Image.fromarray(made.pixels).save(out / image, optimize=True)
        for _, (kind, question, answer) in zip(range(each), questions.ask(rng, made, shares)):
            yield {"image": image, "split": split, "type": kind, "question": question, "answer": answer}


def text(rng):
    asked = [q for group in questions.TEXT.values() for q in group] + questions.sums(True)
    asked += [questions.no_image(rng) for _ in range(50)]
    return [{"split": "text", "type": kind, "question": question, "answer": answer} for kind, question, answer in asked]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", required=True, help="directory of the unpacked npm packages")
    parser.add_argument("--out", required=True, help="directory to write to")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2_000_000, help="apart from training and from what train.py measures")
    parser.add_argument("--unseen", action="store_true", help="also a split in the style that is never trained on")
    options = parser.parse_args()
    out, rng = Path(options.out), np.random.default_rng(options.seed)
    (out / "images").mkdir(parents=True, exist_ok=True)
    seen = Sprites(options.packages, STYLES)
    lines = list(scenes(rng, "scenes", seen, options.scenes, 6, out, questions.SHARES))
    lines += scenes(rng, "one", seen, options.scenes // 3, 3, out, ONE, count=1)
    if options.unseen:
        lines += scenes(rng, "unseen-one", Sprites(options.packages, UNSEEN), options.scenes, 3, out, ONE, count=1)
    lines += text(rng)
    (out / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{len(lines)} questions written to {out}")
