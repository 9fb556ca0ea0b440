//! Steps recorded as CUDA graphs. A decode step consists of some hundred launches that differ from those of the
//! previous step only in the integers at fixed places of device memory, so it is captured once per kind and then
//! launched as a whole.
//!
//! The kind of a step is its number of rows (padded, so that there are few), the number of key spans for split attention,
//! and whether sampling needs lists. The first step of a kind runs normally, so that nothing is left to be created or
//! allocated during capture. The second runs normally too, and every launch is made a second time on a stream that only
//! captures: whatever fails there, the step has been run. From the third on, the operations are skipped, and the last one
//! launches the graph. After a failed capture all steps run normally.

use super::driver::{Device, Owned, check, stream};
use super::state::CudaBackend;
use crate::error::{Result, reserved};
use cudarc::driver::sys;
use std::sync::Arc;

/// Maximum number of kinds kept; the least recently used is dropped.
const GRAPHS_MAX: usize = 64;

/// What steps must have in common to share a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub rows: usize,
    pub spans: usize,
    pub lists: bool,
}

/// What becomes of the operations of the current step.
#[derive(Clone, Copy, Default)]
enum Mode {
    /// They are submitted.
    #[default]
    Submit,
    /// They are submitted and captured.
    Capture(Kind),
    /// They are skipped, and the graph of the kind is launched at the end.
    Replay(Kind),
}

/// A recorded step.
type Graph = Owned<sys::CUgraphExec>;

/// A stream on which nothing runs.
struct CaptureStream(Owned<sys::CUstream>);

impl CaptureStream {
    fn new(device: &Arc<Device>) -> Result<CaptureStream> {
        let _entered = device.enter()?;
        // SAFETY: a stream just made, which has no other user.
        Ok(CaptureStream(unsafe { Owned::new(device, stream(false)?, sys::cuStreamDestroy_v2, false) }))
    }

    fn begin(&self) -> Result<()> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let _entered = self.0.device.enter()?;
        // SAFETY: a live stream on which nothing is captured.
        check(unsafe { sys::cuStreamBeginCapture_v2(self.0.handle, mode) }, "record a step")
    }

    fn end(&self) -> Result<Graph> {
        let _entered = self.0.device.enter()?;
        let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the stream has been capturing since `begin`; writes one handle.
        check(unsafe { sys::cuStreamEndCapture(self.0.handle, &raw mut graph) }, "record a step")?;
        // SAFETY: a graph just captured; writes one handle, which `Graph` destroys.
        let made = check(unsafe { sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0) }, "record a step");
        // SAFETY: the instance does not need the graph any more.
        unsafe { sys::cuGraphDestroy(graph) };
        made?;
        // SAFETY: just made. If it is still running at its end, the driver keeps it until it has finished.
        Ok(unsafe { Owned::new(&self.0.device, exec, sys::cuGraphExecDestroy, false) })
    }
}

/// A kind of step that has occurred.
struct Seen {
    kind: Kind,
    /// None: it has run once and was not recorded.
    graph: Option<Graph>,
    used: u64,
}

/// The recorded graphs of an engine.
#[derive(Default)]
pub struct Graphs {
    seen: Vec<Seen>,
    /// Captures; `None` before [`Graphs::reserve`], and after a capture that failed.
    stream: Option<CaptureStream>,
    mode: Mode,
    clock: u64,
}

impl Graphs {
    /// Makes the stream that captures, and room for the list of kinds.
    pub fn reserve(&mut self, device: &Arc<Device>) -> Result<()> {
        self.seen = reserved("recorded steps", GRAPHS_MAX)?;
        self.stream = Some(CaptureStream::new(device)?);
        Ok(())
    }

    /// Whether the operations of the current step are skipped, because a graph has them.
    pub fn replays(&self) -> bool {
        matches!(self.mode, Mode::Replay(_))
    }

    /// The stream on which launches are made a second time, while a step is captured.
    pub fn capturing(&self) -> Option<sys::CUstream> {
        self.stream.as_ref().filter(|_| matches!(self.mode, Mode::Capture(_))).map(|stream| stream.0.handle)
    }

    /// Gives up capturing, this step and for good.
    pub fn give_up(&mut self) {
        let captured = self.stream.take().map(|stream| stream.end());
        drop(captured);
        self.mode = Mode::Submit;
    }

    /// Decides what becomes of the operations of a step that could be recorded.
    pub fn begin(&mut self, kind: Kind) {
        let Some(stream) = &self.stream else { return };
        self.clock += 1;
        let at = self.seen.iter().position(|seen| seen.kind == kind).unwrap_or_else(|| {
            if self.seen.len() >= GRAPHS_MAX {
                let oldest = (0..self.seen.len()).min_by_key(|&i| self.seen[i].used).unwrap_or(0);
                self.seen.swap_remove(oldest);
            }
            // `used` 0: it has not run yet.
            self.seen.push(Seen { kind, graph: None, used: 0 });
            self.seen.len() - 1
        });
        let first = std::mem::replace(&mut self.seen[at].used, self.clock) == 0;
        match (&self.seen[at].graph, first) {
            (Some(_), _) => self.mode = Mode::Replay(kind),
            (None, true) => {}
            (None, false) => match stream.begin() {
                Ok(()) => self.mode = Mode::Capture(kind),
                Err(_) => self.stream = None,
            },
        }
    }

    fn graph(&self, kind: Kind) -> Option<&Graph> {
        self.seen.iter().find(|seen| seen.kind == kind)?.graph.as_ref()
    }

    /// Ends a capture and keeps its graph.
    fn keep(&mut self, kind: Kind) {
        match self.stream.as_ref().map(CaptureStream::end) {
            Some(Ok(graph)) => {
                if let Some(seen) = self.seen.iter_mut().find(|seen| seen.kind == kind) {
                    seen.graph = Some(graph);
                }
            }
            // No failure of the device: the step has been submitted.
            _ => self.stream = None,
        }
    }
}

impl CudaBackend {
    /// Ends the step whose operations have been called: launches the graph that has them, or keeps what was captured.
    pub(super) fn end_step(&mut self) {
        match std::mem::take(&mut self.graphs.mode) {
            Mode::Submit => {}
            Mode::Capture(_) if self.failure.is_some() => self.graphs.give_up(),
            Mode::Capture(kind) => {
                self.graphs.keep(kind);
            }
            Mode::Replay(kind) if self.failure.is_none() => {
                let launched = self.graphs.graph(kind).map_or(Ok(()), |graph| {
                    let _entered = graph.device.enter()?;
                    // SAFETY: a live graph; the memory it uses is that of this backend, which lives longer.
                    let answer = unsafe { sys::cuGraphLaunch(graph.handle, graph.device.stream) };
                    check(answer, "start a recorded step")
                });
                self.note(launched);
                // The graph changed tensors without calls of `wrote`, so no rounded copy is known to be valid.
                self.forget_rounded();
            }
            Mode::Replay(_) => {}
        }
    }
}
