// The host version of device.cuh: its primitives on the fibers of fibers.cuh. Included by device.cuh only.
#pragma once

#include "fibers.cuh"

#include <cmath>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__ static const
// A launch stays on its thread and runs one block at a time, so thread-local storage serves as shared memory.
#define __shared__ static thread_local

#define threadIdx (host::launch().current->index)
#define blockIdx (host::launch().block_index)
#define blockDim (host::launch().geometry->block)
#define gridDim (host::launch().geometry->grid)

// Exports a kernel for the tests as `launch_<name>`; `params_<name>` returns the number of its parameters and their
// sizes.
#define ENTRY(name)                                                                                                    \
    extern "C" __attribute__((visibility("default"))) int launch_##name(host::Geometry *geometry, void **params) {   \
        return host::call(#name, name, geometry, params);                                                            \
    }                                                                                                                  \
    extern "C" __attribute__((visibility("default"))) const uint32_t *params_##name(uint32_t *count) {                \
        return host::param_bytes(name, count);                                                                       \
    }

// For arithmetic on local arrays, whose checks would take most of the time.
#define NOT_SANITIZED __attribute__((no_sanitize_address))

// The source position of a wrapper's caller.
#define AT const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define HERE(what) (host::Place{what, file, line})

inline unsigned char *dynamic_shared() { return host::launch().shared; }

inline void block_barrier(AT) {
    host::meet(host::Wait::Block, host::launch().block, 0, host::launch().threads, HERE("block_barrier"), [] {});
}

inline void warp_barrier(AT) {
    int none = 0;
    host::warp(HERE("warp_barrier"), none, [](int **) {});
}

template <class T> inline T shuffle_with(T value, uint32_t source, host::Place place) {
    struct Lane {
        T value, result;
        uint32_t source;
    } lane{value, value, source};
    host::warp(place, lane, [](Lane **lanes) {
        for (uint32_t i = 0; i < 32; i++) {
            lanes[i]->result = lanes[lanes[i]->source % 32]->value;
        }
    });
    return lane.result;
}

template <class T> inline T shuffle_xor(T value, uint32_t mask, AT) {
    return shuffle_with(value, host::thread_number() % 32 ^ mask, HERE("shuffle_xor"));
}

template <class T> inline T shuffle(T value, uint32_t source, AT) { return shuffle_with(value, source, HERE("shuffle")); }

inline uint32_t warp_ballot(bool yes, AT) {
    struct Lane {
        bool yes;
        uint32_t result;
    } lane{yes, 0};
    host::warp(HERE("warp_ballot"), lane, [](Lane **lanes) {
        uint32_t all = 0;
        for (uint32_t i = 0; i < 32; i++) {
            all |= uint32_t(lanes[i]->yes) << i;
        }
        for (uint32_t i = 0; i < 32; i++) {
            lanes[i]->result = all;
        }
    });
    return lane.result;
}

inline float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

// As the device's instruction, which keeps what a NaN carries.
inline float from_f16(uint16_t bits) {
    // The product corrects the bias of the exponent.
    const float magnitude = bits_to_float(uint32_t(bits & 0x7FFF) << 13) * bits_to_float(0x77800000);
    const uint32_t infinite = (bits & 0x7C00) == 0x7C00 ? 0x7F800000 : 0;
    return bits_to_float(float_to_bits(magnitude) | infinite | uint32_t(bits & 0x8000) << 16);
}

inline uint32_t one_to_bf16(float value) {
    const uint32_t bits = float_to_bits(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) {
        return 0x7FFF; // the NaN that the device gives
    }
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

inline uint32_t pack_bf16(float low, float high) { return one_to_bf16(low) | one_to_bf16(high) << 16; }

inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, AT) {
    struct Lane {
        float *c;
        uint32_t a[4], b[2];
    } lane{c, {a[0], a[1], a[2], a[3]}, {b0, b1}};
    host::warp(HERE("mma"), lane, [](Lane **lanes) NOT_SANITIZED {
        typedef float Row __attribute__((vector_size(32)));
        typedef uint32_t Bits __attribute__((vector_size(32)));
        // Pairs of adjacent k, two numbers per word, as in the fragments.
        uint32_t left[16][8], right[8][8];
        for (uint32_t l = 0; l < 32; l++) {
            const uint32_t g = l / 4, t = l % 4;
            const Lane &lane = *lanes[l];
            left[g][t] = lane.a[0];
            left[g + 8][t] = lane.a[1];
            left[g][t + 4] = lane.a[2];
            left[g + 8][t + 4] = lane.a[3];
            right[t][g] = lane.b[0];
            right[t + 4][g] = lane.b[1];
        }
        Row b[16];
        for (uint32_t pair = 0; pair < 8; pair++) {
            Bits words;
            memcpy(&words, right[pair], 32);
            const Bits low = words << 16, high = words & 0xFFFF0000u;
            memcpy(&b[2 * pair], &low, 32);
            memcpy(&b[2 * pair + 1], &high, 32);
        }
        // Each sum is one chain over k; four rows are interleaved, so that their chains overlap.
        for (uint32_t first = 0; first < 16; first += 4) {
            Row sums[4];
            for (uint32_t m = 0; m < 4; m++) {
                for (uint32_t t = 0; t < 4; t++) {
                    memcpy(reinterpret_cast<char *>(&sums[m]) + 8 * t,
                           lanes[(first + m) % 8 * 4 + t]->c + (first + m) / 8 * 2, 8);
                }
            }
            for (uint32_t pair = 0; pair < 8; pair++) {
                for (uint32_t m = 0; m < 4; m++) {
                    sums[m] += bits_to_float(left[first + m][pair] << 16) * b[2 * pair];
                }
                for (uint32_t m = 0; m < 4; m++) {
                    sums[m] += bits_to_float(left[first + m][pair] & 0xFFFF0000u) * b[2 * pair + 1];
                }
            }
            for (uint32_t m = 0; m < 4; m++) {
                for (uint32_t t = 0; t < 4; t++) {
                    memcpy(lanes[(first + m) % 8 * 4 + t]->c + (first + m) / 8 * 2,
                           reinterpret_cast<char *>(&sums[m]) + 8 * t, 8);
                }
            }
        }
    });
}

inline void load_transposed(uint32_t (&r)[4], const void *row, AT) {
    host::check_aligned(row, 16, HERE("load_transposed"));
    struct Lane {
        const void *row;
        uint32_t *r;
    } lane{row, r};
    host::warp(HERE("load_transposed"), lane, [](Lane **lanes) {
        for (uint32_t m = 0; m < 4; m++) {
            uint16_t matrix[8][8];
            for (uint32_t i = 0; i < 8; i++) {
                memcpy(matrix[i], lanes[8 * m + i]->row, 16);
            }
            for (uint32_t l = 0; l < 32; l++) {
                const uint32_t g = l / 4, t = l % 4;
                lanes[l]->r[m] = uint32_t(matrix[2 * t][g]) | uint32_t(matrix[2 * t + 1][g]) << 16;
            }
        }
    });
}

template <class T> inline T checked(const void *address, host::Place place) {
    host::check_aligned(address, sizeof(T), place);
    T value;
    memcpy(&value, address, sizeof(T));
    return value;
}

inline void copy_async(void *to, const void *from, bool real, AT) {
    host::check_aligned(to, 16, HERE("copy_async to"));
    host::check_aligned(from, 16, HERE("copy_async from"));
    host::Fiber &fiber = *host::launch().current;
    fiber.copies.push_back({to, from, real, fiber.copy_group});
    if (host::launch().shuffled() && host::launch().next() % 2) {
        const host::Copy copy = fiber.copies.back();
        copy.real ? memcpy(copy.to, copy.from, 16) : memset(copy.to, 0, 16);
        fiber.copies.pop_back();
    }
}

inline void copy_commit() { host::launch().current->copy_group++; }

// Performs all copies but those of the last N groups.
template <int N> inline void copy_wait() {
    host::Fiber &fiber = *host::launch().current;
    host::land(fiber, fiber.copy_group > N ? fiber.copy_group - N : 0);
}

// Also atomic across launches on other threads of the process.
inline int atomic_add(int *to, int value) { return __atomic_fetch_add(to, value, __ATOMIC_RELAXED); }

inline float exp2_fast(float x) { return exp2f(x); }

inline uint32_t byte_permute(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t bytes = uint64_t(high) << 32 | low;
    uint32_t result = 0;
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t s = selector >> (4 * i) & 15;
        uint32_t byte = uint32_t(bytes >> (8 * (s & 7)) & 255);
        byte = s & 8 ? (byte & 128 ? 255 : 0) : byte;
        result |= byte << (8 * i);
    }
    return result;
}

inline uint32_t multiply_high(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }

inline int bit_count(uint32_t bits) { return __builtin_popcount(bits); }
