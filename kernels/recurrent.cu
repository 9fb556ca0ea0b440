// Operations on the states of sequences: a convolution over the last tokens, and a linear recurrence. A state is read in one frame
// and written to another, so that the first stays as it is.
//
// Tokens are taken one after the other, however many a step has of a sequence, and the state between two steps is the one between
// two tokens: a row depends on those before it in its sequence alone.
#include "device.cuh"

// No frame: the state is zeros.
constexpr uint32_t NO_STATE = 0xFFFFFFFFu;

// Heads inside rows: element i of head h of row r is start[r * row_stride + h * head_stride + i].
struct Heads {
    float *start;
    int64_t row_stride, head_stride;
    int heads, dim;
};

// Where a row has its index-th element, counted over all heads.
__device__ __forceinline__ float *element(const Heads &x, int64_t row, int index) {
    const int head = index / x.dim;
    return x.start + row * x.row_stride + head * x.head_stride + (index - head * x.dim);
}

// The sequences of a step, and the part of their states that an operation has.
struct States {
    // [sequences]: first row, rows.
    const uint32_t *runs;
    // The frame that is read, and the one that is written, of sequence s: tables[starts[s]] and the next.
    const uint32_t *tables, *starts;
    // The part in frame 0; elements from a frame to the next.
    float *first;
    int64_t frame;
};

// The rows of a sequence and its states.
struct Run {
    int64_t row, rows;
    // Null: zeros.
    const float *last;
    float *next;
};

__device__ __forceinline__ Run run_of(const States &states, int sequence) {
    const uint32_t *frames = states.tables + states.starts[sequence];
    const uint32_t last = frames[0];
    return {states.runs[2 * sequence], states.runs[2 * sequence + 1],
            last == NO_STATE ? nullptr : states.first + last * states.frame, states.first + frames[1] * states.frame};
}

// Parameters of conv_rows.
struct Conv {
    Heads x;
    // `start` may be null.
    Heads before, after;
    Heads out;
    // [channels, kernel], [channels]; the second may be null.
    const float *weight, *bias;
    int channels, kernel, silu;
    // [kernel - 1, channels], oldest first.
    States states;
};

// Most tokens that an output sees.
constexpr int KERNEL_MAX = 64;

// out[t, c] = after[t, c] * f(bias[c] + sum_j weight[c, j] * u[t - kernel + 1 + j, c]), u = before * x; the sum goes from the oldest
// to the newest. Block: 128; grid: sequences, channels / 128.
extern "C" __global__ void __launch_bounds__(128) conv_rows(const __grid_constant__ Conv args) {
    const int channel = int(blockIdx.y) * 128 + int(threadIdx.x);
    if (channel >= args.channels) {
        return;
    }
    const Run run = run_of(args.states, int(blockIdx.x));
    const float *weight = args.weight + int64_t(channel) * args.kernel;
    const int past = args.kernel - 1;
    float seen[KERNEL_MAX];
    for (int j = 0; j < past; j++) {
        seen[j] = run.last ? run.last[int64_t(j) * args.channels + channel] : 0.0f;
    }
    for (int64_t row = run.row; row < run.row + run.rows; row++) {
        float u = *element(args.x, row, channel);
        u = args.before.start ? u * *element(args.before, row, channel) : u;
        seen[past] = u;
        float sum = args.bias ? args.bias[channel] : 0.0f;
        for (int j = 0; j < args.kernel; j++) {
            sum = fmaf(weight[j], seen[j], sum);
        }
        for (int j = 0; j < past; j++) {
            seen[j] = seen[j + 1];
        }
        sum = args.silu ? sum / (1.0f + expf(-sum)) : sum;
        *element(args.out, row, channel) = args.after.start ? sum * *element(args.after, row, channel) : sum;
    }
    for (int j = 0; j < past; j++) {
        run.next[int64_t(j) * args.channels + channel] = seen[j];
    }
}

// Parameters of recurrence_rows.
struct Recurrence {
    Heads q, k, v, out, steps;
    // `start` may be null.
    Heads parts;
    // [heads of values] each; the last may be null.
    const float *step_bias, *decay, *skip;
    float q_scale, k_scale, step_least, step_most;
    int decay_is_log;
    // Head h of values has the key head h % heads of keys, instead of one for consecutive heads.
    int tiled;
    // [heads of values, k_dim, v_dim].
    States states;
};

// Columns of a state that a block has; threads that share a column.
constexpr int COLUMNS = 32, PARTS = 4;

// The sum of the parts of a column, in order.
__device__ __forceinline__ float total(const float *parts, int column) {
    return ((parts[column] + parts[COLUMNS + column]) + parts[2 * COLUMNS + column]) + parts[3 * COLUMNS + column];
}

// The recurrence of src/backend/recurrent.rs. Thread (part, column) has every fourth element of the column's keys.
// Block: 128; grid: sequences, heads of values, v_dim / 32; shared memory: 34 * k_dim + 256 floats.
extern "C" __global__ void __launch_bounds__(128) recurrence_rows(const __grid_constant__ Recurrence args) {
    const int k_dim = args.k.dim, v_dim = args.v.dim, head = int(blockIdx.y);
    float *state = reinterpret_cast<float *>(dynamic_shared());
    float *k = state + COLUMNS * k_dim, *q = k + k_dim, *sums = q + k_dim, *results = sums + PARTS * COLUMNS;
    const int column = int(threadIdx.x) % COLUMNS, part = int(threadIdx.x) / COLUMNS;
    const int at = int(blockIdx.z) * COLUMNS + column;
    const bool there = at < v_dim;
    const Run run = run_of(args.states, int(blockIdx.x));
    const int64_t begin = int64_t(head) * k_dim * v_dim + at;
    for (int i = part; i < k_dim; i += PARTS) {
        state[i * COLUMNS + column] = there && run.last ? run.last[begin + int64_t(i) * v_dim] : 0.0f;
    }
    const int key_head = args.tiled ? head % args.k.heads : head / (args.v.heads / args.k.heads);
    const float bias = args.step_bias[head], skip = args.skip ? args.skip[head] : 0.0f;
    const float log_decay = args.decay_is_log ? -expf(args.decay[head]) : args.decay[head];
    const bool moves = args.parts.start != nullptr;
    for (int64_t row = run.row; row < run.row + run.rows; row++) {
        for (int i = int(threadIdx.x); i < k_dim; i += 128) {
            k[i] = args.k.start[row * args.k.row_stride + key_head * args.k.head_stride + i];
            q[i] = args.q.start[row * args.q.row_stride + key_head * args.q.head_stride + i];
        }
        const float x = *element(args.steps, row, head) + bias;
        float step = x > 20.0f ? x : log1pf(expf(x));
        // Not fmaxf and fminf, which would make a number of a NaN.
        step = step < args.step_least ? args.step_least : step;
        step = step > args.step_most ? args.step_most : step;
        const float decay = expf(log_decay * step);
        const float rate = moves ? 1.0f / (1.0f + expf(-*element(args.parts, row, head))) : step;
        const float value = there ? args.v.start[row * args.v.row_stride + head * args.v.head_stride + at] : 0.0f;
        block_barrier();
        float added = value;
        if (moves) {
            float sum = 0.0f;
            for (int i = part; i < k_dim; i += PARTS) {
                sum = fmaf(state[i * COLUMNS + column], k[i], sum);
            }
            sums[part * COLUMNS + column] = sum;
            block_barrier();
            added = fmaf(-args.k_scale * decay, total(sums, column), value);
        }
        added *= rate * args.k_scale;
        float result = 0.0f;
        for (int i = part; i < k_dim; i += PARTS) {
            const float next = fmaf(k[i], added, decay * state[i * COLUMNS + column]);
            state[i * COLUMNS + column] = next;
            result = fmaf(next, q[i], result);
        }
        results[part * COLUMNS + column] = result;
        block_barrier();
        if (part == 0 && there) {
            args.out.start[row * args.out.row_stride + head * args.out.head_stride + at] =
                fmaf(skip, value, args.q_scale * total(results, column));
        }
    }
    for (int i = part; i < k_dim; i += PARTS) {
        if (there) {
            run.next[begin + int64_t(i) * v_dim] = state[i * COLUMNS + column];
        }
    }
}

ENTRY(conv_rows)
ENTRY(recurrence_rows)
