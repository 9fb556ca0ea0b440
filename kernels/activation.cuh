// The functions between the matrices of a feed-forward part. Each keeps a NaN, and is 0 at 0, so that the padding of rows stays 0.
#pragma once

#include "device.cuh"

// Which function; the mirror of Activation in src/backend/operations.rs.
struct Activation {
    // Of the list in with_curve.
    int kind;
    // Of Clamped.
    float alpha, limit;
};

struct Silu {
    __device__ __forceinline__ float one(float x) const { return x / (1.0f + expf(-x)); }
    __device__ __forceinline__ float gated(float x, float up) const { return one(x) * up; }
};

// The tanh approximation: `gelu_pytorch_tanh` of the transformers library.
struct GeluTanh {
    __device__ __forceinline__ float one(float x) const {
        return 0.5f * x * (1.0f + tanhf(0.797884561f * (x + 0.044715f * (x * x * x))));
    }
    __device__ __forceinline__ float gated(float x, float up) const { return one(x) * up; }
};

struct Gelu {
    __device__ __forceinline__ float one(float x) const { return 0.5f * x * (1.0f + erff(x * 0.707106781f)); }
    __device__ __forceinline__ float gated(float x, float up) const { return one(x) * up; }
};

struct Relu2 {
    __device__ __forceinline__ float one(float x) const {
        const float positive = x < 0.0f ? 0.0f : x;
        return positive * positive;
    }
    __device__ __forceinline__ float gated(float x, float up) const { return one(x) * up; }
};

// Of gpt-oss. Not fminf and fmaxf, which would make a number of a NaN.
struct Clamped {
    float alpha, limit;
    __device__ __forceinline__ float at_most(float x) const { return x > limit ? limit : x; }
    __device__ __forceinline__ float one(float x) const {
        const float low = at_most(x);
        return low / (1.0f + expf(-(alpha * low)));
    }
    __device__ __forceinline__ float gated(float x, float up) const { return one(x) * (1.0f - at_most(-at_most(up))); }
};

// Calls use(curve) with the function that `activation` names.
template <class Use> __device__ __forceinline__ void with_curve(const Activation &activation, Use use) {
    switch (activation.kind) {
    case 0: return use(Silu{});
    case 1: return use(GeluTanh{});
    case 2: return use(Gelu{});
    case 3: return use(Relu2{});
    default: return use(Clamped{activation.alpha, activation.limit});
    }
}
