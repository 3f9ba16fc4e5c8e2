"""Pictures of known quality: scenes with distortions of known, continuous strength.

A strength is 0 (as it was) to 1, a score 5 - 4 * strength, as people's mean scores are of 5 to 1. Each kind's parameter goes
geometrically from what is just not seen in a picture of 112 x 112 to what leaves little of it, so that equal steps of
strength look about equal. The five levels stand for the scores from 5 to 1.

    python distort.py --packages DIR --sheet FILE.png     # each kind at six strengths, to look at
"""

import argparse
import io

import numpy as np
import torch
from PIL import Image, ImageFilter

from scenes import SIZE, STYLES, Sprites, compose

LEVELS = ["excellent", "good", "fair", "poor", "bad"]  # the best first

# The tables of the JPEG standard's annex K (ITU-T T.81) in reading order, which are those of quality 50.
LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87,
    80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92,
    95, 98, 112, 100, 103, 99])
CHROMINANCE = np.full((8, 8), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
CHROMINANCE = CHROMINANCE.flatten()


def between(least, most, strength):
    """From least to most in equal ratios."""
    return float(least * (most / least) ** strength)


def whole(pixels):
    return np.clip(pixels + .5, 0, 255).astype(np.uint8)


def filtered(pixels, kernel):
    return np.asarray(Image.fromarray(whole(pixels)).filter(kernel), np.float32)


# ---- the kinds: pixels [H, W, 3] float from 0 to 255, a strength above 0, a generator; gives new pixels


def blur(pixels, strength, rng):
    """A Gaussian of a deviation of 0.35 to 4.2 pixels, or the same spread by a box, or by shrinking and enlarging."""
    deviation, way = between(.35, 4.2, strength), rng.random()
    if way < .5 or deviation < 1:
        return filtered(pixels, ImageFilter.GaussianBlur(deviation))
    if way < .7:
        return filtered(pixels, ImageFilter.BoxBlur(deviation * 3 ** .5))
    side = round(len(pixels) / (2 * deviation))
    small = Image.fromarray(whole(pixels)).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR), np.float32)


def noise(pixels, strength, rng):
    """Of a deviation of 3 to 60: normal or with the longer tails of Laplace's, in each colour or the same in all."""
    shape = pixels.shape if rng.random() < .7 else (*pixels.shape[:2], 1)
    deviation = between(3, 60, strength)
    grain = rng.normal(0, 1, shape) if rng.random() < .6 else rng.laplace(0, .5 ** .5, shape)
    return pixels + deviation * grain.astype(np.float32)


def jpeg(pixels, strength, rng):
    """JPEG with the standard's tables times 1 to 16 (quality 50 to 3), all colours at full size."""
    factor = between(1, 16, strength)
    tables = [np.clip(np.rint(table * factor), 1, 255).astype(int).tolist() for table in (LUMINANCE, CHROMINANCE)]
    file = io.BytesIO()
    Image.fromarray(whole(pixels)).save(file, "JPEG", qtables=tables, subsampling=0)
    return np.asarray(Image.open(file), np.float32)


def banding(pixels, strength, rng):
    """16 to 2 levels of each colour."""
    step = 255 / (between(16, 2, strength) - 1)
    return np.rint(pixels / step) * step


def darkness(pixels, strength, rng):
    """Times 1 to 0.1."""
    return pixels * between(1, .1, strength)


def exposure(pixels, strength, rng):
    """1 to 12 times the light, on a curve that bends towards white, as films and cameras have."""
    return 255 - 255 * (1 - pixels / 255) ** between(1, 12, strength)


def contrast(pixels, strength, rng):
    """Towards middle gray, to 1 to 0.12 of the distance."""
    return 128 + (pixels - 128) * between(1, .12, strength)


def cast(pixels, strength, rng):
    """All colours towards one bright colour, to 1 to 0.2 of the distance, as through a filter."""
    hue = 2 * np.pi * (rng.random() + np.arange(3) / 3)  # of red, green and blue, a third of a turn apart
    colour = (127 + 127 * np.cos(hue)).astype(np.float32)
    return colour + (pixels - colour) * between(1, .2, strength)


def salt_and_pepper(pixels, strength, rng):
    """0.5 to 30% of the pixels black or white."""
    draw = rng.random(pixels.shape[:2])
    share = between(.005, .3, strength)
    pixels = np.where((draw < share)[..., None], 255, pixels)
    return np.where((draw < share / 2)[..., None], 0, pixels).astype(np.float32)


def pixelation(pixels, strength, rng):
    """Squares of 1.3 to 12 pixels a side."""
    side = max(4, round(len(pixels) / between(1.3, 12, strength)))
    small = Image.fromarray(whole(pixels)).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize(pixels.shape[1::-1], Image.Resampling.NEAREST), np.float32)


# In the order in which a camera and a file would do them.
SEEN = {"blur": blur, "darkness": darkness, "over-exposure": exposure, "low contrast": contrast, "colour cast": cast,
        "noise": noise, "banding": banding, "JPEG": jpeg}
HELD_OUT = {"salt and pepper": salt_and_pepper, "pixelation": pixelation}  # never trained on
TWO = "two together"
KINDS = SEEN | HELD_OUT
# How often a kind is trained on: those that take longest to learn, more often.
SHARES = {"blur": .17, "darkness": .06, "over-exposure": .17, "low contrast": .06, "colour cast": .09, "noise": .1,
          "banding": .15, "JPEG": .2}
OPPOSITE = {"darkness", "over-exposure"}  # which undo one another


def parts(rng, kind, strength):
    """What to distort with: {kind: strength}. TWO are two of SEEN whose shares of what is left of the quality multiply to
    1 - strength."""
    if kind != TWO:
        return {kind: strength}
    names = list(SEEN)
    while True:
        first, second = sorted(rng.permutation(len(names))[:2])  # the camera's order
        if {names[first], names[second]} != OPPOSITE:
            break
    share, left = rng.uniform(.2, .8), 1 - strength
    return {names[first]: 1 - left ** share, names[second]: 1 - left ** (1 - share)}


def distorted(rng, pixels, strengths):
    """A picture [H, W, 3] uint8 with distortions {kind: strength}, one after another; one of strength 0 is none."""
    changed = pixels.astype(np.float32)
    for kind, strength in strengths.items():
        if strength > 0:
            changed = np.clip(KINDS[kind](changed, strength, rng), 0, 255)
    return whole(changed)


def lit(rng, pixels, always):
    """Light from one side, in four of five unless always: grounds of one colour show no bands."""
    if not always and rng.random() < .2:
        return pixels
    size, angle, span = len(pixels), rng.uniform(0, 2 * np.pi), rng.uniform(.1, .45)
    line = np.linspace(-1, 1, size, dtype=np.float32)
    ramp = (np.cos(angle) * line[None] + np.sin(angle) * line[:, None]) / 2 ** .5
    return whole(pixels * (1 + span * ramp[..., None]))


def scene(rng, sprites, bands, distort=True):
    """A new scene's pixels [SIZE, SIZE, 3] uint8, one that shows bands if asked. Grounds have no grain, which would be noise
    of an unknown strength. `distort` is compose's: whether the drawings are varied as for training."""
    size = 2 * SIZE if rng.random() < .15 else SIZE  # some are shrunk, as larger pictures of users are
    pixels = compose(rng, sprites, size=size, distort=distort, grain=False).pixels
    if size != SIZE:
        pixels = np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return lit(rng, pixels, bands)


def rated(rng, sprites, strengths):
    """A new scene of undistorted drawings with distortions {kind: strength}."""
    return distorted(rng, scene(rng, sprites, "banding" in strengths, distort=False), strengths)


def draw(rng):
    """What a picture of the training gets: a kind and its strength. A tenth are as they were, two in nine of the others
    have two distortions."""
    if rng.random() < .1:
        return TWO, 0.0
    kind = TWO if rng.random() < .22 else list(SEEN)[rng.choice(len(SEEN), p=list(SHARES.values()))]
    return kind, rng.random()


def score(strength):
    return 5 - 4 * strength


def level(strength):
    """The level next to the score of a strength; the levels stand for the scores from 5 to 1."""
    return LEVELS[round(5 - score(strength))]


def shares(strengths):
    """Strengths [N] as a tensor to [N, levels]: the two levels next to the score share it so that their mean is the score."""
    return (1 - (5 - score(strengths[:, None]) - torch.arange(5)).abs()).clamp(0)


def sheet(packages, file):
    """Each kind in a row, from none on to the strongest."""
    sprites, strengths = Sprites(packages, STYLES), np.linspace(0, 1, 6)
    image = Image.new("RGB", (len(strengths) * SIZE, (len(KINDS) + 1) * SIZE))
    for row, kind in enumerate([*KINDS, TWO]):
        for column, strength in enumerate(strengths):
            rng = np.random.default_rng([row, 5])
            pixels = rated(rng, sprites, parts(rng, kind, strength))
            image.paste(Image.fromarray(pixels), (column * SIZE, row * SIZE))
    image.save(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draws each kind of distortion at six strengths.")
    parser.add_argument("--packages", required=True, help="directory of the unpacked npm packages")
    parser.add_argument("--sheet", required=True, help="file to write")
    options = parser.parse_args()
    sheet(options.packages, options.sheet)
