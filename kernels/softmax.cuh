// The online softmax: its state within a span, and how the results of spans are merged.
#pragma once

#include "attention.cuh"

// State of the online softmax of two queries, g and g + 8 of the warp's 16. A lane holds a part of it: of WIDTH values.
template <int WIDTH> struct Running {
    // In units of log2.
    float maximum[2];
    float sum[2];
    // [groups of 8 values][query g: values 2t, 2t + 1; query g + 8: the same].
    float out[WIDTH / 8][4];

    __device__ __forceinline__ void clear() {
        for (int i = 0; i < 2; i++) {
            maximum[i] = -INFINITY;
            sum[i] = 0.0f;
        }
#pragma unroll
        for (int i = 0; i < WIDTH / 8; i++) {
            out[i][0] = out[i][1] = out[i][2] = out[i][3] = 0.0f;
        }
    }
};

// The factor that rescales a part with maximum `maximum` to the common maximum `highest`.
__device__ __forceinline__ float weight_of(float maximum, float highest) {
    return maximum == -INFINITY ? 0.0f : exp2_fast(maximum - highest);
}

// The merged sum or value of two rescaled parts.
__device__ __forceinline__ float merged(float a, float weight_a, float b, float weight_b) {
    return fmaf(b, weight_b, a * weight_a);
}

// The factor that turns a head's merged values into its result: 1 / the sum of all weights. The sink, a key without a value, enters
// here, after all spans. `maximum` is in units of log2.
__device__ __forceinline__ float final_factor(const Attention &args, int64_t head, float maximum, float sum) {
    if (!args.sinks) {
        return 1.0f / sum;
    }
    const float sink = args.sinks[head] * LOG2_E, highest = fmaxf(maximum, sink), ours = weight_of(maximum, highest);
    return ours / fmaf(sum, ours, exp2_fast(sink - highest));
}
