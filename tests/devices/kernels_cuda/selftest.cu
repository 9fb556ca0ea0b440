// Kernels that try what device.cuh offers, and some with faults that the host build has to find.
#include "../../../kernels/device.cuh"

// out[i] = sum of x[0..256] for every i, by block_sum. Block: 256.
extern "C" __global__ void test_block_sum(const float *x, float *out) {
    __shared__ float scratch[33];
    out[threadIdx.x] = block_sum(x[threadIdx.x], scratch);
}

// Every lane gets what its opposite has, the ballot of odd lanes, and the largest. Block: 64.
extern "C" __global__ void test_shuffles(const float *x, float *out, uint32_t *ballots) {
    const uint32_t i = threadIdx.x;
    out[i] = shuffle(x[i], 31 - i % 32) + shuffle_xor(x[i], 1) * 1000.0f;
    ballots[i] = warp_ballot(x[i] > 0.5f);
    out[64 + i] = warp_max(x[i]);
}

// c[16, 8] = a[16, 16] * b[8, 16], bf16 bits. Block: 32.
extern "C" __global__ void test_mma(const bf16 *a, const bf16 *b, float *c) {
    const uint32_t g = threadIdx.x / 4, t = threadIdx.x % 4;
    const uint32_t left[4] = {load1(a + g * 16 + 2 * t), load1(a + (g + 8) * 16 + 2 * t), load1(a + g * 16 + 2 * t + 8),
                              load1(a + (g + 8) * 16 + 2 * t + 8)};
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma(sums, left, load1(b + g * 16 + 2 * t), load1(b + g * 16 + 2 * t + 8));
    for (uint32_t i = 0; i < 4; i++) {
        c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
    }
}

// out[lane][m]: transposed fragments of x[32 rows][8] of 16 bits. Block: 32; shared memory: 512.
extern "C" __global__ void test_transposed(const uint32_t *x, uint32_t *out) {
    uint32_t *shared = reinterpret_cast<uint32_t *>(dynamic_shared());
    for (uint32_t i = 0; i < 4; i++) {
        shared[threadIdx.x * 4 + i] = x[threadIdx.x * 4 + i];
    }
    warp_barrier();
    uint32_t r[4];
    load_transposed(r, shared + threadIdx.x * 4);
    for (uint32_t i = 0; i < 4; i++) {
        out[threadIdx.x * 4 + i] = r[i];
    }
}

// Each thread's 16 bytes of `blocks` pieces through two stages of shared memory, read by its neighbour; pieces that are odd
// are zeros. With `early`, reads before it may. Block: 64; shared memory: 2 * 1024.
extern "C" __global__ void test_copies(const float *x, float *out, int blocks, int early) {
    unsigned char *shared = dynamic_shared();
    const uint32_t me = threadIdx.x, other = me ^ 33;
    copy_async(shared + me * 16, x + me * 4, true);
    copy_commit();
    for (int i = 0; i < blocks; i++) {
        if (i + 1 < blocks) {
            copy_async(shared + (i + 1) % 2 * 1024 + me * 16, x + (i + 1) * 256 + me * 4, (i + 1) % 2 == 0);
        }
        copy_commit();
        if (early) {
            copy_wait<2>();
        } else {
            copy_wait<1>();
        }
        block_barrier();
        store4(out + i * 256 + me * 4, load4(shared + i % 2 * 1024 + other * 16));
        block_barrier();
    }
}

// sum[0] = number of threads of the grid.
extern "C" __global__ void test_atomics(int *sum) { atomic_add(sum, 1); }

// out[i] = byte permutations of x[i]. Block: 32.
extern "C" __global__ void test_bytes(const uint32_t *x, uint32_t *out) {
    const uint32_t i = threadIdx.x;
    out[i] = byte_permute(x[i], ~x[i], 0x6240) ^ pack_bf16(float(i) + 0.5f, -float(i));
}

// A barrier that some threads do not reach, a warp operation that some lanes do not reach, two barriers that are not the same, an
// access that is not aligned; as `fault` says. Block: 64.
extern "C" __global__ void test_faults(float *out, int fault) {
    float value = float(threadIdx.x);
    if (fault == 0 && threadIdx.x != 5) {
        block_barrier();
    }
    if (fault == 1 && threadIdx.x != 40) {
        value = shuffle_xor(value, 1);
    }
    if (fault == 2) {
        if (threadIdx.x < 32) {
            block_barrier();
        } else {
            block_barrier();
        }
    }
    if (fault == 3) {
        value = bits_to_float(load4(out + 1).w[0]);
    }
    if (fault == 4 && threadIdx.x >= 32) {
        block_barrier();
    } else if (fault == 4) {
        value = shuffle_xor(value, 1);
        block_barrier();
    }
    out[threadIdx.x] = value;
}

// Reads what another warp writes; with `barrier` 0, a race. Block: 64; shared memory: 256.
extern "C" __global__ void test_race(float *out, int barrier) {
    float *shared = reinterpret_cast<float *>(dynamic_shared());
    shared[threadIdx.x] = float(threadIdx.x);
    if (barrier) {
        block_barrier();
    }
    out[threadIdx.x] = shared[(threadIdx.x + 32) % 64];
}

// What stands in for cuBLASLt (tests/devices/cuda_driver/blaslt): d[m, n] = sum over k of a[k, m] * b[k, n], plus d if `accumulate`, all
// columns first; d is not read otherwise. Leaves other bits in the workspace. Grid: m / 64, n. Block: 64.
extern "C" __global__ void test_matmul(const bf16 *a, const bf16 *b, float *d, int m, int k, int64_t lda, int64_t ldb,
                                       int64_t ldd, int accumulate, uint32_t *workspace) {
    const int i = int(blockIdx.x * 64 + threadIdx.x), j = int(blockIdx.y);
    if (i >= m) {
        return;
    }
    float sum = 0.0f;
    // Another order than that of our own kernels.
    for (int l = k; l-- > 0;) {
        sum += from_bf16(a[l + i * lda]) * from_bf16(b[l + j * ldb]);
    }
    d[i + j * ldd] = accumulate ? d[i + j * ldd] + sum : sum;
    if (i == 0 && j == 0) {
        workspace[0] = workspace[0] * 5 + 1;
    }
}

ENTRY(test_block_sum)
ENTRY(test_shuffles)
ENTRY(test_mma)
ENTRY(test_transposed)
ENTRY(test_copies)
ENTRY(test_atomics)
ENTRY(test_bytes)
ENTRY(test_faults)
ENTRY(test_race)
ENTRY(test_matmul)
