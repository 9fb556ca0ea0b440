"""Writes tests/fixtures/gguf/blocks.safetensors: blocks of every format and what the `gguf` package decodes them to.

    python tools/make_gguf_fixtures.py

needs gguf, numpy and safetensors. The blocks are random bytes whose scales are no NaN and no infinity.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parent.parent / "tests/fixtures/gguf/blocks.safetensors"
BLOCKS = 12
# Name, type, and where the f16 numbers of a block are.
FORMATS = [
    ("q4_0", "Q4_0", [0]), ("q4_1", "Q4_1", [0, 2]), ("q5_0", "Q5_0", [0]), ("q5_1", "Q5_1", [0, 2]), ("q8_0", "Q8_0", [0]),
    ("q2_k", "Q2_K", [80, 82]), ("q3_k", "Q3_K", [108]), ("q4_k", "Q4_K", [0, 2]), ("q5_k", "Q5_K", [0, 2]),
    ("q6_k", "Q6_K", [208]), ("iq4_nl", "IQ4_NL", [0]), ("iq4_xs", "IQ4_XS", [0]), ("mxfp4", "MXFP4", []),
]


def main():
    rng = np.random.default_rng(20261129)
    tensors = {}
    for name, kind, halves in FORMATS:
        kind = gguf.GGMLQuantizationType[kind]
        _, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for at in halves:
            # The largest exponents are infinities and numbers that are none.
            blocks[:, at + 1] &= 0xBF
        if kind == gguf.GGMLQuantizationType.MXFP4:
            blocks[:, 0] = [0, 1, 2, 3, 100, 120, 126, 127, 128, 130, 140, 200]
        values = dequantize(blocks, kind).astype(np.float32)
        tensors[f"{name}.bytes"] = blocks.reshape(-1)
        tensors[f"{name}.values"] = values.reshape(-1)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, OUT)
    print(OUT, OUT.stat().st_size)


main()
