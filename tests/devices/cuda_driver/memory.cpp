// Memory of the device and pinned memory, and copies between them.
//
// Device memory has the size asked for, and beyond it on both sides a margin that nobody may write. What was freed is kept for
// a while, so that it can be seen whether somebody still writes there. All of it is filled with the bits of NaN.
#include "state.hpp"

#include <algorithm>
#include <cstdlib>

namespace driver {

#if defined(__SANITIZE_ADDRESS__)
// The sanitizer sees more than margins do.
constexpr size_t MARGIN = 0, KEPT_BYTES_MAX = 0;
#else
constexpr size_t MARGIN = 256, KEPT_BYTES_MAX = 16 << 20;
#endif

struct Kept {
    uintptr_t address;
    size_t bytes;
};

static std::deque<Kept> kept;
static size_t kept_bytes;

static bool is_filled(uintptr_t address, size_t bytes) {
    const unsigned char *at = reinterpret_cast<const unsigned char *>(address);
    return bytes == 0 || (at[0] == 0xFF && !memcmp(at, at + 1, bytes - 1));
}

static void *get_memory(size_t bytes) {
    void *memory = nullptr;
    if (posix_memalign(&memory, 256, bytes + 2 * MARGIN)) {
        return nullptr;
    }
    memset(memory, 0xFF, bytes + 2 * MARGIN);
    return static_cast<char *>(memory) + MARGIN;
}

// Whether nothing was written where nobody may.
static bool put_back(uintptr_t address, size_t bytes) {
    bool well = true;
    if (MARGIN && !(is_filled(address - MARGIN, MARGIN) && is_filled(address + bytes, MARGIN))) {
        tell("%zu bytes of memory at %#zx: something was written before or beyond them", bytes, size_t(address));
        well = false;
    }
    if (bytes <= KEPT_BYTES_MAX) {
        memset(reinterpret_cast<void *>(address), 0xFF, bytes);
        kept.push_back({address, bytes});
        kept_bytes += bytes;
    } else {
        free(reinterpret_cast<void *>(address - MARGIN));
    }
    while (kept_bytes > KEPT_BYTES_MAX || kept.size() > 4096) {
        const Kept oldest = kept.front();
        kept.pop_front();
        kept_bytes -= oldest.bytes;
        if (!is_filled(oldest.address, oldest.bytes)) {
            tell("%zu bytes of memory at %#zx were written after they had been freed", oldest.bytes, size_t(oldest.address));
            well = false;
        }
        free(reinterpret_cast<void *>(oldest.address - MARGIN));
    }
    return well;
}

const Allocation *holder(const Allocations &all, uint64_t address, size_t bytes) {
    auto at = all.upper_bound(address);
    if (at == all.begin()) {
        return nullptr;
    }
    --at;
    const uint64_t offset = address - at->first;
    return offset <= at->second.bytes && bytes <= at->second.bytes - offset ? &at->second : nullptr;
}

bool touches(const Allocations &all, uint64_t address, size_t bytes) {
    const auto next = all.lower_bound(address);
    if (next != all.end() && next->first - address < bytes) {
        return true;
    }
    return next != all.begin() && address - std::prev(next)->first < std::prev(next)->second.bytes;
}

static uint64_t used_bytes(CUdevice device) {
    uint64_t used = 0;
    for (const auto &[address, allocation] : state().device_memory) {
        used += allocation.device == device ? allocation.bytes : 0;
    }
    return used;
}

static bool is_to_fail() { return state().settings.fail_allocation && --state().settings.fail_allocation == 0; }

void forget_context_memory(const std::shared_ptr<Context> &context) {
    for (Allocations *all : {&state().device_memory, &state().pinned_memory}) {
        for (auto at = all->begin(); at != all->end();) {
            if (at->second.context == context) {
                state().counts.lost_with_contexts++;
                put_back(at->first, at->second.bytes);
                at = all->erase(at);
            } else {
                ++at;
            }
        }
    }
}

static CUresult allocate_pinned(void **pointer, size_t bytes, const char *function) {
    Call call(CURRENT | UNCAPTURED, function);
    if (call.error || !pointer || bytes == 0) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    void *memory = is_to_fail() ? nullptr : get_memory(bytes);
    if (!memory) {
        return refuse(CUDA_ERROR_OUT_OF_MEMORY, "%s of %zu bytes: out of memory", function, bytes);
    }
    state().counts.pinned_allocations++;
    state().pinned_memory[reinterpret_cast<uintptr_t>(memory)] =
        Allocation{bytes, state().next_allocation++, call.context->device, call.context};
    *pointer = memory;
    return CUDA_SUCCESS;
}

// A copy's or fill's device side: all in one allocation.
static bool check_device(uint64_t address, size_t bytes, uint64_t &number, const char *function) {
    const Allocation *found = holder(state().device_memory, address, bytes);
    if (!found) {
        tell("%s: %zu bytes at %#zx are not in one allocation", function, bytes, size_t(address));
        return false;
    }
    number = found->number;
    return true;
}

// A copy's host side; `number` stays 0 for memory that is not pinned.
static bool check_host(const void *pointer, size_t bytes, uint64_t &number, const char *function) {
    const uint64_t address = reinterpret_cast<uintptr_t>(pointer);
    const Allocation *found = holder(state().pinned_memory, address, bytes);
    if (found) {
        number = found->number;
        return true;
    }
    if (!pointer || touches(state().pinned_memory, address, bytes) || touches(state().device_memory, address, bytes)) {
        tell("%s: %zu bytes at %p are not host memory, or not in one allocation", function, bytes, pointer);
        return false;
    }
    return true;
}

struct Copy {
    CUstream stream;
    bool waits;
    const char *function;
};

// Does a copy or fill in its stream, whose ranges are checked by `prepare`.
template <class Prepare> static CUresult transfer(const Copy &copy, size_t bytes, Prepare prepare) {
    Call call(copy.waits ? CURRENT | UNCAPTURED : CURRENT, copy.function);
    if (call.error) {
        return call.error;
    }
    const std::shared_ptr<Stream> stream = find_stream(call, copy.stream);
    if (!stream) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "%s: no such stream", copy.function);
    }
    if (bytes == 0) {
        return CUDA_SUCCESS;
    }
    Work work;
    work.bytes = bytes;
    if (!prepare(work)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    const bool pageable = (work.kind == Work::ToHost && !work.to_allocation) ||
                          (work.kind == Work::ToDevice && !work.from_allocation);
    if (stream->capture && pageable) {
        stream->capture->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "%s while the stream captures: host memory that is not pinned",
                      copy.function);
    }
    // What is not pinned is staged, and a synchronous copy returns when its source has been read.
    if (work.kind == Work::ToDevice && (pageable || copy.waits)) {
        work.staged = true;
        work.bytes_of.resize((bytes + 7) / 8);
        memcpy(work.bytes_of.data(), reinterpret_cast<const void *>(work.from), bytes);
    }
    return enqueue(call, stream, std::move(work));
}

static CUresult to_device(CUdeviceptr to, const void *from, size_t bytes, const Copy &copy) {
    return transfer(copy, bytes, [&](Work &work) {
        work.kind = Work::ToDevice;
        work.to = to;
        work.from = reinterpret_cast<uintptr_t>(from);
        return check_device(to, bytes, work.to_allocation, copy.function) &&
               check_host(from, bytes, work.from_allocation, copy.function);
    });
}

static CUresult to_host(void *to, CUdeviceptr from, size_t bytes, const Copy &copy) {
    const CUresult result = transfer(copy, bytes, [&](Work &work) {
        work.kind = Work::ToHost;
        work.to = reinterpret_cast<uintptr_t>(to);
        work.from = from;
        return check_host(to, bytes, work.to_allocation, copy.function) &&
               check_device(from, bytes, work.from_allocation, copy.function);
    });
    if (result || !copy.waits) {
        return result;
    }
    Call call(CURRENT, "");
    if (!call.error) {
        run_until(call.lock, {call.context->legacy, call.context->legacy->enqueued});
    }
    return call.end();
}

static CUresult within_device(CUdeviceptr to, CUdeviceptr from, size_t bytes, const Copy &copy) {
    return transfer(copy, bytes, [&](Work &work) {
        work.kind = Work::Within;
        work.to = to;
        work.from = from;
        if (to < from + bytes && from < to + bytes) {
            tell("%s: the ranges overlap", copy.function);
            return false;
        }
        return check_device(to, bytes, work.to_allocation, copy.function) &&
               check_device(from, bytes, work.from_allocation, copy.function);
    });
}

static CUresult fill(CUdeviceptr to, uint32_t value, uint32_t value_bytes, size_t count, const Copy &copy) {
    return transfer(copy, count * value_bytes, [&](Work &work) {
        work.kind = Work::Fill;
        work.to = to;
        work.value = value;
        work.value_bytes = value_bytes;
        if (to % value_bytes) {
            tell("%s: the address is not aligned", copy.function);
            return false;
        }
        return check_device(to, count * value_bytes, work.to_allocation, copy.function);
    });
}

} // namespace driver

using namespace driver;

API cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes) {
    Call call(CURRENT | UNCAPTURED);
    if (call.error || !pointer || bytes == 0) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    const uint64_t used = used_bytes(call.context->device), total = state().settings.total_bytes;
    const bool fits = bytes <= total && used <= total - bytes;
    void *memory = is_to_fail() || !fits ? nullptr : get_memory(bytes);
    if (!memory) {
        return refuse(CUDA_ERROR_OUT_OF_MEMORY, "cuMemAlloc_v2 of %zu bytes, %zu of %zu used", bytes, size_t(used),
                      size_t(total));
    }
    state().device_memory[reinterpret_cast<uintptr_t>(memory)] =
        Allocation{bytes, state().next_allocation++, call.context->device, call.context};
    state().counts.device_allocations++;
    uint64_t live = 0;
    for (const auto &[address, allocation] : state().device_memory) {
        live += allocation.bytes;
    }
    state().counts.peak_device_bytes = std::max(state().counts.peak_device_bytes, live);
    *pointer = reinterpret_cast<uintptr_t>(memory);
    return CUDA_SUCCESS;
}

API cuMemFree_v2(CUdeviceptr pointer) {
    Call call(CURRENT | UNCAPTURED | RELEASES);
    if (call.error == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED || call.error == CUDA_ERROR_INVALID_CONTEXT || !pointer) {
        return call.error;
    }
    if (call.context) {
        run_context(call.lock, call.context);
    }
    const auto at = state().device_memory.find(pointer);
    if (at == state().device_memory.end()) {
        return call.end(refuse(CUDA_ERROR_INVALID_VALUE, "cuMemFree_v2: %#llx is not the start of memory", pointer));
    }
    const bool well = put_back(at->first, at->second.bytes);
    state().device_memory.erase(at);
    if (!well && call.context && !call.context->error) {
        call.context->error = CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    return call.end();
}

API cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
    Call call(CURRENT);
    if (call.error || !free_bytes || !total_bytes) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    const uint64_t used = used_bytes(call.context->device), total = state().settings.total_bytes;
    *free_bytes = total - std::min(used, total);
    *total_bytes = total;
    return CUDA_SUCCESS;
}

API cuMemAllocHost_v2(void **pointer, size_t bytes) { return allocate_pinned(pointer, bytes, "cuMemAllocHost_v2"); }

API cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags) {
    return flags > 7 ? CUDA_ERROR_INVALID_VALUE : allocate_pinned(pointer, bytes, "cuMemHostAlloc");
}

// Waits for nothing: work that still needs the memory fails when it runs.
API cuMemFreeHost(void *pointer) {
    Call call(CURRENT | UNCAPTURED | RELEASES);
    if (call.error == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED || call.error == CUDA_ERROR_INVALID_CONTEXT) {
        return call.error;
    }
    const auto at = state().pinned_memory.find(reinterpret_cast<uintptr_t>(pointer));
    if (at == state().pinned_memory.end()) {
        return call.end(refuse(CUDA_ERROR_INVALID_VALUE, "cuMemFreeHost: %p is not the start of memory", pointer));
    }
    const bool well = put_back(at->first, at->second.bytes);
    state().pinned_memory.erase(at);
    if (!well && call.context && !call.context->error) {
        call.context->error = CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    return call.end();
}

// The source has been read when it returns, but it may take until the default stream is waited for before the device has it:
// streams that are not ordered with that one can come too early.
API cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
    return to_device(to, from, bytes, {nullptr, true, "cuMemcpyHtoD_v2"});
}

API cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
    return to_host(to, from, bytes, {nullptr, true, "cuMemcpyDtoH_v2"});
}

API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return within_device(to, from, bytes, {nullptr, true, "cuMemcpyDtoD_v2"});
}

API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    return to_device(to, from, bytes, {stream, false, "cuMemcpyHtoDAsync_v2"});
}

API cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return to_host(to, from, bytes, {stream, false, "cuMemcpyDtoHAsync_v2"});
}

API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return within_device(to, from, bytes, {stream, false, "cuMemcpyDtoDAsync_v2"});
}

API cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    return fill(to, value, 1, count, {nullptr, true, "cuMemsetD8_v2"});
}

API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
    return fill(to, value, 1, count, {stream, false, "cuMemsetD8Async"});
}

API cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
    return fill(to, value, 4, count, {stream, false, "cuMemsetD32Async"});
}
