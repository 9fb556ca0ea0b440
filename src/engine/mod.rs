//! The engine: owns the threads, and is the only module that uses both the scheduler and the model.
//!
//! Threads of an open engine:
//! - The **engine thread** ([`core`]) owns scheduler, model and device.
//! - The **dispatch thread** runs callbacks and writes log lines, unless the host polls.
//! - The **wake thread** calls the wake callback of a host that polls, if there is one.
//! - The **text thread** ([`defer`]) prepares deferred prompts; it starts with the first of them.
//! - The worker threads of the CPU backend compute.
//!
//! Callers send [commands](command) to the engine thread through a mailbox, and receive events through each request's
//! outbox ([`delivery`]). All threads sleep while there is nothing to do.

mod active;
mod admission_limits;
pub mod api;
mod begin;
mod callback;
mod command;
mod copy;
mod core;
mod defer;
mod delivery;
mod device;
mod duty;
mod errors;
mod events;
mod handle;
mod honour;
mod host_thread;
mod identity;
mod mailbox;
mod model_runner;
mod new_request;
mod open;
mod pacing;
mod parts;
mod plan;
mod prefix;
mod prefix_command;
mod prefix_file;
mod prefixes;
mod prompt;
mod receive;
mod reply;
mod request;
mod requests;
mod shared;
mod sink;
mod start;
mod state;
mod stats;
mod step;
mod submit;
mod table;
mod templates;
mod text_queue;
mod trace;
mod tracer;

pub use api::*;
pub use callback::{CallbackScope, in_callback};
pub use handle::Engine;
pub use plan::Plan;
pub use prefix::Prefix;
pub use request::Request;
pub use sink::{Next, Sink};
pub use trace::{PageUse, StepTrace, Trace, TraceFn, TraceRow};

// What many of the files use.
use admission_limits::Permit;
use callback::{call_host, refuse_blocking, refuse_in_callback, this_thread};
use command::Command;
use delivery::{Dispatch, Hold, Nul, Outbox, Produced, lock, wait_until};
use errors::{closed, panicked};
use identity::Identity;
use model_runner::ModelRunner;
use new_request::{End, NewRequest};
use pacing::Pacing;
use prefix_command::PrefixCommand;
use prompt::TextKit;
use reply::Answer;
use shared::Shared;
use state::EngineState;
