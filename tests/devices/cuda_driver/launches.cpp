// Modules, functions and launches. Any image gives every kernel of the host build.
#include "state.hpp"

#include <cstdio>
#include <dlfcn.h>

namespace driver {

// A symbol of this library itself, wherever it was loaded from.
static void *own_symbol(const std::string &name) {
    static void *const self = [] {
        Dl_info info;
        return dladdr(reinterpret_cast<void *>(&own_symbol), &info) ? dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD) : nullptr;
    }();
    return self ? dlsym(self, name.c_str()) : nullptr;
}

static std::shared_ptr<const Kernel> find_kernel(const char *name) {
    auto kernel = std::make_shared<Kernel>();
    kernel->name = name;
    kernel->run = reinterpret_cast<int (*)(void *, void **)>(own_symbol("launch_" + kernel->name));
    const auto sizes = reinterpret_cast<const uint32_t *(*)(uint32_t *)>(own_symbol("params_" + kernel->name));
    if (!kernel->run || !sizes) {
        return nullptr;
    }
    uint32_t count = 0;
    const uint32_t *bytes = sizes(&count);
    kernel->param_bytes.assign(bytes, bytes + count);
    return kernel;
}

void note_launch(const Work &work) {
    state().counts.launches++;
    if (!state().settings.logging) {
        return;
    }
    char text[512];
    snprintf(text, sizeof text, "%s grid %u %u %u block %u %u %u shared %u\n", work.kernel->name.c_str(), work.grid[0],
             work.grid[1], work.grid[2], work.block[0], work.block[1], work.block[2], work.shared_bytes);
    state().log += text;
}

void lose() {
    State &all = state();
    all.lost = true;
    for (const auto &[handle, context] : all.contexts) {
        context->error = all.settings.loss;
    }
}

void count_down() {
    Settings &settings = state().settings;
    if (settings.losing && !state().lost && --settings.launches_left == 0) {
        lose();
    }
}

static bool is_grid(const std::array<uint32_t, 3> &grid, const std::array<uint32_t, 3> &block) {
    const uint64_t threads = uint64_t(block[0]) * block[1] * block[2];
    return grid[0] && grid[1] && grid[2] && grid[0] <= 0x7FFFFFFF && grid[1] <= 65535 && grid[2] <= 65535 && threads &&
           block[0] <= 1024 && block[1] <= 1024 && block[2] <= 64 && threads <= 1024;
}

static CUresult launch(Call &call, CUfunction handle, const CUlaunchConfig &config, void **params, void **extra) {
    const std::shared_ptr<Function> function = find(state().functions, handle);
    const std::shared_ptr<Stream> stream = find_stream(call, config.stream);
    if (!function || !stream || function->context != call.context) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "launch: no such function or stream in this context");
    }
    Work work;
    work.kind = Work::Launch;
    work.kernel = function->kernel;
    work.grid = {config.grid[0], config.grid[1], config.grid[2]};
    work.block = {config.block[0], config.block[1], config.block[2]};
    work.shared_bytes = config.shared_bytes;
    const char *name = function->kernel->name.c_str();
    if (!is_grid(work.grid, work.block)) {
        return refuse(CUDA_ERROR_INVALID_VALUE, "launch of %s: a grid of %u, %u, %u blocks of %u, %u, %u threads", name,
                      work.grid[0], work.grid[1], work.grid[2], work.block[0], work.block[1], work.block[2]);
    }
    if (int64_t(work.shared_bytes) > function->dynamic_shared_max) {
        return refuse(CUDA_ERROR_INVALID_VALUE, "launch of %s: %u bytes of shared memory, %d were asked for", name,
                      work.shared_bytes, function->dynamic_shared_max);
    }
    if (extra || (!params && !work.kernel->param_bytes.empty())) {
        return refuse(CUDA_ERROR_INVALID_VALUE, "launch of %s: parameters are given as an array of addresses", name);
    }
    for (size_t i = 0; i < work.kernel->param_bytes.size(); i++) {
        if (!params[i]) {
            return refuse(CUDA_ERROR_INVALID_VALUE, "launch of %s: parameter %zu is null", name, i);
        }
        const uint32_t bytes = work.kernel->param_bytes[i];
        const size_t at = work.bytes_of.size();
        work.bytes_of.resize(at + (bytes + 15) / 16 * 2);
        memcpy(work.bytes_of.data() + at, params[i], bytes);
    }
    const bool captured = stream->capture != nullptr;
    if (!captured) {
        note_launch(work);
    }
    const CUresult error = enqueue(call, stream, std::move(work));
    if (!error && !captured) {
        count_down();
    }
    return error;
}

static CUresult load_module(CUmodule *handle, const void *image, const char *function) {
    Call call(CURRENT | UNCAPTURED, function);
    if (call.error || !handle) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    // Below the first page: the address of an empty slice.
    if (reinterpret_cast<uintptr_t>(image) < 4096 || *static_cast<const char *>(image) == 0) {
        return refuse(CUDA_ERROR_INVALID_IMAGE, "%s: there is no image", function);
    }
    auto module = std::make_shared<Module>();
    module->context = call.context;
    *handle = as_handle(insert(state().modules, module));
    return CUDA_SUCCESS;
}

} // namespace driver

using namespace driver;

API cuModuleLoadData(CUmodule *module, const void *image) { return load_module(module, image, "cuModuleLoadData"); }

API cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned, int *, void **) {
    return load_module(module, image, "cuModuleLoadDataEx");
}

API cuModuleGetFunction(CUfunction *handle, CUmodule module, const char *name) {
    Call call(CURRENT);
    if (call.error || !handle || !name) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    const std::shared_ptr<Module> found = find(state().modules, module);
    if (!found || found->context != call.context) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "cuModuleGetFunction: no such module in this context");
    }
    auto function = std::make_shared<Function>();
    function->kernel = find_kernel(name);
    function->module = reinterpret_cast<uintptr_t>(module);
    function->context = call.context;
    if (!function->kernel) {
        return refuse(CUDA_ERROR_NOT_FOUND, "cuModuleGetFunction: no kernel %s", name);
    }
    *handle = as_handle(insert(state().functions, function));
    return CUDA_SUCCESS;
}

API cuModuleUnload(CUmodule handle) {
    Call call(CURRENT | UNCAPTURED | RELEASES);
    if (call.error == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED || call.error == CUDA_ERROR_INVALID_CONTEXT) {
        return call.error;
    }
    if (!take(state().modules, handle)) {
        return call.end(refuse(CUDA_ERROR_INVALID_HANDLE, "cuModuleUnload: no such module"));
    }
    auto &all = state().functions;
    for (auto at = all.begin(); at != all.end();) {
        at = at->second->module == reinterpret_cast<uintptr_t>(handle) ? all.erase(at) : std::next(at);
    }
    return call.end();
}

API cuFuncGetAttribute(int *value, int attribute, CUfunction handle) {
    Call call(CURRENT);
    if (call.error || !value) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    const std::shared_ptr<Function> function = find(state().functions, handle);
    if (!function) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "cuFuncGetAttribute: no such function");
    }
    switch (attribute) {
    case FUNCTION_MAX_THREADS:
        *value = 1024;
        break;
    case FUNCTION_BINARY_VERSION:
        *value = device_attribute(ATTRIBUTE_MAJOR) * 10 + device_attribute(ATTRIBUTE_MINOR);
        break;
    case FUNCTION_MAX_DYNAMIC_SHARED:
        *value = function->dynamic_shared_max;
        break;
    default:
        *value = 0;
    }
    return CUDA_SUCCESS;
}

API cuFuncSetAttribute(CUfunction handle, int attribute, int value) {
    Call call(CURRENT);
    if (call.error) {
        return call.error;
    }
    const std::shared_ptr<Function> function = find(state().functions, handle);
    if (!function) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "cuFuncSetAttribute: no such function");
    }
    if (attribute == FUNCTION_CARVEOUT && value >= -1 && value <= 100) {
        return CUDA_SUCCESS;
    }
    if (attribute != FUNCTION_MAX_DYNAMIC_SHARED || value < 0 || value > device_attribute(ATTRIBUTE_SHARED_OPT_IN)) {
        return refuse(CUDA_ERROR_INVALID_VALUE, "cuFuncSetAttribute of %s: attribute %d cannot be %d",
                      function->kernel->name.c_str(), attribute, value);
    }
    function->dynamic_shared_max = value;
    return CUDA_SUCCESS;
}

API cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void **params,
                   void **extra) {
    Call call(CURRENT);
    if (call.error) {
        return call.error;
    }
    const CUlaunchConfig config{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, stream, nullptr, 0};
    return launch(call, function, config, params, extra);
}

API cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **params, void **extra) {
    Call call(CURRENT);
    if (call.error || !config || (config->attribute_count && !config->attributes)) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    for (unsigned i = 0; i < config->attribute_count; i++) {
        const CUlaunchAttribute &attribute = config->attributes[i];
        const uint32_t *dims = attribute.value.dims;
        if (attribute.id == LAUNCH_CLUSTER_DIMENSION && (dims[0] != 1 || dims[1] != 1 || dims[2] != 1)) {
            return refuse(CUDA_ERROR_INVALID_VALUE, "cuLaunchKernelEx: the host build has no clusters");
        }
    }
    return launch(call, function, *config, params, extra);
}
