#!/usr/bin/env python3
"""Copies a set of golden vectors of mPLUG-Owl2's relatives here, with a vocabulary of its own.

    python3 tests/golden-family/copy.py SOURCE_DIR

The vocabulary of the source is LLaMA's, which is not ours to ship. The copy has only the pieces that its
own prompts and words are made of, numbered anew, and the rows of embedding and output head that belong
to them; so all values stay but those of a softmax over the whole vocabulary, which are left out. The
checkpoint becomes one safetensors file. What other tests want (documents, attention, mPLUG-Owl2.1) is
left out. The manifest is reduced to match.
"""

import hashlib
import io
import json
import pickle
import shutil
import struct
import sys
import zipfile
from pathlib import Path

N_SPECIAL = 259  # <unk>, <s>, </s>, and a piece for each byte
VOCABULARY_TENSORS = ("model.embed_tokens.weight", "lm_head.weight")
DTYPES = {"BFloat16Storage": ("BF16", 2), "HalfStorage": ("F16", 2), "FloatStorage": ("F32", 4)}


# The vocabulary: SentencePiece's protocol buffer.

def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def fields(data):
    at = 0
    while at < len(data):
        start = at
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 5:
            value, at = data[at:at + 4], at + 4
        elif key & 7 == 1:
            value, at = data[at:at + 8], at + 8
        else:
            length, at = varint(data, at)
            value, at = data[at:at + length], at + length
        yield key >> 3, value, data[start:at]


def encoded(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def read_vocabulary(path):
    pieces, rest = [], b""
    for number, value, raw in fields(path.read_bytes()):
        if number != 1:
            # What follows the pieces are settings, of which the trainer's are not needed.
            rest += raw if number == 3 else b""
            continue
        piece = {number: value for number, value, _ in fields(value)}
        pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0], piece.get(3, 1)))
    return pieces, rest


def write_vocabulary(path, pieces, rest):
    out = b""
    for text, score, kind in pieces:
        text = text.encode()
        piece = b"\x0a" + encoded(len(text)) + text + b"\x15" + struct.pack("<f", score)
        piece += b"" if kind == 1 else b"\x18" + encoded(kind)
        out += b"\x0a" + encoded(len(piece)) + piece
    trainer = b"\x18\x02" + b"\x98\x02\x01"  # model_type BPE, byte_fallback
    path.write_bytes(out + b"\x12" + encoded(len(trainer)) + trainer + rest)


def merges(text, ids):
    """Pieces that byte-pair encoding goes through, the best pair first."""
    symbols, seen = list(text), set(text)
    while True:
        pairs = [(ids[a + b][1], -i) for i, (a, b) in enumerate(zip(symbols, symbols[1:])) if a + b in ids]
        if not pairs:
            return seen
        i = -max(pairs)[1]
        symbols[i:i + 2] = [symbols[i] + symbols[i + 1]]
        seen.add(symbols[i])


# Weights: torch's zip files and safetensors.

class Unpickler(pickle.Unpickler):
    def persistent_load(self, identity):
        _, storage, key, _, _ = identity
        return storage, key

    def find_class(self, module, name):
        if name == "_rebuild_tensor_v2":
            return lambda storage, offset, size, stride, *_: (storage, offset, size)
        if name == "OrderedDict":
            return dict
        return name


def read_torch(path):
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        root = name[:-len("data.pkl")]
        tensors = Unpickler(io.BytesIO(archive.read(name))).load()
        for key, ((kind, storage), offset, size) in tensors.items():
            dtype, width = DTYPES[kind]
            n = width
            for d in size:
                n *= d
            data = archive.read(f"{root}data/{storage}")[offset * width:offset * width + n]
            yield key, (dtype, list(size), data)


def read_safetensors(path):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + length])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        start, end = (8 + length + at for at in entry["data_offsets"])
        yield name, (entry["dtype"], entry["shape"], raw[start:end])


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def rows(tensor, kept, axis_len):
    """The rows of a matrix, or values of a vector, that belong to kept pieces."""
    dtype, shape, data = tensor
    width = len(data) // axis_len
    return dtype, [len(kept)] + shape[1:], b"".join(data[i * width:(i + 1) * width] for i in kept)


class Copy:
    def __init__(self, source, target):
        self.source, self.target = source, target
        self.manifest = json.loads((source / "manifest.json").read_text())
        self.base = self.manifest["checkpoints"]["onealign"]["dir"]
        self.pieces, self.rest = read_vocabulary(source / self.base / "tokenizer.model")
        self.prompts, self.words, self.ids = set(), set(), set()
        self.files = []

    def json(self, name):
        return json.loads((self.source / name).read_text())

    def collect(self, value):
        """Prompts, words and ids in vectors of scores."""
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "prompt":
                    self.prompts.add(inner)
                elif key.startswith("word_ids"):
                    self.words |= set(inner)
                    self.ids |= set(inner.values())
                elif key == "ids" and isinstance(inner, list):
                    self.ids |= {i for i in inner if i >= 0}
                else:
                    self.collect(inner)
        elif isinstance(value, list):
            for inner in value:
                self.collect(inner)

    def choose_pieces(self):
        ids = {text: (i, score) for i, (text, score, kind) in enumerate(self.pieces) if kind == 1}
        seen = set()
        for text in self.prompts:
            for part in text.split("<|image|>"):
                seen |= merges("\u2581" + part.replace(" ", "\u2581"), ids)
        for word in self.words:
            seen |= merges("\u2581" + word, ids)
        kept = set(range(N_SPECIAL)) | {ids[text][0] for text in seen if text in ids} | self.ids
        self.kept = sorted(kept)
        self.number = {old: new for new, old in enumerate(self.kept)}

    def renumbered(self, value, key=""):
        if isinstance(value, dict):
            return {k: self.renumbered(v, k) for k, v in value.items() if k != "probs_over_vocabulary"}
        if isinstance(value, list):
            if key == "ids":
                return [self.number.get(i, i) for i in value]
            return [self.renumbered(v, key) for v in value]
        return value

    def words_renumbered(self, value):
        if isinstance(value, dict):
            return {
                k: {w: self.number[i] for w, i in v.items()} if k.startswith("word_ids") else self.words_renumbered(v)
                for k, v in value.items()
            }
        return [self.words_renumbered(v) for v in value] if isinstance(value, list) else value

    def write_json(self, name, value):
        path = self.target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
        self.files.append(name)

    def copy(self, name):
        (self.target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.source / name, self.target / name)
        self.files.append(name)

    def checkpoints(self):
        entry = self.manifest["checkpoints"]["onealign"]
        tensors = {}
        for name in entry["files"]:
            path = f"{self.base}/{name}"
            if name.endswith(".bin"):
                tensors.update(read_torch(self.source / path))
            elif name == "config.json":
                # The key that stands twice has to stay so.
                text = (self.source / path).read_text()
                size = f'"vocab_size": {len(self.pieces)}'
                assert size in text
                (self.target / path).parent.mkdir(parents=True, exist_ok=True)
                (self.target / path).write_text(text.replace(size, f'"vocab_size": {len(self.kept)}'))
                self.files.append(path)
            elif name != "tokenizer.model" and not name.endswith("index.json"):
                self.copy(path)
        for name in VOCABULARY_TENSORS:
            tensors[name] = rows(tensors[name], self.kept, len(self.pieces))
        write_safetensors(self.target / self.base / "model.safetensors", tensors)
        write_vocabulary(self.target / self.base / "tokenizer.model",
                         [self.pieces[i] for i in self.kept], self.rest)
        self.files += [f"{self.base}/model.safetensors", f"{self.base}/tokenizer.model"]
        lora = self.manifest["checkpoints"]["deqa_lora"]
        for name in lora["files"]:
            path = f"{lora['dir']}/{name}"
            self.copy(path)
            if name == "config.json":
                text = (self.target / path).read_text()
                (self.target / path).write_text(
                    text.replace(f'"vocab_size": {len(self.pieces)}', f'"vocab_size": {len(self.kept)}'))

    def cases(self):
        for entry in self.manifest["checkpoints"].values():
            for case in entry["cases"].values():
                tensors = dict(read_safetensors(self.source / case["file"]))
                for name, (dtype, shape, data) in list(tensors.items()):
                    if shape == [len(self.pieces)]:
                        tensors[name] = rows((dtype, shape, data), self.kept, len(self.pieces))
                        case["tensors"][name] = [case["tensors"][name][0], [len(self.kept)]]
                    if name == "input_ids":
                        ids = struct.unpack(f"<{shape[0]}q", data)
                        ids = [self.number.get(i, i) for i in ids]
                        tensors[name] = dtype, shape, struct.pack(f"<{len(ids)}q", *ids)
                write_safetensors(self.target / case["file"], tensors)
                self.files.append(case["file"])

    def run(self):
        manifest = self.manifest
        scores = ["qalign", "deqa", "compare2score", "q_instruct", "co_instruct"]
        names = [manifest["score"][s] for s in scores]
        names = [n if isinstance(n, str) else n["file"] for n in names]
        names.append("tokenizer/prompts.json")
        values = {name: self.json(name) for name in names}
        for value in values.values():
            self.collect(value)
        for entry in manifest["checkpoints"].values():
            self.collect(entry)
        self.choose_pieces()
        for name, value in values.items():
            self.write_json(name, self.words_renumbered(self.renumbered(value)))
        self.checkpoints()
        self.cases()
        for name in manifest["files"]:
            if name.split("/")[0] in ("eval", "words", "images") or name in (
                    "images.json", "images_rgb.safetensors", "score/pixel_values.safetensors"):
                if "doc_" not in name:
                    self.copy(name)
        kept = ["about", "produced_with", "seed", "tolerances", "tensor_names", "aspect_modes", "checkpoints",
                "score", "words", "eval"]
        manifest = {key: manifest[key] for key in kept}
        for entry in manifest["checkpoints"].values():
            entry["files"] = [n for n in entry["files"] if not n.startswith("pytorch_model")]
        images = self.json("images.json")
        self.write_json("images.json", {k: v for k, v in images.items() if not k.startswith("doc_")})
        manifest["files"] = {
            name: [(self.target / name).stat().st_size,
                   hashlib.sha256((self.target / name).read_bytes()).hexdigest()]
            for name in sorted(set(self.files))
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (self.target / "manifest.json").write_text(text + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    Copy(Path(sys.argv[1]), Path(__file__).parent).run()
