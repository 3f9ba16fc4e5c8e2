"""Ratings as Q-Align trains and reads them: a fixed question about a picture, and a level at the end of a fixed sentence.

N pictures, Q queries, L positions, V vocabulary.
"""

import numpy as np
import torch
import torch.nn.functional as F

import distort
from rows import BOS, EOS, normalized

# The prompts of `owl2 score` for the rule q-align, word for word, as the parts before and after the picture: those of the
# published model, of its authors' scripts for quality and for aesthetics, and of questions that users type themselves.
# The last asks as all other questions are asked. How often each is trained on stands beside it.
FORMS = {
    "hub": (.7, "USER: How would you rate the {task} of this image?\n", "\nASSISTANT: The {task} of the image is"),
    "scripts": (.1, "USER: How would you rate the {task} of this image?\n", " ASSISTANT: The {task} of the image is"),
    "before": (.2, "USER: ", "How would you rate the {task} of this image? ASSISTANT: The {task} of the image is")}
# Of drawn scenes nobody has said how beautiful they are: aesthetics is trained to be the same as quality.
TASKS = {"quality": .7, "aesthetics": .2, "aesthetic": .1}


class Prompts:
    """Ids of the prompts and of the answers."""

    def __init__(self, tokenizer):
        self.encode = tokenizer.encode
        self.levels = [self.encode(level) for level in distort.LEVELS]
        # A score looks at the first piece of each level alone.
        self.first = torch.tensor([ids[0] for ids in self.levels])
        if len(set(self.first.tolist())) < len(self.levels):
            raise ValueError("two levels begin with the same piece")

    def parts(self, form, task):
        """Ids before and after the picture, and how many of the latter are the answer's beginning."""
        _, before, after = FORMS[form]
        begun = len(self.encode(f"The {task} of the image is"))
        return [BOS] + self.encode(before.format(task=task)), self.encode(after.format(task=task)), begun

    def draw(self, rng):
        form = list(FORMS)[rng.choice(len(FORMS), p=[share for share, *_ in FORMS.values()])]
        return self.parts(form, list(TASKS)[rng.choice(len(TASKS), p=list(TASKS.values()))])


class Rated:
    """N pictures after one prompt: packed rows of TOGETHER pictures each, in which the part of the prompt before the picture
    stands once, and each picture with what follows it (a block) sees that part and itself."""

    TOGETHER = 4

    def __init__(self, prompts, parts, levels, queries, whole=True):
        """`parts`: of the prompt; `levels`: the level of each picture, or None to end at the prompt. Not `whole`: the
        answer is the level's first piece."""
        self.before, after, begun = parts
        answers = [[] if level is None else prompts.encode(f"{level}.") + [EOS] for level in levels]
        answers = answers if whole else [answer[:1] for answer in answers]
        # The last id of an answer is only said, never read.
        block = queries + 1 + len(after) + max(0, max(map(len, answers)) - 1)
        self.ids = torch.zeros(len(levels), block, dtype=torch.long)
        self.labels = torch.full((len(levels), block), -100)
        self.said = queries + len(after)  # the position in a block after which the level comes
        self.ids[:, queries + 1:self.said + 1] = torch.tensor(after)
        self.labels[:, self.said - begun:self.said] = torch.tensor(after[-begun:])
        for row, answer in enumerate(answers):
            self.ids[row, self.said + 1:self.said + len(answer)] = torch.tensor(answer[:-1], dtype=torch.long)
            self.labels[row, self.said:self.said + len(answer)] = torch.tensor(answer, dtype=torch.long)

    def hidden(self, owl, seen):
        """Pictures' rows [N, Q + 1, D] to the normed hidden states [N, L, D] of their blocks of L positions."""
        n, block = self.ids.shape
        together, start = min(self.TOGETHER, n), len(self.before)
        fill = -n % together
        x = owl.model.embed_tokens(self.ids)
        x = torch.cat([seen.to(x), x[:, seen.shape[1]:]], 1)
        x = torch.cat([x, x[:fill]]).view(-1, together * block, x.shape[-1])
        x = torch.cat([owl.model.embed_tokens(torch.tensor(self.before)).expand(len(x), -1, -1), x], 1)
        blocks = torch.cat([torch.zeros(start, dtype=torch.long), torch.arange(1, together + 1).repeat_interleave(block)])
        positions = torch.cat([torch.arange(start), start + torch.arange(block).repeat(together)])
        sees = (blocks[:, None] == blocks) | (blocks == 0)
        sees &= torch.ones(sees.shape, dtype=torch.bool).tril()
        mask = torch.zeros(sees.shape, dtype=x.dtype).masked_fill_(~sees, -1e9)[None, None]
        pictures = (blocks > 0) & (positions < start + seen.shape[1])
        hidden = owl.decode(x, positions.expand(x.shape[:2]), mask, pictures.expand(x.shape[:2]))
        return hidden[:, start:].reshape(n + fill, block, -1)[:n]


def loss(owl, prompts, rows, seen, strengths):
    """The loss of the level's first piece, which the two levels next to the score share, and a fifth of that of all else that
    is said; and the first alone, with the share of levels that are right."""
    hidden = rows.hidden(owl, seen)
    logits = owl.lm_head(hidden[:, rows.said]).float()
    of_level = -(distort.shares(strengths) * logits.log_softmax(-1)[:, prompts.first]).sum(-1).mean()
    right = (logits.argmax(-1) == rows.labels[:, rows.said]).float().mean()
    others = rows.labels.clone()
    others[:, rows.said] = -100
    rest = others >= 0
    of_rest = F.cross_entropy(owl.lm_head(hidden[rest]).float(), others[rest])
    return of_level + .2 * of_rest, {"level": of_level.item(), "levels": float(right)}


VERSIONS = 4  # of a scene in training


def training_pictures(rng, sprites, count):
    """Distorted scenes [N, 3, H, W], VERSIONS of each scene, and the strength in them of each kind and of all together
    [N, len(distort.SEEN) + 1]."""
    pictures, strengths = [], np.zeros((count, len(distort.SEEN) + 1), np.float32)
    for start in range(0, count, VERSIONS):
        drawn = [distort.draw(rng) for _ in range(VERSIONS)]
        made = [distort.parts(rng, *each) for each in drawn]
        scene = distort.scene(rng, sprites, any("banding" in each for each in made), distort=rng.random() < .5)
        for row, (_, strength), each in zip(strengths[start:], drawn, made):
            pictures.append(distort.distorted(rng, scene, each))
            row[[list(distort.SEEN).index(name) for name in each]] = list(each.values())
            row[-1] = strength
    return normalized(pictures), torch.from_numpy(strengths)


@torch.no_grad()
def scores(owl, prompts, queries, pictures, form="hub", task="quality"):
    """Scores from 1 to 5 of pictures [H, W, 3] uint8, as `owl2 score` gives them."""
    found = []
    for start in range(0, len(pictures), 40):
        some = pictures[start:start + 40]
        rows = Rated(prompts, prompts.parts(form, task), [None] * len(some), queries)
        hidden = rows.hidden(owl, owl.encode(normalized(some)))[:, rows.said]
        shares = owl.lm_head(hidden)[:, prompts.first].softmax(-1)
        found.append(shares @ torch.arange(5.0, 0.0, -1.0))
    return torch.cat(found).numpy()


def rank_correlation(a, b):
    """Spearman's, of values without ties (strengths and scores are drawn and computed numbers)."""
    a, b = (np.argsort(np.argsort(x)) for x in (a, b))
    return float(np.corrcoef(a, b)[0, 1])


def evaluate(owl, tokenizer, queries, sprites, each, seed, **how):
    """{kind: rank correlation of the scores with minus the strengths, on `each` new scenes}, and the mean of clean ones."""
    prompts, found = Prompts(tokenizer), {}
    for index, kind in enumerate([*distort.KINDS, distort.TWO]):
        rng = np.random.default_rng([seed, index])
        strengths = rng.random(each)
        pictures = [distort.rated(rng, sprites, distort.parts(rng, kind, s)) for s in strengths]
        found[kind] = rank_correlation(-strengths, scores(owl, prompts, queries, pictures, **how))
    rng = np.random.default_rng([seed, 99])
    clean = [distort.rated(rng, sprites, {}) for _ in range(each)]
    found["clean, mean score"] = float(scores(owl, prompts, queries, clean, **how).mean())
    return found
