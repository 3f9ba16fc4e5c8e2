"""Questions about pictures as packed rows of tokens, and pictures as the model takes them.

B rows, L = LENGTH positions, N pictures, P patches.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import sentencepiece
import torch

import questions
from scenes import COLOURS, PATCHES, WORDS

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # CLIP's
LENGTH = 128  # positions of a row
BOS, EOS = 1, 2


def normalized(pictures):
    """[H, W, 3] uint8 each, to [N, 3, H, W] as the vision tower takes them."""
    pixels = torch.from_numpy(np.stack(pictures)).float() / 255
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


class Tokenizer:
    def __init__(self, path):
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.encode = lru_cache(None)(lambda text: self.pieces.encode(text))
        self.user = self.encode("USER:")
        self.space = self.encode("USER: ")[len(self.user):]  # what stands before a picture

    def turn(self, question, answer, space=False):
        """Ids of a question and its answer, and which of them the model has to say."""
        asked = self.encode(f"{question} ASSISTANT:{' ' if space else ''}")
        said = self.encode(answer) + [EOS]
        return asked + said, [0] * len(asked) + [1] * len(said)


@dataclass
class Batch:
    """Packed rows as tensors [B, L], L = LENGTH."""
    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor  # [B, 1, L, L], to be added to scores
    labels: torch.Tensor  # the next id where it belongs to an answer, else -100
    weights: torch.Tensor  # of the loss
    blocks: torch.Tensor  # 0 the prefix, 1.. the questions, -1 what fills the row up
    kinds: list  # of each row, its questions' kinds

    def tally(self, right):
        """{kind: [answers all of whose tokens are right, answers]}, where `right` says it of each labelled position."""
        row, column = (self.labels >= 0).nonzero(as_tuple=True)
        block = self.blocks[row, column]
        counts, wrong = {}, set(zip(row[~right].tolist(), block[~right].tolist()))
        for r, kinds in enumerate(self.kinds):
            for b, kind in enumerate(kinds, 1):
                add(counts, {kind: [(r, b) not in wrong, 1]})
        return counts


def add(counts, more):
    """Adds {kind: [right, asked]} to counts."""
    for kind, (right, asked) in more.items():
        held = counts.setdefault(kind, [0, 0])
        held[0] += right
        held[1] += asked


class Rows:
    """Rows that are packed: one prefix (with the picture) and several independent questions after it, each of which
    sees the prefix and itself, at the positions it would have alone."""

    def __init__(self, tokenizer, queries):
        self.tokenizer, self.queries = tokenizer, queries
        self.ids, self.positions, self.blocks, self.labels, self.weights, self.kinds = [], [], [], [], [], []

    def add(self, asked, image, rng=None):
        """A row with as many of the questions as fit. With `rng`, reworded now and then, or as a second turn."""
        t = self.tokenizer
        prefix = [BOS] + t.user + (t.space + [0] * (self.queries + 1) if image else [])
        ids, positions, blocks = list(prefix), list(range(len(prefix))), [0] * len(prefix)
        labels, weights, kinds = [-100] * len(prefix), [0.0] * len(prefix), []
        misses = 0
        while misses < 3:
            kind, question, answer = next(asked, (None, None, None))
            if kind is None:
                break
            if rng is None:
                turn, said = t.turn(question, answer)
            else:
                question = questions.reworded(rng, question, answer)
                turn, said = t.turn(question, answer, space=question.endswith(questions.BRIEF) and rng.random() < .5)
                if rng.random() < .12:
                    _, second, reply = next(asked, (None, question, answer))
                    more, also = t.turn(second, reply)
                    turn, said = turn + t.user + more, said + [0] * len(t.user) + also
            if len(ids) + len(turn) - 1 > LENGTH:
                misses += 1
                continue
            kinds.append(kind)
            # Every answer weighs between one and its number of tokens: captions are long, "yes" is short.
            weight = sum(said) ** -0.5
            ids += turn[:-1]
            positions += range(len(prefix), len(prefix) + len(turn) - 1)
            blocks += [len(kinds)] * (len(turn) - 1)
            labels += [token if say else -100 for token, say in zip(turn[1:], said[1:])]
            weights += [weight * say for say in said[1:]]
        pad = LENGTH - len(ids)
        self.ids.append(ids + [0] * pad)
        self.positions.append(positions + [0] * pad)
        self.blocks.append(blocks + [-1] * pad)
        self.labels.append(labels + [-100] * pad)
        self.weights.append(weights + [0.0] * pad)
        self.kinds.append(kinds)

    def batch(self):
        ids, positions, blocks, labels = (torch.tensor(x) for x in (self.ids, self.positions, self.blocks, self.labels))
        seen = (blocks[:, :, None] == blocks[:, None, :]) | (blocks[:, None, :] == 0)
        seen &= torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        mask = torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill_(~seen, -1e9)[:, None]
        return Batch(ids, positions, mask, labels, torch.tensor(self.weights), blocks, self.kinds)


def cover_labels(scene, group):
    """What fills each square of `group` patches a side: indices into WORDS (+ 1 for background) and COLOURS, row-major.
    -100 where an object covers only a little, and for the colour of a drawing."""
    n = PATCHES // group
    cover = np.stack([t.cover.reshape(n, group, n, group).mean((1, 3)) for t in scene.things]).reshape(len(scene.things), -1)
    first, most = cover.argmax(0), cover.max(0)
    shades = list(COLOURS)
    words = np.array([WORDS.index(t.word) for t in scene.things])[first]
    colours = np.array([shades.index(t.colour) if t.colour else -100 for t in scene.things])[first]
    words = np.where(most > .2, words, np.where(most < .04, len(WORDS), -100))
    colours = np.where(most > .2, colours, np.where(most < .04, shades.index(scene.background), -100))
    return words, colours
