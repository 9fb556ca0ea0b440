// Streams and events: queues of work that nobody runs before the host waits.
//
// Waiting for a stream runs its work, and of other streams only as much as it was told to wait for. A query runs a single
// piece, so that polling comes to an end.
#include "state.hpp"

#include <algorithm>
#include <chrono>

namespace driver {

// The mirror of host::Geometry in kernels/fibers.cuh.
struct Geometry {
    std::array<uint32_t, 3> grid, block;
    uint32_t shared_bytes;
    uint64_t seed;
    char *message;
    uint32_t message_bytes;
};

bool Mark::reached() const { return !stream || stream->completed >= position; }

std::shared_ptr<Stream> find_stream(const Call &call, CUstream handle) {
    // 1 is the legacy stream by its explicit name.
    if (reinterpret_cast<uintptr_t>(handle) <= 1) {
        return call.context->legacy;
    }
    return find(state().streams, handle);
}

static uint64_t now() {
    return uint64_t(std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1));
}

static CUresult run_kernel(Lock &lock, const Work &work) {
    State &all = state();
    const uint64_t number = all.next_launch++;
    std::vector<void *> params;
    char *at = reinterpret_cast<char *>(const_cast<uint64_t *>(work.bytes_of.data()));
    for (const uint32_t bytes : work.kernel->param_bytes) {
        params.push_back(at);
        at += (bytes + 15) / 16 * 16;
    }
    char message[1024] = "";
    const uint64_t seed = all.settings.seed ? (all.settings.seed + number) | 1 : 0;
    Geometry geometry{work.grid, work.block, work.shared_bytes, seed, message, sizeof message};
    lock.unlock();
    const int result = work.kernel->run(&geometry, params.data());
    lock.lock();
    if (!result) {
        return CUDA_SUCCESS;
    }
    const CUresult error = strstr(message, "not a multiple of") ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_ERROR_LAUNCH_FAILED;
    return refuse(error, "%s", message);
}

// Copies were checked when they were enqueued; what they need must still be there.
static bool is_there(const Allocations &all, uint64_t address, size_t bytes, uint64_t number) {
    const Allocation *found = holder(all, address, bytes);
    return number == 0 || (found && found->number == number);
}

static CUresult run_copy(Lock &lock, const Work &work) {
    State &all = state();
    const bool from_host = work.kind == Work::ToDevice, to_host = work.kind == Work::ToHost;
    const Allocations &target = to_host ? all.pinned_memory : all.device_memory;
    const Allocations &source = from_host ? all.pinned_memory : all.device_memory;
    if (!is_there(target, work.to, work.bytes, work.to_allocation) ||
        (!work.staged && !is_there(source, work.from, work.bytes, work.from_allocation))) {
        return refuse(CUDA_ERROR_ILLEGAL_ADDRESS, "a copy of %zu bytes ran after its memory had been freed", work.bytes);
    }
    if (from_host) {
        all.counts.to_device_copies++;
        all.counts.to_device_bytes += work.bytes;
    } else if (to_host) {
        all.counts.to_host_copies++;
        all.counts.to_host_bytes += work.bytes;
    }
    const void *from = work.staged ? work.bytes_of.data() : reinterpret_cast<const void *>(work.from);
    lock.unlock();
    memcpy(reinterpret_cast<void *>(work.to), from, work.bytes);
    lock.lock();
    return CUDA_SUCCESS;
}

static CUresult run_fill(const Work &work) {
    if (!is_there(state().device_memory, work.to, work.bytes, work.to_allocation)) {
        return refuse(CUDA_ERROR_ILLEGAL_ADDRESS, "%zu bytes were to be filled after they had been freed", work.bytes);
    }
    char *to = reinterpret_cast<char *>(work.to);
    for (size_t at = 0; at < work.bytes; at += work.value_bytes) {
        memcpy(to + at, &work.value, work.value_bytes);
    }
    return CUDA_SUCCESS;
}

static CUresult run_work(Lock &lock, const std::shared_ptr<Stream> &stream, const Work &work) {
    switch (work.kind) {
    case Work::Launch:
        return state().settings.idle ? CUDA_SUCCESS : run_kernel(lock, work);
    case Work::ToDevice:
    case Work::ToHost:
    case Work::Within:
        return run_copy(lock, work);
    case Work::Fill:
        return run_fill(work);
    case Work::Record:
        if (work.event && work.event->mark.stream == stream && work.event->mark.position == stream->completed + 1) {
            work.event->time = now();
        }
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_UNKNOWN;
}

void run_one(Lock &lock, const std::shared_ptr<Stream> &stream) {
    if (stream->running) {
        state().done.wait(lock);
        return;
    }
    if (stream->waiting.empty()) {
        return;
    }
    for (const Mark &mark : stream->waiting.front().after) {
        if (!mark.reached()) {
            const std::shared_ptr<Stream> other = mark.stream;
            run_one(lock, other);
            return;
        }
    }
    const Work work = std::move(stream->waiting.front());
    stream->waiting.pop_front();
    stream->running = true;
    const std::shared_ptr<Context> context = stream->context.lock();
    if (context && !context->error) {
        const CUresult error = run_work(lock, stream, work);
        if (error && !context->error) {
            context->error = error;
        }
    }
    stream->running = false;
    stream->completed++;
    state().done.notify_all();
}

void run_until(Lock &lock, const Mark &mark) {
    const std::shared_ptr<Stream> stream = mark.stream;
    const uint64_t position = mark.position;
    while (stream && stream->completed < position) {
        run_one(lock, stream);
    }
}

void run_context(Lock &lock, const std::shared_ptr<Context> &context) {
    const std::vector<std::shared_ptr<Stream>> streams = context->streams;
    for (const std::shared_ptr<Stream> &stream : streams) {
        run_until(lock, {stream, stream->enqueued});
    }
    auto &all = context->streams;
    auto over = [](const std::shared_ptr<Stream> &s) { return s->destroyed && s->completed == s->enqueued; };
    all.erase(std::remove_if(all.begin(), all.end(), over), all.end());
}

CUresult enqueue(Call &call, const std::shared_ptr<Stream> &stream, Work work) {
    const std::shared_ptr<Context> context = stream->context.lock();
    if (context != call.context) {
        return refuse(CUDA_ERROR_INVALID_CONTEXT, "work for a stream of a context that is not current");
    }
    if (stream->capture) {
        if (stream->capture->invalid) {
            return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        }
        stream->captured_count++;
        stream->capture->nodes.push_back(std::move(work));
        return CUDA_SUCCESS;
    }
    for (const std::shared_ptr<Stream> &other : context->streams) {
        if (stream->legacy && other->blocking()) {
            if (other->capture) {
                other->capture->invalid = true;
                return refuse(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "work for the default stream while a blocking one captures");
            }
            work.after.push_back({other, other->enqueued});
        } else if (stream->blocking() && other->legacy) {
            work.after.push_back({other, other->enqueued});
        }
    }
    if (work.kind == Work::ToHost) {
        memset(reinterpret_cast<void *>(work.to), 0xFF, work.bytes);
    }
    stream->waiting.push_back(std::move(work));
    stream->enqueued++;
    if (state().settings.eager) {
        run_until(call.lock, {stream, stream->enqueued});
    }
    return CUDA_SUCCESS;
}

static CUresult create_stream(CUstream *handle, unsigned flags, int priority, const char *function) {
    Call call(CURRENT, function);
    if (call.error || !handle || flags > STREAM_NON_BLOCKING) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    auto stream = std::make_shared<Stream>();
    stream->context = call.context;
    stream->flags = flags;
    stream->priority = priority;
    call.context->streams.push_back(stream);
    *handle = as_handle(insert(state().streams, stream));
    return CUDA_SUCCESS;
}

static CUresult elapsed(float *milliseconds, CUevent start, CUevent end, const char *function) {
    Call call(CURRENT, function);
    if (call.error || !milliseconds) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    const std::shared_ptr<Event> from = find(state().events, start), to = find(state().events, end);
    if (!from || !to || !from->recorded || !to->recorded || ((from->flags | to->flags) & EVENT_DISABLE_TIMING)) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "%s: events that do not measure time, or were not recorded", function);
    }
    if (!from->mark.reached() || !to->mark.reached()) {
        return CUDA_ERROR_NOT_READY;
    }
    *milliseconds = float(double(int64_t(to->time - from->time)) * 1e-6);
    return CUDA_SUCCESS;
}

} // namespace driver

using namespace driver;

API cuStreamCreate(CUstream *stream, unsigned flags) { return create_stream(stream, flags, 0, "cuStreamCreate"); }

API cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority) {
    return create_stream(stream, flags, priority, "cuStreamCreateWithPriority");
}

// Its work is done all the same, when the context is waited for or something waits for that work.
API cuStreamDestroy_v2(CUstream handle) {
    Call call(CURRENT | RELEASES);
    const std::shared_ptr<Stream> stream = take(state().streams, handle);
    if (!stream) {
        return call.end(refuse(CUDA_ERROR_INVALID_HANDLE, "cuStreamDestroy_v2: no such stream"));
    }
    if (stream->capture) {
        stream->capture->invalid = true;
    }
    stream->destroyed = true;
    return call.end();
}

API cuStreamSynchronize(CUstream handle) {
    Call call(CURRENT | UNCAPTURED);
    if (call.error) {
        return call.error;
    }
    const std::shared_ptr<Stream> stream = find_stream(call, handle);
    if (!stream) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "cuStreamSynchronize: no such stream");
    }
    if (stream->capture) {
        stream->capture->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuStreamSynchronize while the stream captures");
    }
    state().counts.stream_synchronisations++;
    run_until(call.lock, {stream, stream->enqueued});
    return call.end();
}

API cuStreamQuery(CUstream handle) {
    Call call(CURRENT | UNCAPTURED);
    if (call.error) {
        return call.error;
    }
    const std::shared_ptr<Stream> stream = find_stream(call, handle);
    if (!stream) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "cuStreamQuery: no such stream");
    }
    if (stream->capture) {
        stream->capture->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuStreamQuery while the stream captures");
    }
    if (stream->completed == stream->enqueued) {
        return call.end();
    }
    run_one(call.lock, stream);
    return call.end(CUDA_ERROR_NOT_READY);
}

API cuStreamWaitEvent(CUstream handle, CUevent event_handle, unsigned flags) {
    Call call(CURRENT);
    if (call.error) {
        return call.error;
    }
    const std::shared_ptr<Stream> stream = find_stream(call, handle);
    const std::shared_ptr<Event> event = find(state().events, event_handle);
    if (!stream || !event || flags > 1) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "cuStreamWaitEvent: no such stream or event");
    }
    if (event->captured) {
        return wait_captured(stream, *event);
    }
    if (stream->capture) {
        stream->capture->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "cuStreamWaitEvent: a capture cannot wait for what is outside of it");
    }
    if (!event->recorded) {
        return CUDA_SUCCESS;
    }
    Work work;
    work.after.push_back(event->mark);
    return call.end(enqueue(call, stream, std::move(work)));
}

API cuEventCreate(CUevent *handle, unsigned flags) {
    Call call(CURRENT);
    if (call.error || !handle || flags > 7) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    auto event = std::make_shared<Event>();
    event->context = call.context;
    event->flags = flags;
    *handle = as_handle(insert(state().events, event));
    return CUDA_SUCCESS;
}

API cuEventDestroy_v2(CUevent handle) {
    Call call(CURRENT | RELEASES);
    if (!take(state().events, handle)) {
        return call.end(refuse(CUDA_ERROR_INVALID_HANDLE, "cuEventDestroy_v2: no such event"));
    }
    return call.end();
}

API cuEventRecord(CUevent event_handle, CUstream handle) {
    Call call(CURRENT);
    if (call.error) {
        return call.error;
    }
    const std::shared_ptr<Stream> stream = find_stream(call, handle);
    const std::shared_ptr<Event> event = find(state().events, event_handle);
    if (!stream || !event || stream->context.lock() != event->context) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "cuEventRecord: no such event or stream, or of different contexts");
    }
    if (stream->capture) {
        event->captured = stream->capture;
        event->captured_in = stream;
        event->captured_count = stream->captured_count;
        return stream->capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
    }
    event->captured = nullptr;
    event->recorded = true;
    event->mark = {stream, stream->enqueued + 1};
    Work work;
    work.event = event;
    return call.end(enqueue(call, stream, std::move(work)));
}

API cuEventSynchronize(CUevent handle) {
    Call call(CURRENT | UNCAPTURED);
    if (call.error) {
        return call.error;
    }
    const std::shared_ptr<Event> event = find(state().events, handle);
    if (!event) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "cuEventSynchronize: no such event");
    }
    if (event->captured) {
        return refuse(CUDA_ERROR_CAPTURED_EVENT, "cuEventSynchronize: the event belongs to a capture");
    }
    state().counts.event_synchronisations++;
    run_until(call.lock, event->mark);
    return call.end();
}

API cuEventQuery(CUevent handle) {
    Call call(CURRENT | UNCAPTURED);
    if (call.error) {
        return call.error;
    }
    const std::shared_ptr<Event> event = find(state().events, handle);
    if (!event) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "cuEventQuery: no such event");
    }
    if (event->captured) {
        return refuse(CUDA_ERROR_CAPTURED_EVENT, "cuEventQuery: the event belongs to a capture");
    }
    const Mark mark = event->mark;
    if (mark.reached()) {
        return call.end();
    }
    run_one(call.lock, mark.stream);
    return call.end(CUDA_ERROR_NOT_READY);
}

API cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    return elapsed(milliseconds, start, end, "cuEventElapsedTime");
}

API cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
    return elapsed(milliseconds, start, end, "cuEventElapsedTime_v2");
}
