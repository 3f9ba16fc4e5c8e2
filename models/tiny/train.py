"""Trains the tiny model: two warm-ups, the paper's two stages, then ratings, as one schedule counted in steps.

0   vision tower: each patch says what covers it and in what colour; stands in for CLIP's training
0b  abstractor: query i says what fills cell i of a 4 x 4 raster, in the words' own embeddings
i   captions
ii  joint tuning: every kind of question about pictures, and text alone
iii vision tower: how strong each distortion of a picture is, while it sees others as before; in three parts
iv  all of ii, and ratings of distorted pictures
v   the same, while the rate falls to nothing

Every step draws its data from a generator seeded with (seed, step), and everything else that changes is in the
checkpoint, so a run that is stopped and started again continues as if it had not been.

    python train.py --packages DIR --tokenizer tokenizer.model --run DIR [--no-modality-adaptive]
    python train.py ... --from owl2-tiny      # stages iii to v alone, on what the stages before it made
    python train.py ... --evaluate 400
"""

import argparse
import copy
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

import questions
import ratings
from distort import SEEN, level
from evalset import ONE
from model import Owl2, load, tiny_config
from rows import Rows, Tokenizer, add, cover_labels, normalized
from scenes import COLOURS, PATCHES, STYLES, UNSEEN, WORDS, Sprites, compose

CELLS = 4  # cells a side of the raster that the queries stand for

# name, steps, pictures and rows of text in a step, peak rate
STAGES = [("0", 2500, 32, 0, 3e-3), ("0b", 600, 32, 0, 2e-3), ("i", 400, 32, 4, 2e-3), ("ii", 3400, 32, 5, 2e-3),
          ("iii", 1350, 12, 0, 1.5e-3), ("iiib", 1200, 10, 0, 1.5e-3), ("iiic", 750, 10, 0, 5e-4), ("iv", 400, 8, 2, 8e-4),
          ("v", 720, 8, 2, 7e-4)]
RATINGS_FROM = sum(stage[1] for stage in STAGES[:4])  # the first step of stage iii
DISTORTED = {"iii": 80, "iiib": 44, "iiic": 44, "iv": 44, "v": 44}  # distorted pictures in a step of a stage, besides the others
KEPT = 24  # patches of a distorted picture that stage iii looks at
SAME = 10  # what it weighs from stage iii on that undistorted pictures look as before
FORMER = 3  # what the loss of the former questions weighs beside that of ratings
# From stage iii on, as shares of the others' rate: the decoder's, and that of the patches' embedding.
DECODER, DETAIL = 0.3, 6

FINDING = 1000  # steps of stage ii in which the questions that start from an object come first


def stage_of(step):
    """The stage of a step, and the steps before and in it."""
    start = 0
    for stage in STAGES:
        if step < start + stage[1]:
            break
        start += stage[1]
    return stage, step - start


def rate(step):
    """The learning rate: a short rise in each stage but v; in ii it falls to nothing from a quarter of its length on, in v
    from its first step."""
    (name, steps, _, _, peak), done = stage_of(step)
    rise = min(1, (done + 1) / 40) if name != "v" else 1
    fall = {"ii": 0.75 * steps, "v": steps}.get(name)
    fall = min(1, (steps - done) / fall) if fall else 1
    return peak * rise * fall


class Helpers(nn.Module):
    """Linear heads of the warm-ups, which are not part of the model and are not exported."""

    def __init__(self, width, queries):
        super().__init__()
        self.patch_word = nn.Linear(width, len(WORDS) + 1)
        self.patch_colour = nn.Linear(width, len(COLOURS))
        self.cell_patches = nn.Linear(width, 4 * (len(WORDS) + 1))
        self.cell_place = nn.Linear(width, queries)
        self.strengths = nn.Linear(width, len(SEEN) + 1)

    @staticmethod
    def loss(logits, labels):
        """Cross-entropy in which background weighs a tenth, for it is most of a picture."""
        weight = torch.ones(logits.shape[-1])
        if logits.shape[-1] == len(WORDS) + 1:
            weight[-1] = 0.1
        return F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), weight)

    def vision(self, tokens, patch_words, patch_colours):
        """Vision output [N, T, C], labels [N, P]: the loss and the share of object patches that are right."""
        words = self.patch_word(tokens[:, 1:])
        right = (words.argmax(-1) == patch_words)[(patch_words >= 0) & (patch_words < len(WORDS))]
        colours = self.patch_colour(tokens[:, 1:])
        return self.loss(words, patch_words) + 0.3 * self.loss(colours, patch_colours), right.float().mean()

    def distortions(self, tokens, strengths):
        """Vision output [N, T, C], strengths [N, kinds + 1]: the loss of the strength of each kind and of all together, told
        from the mean patch."""
        logits = self.strengths(tokens[:, 1:].mean(1))
        return F.binary_cross_entropy_with_logits(logits.float(), strengths, reduction="sum") / len(strengths)

    def abstractor(self, tokens, words, colours, patch_words, word_rows, colour_rows):
        """Picture rows [N, Q, D]: each says its cell's object and colour by its product with the words' own
        embeddings, so that a word in a question and a place in the picture can find each other at once; and the
        four patches of the cell, and which cell it is, by heads that are dropped."""
        n, q, _ = tokens.shape
        logits = tokens @ word_rows.T
        right = (logits.argmax(-1) == words)[(words >= 0) & (words < len(WORDS))]
        loss = self.loss(logits, words) + 0.3 * self.loss(tokens @ colour_rows.T, colours)
        half = PATCHES // 2
        fine = patch_words.view(n, half, 2, half, 2).transpose(2, 3).reshape(n, q, 4)
        loss = loss + self.loss(self.cell_patches(tokens).unflatten(-1, (4, -1)), fine)
        cells = torch.arange(q).expand(n, q)
        return loss + 0.3 * self.loss(self.cell_place(tokens), cells), right.float().mean()


# ---- the optimizer


class Muon(torch.optim.Optimizer):
    """Orthogonalized momentum for the matrices of the blocks, AdamW for everything else, at shares of one rate.

    A step of size rate * 0.2 * sqrt(longer side) has about the size of AdamW's. Matrices of one shape are
    orthogonalized together."""

    def __init__(self, groups, dtype=torch.bfloat16):
        """`groups`: of parameters, whether they are such matrices, and their share of the rate."""
        self.dtype = dtype
        super().__init__([{"params": list(p), "muon": muon, "share": share} for p, muon, share in groups if len(p)], {"lr": 0.0})

    def orthogonal(self, g):
        """[n, r, c] to about U V^T of each, by five Newton-Schulz steps."""
        x = g.to(self.dtype)
        tall = x.shape[-2] > x.shape[-1]
        x = x.mT if tall else x
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):
            a = x @ x.mT
            b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
            x = torch.baddbmm(x, b, x, beta=3.4445)
        return x.mT if tall else x

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            (self.step_matrices if group["muon"] else self.step_others)(params, group["lr"])

    def step_matrices(self, params, lr):
        shapes = {}
        for p in params:
            shapes.setdefault(p.flatten(1).shape, []).append(p)
        for shape, params in shapes.items():
            grads = torch.stack([p.grad for p in params])
            for p, g in zip(params, grads):
                held = self.state[p].setdefault("momentum", torch.zeros_like(p))
                held.mul_(0.95).add_(g)
                g.add_(held, alpha=0.95)
            size = lr * 0.2 * max(shape) ** 0.5
            for p, update in zip(params, self.orthogonal(grads.flatten(2))):
                p.mul_(1 - 0.05 * lr).add_(update.float().view_as(p), alpha=-size)

    def step_others(self, params, lr):
        for p in params:
            state = self.state[p]
            if not state:
                state.update(steps=torch.zeros(()), first=torch.zeros_like(p), second=torch.zeros_like(p))
            state["steps"] += 1
            state["first"].lerp_(p.grad, 0.1)
            state["second"].lerp_(p.grad * p.grad, 0.02)
            n = float(state["steps"])
            scale = (state["second"] / (1 - 0.98 ** n)).sqrt_().add_(1e-8)
            p.addcdiv_(state["first"], scale, value=-lr / (1 - 0.9 ** n))


# ---- training


class Steps(Dataset):
    """The data of each step of a training, which a process beside it makes."""

    def __init__(self, trainer, sprites):
        self.trainer, self.sprites = trainer, sprites

    def __getitem__(self, step):
        return self.trainer.data(step, self.sprites)


class Trainer:
    def __init__(self, options):
        torch.manual_seed(options.seed)
        torch.set_num_threads(options.threads)
        self.options, self.run = options, Path(options.run)
        self.tokenizer = Tokenizer(options.tokenizer)
        config = tiny_config(options.layers, CELLS * CELLS, not options.no_modality_adaptive)
        self.model = Owl2(config)
        self.queries = CELLS * CELLS
        self.initialize()
        self.helpers = Helpers(config["hidden_size"], self.queries)
        # Unpacking insists on it: each of these words is one piece.
        self.word_ids = torch.tensor([i for [i] in map(self.tokenizer.encode, WORDS + ["background"])])
        self.colour_ids = torch.tensor([i for [i] in map(self.tokenizer.encode, COLOURS)])
        self.step, self.log = 0, []
        self.begin_optimizer()
        self.prompts = ratings.Prompts(self.tokenizer)
        self.former = None  # the vision tower as it was before stage iii

    def initialize(self):
        """Normal weights, narrower the deeper the residual stream is that they write into."""
        writers = {"dense": 4, "fc2": 4, "o_proj": self.options.layers, "down_proj": self.options.layers}
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Linear):
                depth = writers.get(name.split(".")[-1])
                nn.init.normal_(module.weight, std=0.04 / math.sqrt(2 * depth) if depth else 0.04)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.model.model.embed_tokens.weight, std=0.05)

    def begin_optimizer(self):
        """A new optimizer. From stage iii on the decoder, which has little to learn, is slower, and without Muon, which would
        take as long again for it; and the patches' embedding goes by Muon too, and faster: distortions are in fine detail, where
        its weights and gradients are small."""
        rating = self.step >= RATINGS_FROM
        matrices, others, slower, detail = [], list(self.helpers.parameters()), [], []
        for name, p in self.model.named_parameters():
            if rating and "model.vi" not in name:
                slower.append(p)
            elif rating and "patch_embed" in name:
                detail.append(p)
            else:
                (matrices if p.dim() == 2 and (".layers." in name or "visual_fc" in name) else others).append(p)
        groups = [(matrices, True, 1.0), (others, False, 1.0), (slower, False, DECODER), (detail, True, DETAIL)]
        self.optimizer = Muon(groups, torch.float32 if self.options.float32 else torch.bfloat16)

    def start_from(self, directory):
        """Begins stage iii with the weights of a checkpoint in the published layout."""
        self.model.load_state_dict(load(directory).state_dict())
        self.step = RATINGS_FROM

    def begin_ratings(self):
        """A new optimizer, and the vision tower as it is kept, for it is to see undistorted pictures so."""
        self.begin_optimizer()
        self.former = copy.deepcopy(self.model.model.vision_model).requires_grad_(False)

    def save(self):
        kept = {"step": self.step, "log": self.log, "model": self.model.state_dict(), "helpers": self.helpers.state_dict(),
                "optimizer": self.optimizer.state_dict(), "layers": self.options.layers,
                "former": self.former and self.former.state_dict(), "multiway": not self.options.no_modality_adaptive}
        self.run.mkdir(parents=True, exist_ok=True)
        part = self.run / "checkpoint.pt.part"
        torch.save(kept, part)
        part.rename(self.run / "checkpoint.pt")  # so that a kill leaves the old one or the new one

    def resume(self):
        kept = torch.load(self.run / "checkpoint.pt")
        self.model.load_state_dict(kept["model"])
        self.helpers.load_state_dict(kept["helpers"])
        self.step, self.log = kept["step"], kept["log"]
        if self.step > RATINGS_FROM:
            self.begin_ratings()
            self.former.load_state_dict(kept["former"])
        else:
            self.begin_optimizer()
        if self.step != RATINGS_FROM:  # there the state is stage ii's
            self.optimizer.load_state_dict(kept["optimizer"])

    def pictures(self, rng, sprites, count):
        """Scenes, their pixels [N, 3, H, W], and the labels of patches and cells (words and colours)."""
        scenes = [compose(rng, sprites) for _ in range(count)]
        pixels = normalized([s.pixels for s in scenes])
        labels = [cover_labels(s, 1) + cover_labels(s, PATCHES // CELLS) for s in scenes]
        return scenes, pixels, [torch.from_numpy(np.stack(x)) for x in zip(*labels)]

    def hidden(self, batch, seen):
        """A batch, the first len(seen) of whose rows have a picture, and these [N, Q + 1, D], to [B, L, D]."""
        model, n = self.model.model, len(seen)
        x = model.embed_tokens(batch.ids)
        start = 1 + len(self.tokenizer.user) + len(self.tokenizer.space)
        stop = start + self.queries + 1
        modality = torch.zeros(batch.ids.shape, dtype=torch.bool)
        if n:
            with_pictures = torch.cat([x[:n, :start], seen.float(), x[:n, stop:]], 1)
            x = torch.cat([with_pictures, x[n:]])
            modality[:n, start:stop] = True
        return self.model.decode(x, batch.positions, batch.mask, modality)

    def data(self, step, sprites):
        """What a step is trained on."""
        (name, _, count, texts, _), done = stage_of(step)
        rng = np.random.default_rng([self.options.seed, step])
        scenes, pixels, labels = self.pictures(rng, sprites, count)
        made = {"stage": name, "pixels": pixels, "labels": labels}
        if name in DISTORTED:
            made["distorted"], made["strengths"] = ratings.training_pictures(rng, sprites, DISTORTED[name])
        if name == "iii":
            made["kept"] = torch.from_numpy(rng.random((DISTORTED[name], PATCHES ** 2)).argsort(1)[:, :KEPT] + 1)
        elif name in ("iv", "v"):
            # Of each answer the level's first piece matters; the rest is soon known.
            levels = [level(strength) for strength in made["strengths"][:, -1].tolist()]
            made["rated"] = ratings.Rated(self.prompts, self.prompts.draw(rng), levels, self.queries, whole=rng.random() < .25)
        if texts:
            early = questions.CAPTION_SHARES if name == "i" else questions.SHARES if name == "ii" and done < FINDING else None
            shares = early or questions.LATER_SHARES
            rows = Rows(self.tokenizer, self.queries)
            for scene in scenes:
                rows.add(questions.ask(rng, scene, shares), True, rng)
            for _ in range(texts):
                rows.add(questions.ask_text(rng), False, rng)
            made["asked"] = rows.batch()
        return made

    def losses(self, made):
        """The loss of a step on its data, and what to log of it."""
        name, model, helpers = made["stage"], self.model.model, self.helpers
        if name in ("iii", "iiib", "iiic"):
            return self.losses_of_sight(made)
        if name in DISTORTED:
            return self.losses_with_ratings(made)
        patch_words, patch_colours, words, colours = made["labels"]
        encoded = model.vision_model(made["pixels"])
        loss, right = helpers.vision(encoded, patch_words, patch_colours)
        logged = {"loss": loss.item(), "patches": float(right)}
        if name == "0":
            return loss, logged
        seen = model.visual_abstractor(encoded)
        table = model.embed_tokens.weight
        cell_loss, right = helpers.abstractor(seen[:, :-1], words, colours, patch_words, table[self.word_ids], table[self.colour_ids])
        loss = loss + cell_loss
        logged |= {"loss": loss.item(), "cells": float(right)}
        if name == "0b":
            return loss, logged
        spoken, more = self.spoken(made["asked"], seen)
        # The warm-ups' losses stay on as a small part: they keep drawings and words together.
        return spoken + 0.1 * loss, logged | more

    def spoken(self, batch, seen):
        """The loss of the answers in a batch of rows, the first of which are about the pictures `seen` [N, Q + 1, D]; and
        what to log of it."""
        if self.options.float32:
            batch.mask = batch.mask.float()
        said = batch.labels >= 0
        labels, weights = batch.labels[said], batch.weights[said]
        logits = self.model.lm_head(self.hidden(batch, seen)[said]).float()
        spoken = (F.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
        right = logits.argmax(-1) == labels
        return spoken, {"loss": spoken.item(), "tokens": float(right.float().mean()), "answers": batch.tally(right)}

    def losses_of_sight(self, made):
        """Stages iii to iiic: the vision tower alone, on distorted pictures (in iii on some of their patches) and others."""
        vision = self.model.model.vision_model
        of_kinds = self.helpers.distortions(vision(made["distorted"], made.get("kept")), made["strengths"])
        changed = self.changed(vision(made["pixels"]), made["pixels"])
        return of_kinds + SAME * changed, {"loss": of_kinds.item(), "kinds": of_kinds.item(), "changed": changed.item()}

    def changed(self, encoded, pixels):
        """The mean square of what the vision output of undistorted pictures has changed by since stage ii."""
        with torch.no_grad():
            former = self.former(pixels)
        return F.mse_loss(encoded.float(), former.float())

    def losses_with_ratings(self, made):
        """Stages iv and v: undistorted scenes with every kind of question, text, and distorted scenes with ratings."""
        count = len(made["pixels"])
        encoded = self.model.model.vision_model(torch.cat([made["pixels"], made["distorted"]]))
        seen = self.model.model.visual_abstractor(encoded)
        loss, logged = self.spoken(made["asked"], seen[:count])
        of_ratings, more = ratings.loss(self.model, self.prompts, made["rated"], seen[count:], made["strengths"][:, -1])
        of_kinds = self.helpers.distortions(encoded[count:], made["strengths"])
        changed = self.changed(encoded[:count], made["pixels"])
        logged |= more | {"kinds": of_kinds.item(), "changed": changed.item()}
        return FORMER * loss + of_ratings + of_kinds + SAME * changed, logged

    def train(self):
        sprites = Sprites(self.options.packages, STYLES)
        total = sum(stage[1] for stage in STAGES)
        stop = min(total, self.options.stop or total)
        parameters = list(self.model.parameters()) + list(self.helpers.parameters())
        # The data of the next steps are made beside, in a process that gives way to this one.
        steps = DataLoader(Steps(self, sprites), batch_size=None, sampler=range(self.step, stop), collate_fn=lambda made: made,
                           num_workers=1, prefetch_factor=8, worker_init_fn=lambda _: os.nice(19))
        began, recent = time.process_time(), []
        for made in steps:
            (name, _, _, _, _), done = stage_of(self.step)
            if name == "i" and done == 0:
                # The words' embeddings now mean what the picture rows say: so may the words that are spoken.
                self.model.lm_head.weight.data.copy_(self.model.model.embed_tokens.weight.data)
            if self.step == RATINGS_FROM:
                self.begin_ratings()
            for group in self.optimizer.param_groups:
                group["lr"] = rate(self.step) * group["share"]
            with torch.autocast("cpu", torch.bfloat16, enabled=not self.options.float32):
                loss, logged = self.losses(made)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            recent.append(logged)
            self.step += 1
            if self.step % 20 == 0:
                self.log.append({"step": self.step, "stage": name, "seconds": (time.process_time() - began) / len(recent), **mean(recent)})
                print(line(self.log[-1]), flush=True)
                began, recent = time.process_time(), []
            if self.step % 50 == 0 or self.step == stop:
                self.save()
                draw(self.log, self.run / "loss.png")

    @torch.no_grad()
    def evaluate(self, sprites, scenes, seed, shares=None, **scene):
        """Share of answers that are right to the letter, by kind, on new scenes: {kind: [right, asked]}.

        An answer is what greedy decoding would give exactly if each of its tokens is the likeliest after the ones
        before; so one pass over the right answers tells. The drawings are as they are, not distorted as for training."""
        rng, counts = np.random.default_rng(seed), {}
        for start in range(0, scenes, 40):
            rows, pictures = Rows(self.tokenizer, self.queries), []
            for _ in range(min(40, scenes - start)):
                made = compose(rng, sprites, distort=False, **scene)
                rows.add(questions.ask(rng, made, shares or questions.SHARES), True)
                pictures.append(made.pixels)
            self.count(rows, self.model.encode(normalized(pictures)), counts)
        return counts

    @torch.no_grad()
    def evaluate_text(self):
        asked = [q for group in questions.TEXT.values() for q in group] + questions.sums(True)
        rng = np.random.default_rng(0)
        asked += [questions.no_image(rng) for _ in range(200)]
        rows, counts = Rows(self.tokenizer, self.queries), {}
        for start in range(0, len(asked), 5):  # five always fit
            rows.add(iter(asked[start:start + 5]), False)
        self.count(rows, torch.zeros(0, self.queries + 1, self.model.config["hidden_size"]), counts)
        return counts

    def count(self, rows, seen, counts):
        batch = rows.batch()
        batch.mask = batch.mask.float()  # measured in float32
        said = batch.labels >= 0
        right = self.model.lm_head(self.hidden(batch, seen)[said]).argmax(-1) == batch.labels[said]
        add(counts, batch.tally(right))


def mean(logged):
    """The mean of what the last steps logged; answers are added up."""
    found = {k: float(np.mean([entry[k] for entry in logged])) for k in logged[-1] if k != "answers"}
    if "answers" in logged[-1]:
        found["answers"] = {}
        for entry in logged:
            add(found["answers"], entry.get("answers", {}))
    return found


def line(entry):
    numbers = " ".join(f"{k} {entry[k]:.3f}" for k in ("loss", "patches", "cells", "tokens", "kinds", "changed", "level", "levels", "seconds") if k in entry)
    answers = " ".join(f"{k} {good / asked:.2f}" for k, (good, asked) in sorted(entry.get("answers", {}).items()))
    return f"{entry['stage']} step {entry['step']} {numbers} {answers}"


def draw(log, path):
    """The loss curve, one colour for each stage; from iii on that of the strengths of distortions."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(8, 4))
    for name, *_ in STAGES:
        entries, key = [e for e in log if e["stage"] == name], "kinds" if name in DISTORTED else "loss"
        if entries:
            axes.plot([e["step"] for e in entries], [e[key] for e in entries], label=f"stage {name}")
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def table(title, counts):
    rows = [f"{title}", *(f"  {kind:12} {good / asked:.3f} ({asked})" for kind, (good, asked) in sorted(counts.items()))]
    good, asked = (sum(c[i] for c in counts.values()) for i in (0, 1))
    return "\n".join(rows + [f"  {'all':12} {good / asked:.3f} ({asked})"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", required=True, help="directory of the unpacked npm packages")
    parser.add_argument("--tokenizer", required=True, help="the tokenizer.model")
    parser.add_argument("--run", required=True, help="directory of the checkpoint, the log and the curve")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=4, help="decoder layers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--from", dest="start", metavar="DIR", help="begin stage iii with the weights of this checkpoint")
    parser.add_argument("--float32", action="store_true", help="no bfloat16, which is slow where the processor has no instructions for it")
    parser.add_argument("--stop", type=int, help="stop after this step of the schedule")
    parser.add_argument("--no-modality-adaptive", action="store_true", help="the control: pictures and text share K, V and norms")
    parser.add_argument("--evaluate", type=int, metavar="SCENES", help="measure the checkpoint on new scenes instead of training")
    options = parser.parse_args()
    trainer = Trainer(options)
    if (trainer.run / "checkpoint.pt").exists():
        trainer.resume()
    elif options.start:
        trainer.start_from(options.start)
    if not options.evaluate:
        return trainer.train()
    # The seed lies apart from the training's: its generators have two numbers in their seed.
    sprites, unseen = Sprites(options.packages, STYLES), Sprites(options.packages, UNSEEN)
    print(f"step {trainer.step}")
    print(table("new scenes", trainer.evaluate(sprites, options.evaluate, 10**6)))
    print(table("one object", trainer.evaluate(sprites, options.evaluate, 10**6 + 1, ONE, count=1)))
    print(table("one object, unseen style", trainer.evaluate(unseen, options.evaluate, 10**6 + 2, ONE, count=1)))
    print(table("new scenes, unseen style", trainer.evaluate(unseen, options.evaluate, 10**6 + 3)))
    print(table("text", trainer.evaluate_text()))
    print("rank correlation of scores and strengths")
    for kind, found in ratings.evaluate(trainer.model, trainer.tokenizer, trainer.queries, sprites, 60, 10**6 + 4).items():
        print(f"  {kind:16} {found:.3f}")


if __name__ == "__main__":
    main()
