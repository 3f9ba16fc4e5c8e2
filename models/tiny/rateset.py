"""Writes new distorted scenes with their scores for `owl2 eval`: pictures, and a JSON array for each kind of distortion with
`image` and `gt_score` (5 to 1), as the files of Q-Align are.

    python rateset.py --packages DIR --out DIR [--each 100]
    python rateset.py --packages DIR --examples assets/    # the rated example pictures
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

import distort
from scenes import MIDDLE, STYLES, Sprites, compose

# Pictures of one scene for assets/: name, distortion and strength.
EXAMPLES = [("rated-1-clean.png", "blur", 0.0), ("rated-2-blurred.png", "blur", .6), ("rated-3-jpeg.png", "JPEG", .9)]


def write(out, sprites, kind, each, seed):
    """`each` new scenes with a distortion of evenly drawn strengths: their pictures and their JSON file."""
    rng, slug, entries = np.random.default_rng(seed), kind.lower().replace(" ", "-"), []
    (out / slug).mkdir(parents=True, exist_ok=True)
    for index in range(each):
        strength = rng.random()
        image = f"{slug}/{index:04}.png"
        Image.fromarray(distort.rated(rng, sprites, distort.parts(rng, kind, strength))).save(out / image)
        entries.append({"image": image, "gt_score": round(distort.score(strength), 6)})
    (out / f"{slug}.json").write_text(json.dumps(entries, indent=1) + "\n")
    return entries


def draw_examples(packages, directory):
    """One scene as it is, blurred, and as a JPEG file that is too small."""
    sprites = Sprites(packages, STYLES)
    scene = compose(np.random.default_rng(3), sprites, distort=False, grain=False, objects=[("owl", None, "noto")],
                    background="blue", places=([(MIDDLE, .5, .5)], .75))
    for name, kind, strength in EXAMPLES:
        pixels = distort.distorted(np.random.default_rng(4), scene.pixels, {kind: strength})
        Image.fromarray(pixels).save(Path(directory) / name, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", required=True, help="directory of the unpacked npm packages")
    parser.add_argument("--out", help="directory to write to")
    parser.add_argument("--each", type=int, default=100, help="pictures of each kind")
    parser.add_argument("--seed", type=int, default=3_000_000, help="apart from training and from what train.py measures")
    parser.add_argument("--examples", help="directory to write the example pictures to")
    options = parser.parse_args()
    if options.examples:
        draw_examples(options.packages, options.examples)
    if options.out:
        out, sprites = Path(options.out), Sprites(options.packages, STYLES)
        for index, kind in enumerate([*distort.KINDS, distort.TWO]):
            entries = write(out, sprites, kind, options.each, [options.seed, index])
            print(f"{kind}: {len(entries)} pictures")
