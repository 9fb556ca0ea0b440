// The tokens of a step.
#pragma once

#include "device.cuh"

// The token of a step's row. With the highest bit set, the low bits index a row of logits of the previous step, and
// `sampled` has the tokens sampled there; if none could be sampled (then the request ends), 0.
__device__ __forceinline__ int64_t token_of(uint32_t token, const uint32_t *sampled) {
    if (token >> 31) {
        token = sampled[token & 0x7FFFFFFFu];
        token = token == 0xFFFFFFFFu ? 0 : token;
    }
    return token;
}
