"""What the parity fixtures are: one module for a few families, each with functions from fixture name to specification.

A specification is a dict:

- `config`: config.json, in the spelling that published checkpoints of the family have.
- `store`: type of the stored weights (float32 by default); `keep_f32`: pattern of the tensors that stay f32.
- `spelling`: "as_given" writes `config` as it is; otherwise transformers writes its own spelling of it.
- `draw`: for patterns of tensor names, how their values are drawn: `(kind, a, b)`, see `random_tensor`.
- `disk`: where the published layout is not the one of transformers: an object with `encode(config, weights)`, from
  transformers' layout to the published one, and `decode(config, weights)`, back again. The reference runs what
  `decode` makes of the folder; where only `decode` differs, `encode` gives back what it was given.
- `shard_bytes`: the largest shard; `astrai`: computed by astrai_reference.py.
"""

from . import astrai, dense, gemma, hybrid, llama, mla, moe

FIXTURES = {}
for module in (llama, astrai, gemma, dense, moe, mla, hybrid):
    FIXTURES |= module.fixtures()
