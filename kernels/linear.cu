// Matrix products with weights in the library's own formats; linear.cuh has the kernels.
#include "linear.cuh"

FEW(linear_few8_bf16, Bf16Format, 1, 2)
FEW(linear_few16_bf16, Bf16Format, 2, 2)
FEW(linear_few32_bf16, Bf16Format, 4, 0)
FEW(linear_few8_q8, Q8Format, 1, 2)
FEW(linear_few16_q8, Q8Format, 2, 2)
FEW(linear_few32_q8, Q8Format, 4, 0)
FEW(linear_few8_q4, Q4Format, 1, 2)
FEW(linear_few16_q4, Q4Format, 2, 2)
FEW(linear_few32_q4, Q4Format, 4, 2)

TILED(linear_64x64_bf16, Bf16Format, 2, 4, 2, 2, 6, 2)
TILED(linear_128x128_bf16, Bf16Format, 2, 4, 4, 4, 3, 0)
TILED(linear_128x64_q8, Q8Format, 8, 1, 1, 8, 5, 2)
TILED(linear_128x128_q8, Q8Format, 8, 1, 1, 16, 3, 0)
TILED(linear_128x64_q4, Q4Format, 8, 1, 1, 8, 7, 2)
TILED(linear_128x128_q4, Q4Format, 8, 1, 1, 16, 3, 0)

// f32 weights [outs, ins] and f32 inputs [rows, pitch], for comparisons with other implementations: a warp computes one
// output of each row, its lanes every 32nd input. Block: 256; grid: (sum of outs / 8 rounded up, rows / 8 rounded up or
// tiles of up to 8 rows).
extern "C" __global__ void __launch_bounds__(256) linear_f32(const __grid_constant__ Products args) {
    Work work;
    if (!find_work(args, own_place(), 8, work)) {
        return;
    }
    const int lane = int(threadIdx.x) % 32, out = work.tile * 8 + int(threadIdx.x) / 32;
    if (out >= work.product->outs) {
        return;
    }
    const float *weight = static_cast<const float *>(work.weight) + int64_t(out) * args.ins;
    for (int row = 0; row < work.rows; row++) {
        const int64_t at = work.first_row + row;
        const float *x = static_cast<const float *>(args.x) + int64_t(args.x_rows ? args.x_rows[at] : at) * args.pitch;
        float sum = 0.0f;
        for (int i = lane; i < args.ins; i += 32) {
            sum = fmaf(x[i], weight[i], sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            put(work, at, out, sum);
        }
    }
}

ENTRY(linear_f32)
