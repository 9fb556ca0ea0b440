"""Writes a model folder again with its matrices in FP8, as published checkpoints have them: E4M3 codes, and beside each matrix
the scales of its blocks of 128 by 128 in bf16.

    python3 tools/fp8_folder.py MODEL_DIR OUT_DIR

Needs torch and safetensors. The embedding, the output matrix, routers, norms and biases stay as they are.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

BLOCK = 128
LARGEST = 448.0


def rounded(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of a matrix [rows, columns]."""
    rows, columns = matrix.shape
    down, right = -(-rows // BLOCK), -(-columns // BLOCK)
    whole = torch.zeros(down * BLOCK, right * BLOCK)
    whole[:rows, :columns] = matrix.float()
    blocks = whole.view(down, BLOCK, right, BLOCK)
    scales = (blocks.abs().amax((1, 3)) / LARGEST).clamp(min=1e-12).bfloat16()
    codes = (blocks / scales.float()[:, None, :, None]).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return codes.view(whole.shape)[:rows, :columns].contiguous(), scales


def main(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
            shutil.copy(file, target / file.name)
    tensors = {}
    for file in sorted(source.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            if tensor.dim() == 2 and name.endswith("_proj.weight"):
                tensors[name], tensors[f"{name}_scale_inv"] = rounded(tensor)
            else:
                tensors[name] = tensor
    save_file(tensors, target / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    (target / "config.json").write_text(json.dumps(config, indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
