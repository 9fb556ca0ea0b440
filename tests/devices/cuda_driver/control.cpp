// What tests set and see: the functions of control.h.
#include "state.hpp"

#include <algorithm>
#include <cstdlib>

using namespace driver;

#define CONTROL extern "C" __attribute__((visibility("default")))

static size_t give(const std::string &from, char *text, size_t bytes) {
    if (text && bytes) {
        const size_t count = std::min(from.size(), bytes - 1);
        memcpy(text, from.data(), count);
        text[count] = 0;
    }
    return from.size();
}

CONTROL void astrai_host_driver_reset() {
    const char *mode = getenv("ASTRAI_HOST_DRIVER");
    const Lock lock(state().mutex);
    state().settings = Settings();
    state().settings.eager = mode && !strcmp(mode, "eager");
    state().lost = false;
    state().next_launch = 0;
    state().counts = {};
    state().message.clear();
    state().log.clear();
    for (const auto &[address, allocation] : state().device_memory) {
        state().counts.peak_device_bytes += allocation.bytes;
    }
}

CONTROL void astrai_host_driver_set_version(int version) {
    const Lock lock(state().mutex);
    state().settings.version = version;
}

CONTROL void astrai_host_driver_set_device_count(int count) {
    const Lock lock(state().mutex);
    state().settings.device_count = count;
}

CONTROL void astrai_host_driver_set_device_name(const char *name) {
    const Lock lock(state().mutex);
    state().settings.device_name = name;
}

CONTROL void astrai_host_driver_set_capability(int major, int minor) {
    const Lock lock(state().mutex);
    const int version = major * 10 + minor;
    const bool small = version == 86 || version == 89 || version >= 120;
    const int kib = version < 80 ? 64 : small ? 99 : version < 90 ? 163 : 227;
    state().settings.attributes[ATTRIBUTE_MAJOR] = major;
    state().settings.attributes[ATTRIBUTE_MINOR] = minor;
    state().settings.attributes[ATTRIBUTE_SHARED_OPT_IN] = kib << 10;
}

CONTROL void astrai_host_driver_set_attribute(int attribute, int value) {
    const Lock lock(state().mutex);
    state().settings.attributes[attribute] = value;
}

CONTROL void astrai_host_driver_set_total_memory(uint64_t bytes) {
    const Lock lock(state().mutex);
    state().settings.total_bytes = bytes;
}

CONTROL void astrai_host_driver_set_eager(int eager) {
    const Lock lock(state().mutex);
    state().settings.eager = eager != 0;
}

CONTROL void astrai_host_driver_set_idle(int idle) {
    const Lock lock(state().mutex);
    state().settings.idle = idle != 0;
}

CONTROL void astrai_host_driver_set_seed(uint64_t seed) {
    const Lock lock(state().mutex);
    state().settings.seed = seed;
}

CONTROL void astrai_host_driver_fail_allocation(uint64_t n) {
    const Lock lock(state().mutex);
    state().settings.fail_allocation = n;
}

CONTROL void astrai_host_driver_fail_call(const char *function, uint64_t n, int error) {
    const Lock lock(state().mutex);
    state().settings.fail_call = Failure{function ? function : "", n, error};
}

CONTROL void astrai_host_driver_lose_device(uint64_t launches, int error) {
    const Lock lock(state().mutex);
    state().settings.losing = true;
    state().settings.launches_left = launches;
    state().settings.loss = error;
    if (launches == 0) {
        lose();
    }
}

CONTROL void astrai_host_driver_get_counts(astrai_host_driver_counts *counts) {
    const Lock lock(state().mutex);
    const State &all = state();
    *counts = all.counts;
    for (const auto &[address, allocation] : all.device_memory) {
        counts->live_device_bytes += allocation.bytes;
    }
    for (const auto &[address, allocation] : all.pinned_memory) {
        counts->live_pinned_bytes += allocation.bytes;
    }
    counts->live_device_allocations = all.device_memory.size();
    counts->live_streams = all.streams.size();
    counts->live_events = all.events.size();
    counts->live_modules = all.modules.size();
    counts->live_graphs = all.graphs.size() + all.graph_execs.size();
    counts->live_contexts = all.contexts.size();
}

CONTROL size_t astrai_host_driver_message(char *text, size_t bytes) {
    const Lock lock(state().mutex);
    return give(state().message, text, bytes);
}

CONTROL void astrai_host_driver_log(int on) {
    const Lock lock(state().mutex);
    state().settings.logging = on != 0;
    state().log.clear();
}

CONTROL size_t astrai_host_driver_get_log(char *text, size_t bytes) {
    const Lock lock(state().mutex);
    return give(state().log, text, bytes);
}

CONTROL int astrai_host_driver_is_device_memory(uint64_t address, uint64_t bytes) {
    const Lock lock(state().mutex);
    return holder(state().device_memory, address, bytes) != nullptr;
}
