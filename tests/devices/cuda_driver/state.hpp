// What the stand-in knows: one state for the process, under one mutex. Kernels and copies run outside of it, in the order of
// their streams.
#pragma once

#include "abi.hpp"
#include "control.h"

#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace driver {

struct Stream;
struct Context;

// A place in a stream: all its work before `position` is meant.
struct Mark {
    std::shared_ptr<Stream> stream;
    uint64_t position = 0;

    bool reached() const;
};

struct Kernel {
    std::string name;
    int (*run)(void *geometry, void **params) = nullptr;
    std::vector<uint32_t> param_bytes;
};

struct Event {
    std::shared_ptr<Context> context;
    unsigned flags = 0;
    bool recorded = false;
    Mark mark;
    // Nanoseconds at which the last record ran.
    uint64_t time = 0;
    // The capture in which it was recorded last, if that was in one, with what its stream had recorded by then.
    std::shared_ptr<struct Graph> captured;
    std::shared_ptr<Stream> captured_in;
    uint64_t captured_count = 0;
};

// A piece of work, of a stream or of a graph.
struct Work {
    enum Kind { Launch, ToDevice, ToHost, Within, Fill, Record } kind = Record;
    // Launch: parameters lie in `bytes_of`, 16 bytes apart at least.
    std::shared_ptr<const Kernel> kernel;
    std::array<uint32_t, 3> grid{}, block{};
    uint32_t shared_bytes = 0;
    // Copies and fills. A source that is not pinned was copied to `bytes_of` when the work was enqueued.
    uint64_t to = 0, from = 0;
    size_t bytes = 0;
    bool staged = false;
    uint32_t value = 0, value_bytes = 1;
    std::vector<uint64_t> bytes_of;
    // Numbers of the allocations that a copy was checked against: it fails if they are gone when it runs.
    uint64_t to_allocation = 0, from_allocation = 0;
    std::shared_ptr<Event> event;
    std::vector<Mark> after;
};

struct Graph {
    std::shared_ptr<Context> context;
    std::vector<Work> nodes;
    // While it is captured.
    int mode = CAPTURE_GLOBAL;
    std::thread::id thread;
    bool invalid = false;
    std::weak_ptr<Stream> origin;
};

struct GraphExec {
    std::shared_ptr<Context> context;
    std::vector<Work> nodes;
    Mark last;
};

struct Stream {
    std::weak_ptr<Context> context;
    unsigned flags = 0;
    int priority = 0;
    bool legacy = false;
    std::deque<Work> waiting;
    uint64_t enqueued = 0, completed = 0;
    bool running = false, destroyed = false;
    std::shared_ptr<Graph> capture;
    // Work captured here, and how much of it the capture's first stream has waited for.
    uint64_t captured_count = 0, joined_count = 0;

    bool blocking() const { return !legacy && !(flags & STREAM_NON_BLOCKING); }
};

struct Context {
    CUdevice device = 0;
    uintptr_t handle = 0;
    unsigned references = 0;
    CUresult error = CUDA_SUCCESS;
    std::shared_ptr<Stream> legacy;
    // All with work that waits, destroyed ones included.
    std::vector<std::shared_ptr<Stream>> streams;
};

struct Module {
    std::shared_ptr<Context> context;
};

struct Function {
    std::shared_ptr<const Kernel> kernel;
    uintptr_t module = 0;
    std::shared_ptr<Context> context;
    int dynamic_shared_max = 48 << 10;
};

struct Allocation {
    size_t bytes = 0;
    uint64_t number = 0;
    CUdevice device = 0;
    std::shared_ptr<Context> context;
};

using Allocations = std::map<uintptr_t, Allocation>;

struct Failure {
    std::string function;
    uint64_t calls = 0;
    CUresult error = CUDA_SUCCESS;
};

struct Settings {
    int version = 13000;
    int device_count = 1;
    std::string device_name = "Stand-in GPU";
    std::map<int, int> attributes;
    uint64_t total_bytes = 1ull << 30;
    bool eager = false;
    bool idle = false;
    uint64_t seed = 0;
    uint64_t fail_allocation = 0;
    Failure fail_call;
    bool losing = false;
    uint64_t launches_left = 0;
    CUresult loss = CUDA_SUCCESS;
    bool logging = false;
};

struct State {
    std::mutex mutex;
    std::condition_variable done;
    Settings settings;
    bool initialised = false;
    bool lost = false;
    uintptr_t next_handle = 0x10000;
    uint64_t next_allocation = 1;
    uint64_t next_launch = 0;
    astrai_host_driver_counts counts{};
    std::string message, log;
    std::map<CUdevice, std::shared_ptr<Context>> primary;
    std::map<uintptr_t, std::shared_ptr<Context>> contexts;
    std::map<uintptr_t, std::shared_ptr<Stream>> streams;
    std::map<uintptr_t, std::shared_ptr<Event>> events;
    std::map<uintptr_t, std::shared_ptr<Module>> modules;
    std::map<uintptr_t, std::shared_ptr<Function>> functions;
    std::map<uintptr_t, std::shared_ptr<Graph>> graphs;
    std::map<uintptr_t, std::shared_ptr<GraphExec>> graph_execs;
    Allocations device_memory, pinned_memory;
    std::vector<std::shared_ptr<Graph>> captures;

    State();
};

// Never destroyed: threads may call while the process ends.
State &state();

using Lock = std::unique_lock<std::mutex>;

enum Needs : unsigned {
    NOTHING = 0,
    // A context that is current and has not failed.
    CURRENT = 1,
    // Not allowed while a capture forbids it: whatever waits or allocates.
    UNCAPTURED = 2,
    // Does its work also where it tells an error.
    RELEASES = 4,
    // May be called before cuInit.
    EARLY = 8,
};

// Every driver function begins with one: takes the lock and finds out whether the call may go on.
struct Call {
    Lock lock;
    CUresult error = CUDA_SUCCESS;
    std::shared_ptr<Context> context;

    explicit Call(unsigned needs, const char *function = __builtin_FUNCTION());
    // What the call says at its end: a failure of the work that ran in it comes first.
    CUresult end(CUresult own = CUDA_SUCCESS) const;
};

template <class T> uintptr_t insert(std::map<uintptr_t, std::shared_ptr<T>> &all, std::shared_ptr<T> value) {
    state().next_handle += 16;
    all[state().next_handle] = std::move(value);
    return state().next_handle;
}

template <class T>
std::shared_ptr<T> find(const std::map<uintptr_t, std::shared_ptr<T>> &all, const void *handle) {
    const auto at = all.find(reinterpret_cast<uintptr_t>(handle));
    return at == all.end() ? nullptr : at->second;
}

template <class T> std::shared_ptr<T> take(std::map<uintptr_t, std::shared_ptr<T>> &all, const void *handle) {
    std::shared_ptr<T> value = find(all, handle);
    all.erase(reinterpret_cast<uintptr_t>(handle));
    return value;
}

inline void *as_handle(uintptr_t number) { return reinterpret_cast<void *>(number); }

// Keeps the first message.
void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
// Tells, and gives the error.
CUresult refuse(CUresult error, const char *format, ...) __attribute__((format(printf, 2, 3)));

int device_attribute(int attribute);

// The current context's own or default stream; null if there is none.
std::shared_ptr<Stream> find_stream(const Call &call, CUstream handle);

// The allocation that holds all of the range.
const Allocation *holder(const Allocations &all, uint64_t address, size_t bytes);
// Whether any byte of the range is in one.
bool touches(const Allocations &all, uint64_t address, size_t bytes);

// Puts work at the end of a stream, or into the graph that it captures.
CUresult enqueue(Call &call, const std::shared_ptr<Stream> &stream, Work work);
// Runs a stream's work up to a mark, and what that waits for.
void run_until(Lock &lock, const Mark &mark);
// Runs one piece of work of a stream, or of one that it waits for.
void run_one(Lock &lock, const std::shared_ptr<Stream> &stream);
void run_context(Lock &lock, const std::shared_ptr<Context> &context);
// Counts and logs a launch of a kernel.
void note_launch(const Work &work);
// Counts a launch against the loss of the device.
void count_down();
// The device is lost, and with it every context and what waits there.
void lose();
// Invalidates the captures that the calling thread's unsafe calls break; whether there are any.
bool break_captures();
// A stream waits for an event of a capture: it joins that capture, or what it waits for is joined there.
CUresult wait_captured(const std::shared_ptr<Stream> &stream, const Event &event);
void forget_context_memory(const std::shared_ptr<Context> &context);

} // namespace driver
