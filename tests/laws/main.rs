//! The laws of the design as property tests, on real weights: the parity fixtures and the storyteller.
//!
//! | file | what it holds an engine to |
//! |---|---|
//! | `support/storm.rs`, `support/storm/neighbours.rs` | laws 1, 3 and 6: random requests among others, each again alone |
//! | `requests.rs` | law 1 on every tier; the other laws, each for itself |
//! | `endings.rs` | laws 2, 4 and 5: one end each, whatever ends a request or an engine |
//! | `answers.rs` | answers to chats: their parts by every way, conversations that find their answers computed |
//! | `bits.rs` | the bits of fixed requests as they were |
//! | `constraints.rs` | constraints of requests: they are met, obey law 1, and hold up nobody |
//! | `tools.rs` | rules of answers: demanded calls, constraints behind the reasoning, budgets |
//! | `host_logits.rs` | tokens that the host chooses: as sampled, as it says, and nobody waits for it |
//! | `control.rs` | pause, duty limit, cache |
//! | `prefix.rs` | pinned, saved and restored prefixes |
//! | `speculation.rs` | drafts change nothing but the number of steps |
//! | `trace.rs` | traces that come and go, and agree with the statistics |
//! | `process.rs` | what an engine does to its process; each test in one of its own |
//! | `stress.rs` | the C ABI from 16 threads; in a process of its own, of which nothing may be left over |
//!
//! Every random workload prints its seed; `ASTRAI_TEST_SEED` repeats one, `ASTRAI_TEST_ROUNDS` multiplies them. `docs/testing.md`
//! says what they prove and how long they ran.
#![allow(clippy::print_stdout, reason = "seeds and measured differences belong to a test's report")]

mod answers;
mod bits;
mod constraints;
mod control;
mod endings;
mod host_logits;
mod prefix;
mod process;
mod requests;
mod speculation;
#[cfg(target_os = "linux")]
mod stress;
#[path = "../support/mod.rs"]
mod support;
mod tools;
mod trace;
