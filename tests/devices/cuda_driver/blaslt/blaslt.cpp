// A stand-in for NVIDIA's cuBLASLt, on top of the stand-in for the driver: the functions that the library under test calls, for
// the one kind of product that it makes. The product is a kernel of the host build (test_matmul), submitted to the stream like
// any other: it runs in order, late, and in graphs. What a real one may refuse is refused: layouts that do not fit together,
// memory that is not the device's, algorithms that were not chosen for the sizes.
#include "../abi.hpp"

#include <atomic>
#include <cstring>

using Status = int;
enum : Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum : int { R_32F = 0, R_16BF = 14, COMPUTE_32F = 68, OP_N = 0, OP_T = 1 };
enum : int { DESC_TRANSA = 3, DESC_TRANSB = 4 };
enum : int { LAYOUT_TYPE = 0, LAYOUT_ORDER = 1, LAYOUT_ROWS = 2, LAYOUT_COLS = 3, LAYOUT_LD = 4 };
enum : int { PREF_WORKSPACE = 1, PREF_ALIGN_A = 5, PREF_ALIGN_D = 8 };

extern "C" {
CUresult cuCtxGetCurrent(CUcontext *context);
CUresult cuModuleLoadData(CUmodule *module, const void *image);
CUresult cuModuleUnload(CUmodule module);
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name);
CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void **params,
                        void **extra);
int astrai_host_driver_is_device_memory(uint64_t address, uint64_t bytes);
}

#define LT extern "C" __attribute__((visibility("default"))) Status
#define CONTROL extern "C" __attribute__((visibility("default")))

struct Handle {
    CUcontext context;
    CUmodule module;
    CUfunction function;
};

struct Desc {
    int compute, scale, transa, transb;
};

struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t ld;
};

struct Preference {
    uint64_t workspace;
    uint32_t align[4];
};

struct Algo {
    uint64_t magic, m, n, k, workspace, align_a, align_d, rest;
};

struct Found {
    Algo algo;
    size_t workspace;
    Status state;
    float waves;
    int reserved[4];
};
static_assert(sizeof(Algo) == 64 && sizeof(Found) == 96, "as in cublasLt.h");

static constexpr uint64_t MAGIC = 0xa57a1b1a5;
static constexpr uint64_t WORKSPACE = 1 << 20;
static std::atomic<uint64_t> live, products, searches;
static std::atomic<uint64_t> fail_after, largest = UINT64_MAX;
static std::atomic<int> fail_with;

// Objects that exist.
CONTROL uint64_t astrai_host_blaslt_live() { return live; }
// Products submitted and algorithms asked for since the start.
CONTROL uint64_t astrai_host_blaslt_products() { return products; }
CONTROL uint64_t astrai_host_blaslt_searches() { return searches; }
// The n-th product from now (1: the next one) gives `status`; 0: none.
CONTROL void astrai_host_blaslt_fail(uint64_t n, int status) {
    fail_with = status;
    fail_after = n;
}
// There are algorithms for up to so many rows only.
CONTROL void astrai_host_blaslt_set_largest(uint64_t rows) { largest = rows; }

static Status is_current(const Handle *handle) {
    CUcontext context = nullptr;
    const bool is = handle && !cuCtxGetCurrent(&context) && context && context == handle->context;
    return is ? SUCCESS : NOT_INITIALIZED;
}

LT cublasLtCreate(Handle **out) {
    Handle made{};
    if (cuCtxGetCurrent(&made.context) || !made.context) {
        return NOT_INITIALIZED;
    }
    if (cuModuleLoadData(&made.module, "image")) {
        return NOT_INITIALIZED;
    }
    if (cuModuleGetFunction(&made.function, made.module, "test_matmul")) {
        cuModuleUnload(made.module);
        return NOT_INITIALIZED;
    }
    live++;
    *out = new Handle(made);
    return SUCCESS;
}

LT cublasLtDestroy(Handle *handle) {
    if (const Status status = is_current(handle)) {
        return status;
    }
    cuModuleUnload(handle->module);
    delete handle;
    live--;
    return SUCCESS;
}

LT cublasLtMatmulDescCreate(Desc **out, int compute, int scale) {
    live++;
    *out = new Desc{compute, scale, OP_N, OP_N};
    return SUCCESS;
}

LT cublasLtMatmulDescDestroy(Desc *desc) {
    live--;
    delete desc;
    return SUCCESS;
}

LT cublasLtMatmulDescSetAttribute(Desc *desc, int attribute, const void *value, size_t bytes) {
    if ((attribute != DESC_TRANSA && attribute != DESC_TRANSB) || bytes != 4) {
        return INVALID_VALUE;
    }
    memcpy(attribute == DESC_TRANSA ? &desc->transa : &desc->transb, value, 4);
    return SUCCESS;
}

LT cublasLtMatrixLayoutCreate(Layout **out, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    live++;
    *out = new Layout{type, rows, cols, ld};
    return SUCCESS;
}

LT cublasLtMatrixLayoutDestroy(Layout *layout) {
    live--;
    delete layout;
    return SUCCESS;
}

LT cublasLtMatrixLayoutSetAttribute(Layout *layout, int attribute, const void *value, size_t bytes) {
    void *to = attribute == LAYOUT_ROWS   ? static_cast<void *>(&layout->rows)
               : attribute == LAYOUT_COLS ? static_cast<void *>(&layout->cols)
               : attribute == LAYOUT_LD   ? static_cast<void *>(&layout->ld)
                                          : nullptr;
    if (!to || bytes != 8) {
        return INVALID_VALUE;
    }
    memcpy(to, value, 8);
    return SUCCESS;
}

LT cublasLtMatmulPreferenceCreate(Preference **out) {
    live++;
    *out = new Preference{0, {256, 256, 256, 256}};
    return SUCCESS;
}

LT cublasLtMatmulPreferenceDestroy(Preference *preference) {
    live--;
    delete preference;
    return SUCCESS;
}

LT cublasLtMatmulPreferenceSetAttribute(Preference *preference, int attribute, const void *value, size_t bytes) {
    if (attribute == PREF_WORKSPACE && bytes == 8) {
        memcpy(&preference->workspace, value, 8);
        return SUCCESS;
    }
    if (attribute < PREF_ALIGN_A || attribute > PREF_ALIGN_D || bytes != 4) {
        return INVALID_VALUE;
    }
    memcpy(&preference->align[attribute - PREF_ALIGN_A], value, 4);
    return SUCCESS;
}

struct Sizes {
    uint64_t m, n, k;
};

static bool is_layout(const Layout *l, int type) {
    return l && l->type == type && l->rows && l->cols && l->ld >= int64_t(l->rows);
}

// Whether the matrices fit together: the first one transposed.
static bool sizes_of(const Desc *desc, const Layout *a, const Layout *b, const Layout *c, const Layout *d, Sizes &sizes) {
    if (!desc || desc->compute != COMPUTE_32F || desc->scale != R_32F || desc->transa != OP_T || desc->transb != OP_N) {
        return false;
    }
    if (!is_layout(a, R_16BF) || !is_layout(b, R_16BF) || !is_layout(c, R_32F) || !is_layout(d, R_32F)) {
        return false;
    }
    sizes = {a->cols, b->cols, a->rows};
    return b->rows == sizes.k && d->rows == sizes.m && d->cols == sizes.n && c->rows == d->rows && c->cols == d->cols &&
           c->ld == d->ld;
}

LT cublasLtMatmulAlgoGetHeuristic(Handle *handle, Desc *desc, Layout *a, Layout *b, Layout *c, Layout *d,
                                  Preference *preference, int wanted, Found *found, int *count) {
    Sizes sizes{};
    *count = 0;
    if (const Status status = is_current(handle)) {
        return status;
    }
    if (!sizes_of(desc, a, b, c, d, sizes) || !preference || wanted < 1) {
        return INVALID_VALUE;
    }
    searches++;
    if (preference->workspace < WORKSPACE || sizes.n > largest) {
        return NOT_SUPPORTED;
    }
    *found = Found{};
    found->algo = Algo{MAGIC, sizes.m, sizes.n, sizes.k, WORKSPACE, preference->align[0], preference->align[3], 0};
    found->workspace = WORKSPACE;
    *count = 1;
    return SUCCESS;
}

static bool holds(const void *address, const Layout *l, size_t element) {
    return astrai_host_driver_is_device_memory(reinterpret_cast<uint64_t>(address),
                                               ((l->cols - 1) * uint64_t(l->ld) + l->rows) * element);
}

LT cublasLtMatmul(Handle *handle, Desc *desc, const float *alpha, const void *a, Layout *a_layout, const void *b,
                  Layout *b_layout, const float *beta, const void *c, Layout *c_layout, void *d, Layout *d_layout,
                  const Algo *algo, void *workspace, size_t workspace_bytes, CUstream stream) {
    Sizes sizes{};
    if (const Status status = is_current(handle)) {
        return status;
    }
    if (fail_after && --fail_after == 0) {
        return fail_with;
    }
    if (!sizes_of(desc, a_layout, b_layout, c_layout, d_layout, sizes) || c != d || *alpha != 1.0f) {
        return INVALID_VALUE;
    }
    if (!holds(a, a_layout, 2) || !holds(b, b_layout, 2) || !holds(d, d_layout, 4)) {
        return INVALID_VALUE;
    }
    const bool chosen = algo && algo->magic == MAGIC && algo->m == sizes.m && algo->k == sizes.k && algo->n >= sizes.n;
    const uint64_t align_a = algo->align_a, align_d = algo->align_d;
    if (!chosen || reinterpret_cast<uint64_t>(a) % align_a || reinterpret_cast<uint64_t>(d) % align_d ||
        workspace_bytes < algo->workspace ||
        !astrai_host_driver_is_device_memory(reinterpret_cast<uint64_t>(workspace), workspace_bytes)) {
        return INVALID_VALUE;
    }
    int m = int(sizes.m), k = int(sizes.k), accumulate = *beta != 0.0f;
    int64_t lda = a_layout->ld, ldb = b_layout->ld, ldd = d_layout->ld;
    void *params[] = {&a, &b, &d, &m, &k, &lda, &ldb, &ldd, &accumulate, &workspace};
    const CUresult launched = cuLaunchKernel(handle->function, unsigned((m + 63) / 64), unsigned(sizes.n), 1, 64, 1, 1, 0,
                                             stream, params, nullptr);
    products += launched == CUDA_SUCCESS;
    return launched ? EXECUTION_FAILED : SUCCESS;
}
