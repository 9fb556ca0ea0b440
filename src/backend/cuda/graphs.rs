//! Steps recorded as CUDA graphs. A decode step consists of some hundred launches that differ from those of the
//! previous step only in the integers at fixed places of device memory, so it is captured once per kind and then
//! launched as a whole.
//!
//! The kind of a step is its number of rows (padded, [`crate::backend::Backend::padded`]), the number of key spans for
//! split attention, and whether sampling needs lists. The first step of a kind runs normally, so that nothing is left
//! to be created or allocated during capture; the second is captured. After a failed capture all steps run normally.

use super::driver::{Device, check};
use super::state::CudaBackend;
use crate::error::{Result, reserved};
use cudarc::driver::sys;
use std::sync::Arc;

/// Maximum number of kinds kept; the least recently used is dropped.
const GRAPHS_MAX: usize = 64;

/// What steps must have in common to share a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    rows: usize,
    spans: usize,
    lists: bool,
}

/// A recorded step.
struct Graph {
    device: Arc<Device>,
    exec: sys::CUgraphExec,
}

// SAFETY: as for `Device`.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(_entered) = self.device.enter() {
            // SAFETY: made in `end_recording`. If it is still running, the driver keeps it until it has finished.
            unsafe { sys::cuGraphExecDestroy(self.exec) };
        }
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
    /// The kind that is being captured.
    recording: Option<Kind>,
    off: bool,
    clock: u64,
}

impl Graphs {
    /// Reserves memory for the list of kinds.
    pub fn reserve(&mut self) -> Result<()> {
        self.seen = reserved("recorded steps", GRAPHS_MAX)?;
        Ok(())
    }

    /// The entry of a kind, created if it is new.
    fn find(&mut self, kind: Kind) -> &mut Seen {
        self.clock += 1;
        let at = match self.seen.iter().position(|s| s.kind == kind) {
            Some(at) => at,
            None => {
                if self.seen.len() >= GRAPHS_MAX {
                    let oldest = (0..self.seen.len()).min_by_key(|&i| self.seen[i].used).unwrap_or(0);
                    self.seen.swap_remove(oldest);
                }
                // `used` 0: it has not run yet.
                self.seen.push(Seen { kind, graph: None, used: 0 });
                self.seen.len() - 1
            }
        };
        &mut self.seen[at]
    }
}

impl CudaBackend {
    /// See [`crate::backend::Backend::replay`].
    pub(super) fn replay_step(&mut self) -> bool {
        if self.graphs.off || self.failure.is_some() {
            return false;
        }
        let inputs = self.inputs();
        let (rows, spans) = (inputs.rows, inputs.units.single_spans);
        assert!(inputs.units.single == rows && inputs.units.several == 0, "a step of single rows");
        let kind = Kind { rows, spans, lists: self.scratch().sampling.kind() };
        let clock = self.graphs.clock + 1;
        let seen = self.graphs.find(kind);
        let first = std::mem::replace(&mut seen.used, clock) == 0;
        match &seen.graph {
            Some(graph) => {
                let (exec, device) = (graph.exec, graph.device.clone());
                let launched = device.enter().and_then(|_entered| {
                    // SAFETY: a live graph; the memory it uses is that of this backend, which lives longer.
                    check(unsafe { sys::cuGraphLaunch(exec, device.stream) }, "start a recorded step")
                });
                self.note(launched);
                // The graph changed tensors without calls of `wrote`, so no rounded copy is known to be valid.
                self.forget_rounded();
                true
            }
            None if first => false,
            None => {
                let device = self.device.clone();
                let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
                let begun = device.enter().and_then(|_entered| {
                    // SAFETY: a live stream on which nothing is recorded.
                    check(unsafe { sys::cuStreamBeginCapture_v2(device.stream, mode) }, "record a step")
                });
                self.forget_rounded();
                match begun {
                    Ok(()) => self.graphs.recording = Some(kind),
                    Err(_) => self.graphs.off = true,
                }
                false
            }
        }
    }

    /// See [`crate::backend::Backend::recorded`].
    pub(super) fn end_recording(&mut self) -> bool {
        let Some(kind) = self.graphs.recording.take() else { return true };
        let device = self.device.clone();
        let mut graph = std::ptr::null_mut();
        let made = device.enter().and_then(|_entered| {
            // SAFETY: the stream has been recording since `replay_step`; writes one handle.
            check(unsafe { sys::cuStreamEndCapture(device.stream, &raw mut graph) }, "record a step")?;
            let mut exec = std::ptr::null_mut();
            // SAFETY: a graph just recorded; writes one handle, which `Graph` destroys.
            let made = check(unsafe { sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0) }, "record a step");
            // SAFETY: the instance does not need the graph any more.
            unsafe { sys::cuGraphDestroy(graph) };
            made.map(|()| Graph { device: device.clone(), exec })
        });
        self.forget_rounded();
        // An error during capture is no device failure; the step is run without a graph.
        let failed = self.failure.is_some();
        match made {
            Ok(graph) if !failed => {
                let exec = graph.exec;
                self.graphs.find(kind).graph = Some(graph);
                let launched = device.enter().and_then(|_entered| {
                    // SAFETY: as in `replay_step`.
                    check(unsafe { sys::cuGraphLaunch(exec, device.stream) }, "start a recorded step")
                });
                self.note(launched);
                true
            }
            _ => {
                self.graphs.off = true;
                self.failure = None;
                false
            }
        }
    }
}
