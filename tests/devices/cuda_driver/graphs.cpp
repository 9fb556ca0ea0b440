// Capture of streams into graphs, and their launches. Nodes run in the order in which they were captured.
#include "state.hpp"

#include <algorithm>

namespace driver {

static bool is_active(const std::shared_ptr<Graph> &graph) {
    const auto &all = state().captures;
    return std::find(all.begin(), all.end(), graph) != all.end();
}

bool break_captures() {
    bool any = false;
    for (const std::shared_ptr<Graph> &graph : state().captures) {
        const bool own = graph->thread == std::this_thread::get_id();
        if (graph->mode == CAPTURE_GLOBAL || (graph->mode == CAPTURE_THREAD_LOCAL && own)) {
            graph->invalid = true;
            any = true;
        }
    }
    return any;
}

CUresult wait_captured(const std::shared_ptr<Stream> &stream, const Event &event) {
    if (!is_active(event.captured)) {
        return refuse(CUDA_ERROR_CAPTURED_EVENT, "cuStreamWaitEvent: the event belongs to a capture that has ended");
    }
    if (stream->legacy) {
        event.captured->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "cuStreamWaitEvent: the default stream cannot be captured");
    }
    if (stream->capture && stream->capture != event.captured) {
        stream->capture->invalid = event.captured->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_MERGE, "cuStreamWaitEvent: the event belongs to another capture");
    }
    if (!stream->capture) {
        stream->capture = event.captured;
        stream->captured_count = stream->joined_count = 0;
    }
    if (event.captured_in != stream) {
        event.captured_in->joined_count = std::max(event.captured_in->joined_count, event.captured_count);
        // What waits has to be waited for in its turn.
        stream->captured_count++;
    }
    return event.captured->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
}

static CUresult begin_capture(CUstream handle, int mode) {
    Call call(CURRENT, "cuStreamBeginCapture_v2");
    if (call.error || mode < CAPTURE_GLOBAL || mode > CAPTURE_RELAXED) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    const std::shared_ptr<Stream> stream = find_stream(call, handle);
    if (!stream) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "cuStreamBeginCapture_v2: no such stream");
    }
    if (stream->legacy) {
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuStreamBeginCapture_v2: the default stream cannot be captured");
    }
    if (stream->capture) {
        return refuse(CUDA_ERROR_ILLEGAL_STATE, "cuStreamBeginCapture_v2: the stream captures already");
    }
    auto graph = std::make_shared<Graph>();
    graph->context = call.context;
    graph->mode = mode;
    graph->thread = std::this_thread::get_id();
    graph->origin = stream;
    stream->capture = graph;
    stream->captured_count = stream->joined_count = 0;
    state().captures.push_back(graph);
    state().counts.captures++;
    return CUDA_SUCCESS;
}

// Whether everything that was captured beside the first stream was waited for there. All streams leave the capture.
static bool leave_capture(const std::shared_ptr<Context> &context, const std::shared_ptr<Graph> &graph) {
    bool joined = true;
    for (const std::shared_ptr<Stream> &stream : context->streams) {
        if (stream->capture == graph) {
            joined = joined && (stream == graph->origin.lock() || stream->captured_count <= stream->joined_count);
            stream->capture = nullptr;
        }
    }
    auto &all = state().captures;
    all.erase(std::remove(all.begin(), all.end(), graph), all.end());
    return joined;
}

} // namespace driver

using namespace driver;

API cuStreamBeginCapture_v2(CUstream stream, int mode) { return begin_capture(stream, mode); }

API cuStreamEndCapture(CUstream handle, CUgraph *out) {
    Call call(CURRENT | RELEASES);
    if (call.error == CUDA_ERROR_INVALID_CONTEXT || !out) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    *out = nullptr;
    const std::shared_ptr<Stream> stream = find_stream(call, handle);
    if (!stream || !stream->capture) {
        return call.end(refuse(CUDA_ERROR_ILLEGAL_STATE, "cuStreamEndCapture: the stream does not capture"));
    }
    const std::shared_ptr<Graph> graph = stream->capture;
    if (graph->origin.lock() != stream) {
        graph->invalid = true;
        return call.end(refuse(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "cuStreamEndCapture: the capture began in another stream"));
    }
    if (graph->mode != CAPTURE_RELAXED && graph->thread != std::this_thread::get_id()) {
        return call.end(refuse(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "cuStreamEndCapture in another thread"));
    }
    const bool joined = leave_capture(call.context, graph);
    if (call.error) {
        return call.error;
    }
    if (graph->invalid) {
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    if (!joined) {
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "cuStreamEndCapture: the work of another stream was not waited for");
    }
    *out = as_handle(insert(state().graphs, graph));
    return CUDA_SUCCESS;
}

API cuStreamIsCapturing(CUstream handle, int *status) {
    Call call(CURRENT);
    if (call.error || !status) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    const std::shared_ptr<Stream> stream = find_stream(call, handle);
    if (!stream) {
        return refuse(CUDA_ERROR_INVALID_HANDLE, "cuStreamIsCapturing: no such stream");
    }
    *status = !stream->capture ? CAPTURE_NONE : stream->capture->invalid ? CAPTURE_INVALIDATED : CAPTURE_ACTIVE;
    return CUDA_SUCCESS;
}

API cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph handle, unsigned long long) {
    Call call(NOTHING);
    const std::shared_ptr<Graph> graph = find(state().graphs, handle);
    if (call.error || !exec || !graph) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    auto made = std::make_shared<GraphExec>();
    made->context = graph->context;
    made->nodes = graph->nodes;
    state().counts.graph_instantiations++;
    *exec = as_handle(insert(state().graph_execs, made));
    return CUDA_SUCCESS;
}

API cuGraphUpload(CUgraphExec exec, CUstream stream) {
    Call call(CURRENT);
    if (call.error || !find(state().graph_execs, exec) || !find_stream(call, stream)) {
        return call.end(CUDA_ERROR_INVALID_VALUE);
    }
    return CUDA_SUCCESS;
}

API cuGraphLaunch(CUgraphExec handle, CUstream stream_handle) {
    Call call(CURRENT);
    if (call.error) {
        return call.error;
    }
    const std::shared_ptr<GraphExec> exec = find(state().graph_execs, handle);
    const std::shared_ptr<Stream> stream = find_stream(call, stream_handle);
    if (!exec || !stream) {
        return refuse(CUDA_ERROR_INVALID_VALUE, "cuGraphLaunch: no such graph or stream");
    }
    if (stream->capture) {
        stream->capture->invalid = true;
        return refuse(CUDA_ERROR_NOT_SUPPORTED, "cuGraphLaunch while the stream captures: graphs in graphs are not modelled");
    }
    state().counts.graph_launches++;
    // Launches of one graph run one after the other.
    std::vector<Mark> after;
    if (exec->last.stream) {
        after.push_back(exec->last);
    }
    for (const Work &node : exec->nodes) {
        if (node.kind == Work::Launch) {
            note_launch(node);
        }
        Work work = node;
        work.after = after;
        if (const CUresult error = enqueue(call, stream, std::move(work))) {
            return error;
        }
    }
    exec->last = {stream, stream->enqueued};
    count_down();
    return CUDA_SUCCESS;
}

API cuGraphExecDestroy(CUgraphExec handle) {
    Call call(RELEASES);
    return call.end(take(state().graph_execs, handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

API cuGraphDestroy(CUgraph handle) {
    Call call(RELEASES);
    return call.end(take(state().graphs, handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}
