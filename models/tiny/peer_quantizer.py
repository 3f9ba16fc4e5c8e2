"""Writes a copy of a quantized GGUF file whose blocks llama.cpp's quantizers made, of the same types and from the same values.

    python peer_quantizer.py --library libggml-base.so --values F32.gguf --types Q4_K.gguf --out PEER.gguf

The library is a part of any llama.cpp build. Needs the gguf package.
"""

import argparse
import ctypes
import shutil

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader

PLAIN = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}


def quantizer(path):
    """A function of rows of floats and a type to bytes."""
    chunk = ctypes.CDLL(path).ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def quantize(rows, kind, n_bytes):
        rows, blocks = np.ascontiguousarray(rows, np.float32), np.empty(n_bytes, np.uint8)
        written = chunk(kind, rows.ctypes.data, blocks.ctypes.data, 0, *rows.shape, None)
        if written != n_bytes:
            raise ValueError(f"{written} bytes instead of {n_bytes}")
        return blocks
    return quantize


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--values", required=True, help="the model at f32")
    parser.add_argument("--types", required=True, help="the same model quantized")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    quantize = quantizer(options.library)
    values = {tensor.name: tensor.data for tensor in GGUFReader(options.values).tensors}
    if "owl2.rotation.block_length" in GGUFReader(options.types).fields:
        parser.error(f"{options.types} has rotated columns; make it with --no-rotate")
    shutil.copyfile(options.types, options.out)
    with open(options.out, "r+b") as file:
        for tensor in GGUFReader(options.types).tensors:
            if tensor.tensor_type not in PLAIN:
                rows = values[tensor.name].reshape(-1, int(tensor.shape[0]))
                file.seek(tensor.data_offset)
                file.write(quantize(rows, tensor.tensor_type, tensor.n_bytes))


if __name__ == "__main__":
    main()
