"""Writes a training checkpoint in the layout of the published model: float16 safetensors, configurations, tokenizer.

    python export.py --run DIR --tokenizer tokenizer.model --out DIR
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from model import load, tiny_config
from rows import LENGTH, MEAN, STD
from train import CELLS


def published(state):
    """The published names and float16; without the position tables, which the published files do not have either.
    The control's shared weights are written twice, so that it is an mPLUG-Owl2 like any other."""
    tensors = {}
    for name, tensor in state.items():
        if name.endswith("_pos_embed"):
            continue
        tensor = tensor.half()
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} does not fit into float16")
        tensors[name] = tensor.contiguous()
        twin = re.sub(r"\.multiway\.0\.", ".multiway.1.", name)
        if twin not in state:
            tensors[twin] = tensor.clone()
    return tensors


def write(directory, name, content):
    (directory / name).write_text(json.dumps(content, indent=2) + "\n")


def export(checkpoint, tokenizer, out):
    kept = torch.load(checkpoint)
    config = tiny_config(kept["layers"], CELLS * CELLS)
    del config["multiway"]
    out.mkdir(parents=True, exist_ok=True)
    save_file(published(kept["model"]), out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # it is written for its owner alone
    write(out, "config.json", config)
    write(out, "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": False,
                                          "max_new_tokens": LENGTH - 32, "transformers_version": "4.31.0"})
    size = config["visual_config"]["visual_model"]["image_size"]
    write(out, "preprocessor_config.json", {
        "crop_size": size, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_processor_type": "CLIPImageProcessor",
        "image_mean": MEAN, "image_std": STD, "resample": 3, "size": size})
    write(out, "special_tokens_map.json", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"})
    # legacy: a turn after the first begins with its own dummy prefix, as the training's second turns do
    write(out, "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": None, "clean_up_tokenization_spaces": False, "legacy": True, "model_max_length": config["max_position_embeddings"],
        "padding_side": "right", "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer"})
    shutil.copyfile(tokenizer, out / "tokenizer.model")
    load(out)  # what was written is what can be read
    return kept["step"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="directory of the training")
    parser.add_argument("--tokenizer", required=True, help="the tokenizer.model")
    parser.add_argument("--out", required=True, help="directory to write to")
    options = parser.parse_args()
    step = export(Path(options.run) / "checkpoint.pt", options.tokenizer, Path(options.out))
    print(f"step {step} written to {options.out}")
