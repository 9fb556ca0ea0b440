// Norms of rows, with an optional residual addition before and bf16 rounding after them; and the work between projections and
// attention: norm and rotary embedding of heads, and their store into pages.
#include "device.cuh"
#include "pages.cuh"

// Parameters of norm_rows. A block's row of `width` elements is head `block % heads` of row `block / heads`; in `rounded` they
// follow each other.
struct Norm {
    // The input. With `add`, x += add first, and x keeps the sum.
    float *x;
    // May be null.
    const float *add;
    // [width] each; null: 1, and 0.
    const float *gain, *bias;
    // May be null; may be x.
    float *out;
    // May be null: [rows, pitch], the result in bf16 with zeros from width to pitch, the form that products read.
    bf16 *rounded;
    int width, pitch;
    float eps;
    // Whether the mean of the row is subtracted first (LayerNorm instead of RMSNorm).
    int centred;
    // Elements between the starts of consecutive rows, and of consecutive heads of a row.
    int64_t row_stride, head_stride;
    int heads;
};

// out[r, i] = (x[r, i] - mean) / sqrt(mean((x[r] - mean)^2) + eps) * gain[i] + bias[i], where the mean is 0 unless `centred`.
// Each thread reads only elements that it wrote itself. Block: 256; grid: rows * heads.
extern "C" __global__ void __launch_bounds__(256) norm_rows(const __grid_constant__ Norm args) {
    __shared__ float scratch[33], mean_scratch[33];
    const int64_t row = blockIdx.x / args.heads, head = blockIdx.x % args.heads;
    const int64_t start = row * args.row_stride + head * args.head_stride;
    float mean = 0.0f, square = 0.0f;
    if (args.centred) {
        for (int i = int(threadIdx.x); i < args.width; i += 256) {
            mean += args.add ? args.x[start + i] + args.add[start + i] : args.x[start + i];
        }
        mean = block_sum(mean, mean_scratch) / float(args.width);
    }
    for (int i = int(threadIdx.x); i < args.width; i += 256) {
        float v = args.x[start + i];
        if (args.add) {
            v += args.add[start + i];
            args.x[start + i] = v;
        }
        v -= mean;
        square = fmaf(v, v, square);
    }
    square = block_sum(square, scratch);
    const float factor = 1.0f / sqrtf(square / float(args.width) + args.eps);
    for (int i = int(threadIdx.x); i < args.width; i += 256) {
        float v = (args.x[start + i] - mean) * factor;
        v = args.gain ? v * args.gain[i] : v;
        v = args.bias ? v + args.bias[i] : v;
        if (args.out) {
            args.out[start + i] = v;
        }
        if (args.rounded) {
            args.rounded[int64_t(blockIdx.x) * args.pitch + i] = to_bf16(v);
        }
    }
    for (int i = args.width + int(threadIdx.x); args.rounded && i < args.pitch; i += 256) {
        args.rounded[int64_t(blockIdx.x) * args.pitch + i] = bf16(0);
    }
}

// Heads inside rows: head h of row r starts at r * row_stride + h * head_stride.
struct Heads {
    float *start;
    int64_t row_stride, head_stride;
    int heads, dim;
};

// Parameters of place_heads; the counterpart of the library's Placement and Ragged.
struct PlaceHeads {
    Heads q, k, v;
    // [dim] each; null: no norm.
    const float *q_gain, *k_gain;
    // [rows, 2, rotary_dims / 2]; null: no rotation.
    const float *angles;
    int rotary_start, rotary_dims, interleaved;
    int norm_last;
    float eps;
    // Whether keys and values are stored.
    int store;
    Pages pages;
    // [rows] each.
    const uint32_t *positions, *sequences;
    // Frames of the page tables; [sequences]: the start of each sequence's table.
    const uint32_t *tables, *table_starts;
    int rows;
};

// RMSNorm of a head in shared memory, by one warp.
__device__ __forceinline__ void norm_head(float *head, const float *gain, int dim, float eps, int lane) {
    float square = 0.0f;
    for (int i = lane; i < dim; i += 32) {
        square = fmaf(head[i], head[i], square);
    }
    const float factor = 1.0f / sqrtf(warp_sum(square) / float(dim) + eps);
    for (int i = lane; i < dim; i += 32) {
        head[i] = head[i] * factor * gain[i];
    }
    warp_barrier();
}

__device__ __forceinline__ void rotate_head(float *head, const PlaceHeads &args, int64_t row, int lane) {
    const int half = args.rotary_dims / 2;
    const float *angles = args.angles + row * args.rotary_dims;
    head += args.rotary_start;
    for (int i = lane; i < half; i += 32) {
        const int low = args.interleaved ? 2 * i : i, high = args.interleaved ? 2 * i + 1 : i + half;
        const float u = head[low], v = head[high], cosine = angles[i], sine = angles[half + i];
        head[low] = u * cosine - v * sine;
        head[high] = v * cosine + u * sine;
    }
    warp_barrier();
}

// Stores a head in its page, with the same rounding as the CPU backend.
template <class T>
__device__ __forceinline__ void store_head(const float *head, const PlaceHeads &args, bool values, int64_t row, int at, int dim,
                                           int lane) {
    const uint32_t position = args.positions[row];
    const uint32_t *table = args.tables + args.table_starts[args.sequences[row]];
    const uint32_t page = position / uint32_t(args.pages.page_tokens), token = position % uint32_t(args.pages.page_tokens);
    unsigned char *layer = args.pages.layer_of(table[page]);
    T *to = reinterpret_cast<T *>(layer + args.pages.row_offset(values, at, int(token)));
    if constexpr (sizeof(T) == 1) {
        // If an element is not finite, the scale factor is not finite either.
        float largest = 0.0f, finite = 0.0f;
        for (int i = lane; i < dim; i += 32) {
            largest = fmaxf(largest, fabsf(head[i]));
            finite += head[i] * 0.0f;
        }
        largest = warp_max(largest);
        finite = warp_sum(finite);
        const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
        for (int i = lane; i < dim; i += 32) {
            // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa.
            to[i] = T(float_to_bits(head[i] * inverse + 12582912.0f) & 255);
        }
        if (lane == 0) {
            *reinterpret_cast<float *>(layer + args.pages.scale_offset(values, at, int(token))) = largest / 127.0f + finite;
        }
    } else if constexpr (sizeof(T) == 2) {
        for (int i = lane; i < dim; i += 32) {
            to[i] = to_bf16(head[i]);
        }
    } else {
        for (int i = lane; i < dim; i += 32) {
            to[i] = head[i];
        }
    }
}

// One warp processes one head of one row: queries first, then keys, then values.
template <class T> __device__ __forceinline__ void place(const PlaceHeads &args) {
    const int warps = int(blockDim.x) / 32, warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int widest = max_of(args.q.dim, max_of(args.k.dim, args.v.dim));
    float *head = reinterpret_cast<float *>(dynamic_shared()) + warp * widest;
    const int heads = args.q.heads + args.k.heads + args.v.heads;
    const int64_t job = int64_t(blockIdx.x) * warps + warp;
    if (job >= int64_t(args.rows) * heads) {
        return;
    }
    const int64_t row = job / heads;
    int at = int(job - row * heads), part = 0;
    Heads from = args.q;
    if (at >= args.q.heads) {
        at -= args.q.heads;
        part = 1;
        from = args.k;
        if (at >= args.k.heads) {
            at -= args.k.heads;
            part = 2;
            from = args.v;
        }
    }
    float *start = from.start + row * from.row_stride + at * from.head_stride;
    for (int i = lane; i < from.dim; i += 32) {
        head[i] = start[i];
    }
    warp_barrier();
    if (part < 2) {
        const float *gain = part == 0 ? args.q_gain : args.k_gain;
        if (gain && !args.norm_last) {
            norm_head(head, gain, from.dim, args.eps, lane);
        }
        if (args.angles) {
            rotate_head(head, args, row, lane);
        }
        if (gain && args.norm_last) {
            norm_head(head, gain, from.dim, args.eps, lane);
        }
        for (int i = lane; i < from.dim; i += 32) {
            start[i] = head[i];
        }
    }
    if (part > 0 && args.store) {
        store_head<T>(head, args, part == 2, row, at, from.dim, lane);
    }
}

// Norm, rotation and store of all heads of all rows. Block: a multiple of 32; grid: rows * (q, k and v heads) / warps,
// rounded up; shared memory: warps * widest head * 4 bytes. Parts that are not wanted have `heads` = 0.
extern "C" __global__ void place_heads_bf16(const __grid_constant__ PlaceHeads args) { place<bf16>(args); }

// The same with pages of f32.
extern "C" __global__ void place_heads_f32(const __grid_constant__ PlaceHeads args) { place<float>(args); }

// The same with pages of 8-bit integers and a scale factor for each key and value.
extern "C" __global__ void place_heads_i8(const __grid_constant__ PlaceHeads args) { place<int8_t>(args); }

ENTRY(norm_rows)
ENTRY(place_heads_bf16)
ENTRY(place_heads_f32)
ENTRY(place_heads_i8)
