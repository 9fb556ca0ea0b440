// A stand-in for NVIDIA's driver library: kernels in their host build, run on the CPU, behind the functions of libcuda.so.1
// that the library under test calls.
//
// It does what the real one may do, and chooses what is worst for a caller that is wrong: nothing runs before the host waits
// for it, memory is filled with NaN, results are filled with 0xFF until they arrive, sources are read late, handles are never
// used twice, and what the documentation forbids is refused. Where the real driver is more lenient, this one is not.
//
// This file: initialisation, devices, contexts, and what tests set and see (control.h). memory.cpp, streams.cpp, launches.cpp
// and graphs.cpp have the rest; state.hpp what they share.
#include "state.hpp"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace driver {

static thread_local std::vector<uintptr_t> current_contexts;

State::State() {
    const char *mode = getenv("ASTRAI_HOST_DRIVER");
    settings.eager = mode && !strcmp(mode, "eager");
}

State &state() {
    static State *const all = new State;
    return *all;
}

static void tell_list(const char *format, va_list args) {
    if (state().message.empty()) {
        char text[1024];
        vsnprintf(text, sizeof text, format, args);
        state().message = text;
    }
}

void tell(const char *format, ...) {
    va_list args;
    va_start(args, format);
    tell_list(format, args);
    va_end(args);
}

CUresult refuse(CUresult error, const char *format, ...) {
    va_list args;
    va_start(args, format);
    tell_list(format, args);
    va_end(args);
    return error;
}

Call::Call(unsigned needs, const char *function) : lock(state().mutex) {
    State &all = state();
    Failure &failure = all.settings.fail_call;
    if (failure.calls && (failure.function.empty() || failure.function == function) && --failure.calls == 0) {
        error = refuse(failure.error, "%s failed because the test said so", function);
    }
    if (all.lost && !error) {
        error = all.settings.loss;
    }
    if (!all.initialised && !(needs & EARLY) && !error) {
        error = refuse(CUDA_ERROR_NOT_INITIALIZED, "%s before cuInit", function);
    }
    if (needs & CURRENT) {
        context = current_contexts.empty() ? nullptr : find(all.contexts, as_handle(current_contexts.back()));
        if (!context && !error) {
            error = refuse(CUDA_ERROR_INVALID_CONTEXT, "%s: no context is current in this thread", function);
        } else if (context && !error) {
            error = context->error;
        }
    }
    if ((needs & UNCAPTURED) && !error && break_captures()) {
        error = refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "%s while a stream captures", function);
    }
}

CUresult Call::end(CUresult own) const {
    if (error) {
        return error;
    }
    if (state().lost) {
        return state().settings.loss;
    }
    return context && context->error ? context->error : own;
}

int device_attribute(int attribute) {
    const auto set = state().settings.attributes.find(attribute);
    if (set != state().settings.attributes.end()) {
        return set->second;
    }
    switch (attribute) {
    case 1: // threads of a block, then their x, y and z
    case 2:
    case 3:
        return 1024;
    case 4:
        return 64;
    case 5: // blocks of a grid: x, y and z
        return 0x7FFFFFFF;
    case 6:
    case 7:
        return 65535;
    case ATTRIBUTE_SHARED_PER_BLOCK:
        return 48 << 10;
    case 9: // constant memory
        return 64 << 10;
    case 10: // threads of a warp
        return 32;
    case 12: // registers of a block
    case 82: // and of a multiprocessor
        return 65536;
    case 13: // kHz
        return 1'980'000;
    case ATTRIBUTE_MULTIPROCESSORS:
        return 4;
    case 36: // memory clock in kHz
        return 2'619'000;
    case 37: // width of the memory bus in bits
        return 5120;
    case 38: // L2 cache
        return 50 << 20;
    case 39: // threads of a multiprocessor
        return 2048;
    case 40: // copy engines
        return 3;
    case 19: // mapped host memory
    case 31: // several kernels at once
    case 41: // unified addresses
    case 78: // priorities
    case 79: // cached loads, global and local
    case 80:
    case 95: // cooperative launches
    case 99: // registered host memory
        return 1;
    case 81: // shared memory of a multiprocessor
        return 228 << 10;
    case ATTRIBUTE_MAJOR:
        return 9;
    case ATTRIBUTE_MINOR:
        return 0;
    case ATTRIBUTE_SHARED_OPT_IN:
        return 227 << 10;
    case 106: // blocks of a multiprocessor
        return 32;
    case 111: // shared memory that the system takes
        return 1 << 10;
    default:
        return 0;
    }
}

static bool is_device(CUdevice device) { return device >= 0 && device < state().settings.device_count; }

// The context ends, and takes along what it has.
static void end_context(Lock &lock, const std::shared_ptr<Context> &context) {
    State &all = state();
    run_context(lock, context);
    auto sweep = [&](auto &objects, bool counts) {
        for (auto at = objects.begin(); at != objects.end();) {
            if (at->second->context == context) {
                all.counts.lost_with_contexts += counts;
                at = objects.erase(at);
            } else {
                ++at;
            }
        }
    };
    sweep(all.events, true);
    sweep(all.modules, true);
    sweep(all.functions, false);
    sweep(all.graphs, true);
    sweep(all.graph_execs, true);
    for (auto at = all.streams.begin(); at != all.streams.end();) {
        if (at->second->context.lock() == context) {
            all.counts.lost_with_contexts++;
            at = all.streams.erase(at);
        } else {
            ++at;
        }
    }
    forget_context_memory(context);
    context->streams.clear();
    context->legacy = nullptr;
    all.contexts.erase(context->handle);
    all.primary.erase(context->device);
}

static CUresult release_primary(CUdevice device, const char *function) {
    Call call(RELEASES, function);
    if (!is_device(device)) {
        return call.end(CUDA_ERROR_INVALID_DEVICE);
    }
    const auto at = state().primary.find(device);
    if (at == state().primary.end()) {
        return call.end(refuse(CUDA_ERROR_INVALID_CONTEXT, "%s: the context is not retained", function));
    }
    const std::shared_ptr<Context> context = at->second;
    if (--context->references == 0) {
        end_context(call.lock, context);
    }
    return call.error;
}

} // namespace driver

using namespace driver;

API cuInit(unsigned flags) {
    Call call(EARLY);
    if (call.error || flags) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    if (state().settings.device_count == 0) {
        return CUDA_ERROR_NO_DEVICE;
    }
    state().initialised = true;
    return CUDA_SUCCESS;
}

API cuDriverGetVersion(int *version) {
    Call call(EARLY);
    if (call.error || !version) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    *version = state().settings.version;
    return CUDA_SUCCESS;
}

API cuDeviceGetCount(int *count) {
    Call call(NOTHING);
    if (call.error || !count) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    *count = state().settings.device_count;
    return CUDA_SUCCESS;
}

API cuDeviceGet(CUdevice *device, int ordinal) {
    Call call(NOTHING);
    if (call.error || !device) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    if (!is_device(ordinal)) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    *device = ordinal;
    return CUDA_SUCCESS;
}

API cuDeviceGetName(char *name, int bytes, CUdevice device) {
    Call call(NOTHING);
    if (call.error || !name || bytes <= 0) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    if (!is_device(device)) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    snprintf(name, size_t(bytes), "%s", state().settings.device_name.c_str());
    return CUDA_SUCCESS;
}

API cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    Call call(NOTHING);
    if (call.error || !value || attribute <= 0) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    if (!is_device(device)) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    *value = device_attribute(attribute);
    return CUDA_SUCCESS;
}

API cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    Call call(NOTHING);
    if (call.error || !bytes) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    if (!is_device(device)) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    *bytes = state().settings.total_bytes;
    return CUDA_SUCCESS;
}

static CUresult device_uuid(CUuuid *uuid, CUdevice device, const char *function) {
    Call call(NOTHING, function);
    if (call.error || !uuid) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    if (!is_device(device)) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    memcpy(uuid->bytes, "stand-in GPU    ", 16);
    uuid->bytes[15] = char('0' + device);
    return CUDA_SUCCESS;
}

API cuDeviceGetUuid(CUuuid *uuid, CUdevice device) { return device_uuid(uuid, device, "cuDeviceGetUuid"); }
API cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) { return device_uuid(uuid, device, "cuDeviceGetUuid_v2"); }

API cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    Call call(NOTHING);
    if (call.error || !context) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    if (!is_device(device)) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    std::shared_ptr<Context> &primary = state().primary[device];
    if (!primary) {
        primary = std::make_shared<Context>();
        primary->device = device;
        primary->legacy = std::make_shared<Stream>();
        primary->legacy->legacy = true;
        primary->legacy->context = primary;
        primary->streams.push_back(primary->legacy);
        primary->handle = insert(state().contexts, primary);
    }
    primary->references++;
    *context = as_handle(primary->handle);
    return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxRelease(CUdevice device) { return release_primary(device, "cuDevicePrimaryCtxRelease"); }
API cuDevicePrimaryCtxRelease_v2(CUdevice device) { return release_primary(device, "cuDevicePrimaryCtxRelease_v2"); }

// Setting and popping go on in a failed or lost state, so that a thread can always leave as it came.
API cuCtxSetCurrent(CUcontext context) {
    Call call(RELEASES);
    if (context && !find(state().contexts, context)) {
        return call.end(refuse(CUDA_ERROR_INVALID_CONTEXT, "cuCtxSetCurrent: no such context"));
    }
    if (!current_contexts.empty()) {
        current_contexts.pop_back();
    }
    if (context) {
        current_contexts.push_back(reinterpret_cast<uintptr_t>(context));
    }
    return call.error;
}

API cuCtxGetCurrent(CUcontext *context) {
    Call call(NOTHING);
    if (call.error || !context) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    *context = current_contexts.empty() ? nullptr : as_handle(current_contexts.back());
    return CUDA_SUCCESS;
}

API cuCtxPushCurrent_v2(CUcontext context) {
    Call call(RELEASES);
    if (!find(state().contexts, context)) {
        return call.end(refuse(CUDA_ERROR_INVALID_CONTEXT, "cuCtxPushCurrent_v2: no such context"));
    }
    current_contexts.push_back(reinterpret_cast<uintptr_t>(context));
    return call.error;
}

API cuCtxPopCurrent_v2(CUcontext *context) {
    Call call(RELEASES);
    if (current_contexts.empty()) {
        return call.end(refuse(CUDA_ERROR_INVALID_CONTEXT, "cuCtxPopCurrent_v2: no context is current"));
    }
    if (context) {
        *context = as_handle(current_contexts.back());
    }
    current_contexts.pop_back();
    return call.error;
}

API cuCtxSynchronize() {
    Call call(CURRENT);
    if (call.error) {
        return call.error;
    }
    for (const std::shared_ptr<Stream> &stream : call.context->streams) {
        if (stream->capture) {
            stream->capture->invalid = true;
            return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuCtxSynchronize while a stream captures");
        }
    }
    state().counts.context_synchronisations++;
    run_context(call.lock, call.context);
    return call.end();
}

API cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    Call call(CURRENT);
    if (call.error) {
        return call.error;
    }
    if (least) {
        *least = 0;
    }
    if (greatest) {
        *greatest = -5;
    }
    return CUDA_SUCCESS;
}

API cuGetErrorName(CUresult error, const char **name) {
    switch (error) {
#define X(error_name, value, text)                                                                                     \
    case value:                                                                                                        \
        *name = "CUDA_" #error_name;                                                                                   \
        return CUDA_SUCCESS;
        ERRORS(X)
#undef X
    default:
        *name = nullptr;
        return CUDA_ERROR_INVALID_VALUE;
    }
}

API cuGetErrorString(CUresult error, const char **name) {
    switch (error) {
#define X(error_name, value, text)                                                                                     \
    case value:                                                                                                        \
        *name = text;                                                                                                  \
        return CUDA_SUCCESS;
        ERRORS(X)
#undef X
    default:
        *name = nullptr;
        return CUDA_ERROR_INVALID_VALUE;
    }
}
