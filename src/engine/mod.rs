//! The engine: owns the threads, and is the only module that uses both the scheduler and the model.
//!
//! Threads of an open engine:
//! - The **engine thread** ([`core`]) owns scheduler, model and device.
//! - The **dispatch thread** runs callbacks and writes log lines, unless the host polls.
//! - The **wake thread** calls the wake callback of a host that polls, if there is one.
//! - The **text thread** ([`defer`]) prepares deferred prompts; it starts with the first of them.
//! - The **constraint thread** ([`guide`]) computes what may follow in constrained answers; it starts with the first of them.
//! - The worker threads of the CPU backend compute.
//!
//! Callers send [commands](command) to the engine thread through its [mailbox], and receive events through each request's
//! outbox ([`delivery`]). All threads sleep while there is nothing to do.
//!
//! The files in reading order; a file uses those of its own row and of the rows above it, and there is no circle of files
//! (`tests/layering.rs`):
//!
//! | files | what they are for |
//! |---|---|
//! | [`hold`], [`nul`], [`trace`], [`constraint`], [`event`], [`prior_answer`], [`api`], [`sink`] | what callers give and get |
//! | [`abilities`], [`callback`], [`errors`], [`host_thread`] | what a model can do; calls of host code, and work on its threads |
//! | [`answer`], [`delivery`] | the way of events to their readers, and the parts of an answer |
//! | [`duty`], [`describe`], [`device`], [`layer_groups`], [`memory_plan`], [`honour`], [`identity`] | what options make of a model: its device, its sizes, its name |
//! | [`admission_limits`], [`answer_grammars`], [`breakers`], [`guide`], [`host_logits`], [`new_request`], [`reply`], [`prefix_command`], [`command`], [`mailbox`] | what the engine thread is asked |
//! | [`copy`], [`text_queue`], [`stats`], [`shared`], [`receive`] | what all threads share |
//! | [`begin`], [`parts`], [`templates`], [`prompt`], [`answer_rules`] | from a prompt to token ids, and what its answer may be |
//! | [`model_runner`], [`load`], [`open`], [`draft_model`] | from a source to a model that runs, and to one that drafts |
//! | [`request_drafts`], [`active`], [`table`], [`drafting`], [`requests`], [`prefixes`], [`state`] | what commands change: requests, their drafts, and prefixes |
//! | [`pacing`], [`tracer`], [`pooling`], [`step`], [`core`] | the engine thread: when it may work, a step, its loop |
//! | [`request`], [`conversation`], [`handle`], [`compile`], [`submit`], [`fit`], [`defer`], [`events`], [`prefix_file`], [`prefix`], [`start`] | the callers' side |

mod abilities;
mod active;
mod admission_limits;
mod answer;
mod answer_grammars;
mod answer_rules;
pub mod api;
mod begin;
mod breakers;
mod callback;
mod command;
mod compile;
mod constraint;
mod conversation;
mod copy;
mod core;
mod defer;
mod delivery;
mod describe;
mod device;
mod draft_model;
mod drafting;
mod duty;
mod errors;
mod event;
mod events;
mod fit;
mod guide;
mod handle;
mod hold;
mod honour;
mod host_logits;
mod host_thread;
mod identity;
mod layer_groups;
mod load;
mod mailbox;
mod memory_plan;
mod model_runner;
mod new_request;
mod nul;
mod open;
mod pacing;
mod parts;
mod pooling;
mod prefix;
mod prefix_command;
mod prefix_file;
mod prefixes;
mod prior_answer;
mod prompt;
mod receive;
mod reply;
mod request;
mod request_drafts;
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
pub(crate) use breakers::check_breakers;
pub use callback::{CallbackScope, in_callback};
pub use constraint::Constraint;
pub use event::*;
pub use events::EventQueue;
pub use handle::Engine;
pub use host_logits::{Choice, HostLogits};
pub use memory_plan::MemoryPlan;
pub use prefix::Prefix;
pub use prior_answer::PriorAnswer;
pub use request::Request;
pub use sink::{Next, Sink};
pub use trace::{
    DetailOptions, FrameOwner, PageUse, StepTrace, Trace, TraceDetail, TraceEvent, TraceFn, TraceGroup, TraceNode,
    TraceOwner, TracePlace, TraceRequest, TraceRow,
};

// What many of the files use.
use admission_limits::Permit;
use callback::{call_host, refuse_blocking, refuse_in_callback, this_thread};
use command::Command;
use delivery::{Dispatch, Outbox, Produced, lock, wait_for, wait_until};
use errors::{closed, panicked};
use hold::Hold;
use identity::Identity;
use model_runner::ModelRunner;
use new_request::{End, NewRequest};
use nul::Nul;
use pacing::Pacing;
use prefix_command::PrefixCommand;
use prompt::TextKit;
use reply::Answer;
use shared::Shared;
use state::EngineState;
