"""Pictures that the tiny model learns from: drawings of 80 things and 5 shapes, one to four on a coloured ground.

The drawings are open emoji sets which the npm registry carries as one JSON file of SVG bodies each. `Sprites` draws
them once; `compose` makes a `Scene`: the picture and what is known about it. Everything random comes from the
generator that is passed in.

`python scenes.py --packages DIR --examples assets/` draws the example pictures.
"""

import argparse
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 112  # pixels a side of a picture
PATCHES = 8  # patches of 14 pixels a side

# style -> the package and the version that was used. Their licences allow shipping what is trained on them, and
# pictures of them: Apache-2.0 (noto, noto-v1, fxemoji) and MIT (fluent-emoji, fluent-emoji-flat).
STYLES = {"noto": "1.2.9", "noto-v1": "1.2.5", "fluent-emoji": "1.2.7", "fluent-emoji-flat": "1.2.6", "fxemoji": "1.2.2"}
# Never trained on and never shipped; it measures how well an unknown hand is read. CC-BY-4.0.
UNSEEN = {"twemoji": "1.2.5"}

# thing -> names of its drawings. fxemoji has names of its own, below.
ANIMALS = {
    "cat": "cat cat-face", "dog": "dog dog-face", "rabbit": "rabbit rabbit-face", "panda": "panda", "lion": "lion",
    "cow": "cow cow-face ox", "pig": "pig pig-face", "frog": "frog", "monkey": "monkey monkey-face",
    "penguin": "penguin", "fish": "fish tropical-fish", "octopus": "octopus", "snail": "snail",
    "butterfly": "butterfly", "bee": "honeybee", "spider": "spider", "turtle": "turtle", "snake": "snake",
    "elephant": "elephant", "horse": "horse horse-face", "whale": "whale spouting-whale", "crab": "crab",
    "owl": "owl", "duck": "duck", "fox": "fox"}
FRUITS = {
    "apple": "red-apple green-apple", "banana": "banana", "watermelon": "watermelon", "orange": "tangerine",
    "lemon": "lemon", "pear": "pear", "strawberry": "strawberry", "pineapple": "pineapple"}
FOODS = {
    "carrot": "carrot", "mushroom": "mushroom", "hamburger": "hamburger", "pizza": "pizza", "donut": "doughnut",
    "cake": "birthday-cake shortcake", "egg": "egg cooking"}
VEHICLES = {
    "car": "automobile oncoming-automobile sport-utility-vehicle", "bus": "bus oncoming-bus",
    "truck": "delivery-truck articulated-lorry", "tractor": "tractor", "bicycle": "bicycle",
    "motorcycle": "motorcycle", "train": "locomotive train", "airplane": "airplane", "helicopter": "helicopter",
    "rocket": "rocket", "boat": "sailboat speedboat motor-boat"}
PLANTS = {"tree": "deciduous-tree evergreen-tree", "cactus": "cactus", "sunflower": "sunflower", "rose": "rose"}
INSTRUMENTS = {"guitar": "guitar", "violin": "violin", "trumpet": "trumpet", "drum": "drum"}
TOOLS = {"hammer": "hammer", "scissors": "scissors"}
OTHERS = {
    "key": "key old-key", "book": "closed-book blue-book green-book orange-book", "camera": "camera camera-with-flash",
    "clock": "alarm-clock mantelpiece-clock three-oclock", "house": "house house-with-garden",
    "umbrella": "umbrella umbrella-with-rain-drops", "crown": "crown", "balloon": "balloon", "bell": "bell",
    "gift": "wrapped-gift", "candle": "candle", "ghost": "ghost", "robot": "robot",
    "snowman": "snowman snowman-without-snow", "moon": "crescent-moon", "sun": "sun sun-with-face", "cloud": "cloud",
    "rainbow": "rainbow", "trophy": "trophy"}
THINGS = ANIMALS | FRUITS | FOODS | VEHICLES | PLANTS | INSTRUMENTS | TOOLS | OTHERS
FXEMOJI = {
    "cat": "cat catside", "dog": "dog dogside", "rabbit": "bunny bunnyside", "panda": "pandaface", "cow": "cow cowface ox",
    "pig": "pig pigside", "monkey": "monkey monkeyface", "fish": "fish tropicalfish", "whale": "whale spurtingwhale",
    "horse": "horse horseface", "fox": "foxsmiling", "apple": "redapple greenapple", "pizza": "sliceofpizza",
    "cake": "birthdaycake shortcake", "egg": "cooking", "car": "automobile oncomingautomobile recreationalvehicle",
    "bus": "bus oncomingbus", "truck": "deliverytruck articulatedlorry", "train": "steamlocomotive train",
    "boat": "sailboat speedboat", "tree": "deciduoustree evergreen", "scissors": "blackscissors", "key": "key oldkey",
    "book": "closedbook bluebook greenbook orangebook", "camera": "camera camerawithflash",
    "clock": "alarmclock manltepiececlock clock3oclock", "house": "housebuilding housewithgarden",
    "umbrella": "umbrella umbrellawithraindrops", "gift": "present", "snowman": "snowmanwithoutsnow",
    "moon": "crescentmoon", "sun": "sunrays sunwithface"}

COLOURS = {
    "red": (224, 26, 32), "orange": (250, 140, 28), "yellow": (250, 216, 32), "green": (36, 154, 60),
    "blue": (32, 82, 220), "purple": (122, 46, 162), "pink": (250, 132, 186), "brown": (118, 72, 42),
    "black": (24, 22, 24), "white": (248, 248, 245), "gray": (132, 137, 138)}
SHAPES = ["circle", "square", "triangle", "star", "diamond"]
TURN = {"circle": 0, "square": 14, "triangle": 14, "star": 18, "diamond": 8}  # degrees that leave it what it is

WORDS = list(THINGS) + SHAPES  # what an object may be called, in the order of the warm-ups' labels


@dataclass(eq=False)
class Thing:
    """One object of a scene. `colour` is None but for shapes, `place` is empty where the layout names none."""
    word: str
    colour: str | None
    place: str
    x: float
    y: float
    cover: np.ndarray = field(repr=False)  # [PATCHES, PATCHES] share of each patch that it covers


@dataclass
class Scene:
    pixels: np.ndarray  # [size, size, 3] uint8
    background: str
    things: list  # in reading order


class Sprites:
    """Drawings by style and thing: {style: {thing: [array, ..]}}, each [side, side, 4] uint8 with colours
    multiplied by alpha, its longer side filling the square."""

    def __init__(self, packages, styles, side=96):
        self.drawings = {}
        for style, version in styles.items():
            cache = Path(packages) / f"{style}-{version}-{side}.npz"
            if not cache.exists():
                self.draw(Path(packages), style, version, side, cache)
            held = np.load(cache)
            things = self.drawings[style] = {}
            for key in held.files:
                things.setdefault(key.split("/")[0], []).append(held[key])

    @staticmethod
    def draw(packages, style, version, side, cache):
        import resvg_py
        source = json.loads((packages / f"iconify-json-{style}-{version}" / "icons.json").read_text())
        aliases, drawn = source.get("aliases", {}), {}
        for thing, names in THINGS.items():
            names = FXEMOJI.get(thing, names) if style == "fxemoji" else names
            for name in names.split():
                icon = source["icons"].get(aliases.get(name, {}).get("parent", name))
                if icon is None:
                    continue  # every set lacks some
                width, height = (icon.get(k, source.get(k, 16)) for k in ("width", "height"))
                svg = (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                       f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>')
                image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=max(256, 2 * side)))))
                image = image.convert("RGBA").crop(image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
                scale = side / max(image.size)
                image = image.resize([max(1, round(n * scale)) for n in image.size], Image.Resampling.LANCZOS)
                square = Image.new("RGBA", (side, side))
                square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
                drawn[f"{thing}/{name}"] = np.asarray(square.convert("RGBa"))
        np.savez_compressed(cache, **drawn)


def shape_mask(shape, side=192):
    """[side, side] PIL mask of a shape that fills the square (a diamond is narrower than high)."""
    mask, n = Image.new("L", (side, side)), side - 1
    draw = ImageDraw.Draw(mask)
    if shape == "circle":
        draw.ellipse((.04 * n, .04 * n, .96 * n, .96 * n), 255)
    elif shape == "star":
        angles = np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2, 0.21, 0.5) * n
        draw.polygon([(n / 2 + r * np.sin(a), n / 2 - r * np.cos(a)) for r, a in zip(radii, angles)], 255)
    else:
        corners = {"square": [(.06, .06), (.94, .06), (.94, .94), (.06, .94)], "triangle": [(.5, .04), (1, .93), (0, .93)],
                   "diamond": [(.5, 0), (.82, .5), (.5, 1), (.18, .5)]}[shape]
        draw.polygon([(x * n, y * n) for x, y in corners], 255)
    return mask


MASKS = {shape: shape_mask(shape) for shape in SHAPES}

# The places of a layout, in reading order: (name, centre x, centre y) as shares of the picture.
LEFT, RIGHT, TOP, BOTTOM, MIDDLE = "on the left", "on the right", "at the top", "at the bottom", "in the middle"
CORNERS = [(f"in the {v} {h} corner", x, y) for v, y in (("top", .25), ("bottom", .75)) for h, x in (("left", .25), ("right", .75))]
ROW2, COLUMN2 = [(LEFT, .25, .5), (RIGHT, .75, .5)], [(TOP, .5, .25), (BOTTOM, .5, .75)]
ROW3 = [(LEFT, .17, .5), (MIDDLE, .5, .5), (RIGHT, .83, .5)]
COLUMN3 = [(TOP, .5, .17), (MIDDLE, .5, .5), (BOTTOM, .5, .83)]


def layout(rng, count):
    """Places for `count` objects with free positions: a list of (name, x, y) and the largest size, as shares."""
    pick = rng.random()
    if count == 1 and pick < 0.6:
        x, y = 0.5 + rng.uniform(-.05, .05, 2)
        return [(MIDDLE, x, y)], rng.uniform(.42, .84)
    if count == 1:  # small, anywhere but near the middle: no name for the place
        while True:
            x, y = rng.uniform(.18, .82, 2)
            if max(abs(x - .5), abs(y - .5)) > .15:
                return [("", x, y)], rng.uniform(.25, .38)
    if count == 2 and pick < 0.26:
        a, b = CORNERS[1:3] if rng.random() < .5 else (CORNERS[0], CORNERS[3])
        places, wobble, common, largest = [a, b], (.07, .07), (0, 0), .46
    elif count == 2:
        row = pick < .63
        places, largest = ROW2 if row else COLUMN2, .48
        wobble, common = ((.03, .05), (0, .15)) if row else ((.05, .03), (.15, 0))
    elif count == 3 and pick < 0.64:
        row = pick < .32
        places, largest = ROW3 if row else COLUMN3, .33
        wobble, common = ((.01, .07), (0, .2)) if row else ((.07, .01), (.2, 0))
    else:
        places = [CORNERS[i] for i in sorted(rng.permutation(4)[:count])]
        wobble, common, largest = (.05, .05), (0, 0), .46
    shift = rng.uniform(-1, 1, 2) * common
    return [(name, *(np.array([x, y]) + shift + rng.uniform(-1, 1, 2) * wobble)) for name, x, y in places], largest


def ground(rng, colour, size, grain=True):
    """[size, size, 3] float: plain, shaded to one side, or grainy."""
    rgb = np.array(COLOURS[colour], np.float32) + rng.normal(0, 7, 3)
    kind = rng.random()
    canvas = np.broadcast_to(rgb, (size, size, 3)).astype(np.float32)
    if kind < 0.4:
        angle, span = rng.uniform(0, 2 * np.pi), rng.uniform(.05, .16)
        line = np.linspace(-1, 1, size, dtype=np.float32)
        ramp = np.cos(angle) * line[None] + np.sin(angle) * line[:, None]
        canvas = canvas * (1 + span * ramp[..., None])
    elif kind < 0.6 and grain:
        canvas = canvas + rng.normal(0, rng.uniform(3, 14), (size, size, 1))
    return canvas


def hue_matrix(degrees, saturation):
    """The 3x3 matrix that turns hues about the gray axis and scales saturation; exact for colours times alpha."""
    gray = np.full((3, 3), 1 / 3)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return (gray + saturation * (c * (np.eye(3) - gray) + s * cross)).astype(np.float32)


def dressed(rng, sprite, side, distort):
    """A drawing of `side` pixels, flipped, and if asked stretched, turned and tinted: [h, w, 4] float, colours times alpha."""
    if rng.random() < .5:
        sprite = sprite[:, ::-1]
    stretch = np.exp(rng.normal(0, .09)) if distort else 1.0
    image = Image.fromarray(np.ascontiguousarray(sprite), "RGBa")
    image = image.resize([max(8, round(side * f)) for f in (min(1, stretch), min(1, 1 / stretch))], Image.Resampling.BICUBIC)
    if distort and rng.random() < .3:
        image = image.rotate(rng.normal(0, 8), Image.Resampling.BILINEAR, expand=False)
    pixels = np.asarray(image, np.float32)
    if distort and rng.random() < .6:
        wide = rng.random() < .2  # now and then far off, so that form counts more than colour
        matrix = hue_matrix(rng.normal(0, 45 if wide else 12), rng.uniform(.3 if wide else .7, 1.3)) * rng.uniform(.85, 1.12)
        rgb = np.clip(pixels[..., :3] @ matrix.T, 0, pixels[..., 3:])
        pixels = np.concatenate([rgb, pixels[..., 3:]], -1)
    return pixels


def shape_pixels(rng, shape, colour, side):
    image = MASKS[shape].resize((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    image = image.rotate(rng.uniform(-1, 1) * TURN[shape], Image.Resampling.BICUBIC)
    alpha = np.asarray(image, np.float32)[..., None]
    rgb = np.clip(np.array(COLOURS[colour], np.float32) + rng.normal(0, 9, 3), 0, 255)
    return np.concatenate([alpha * (rgb / 255), alpha], -1).astype(np.float32)


def paste(canvas, pixels, x, y):
    """Puts pixels with their centre at (x, y); gives the new canvas, its alpha [size, size] and the share of the
    object's pixels that stand out from the ground."""
    size, (h, w) = len(canvas), pixels.shape[:2]
    top, left = (int(np.clip(round(c - n / 2), 0, size - n)) for c, n in ((y, h), (x, w)))
    spot = canvas[top:top + h, left:left + w]
    alpha = pixels[..., 3:] / 255
    result = canvas.copy()
    result[top:top + h, left:left + w] = spot * (1 - alpha) + pixels[..., :3]
    solid = alpha[..., 0] > .5
    stands_out = (np.abs(result[top:top + h, left:left + w] - spot).max(-1) > 40)[solid]
    full = np.zeros((size, size), np.float32)
    full[top:top + h, left:left + w] = alpha[..., 0]
    return result, full, stands_out.mean() if len(stands_out) else 0.0


def choose(rng, styles, thing=None):
    """What an object is: (word, colour or None, style). Shapes are a fifth of all."""
    if thing is None and rng.random() < .2:
        return SHAPES[rng.integers(5)], list(COLOURS)[rng.integers(11)], None
    style = styles[rng.integers(len(styles))]
    return thing or list(THINGS)[rng.integers(len(THINGS))], None, style


def compose(rng, sprites, count=None, size=SIZE, distort=True, grain=True, objects=None, background=None, places=None):
    """One scene. What is not given is drawn: `count` objects, or `objects` [(word, colour, style)] on `background`;
    without `distort` the drawings are as they were drawn, but for their size and side."""
    styles = list(sprites.drawings)
    while True:
        number = count or (len(objects) if objects else 1 + int(rng.choice(4, p=[.27, .33, .18, .22])))
        chosen = list(objects or [])
        while len(chosen) < number:
            # The same again in two of five, in any style, so that counting is not counting copies.
            if chosen and rng.random() < .4:
                word, colour, _ = chosen[rng.integers(len(chosen))]
                chosen.append((word, colour, None) if colour else choose(rng, styles, word))
            else:
                chosen.append(choose(rng, styles))
        if not objects:
            chosen = [chosen[i] for i in rng.permutation(number)]
        if any(style and word not in sprites.drawings[style] for word, _, style in chosen):
            continue
        colour = background or list(COLOURS)[rng.integers(11)]
        if any(colour == shape_colour for _, shape_colour, _ in chosen):
            continue
        spots, largest = places or layout(rng, number)
        canvas, things, clear = ground(rng, colour, size, grain), [], True
        for (word, shade, style), (place, x, y) in zip(chosen, spots):
            side = round(size * (largest if number == 1 or places else max(.23, largest * rng.uniform(.6, 1))))
            if shade:
                pixels = shape_pixels(rng, word, shade, side)
            else:
                drawings = sprites.drawings[style][word]
                pixels = dressed(rng, drawings[rng.integers(len(drawings))], side, distort)
            canvas, alpha, stands_out = paste(canvas, pixels, x * size, y * size)
            clear &= stands_out > .35  # a white ghost on white is no question to ask
            step = size // PATCHES
            cover = alpha.reshape(PATCHES, step, PATCHES, step).mean((1, 3))
            things.append(Thing(word, shade, place, x, y, cover))
        if clear:
            if distort:
                canvas = canvas * rng.uniform(.92, 1.06)
            return Scene(np.clip(canvas + .5, 0, 255).astype(np.uint8), colour, things)


EXAMPLES = {
    "cat.png": (112, "blue", [("cat", "noto")]),
    "three-apples.png": (224, "white", [("apple", "fluent-emoji")] * 3),
    "dog-and-car.png": (224, "green", [("dog", "noto"), ("car", "noto")]),
    "penguin-and-guitar.png": (336, "pink", [("penguin", "fluent-emoji-flat"), ("guitar", "fluent-emoji-flat")]),
    "four-things.png": (224, "yellow", [("rocket", "noto"), ("whale", "fluent-emoji-flat"), ("book", "noto"), ("star", "red")]),
    "two-foxes-and-a-tree.png": (224, "gray", [("fox", "fluent-emoji-flat"), ("tree", "fluent-emoji-flat"), ("fox", "fluent-emoji-flat")])}


def draw_examples(packages, directory):
    """The pictures of assets/: plain grounds, undistorted drawings."""
    sprites = Sprites(packages, STYLES, side=288)
    spots = {1: ([(MIDDLE, .5, .5)], .75), 2: (ROW2, .44), 3: (ROW3, .31), 4: (CORNERS, .4)}
    for index, (name, (size, background, objects)) in enumerate(EXAMPLES.items()):
        objects = [(word, style, None) if word in SHAPES else (word, None, style) for word, style in objects]
        places = (COLUMN2, .44) if "penguin" in name else spots[len(objects)]
        scene = compose(np.random.default_rng(index), sprites, size=size, distort=False, grain=False, objects=objects,
                        background=background, places=places)
        # A plain ground keeps the file small.
        Image.fromarray(scene.pixels).quantize(128, dither=Image.Dither.NONE).save(Path(directory) / name, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draws the example pictures.")
    parser.add_argument("--packages", required=True, help="directory of the unpacked npm packages")
    parser.add_argument("--examples", required=True, help="directory to write to")
    options = parser.parse_args()
    draw_examples(options.packages, options.examples)
