// The part of NVIDIA's driver interface that the stand-in speaks: types as wide as the real ones, and the values that cross the
// border. Handles are numbers that are never used twice, so a stale one is always found.
#pragma once

#include <cstddef>
#include <cstdint>

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = void *;
using CUstream = void *;
using CUevent = void *;
using CUmodule = void *;
using CUfunction = void *;
using CUgraph = void *;
using CUgraphExec = void *;

struct CUuuid {
    char bytes[16];
};

struct CUlaunchAttribute {
    int id;
    char pad[4];
    union {
        char bytes[64];
        int number;
        uint32_t dims[3];
        uint64_t align;
    } value;
};

struct CUlaunchConfig {
    unsigned grid[3];
    unsigned block[3];
    unsigned shared_bytes;
    CUstream stream;
    CUlaunchAttribute *attributes;
    unsigned attribute_count;
};

static_assert(sizeof(CUlaunchConfig) == 56 && sizeof(CUlaunchAttribute) == 72, "as in the bindings of cudarc");

// Errors, by the names that cuGetErrorName gives.
#define ERRORS(X)                                                                                                      \
    X(SUCCESS, 0, "no error")                                                                                          \
    X(ERROR_INVALID_VALUE, 1, "invalid argument")                                                                      \
    X(ERROR_OUT_OF_MEMORY, 2, "out of memory")                                                                         \
    X(ERROR_NOT_INITIALIZED, 3, "initialization error")                                                                \
    X(ERROR_DEINITIALIZED, 4, "driver shutting down")                                                                  \
    X(ERROR_DEVICE_UNAVAILABLE, 46, "CUDA-capable device(s) is/are busy or unavailable")                               \
    X(ERROR_NO_DEVICE, 100, "no CUDA-capable device is detected")                                                      \
    X(ERROR_INVALID_DEVICE, 101, "invalid device ordinal")                                                             \
    X(ERROR_INVALID_IMAGE, 200, "device kernel image is invalid")                                                      \
    X(ERROR_INVALID_CONTEXT, 201, "invalid device context")                                                            \
    X(ERROR_NO_BINARY_FOR_GPU, 209, "no kernel image is available for execution on the device")                        \
    X(ERROR_ECC_UNCORRECTABLE, 214, "uncorrectable ECC error encountered")                                             \
    X(ERROR_UNSUPPORTED_PTX_VERSION, 222, "the provided PTX was compiled with an unsupported toolchain")               \
    X(ERROR_OPERATING_SYSTEM, 304, "OS call failed or operation not supported on this OS")                             \
    X(ERROR_INVALID_HANDLE, 400, "invalid resource handle")                                                            \
    X(ERROR_ILLEGAL_STATE, 401, "the operation cannot be performed in the present state")                              \
    X(ERROR_NOT_FOUND, 500, "named symbol not found")                                                                  \
    X(ERROR_NOT_READY, 600, "device not ready")                                                                        \
    X(ERROR_ILLEGAL_ADDRESS, 700, "an illegal memory access was encountered")                                          \
    X(ERROR_LAUNCH_OUT_OF_RESOURCES, 701, "too many resources requested for launch")                                   \
    X(ERROR_LAUNCH_TIMEOUT, 702, "the launch timed out and was terminated")                                            \
    X(ERROR_CONTEXT_IS_DESTROYED, 709, "context is destroyed")                                                         \
    X(ERROR_LAUNCH_FAILED, 719, "unspecified launch failure")                                                          \
    X(ERROR_NOT_SUPPORTED, 801, "operation not supported")                                                             \
    X(ERROR_SYSTEM_DRIVER_MISMATCH, 803, "system has unsupported display driver / cuda driver combination")            \
    X(ERROR_STREAM_CAPTURE_UNSUPPORTED, 900, "operation not permitted when stream is capturing")                       \
    X(ERROR_STREAM_CAPTURE_INVALIDATED, 901, "operation failed due to a previous error during capture")                \
    X(ERROR_STREAM_CAPTURE_MERGE, 902, "operation would result in a merge of separate capture sequences")              \
    X(ERROR_STREAM_CAPTURE_UNMATCHED, 903, "capture was not ended in the same stream as it began")                     \
    X(ERROR_STREAM_CAPTURE_UNJOINED, 904, "capturing stream has unjoined work")                                        \
    X(ERROR_STREAM_CAPTURE_ISOLATION, 905, "dependency created on uncaptured work in another stream")                  \
    X(ERROR_STREAM_CAPTURE_IMPLICIT, 906, "operation would make the legacy stream depend on a capturing stream")       \
    X(ERROR_CAPTURED_EVENT, 907, "operation not permitted on an event last recorded in a capturing stream")            \
    X(ERROR_STREAM_CAPTURE_WRONG_THREAD, 908, "attempt to terminate a thread-local capture sequence from another thread") \
    X(ERROR_UNKNOWN, 999, "unknown error")

enum : CUresult {
#define X(name, value, text) CUDA_##name = value,
    ERRORS(X)
#undef X
};

// Attributes of devices and functions that have an answer.
enum : int {
    ATTRIBUTE_SHARED_PER_BLOCK = 8,
    ATTRIBUTE_MULTIPROCESSORS = 16,
    ATTRIBUTE_MAJOR = 75,
    ATTRIBUTE_MINOR = 76,
    ATTRIBUTE_SHARED_OPT_IN = 97,

    FUNCTION_MAX_THREADS = 0,
    FUNCTION_BINARY_VERSION = 6,
    FUNCTION_MAX_DYNAMIC_SHARED = 8,
    FUNCTION_CARVEOUT = 9,
};

enum : unsigned { STREAM_NON_BLOCKING = 1, EVENT_DISABLE_TIMING = 2 };
enum : int { CAPTURE_GLOBAL = 0, CAPTURE_THREAD_LOCAL = 1, CAPTURE_RELAXED = 2 };
enum : int { CAPTURE_NONE = 0, CAPTURE_ACTIVE = 1, CAPTURE_INVALIDATED = 2 };
enum : int { LAUNCH_CLUSTER_DIMENSION = 4 };

#define API extern "C" __attribute__((visibility("default"))) CUresult
