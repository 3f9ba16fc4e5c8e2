"""What is asked about a scene, and what is asked without one. Every answer follows from the scene alone, so a
model's answer is right or wrong, letter by letter.

A question is (kind, question, answer). `python questions.py --tokenizer FILE` trains the tokenizer on them.
"""

import argparse

import numpy as np

from scenes import (ANIMALS, COLOURS, CORNERS, FOODS, FRUITS, INSTRUMENTS, PLANTS, SHAPES, THINGS, TOOLS, VEHICLES, BOTTOM,
                    LEFT, MIDDLE, RIGHT, TOP)

# How often a kind is asked about a picture. Those that start from an object, and so have to find it, are the hard
# ones for so small a decoder (where, exists, count, relation): they are three in five.
# Not every scene has every kind: of what is asked in the end, where is a seventh and relation a thirtieth.
SHARES = {"where": .30, "exists": .16, "count": .16, "relation": .16, "position": .07, "category": .06, "caption": .07,
          "detail": .04, "background": .02, "naming": .05, "color": .06}
# Once the decoder finds objects, whole descriptions get their share.
LATER_SHARES = SHARES | {"where": .20, "relation": .10, "caption": .17, "detail": .09, "count": .18, "position": .09}
# The first stage is the paper's, which only describes, but for where: to find an object takes longest to learn.
CAPTION_SHARES = {"caption": .4, "detail": .25, "where": .35}

GROUPS = {"animal": ANIMALS, "fruit": FRUITS, "vehicle": VEHICLES}  # those that pictures are asked about
NOUNS = GROUPS | {"food": FOODS, "plant": PLANTS, "instrument": INSTRUMENTS, "tool": TOOLS}
PLURALS = {"fish": "fish", "scissors": "scissors", "snowman": "snowmen", "strawberry": "strawberries",
           "butterfly": "butterflies", "trophy": "trophies", "bus": "buses", "octopus": "octopuses", "cactus": "cactuses",
           "fox": "foxes"}
NUMBERS = ["No", "One", "Two", "Three", "Four"]
CAPTIONS = ["Describe the image.", "What is in the image?", "What do you see?", "Write a caption for this image.", "Describe this picture."]
DETAILS = ["Describe the image in detail.", "Describe the picture in detail.", "Where is everything?"]
BACKGROUNDS = ["What color is the background?", "What is the color of the background?", "What is the background color?"]
NAMINGS = ["What is this?", "What is in the picture?", "What object is this?"]
BRIEF = " Answer the question using a single word or phrase."


def plural(word):
    return PLURALS.get(word, word + "s")


def name(thing):
    return f"{thing.colour} {thing.word}" if thing.colour else thing.word


def a(words):
    """With its article: "a cat", "an owl", "scissors"."""
    return words if words == "scissors" else f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def be(words):
    return "are" if words == "scissors" else "is"


def upper(text):
    return text[0].upper() + text[1:]


def pick(rng, items):
    return items[rng.integers(len(items))]


# ---- one function for each kind; None where the scene has no such question


def caption(rng, scene):
    names = [name(t) for t in scene.things]
    parts = []
    for words in dict.fromkeys(names):
        count = names.count(words)
        head, _, noun = words.rpartition(" ")
        parts.append(a(words) if count == 1 else f"{NUMBERS[count].lower()} {head} {plural(noun)}".replace("  ", " "))
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return pick(rng, CAPTIONS), f"{upper(listed)} on {a(scene.background)} background."


def detail(rng, scene):
    each = [f"There {be(name(t))} {a(name(t))}{' ' * bool(t.place)}{t.place}." for t in scene.things]
    return pick(rng, DETAILS), " ".join(each + [f"The background is {scene.background}."])


def background(rng, scene):
    return pick(rng, BACKGROUNDS), scene.background


def naming(rng, scene):
    return (pick(rng, NAMINGS), a(name(scene.things[0]))) if len(scene.things) == 1 else None


def position(rng, scene):
    thing = pick(rng, scene.things)
    if len(scene.things) == 1 and not (thing.place and rng.random() < .3):
        return None  # "What is in the middle?" is naming by another word: seldom
    return f"{pick(rng, ['What is', 'What do you see', 'Which object is'])} {thing.place}?", a(name(thing))


def single(scene):
    """The things that are there once only."""
    names = [name(t) for t in scene.things]
    return [t for t in scene.things if names.count(name(t)) == 1]


def where(rng, scene):
    things = [t for t in single(scene) if t.place]
    if not things or (len(scene.things) == 1 and rng.random() < .85):
        return None
    thing = pick(rng, things)
    return f"Where {be(name(thing))} the {name(thing)}?", thing.place


def absent(rng, scene):
    """The name of something that is not there, and often nearly is."""
    there = {name(t) for t in scene.things}
    while True:
        near, way = pick(rng, scene.things), rng.random()
        if way < .2 or (way < .6 and near.colour):
            shapes = [t for t in scene.things if t.colour] or [near]
            shape = pick(rng, shapes).word if shapes[0].colour and rng.random() < .7 else pick(rng, SHAPES)
            shade = pick(rng, shapes).colour if shapes[0].colour and rng.random() < .4 else pick(rng, list(COLOURS))
            words = f"{shade} {shape}"
        elif way < .65:
            words = pick(rng, next((list(g) for g in NOUNS.values() if near.word in g), list(THINGS)))
        else:
            words = pick(rng, list(THINGS))
        if words not in there:
            return words


def exists(rng, scene):
    words = name(pick(rng, scene.things)) if rng.random() < .45 else absent(rng, scene)
    answer = "yes" if words in {name(t) for t in scene.things} else "no"
    verb = upper(be(words))
    return pick(rng, [f"{verb} there {a(words)} in the image?", f"{verb} there {a(words)}?", f"Do you see {a(words)}?"]), answer


def count(rng, scene):
    way, words = rng.random(), [t.word for t in scene.things]
    if way < .15:
        noun, answer = pick(rng, ["objects", "things"]), len(words)
    elif way < .3:
        group = pick(rng, list(GROUPS))
        noun, answer = plural(group), sum(w in GROUPS[group] for w in words)
    elif way < .75:
        word = pick(rng, words)
        noun, answer = plural(word), words.count(word)
    else:
        word = absent(rng, scene).split()[-1]
        noun, answer = plural(word), words.count(word)
    return f"How many {noun} {pick(rng, ['are in the image', 'do you see', 'are there'])}?", str(answer)


def color(rng, scene):
    shapes = [t for t in scene.things if t.colour and [s.word for s in scene.things].count(t.word) == 1]
    if not shapes:
        return None
    thing = pick(rng, shapes)
    return pick(rng, [f"What color is the {thing.word}?", f"What is the color of the {thing.word}?"]), thing.colour


def category(rng, scene):
    present = {g: {t.word for t in scene.things if t.word in members} for g, members in GROUPS.items()}
    asked = [g for g, words in present.items() if len(words) == 1]
    if asked and rng.random() < .5:
        group = pick(rng, asked)
        return pick(rng, [f"What {group} is in the image?", f"Which {group} do you see?"]), a(*present[group])
    group = pick(rng, [g for g in GROUPS if present[g]] or list(GROUPS)) if rng.random() < .4 else pick(rng, list(GROUPS))
    return f"Is there {a(group)} in the image?", "yes" if present[group] else "no"


def relation(rng, scene):
    ends = {("on the left", "on the right"): ("to the left of", "to the right of"), ("at the top", "at the bottom"): ("above", "below")}
    ways = ends.get((scene.things[0].place, scene.things[-1].place))
    first, last = scene.things[0], scene.things[-1]
    if ways is None or name(first) == name(last) or {first, last} - set(single(scene)):
        return None
    (one, other), way = ((first, last), ways[0]) if rng.random() < .5 else ((last, first), ways[1])
    if len(scene.things) == 2 and rng.random() < .5:
        return f"What is {way} the {name(other)}?", a(name(one))
    true = rng.random() < .5
    if not true:
        one, other = other, one
    return f"{upper(be(name(one)))} the {name(one)} {way} the {name(other)}?", "yes" if true else "no"


KINDS = {"caption": caption, "detail": detail, "background": background, "naming": naming, "position": position,
         "where": where, "exists": exists, "count": count, "color": color, "category": category, "relation": relation}


def ask(rng, scene, shares):
    """Questions about a scene without end, by the shares, none twice."""
    kinds, p, seen = list(shares), np.array(list(shares.values())), set()
    p = p / p.sum()
    for _ in range(200):
        kind = kinds[rng.choice(len(kinds), p=p)]
        found = KINDS[kind](rng, scene)
        if found and found[0] not in seen:
            seen.add(found[0])
            yield (kind, *found)


# ---- without a picture

OPPOSITES = """hot cold, big small, up down, left right, day night, black white, fast slow, happy sad, old young, open closed,
in out, high low, light dark, wet dry, full empty, hard soft, long short, near far, rich poor, strong weak, early late,
good bad, true false, yes no, first last, clean dirty, loud quiet, thick thin, wide narrow, sweet sour, buy sell, push pull,
start stop, win lose, love hate, above below, inside outside, summer winter, north south, east west"""
COLOURED = """a banana yellow, a lemon yellow, a carrot orange, a frog green, a strawberry red, snow white, the sky blue, grass green,
coal black, blood red, milk white, chocolate brown, an elephant gray, a pig pink, the sun yellow, a cactus green"""
SOUNDS = "cat meow, dog woof, cow moo, pig oink, duck quack, lion roar, snake hiss, bee buzz, frog ribbit, horse neigh, owl hoot"
LEGS = """cat 4, dog 4, spider 8, bee 6, duck 2, snake 0, horse 4, octopus 8, cow 4, fish 0, penguin 2, elephant 4, fox 4, owl 2,
butterfly 6"""
CAPITALS = """France Paris, Italy Rome, Spain Madrid, Germany Berlin, Japan Tokyo, China Beijing, England London, Russia Moscow,
Egypt Cairo, Greece Athens, Canada Ottawa, Portugal Lisbon, Norway Oslo, Austria Vienna, Poland Warsaw, India New_Delhi"""
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
TALK = {
    "How many days are in a week?": "7", "How many months are in a year?": "12", "Hello": "Hello! Show me a picture.",
    "Hi": "Hello! Show me a picture.", "Who are you?": "I am a tiny owl that answers questions about pictures.",
    "What can you do?": "I can describe simple pictures and answer questions about them.",
    "What is your name?": "My name is Owl.", "Thank you": "You are welcome.", "Thanks": "You are welcome.",
    "Goodbye": "Goodbye!", "How are you?": "I am fine."}
NO_IMAGE = "There is no image."


def pairs(text):
    return [item.strip().rsplit(" ", 1) for item in text.replace("\n", " ").split(",")]


def facts():
    found = []
    for one, other in pairs(OPPOSITES):
        found += [(f"What is the opposite of {one}?", other), (f"What is the opposite of {other}?", one)]
    found += [(f"What color is {thing}?", colour) for thing, colour in pairs(COLOURED)]
    found += [(f"What sound does {a(animal)} make?", sound) for animal, sound in pairs(SOUNDS)]
    found += [(f"How many legs does {a(animal)} have?", legs) for animal, legs in pairs(LEGS)]
    found += [(f"What is the capital of {land}?", city.replace("_", " ")) for land, city in pairs(CAPITALS)]
    for names in (DAYS, MONTHS):
        for i, each in enumerate(names):
            found += [(f"What comes after {each}?", names[(i + 1) % len(names)]), (f"What comes before {each}?", names[i - 1])]
    return [("fact", *pair) for pair in found + list(TALK.items())]


def sums(held_out):
    """Sums of two digits; one in nine is never trained on."""
    return [("sum-heldout" if held_out else "sum", f"What is {i} plus {j}?", str(i + j))
            for i in range(10) for j in range(10) if ((j - i - 2) % 9 == 0) == held_out]


def kinds_of_things():
    found = []
    for thing in THINGS:
        article = "an" if thing[0] in "aeiou" else "a"
        found += [("is-a", f"Is {article} {thing} {a(group)}?", "yes" if thing in members else "no") for group, members in GROUPS.items()]
        found += [("what-is", f"What is {article} {thing}?", a(noun)) for noun, members in NOUNS.items() if thing in members]
    return found


TEXT = {"fact": facts(), "sum": sums(False), "kinds": kinds_of_things()}


def no_image(rng):
    """A question about a picture where there is none."""
    thing = f"{pick(rng, list(COLOURS))} {pick(rng, SHAPES)}" if rng.random() < .2 else pick(rng, list(THINGS))
    place = pick(rng, [LEFT, RIGHT, TOP, BOTTOM, MIDDLE] + [c[0] for c in CORNERS])
    group = pick(rng, list(GROUPS))
    asked = [pick(rng, CAPTIONS), pick(rng, DETAILS), pick(rng, BACKGROUNDS), pick(rng, NAMINGS), f"What is {place}?",
             f"What do you see {place}?", f"Which object is {place}?", f"Where {be(thing)} the {thing}?",
             f"{upper(be(thing))} there {a(thing)} in the image?", f"Do you see {a(thing)}?",
             f"How many {plural(thing.split()[-1])} {pick(rng, ['are in the image', 'do you see', 'are there'])}?",
             f"Which {group} do you see?", f"What {group} is in the image?"]
    return "noimage", pick(rng, asked), NO_IMAGE


def ask_text(rng):
    """Questions without a picture, without end."""
    while True:
        way = rng.random()
        if way < .35:
            yield no_image(rng)
        else:
            yield pick(rng, TEXT["fact" if way < .65 else "sum" if way < .8 else "kinds"])


def reworded(rng, question, answer):
    """Now and then as people write, or as the evaluations ask: without capitals and marks, or for a brief answer."""
    way = rng.random()
    if way < .05:
        return question.lower().rstrip("?.")
    if way < .13 and len(answer.split()) < 6:
        return question + BRIEF
    return question


# ---- the tokenizer


def train_tokenizer(path, packages):
    """A SentencePiece model of 1024 pieces with LLaMA's settings, from lines such as the training has."""
    import sentencepiece
    from scenes import STYLES, Sprites, compose
    rng, lines = np.random.default_rng(7), []
    sprites = Sprites(packages, STYLES)
    while len(lines) < 30000:
        for _, (_, question, answer) in zip(range(6), ask(rng, compose(rng, sprites), SHARES)):
            lines.append(f"USER: {reworded(rng, question, answer)} ASSISTANT: {answer}")
        _, question, answer = next(ask_text(rng))
        lines.append(f"USER: {question} ASSISTANT: {answer}")
    lines.append(" ".join(chr(c) for c in range(33, 127)))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=path.removesuffix(".model"), vocab_size=1024, model_type="bpe",
        byte_fallback=True, split_digits=True, normalization_rule_name="identity", add_dummy_prefix=True,
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        character_coverage=1.0)  # less would turn rare capitals and "!" into bytes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains the tokenizer.")
    parser.add_argument("--packages", required=True, help="directory of the unpacked npm packages")
    parser.add_argument("--tokenizer", required=True, help="file.model to write")
    options = parser.parse_args()
    train_tokenizer(options.tokenizer, options.packages)
