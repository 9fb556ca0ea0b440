//! The engine's statistics. The engine thread counts in [`Counters`], and nowhere else; it publishes them in [`StatsCell`],
//! which any thread can read without a lock, as one consistent snapshot: a sequence lock.
//!
//! The engine thread is the only writer. It makes the version odd, writes the fields, and makes the version even again.
//! A reader that saw an odd version, or a version that changed while it read, reads again.

use super::{EventKind, Stats};
use crate::scheduler::Scheduler;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

/// What the engine thread has counted since it began.
#[derive(Default)]
pub(super) struct Counters {
    stats: Stats,
    /// Time spent in each phase of a step, summed over all steps.
    cleanup: Duration,
    refill: Duration,
    prefill: Duration,
    decode: Duration,
}

impl Counters {
    /// Counts a request by the kind of its terminal event.
    pub fn ended(&mut self, kind: Option<EventKind>) {
        match kind {
            Some(EventKind::Finished) => self.stats.finished += 1,
            Some(EventKind::Cancelled) => self.stats.cancelled += 1,
            Some(EventKind::Failed) => self.stats.failed += 1,
            Some(EventKind::Delta) | None => {}
        }
    }

    /// Counts the tokens of a prompt.
    pub fn took_in(&mut self, tokens: usize) {
        self.stats.tokens_in += tokens as u64;
    }

    /// Counts a generated token.
    pub fn generated(&mut self) {
        self.stats.tokens_out += 1;
    }

    /// Adds the time from a request's submit to its first row.
    pub fn queued(&mut self, time: Duration) {
        self.stats.queue_us += micros(time);
    }

    /// Counts a finished step, and the time that it spent on rows of each kind.
    pub fn stepped(&mut self, prefill: Duration, decode: Duration) {
        self.stats.steps += 1;
        self.prefill += prefill;
        self.decode += decode;
    }

    /// Adds the time of two phases of a step.
    pub fn planned(&mut self, cleanup: Duration, refill: Duration) {
        self.cleanup += cleanup;
        self.refill += refill;
    }

    /// Publishes a snapshot in `cell`, with the scheduler's own counters. `deferred`: requests whose prompts are being
    /// prepared; `saved_us`: what speculation has saved.
    pub fn publish(
        &mut self,
        scheduler: &Scheduler,
        deferred: usize,
        log_dropped: u64,
        saved_us: u64,
        cell: &StatsCell,
    ) {
        let (running, waiting, stalled) = scheduler.counts();
        let (used, cached, free) = scheduler.pages();
        let counters = scheduler.counters();
        let s = &mut self.stats;
        (s.running, s.waiting, s.stalled) = (running as u32, (waiting + deferred) as u32, stalled as u32);
        (s.pages_used, s.pages_cached, s.pages_free) = (used as u64, cached as u64, free as u64);
        (s.preemptions, s.evictions) = (counters.preemptions, counters.evictions);
        (s.prefix_tokens_seen, s.prefix_tokens_hit) = (counters.prefix_tokens_seen, counters.prefix_tokens_hit);
        (s.cleanup_us, s.refill_us) = (micros(self.cleanup), micros(self.refill));
        (s.prefill_us, s.decode_us) = (micros(self.prefill), micros(self.decode));
        (s.drafted_tokens, s.accepted_tokens, s.saved_us) = (counters.drafted, counters.accepted, saved_us);
        s.log_dropped = log_dropped;
        cell.publish(s);
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

/// The fields of [`Stats`] as numbers, in one order.
macro_rules! fields {
    ($($field:ident)*) => {
        const FIELDS: usize = [$(stringify!($field)),*].len();

        fn pack(s: &Stats) -> [u64; FIELDS] {
            [$(s.$field as u64),*]
        }

        fn unpack(fields: [u64; FIELDS]) -> Stats {
            let mut fields = fields.into_iter();
            Stats { $($field: fields.next().unwrap_or_default() as _),* }
        }
    };
}

fields! {
    running waiting stalled pages_used pages_cached pages_free prefix_tokens_seen prefix_tokens_hit preemptions evictions
    tokens_in tokens_out finished cancelled failed steps cleanup_us refill_us prefill_us decode_us queue_us log_dropped
    drafted_tokens accepted_tokens saved_us
}

/// The published statistics of an engine.
#[derive(Default)]
pub(super) struct StatsCell {
    /// Odd while the fields are being written.
    version: AtomicU64,
    fields: [AtomicU64; FIELDS],
}

impl StatsCell {
    /// Replaces the snapshot. Called by the engine thread only.
    pub fn publish(&self, stats: &Stats) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (cell, value) in self.fields.iter().zip(pack(stats)) {
            cell.store(value, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
    }

    /// The newest snapshot.
    pub fn read(&self) -> Stats {
        loop {
            let before = self.version.load(Ordering::Acquire);
            let fields = std::array::from_fn(|i| self.fields[i].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return unpack(fields);
            }
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_reader_never_sees_half_of_an_update() {
        let (cell, stop) = (Arc::new(StatsCell::default()), Arc::new(AtomicBool::new(false)));
        let writer = std::thread::spawn({
            let (cell, stop) = (cell.clone(), stop.clone());
            move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    cell.publish(&Stats { running: n as u32, steps: n, log_dropped: n, ..Stats::default() });
                }
            }
        });
        for _ in 0..20_000 {
            let s = cell.read();
            assert_eq!((s.running as u64, s.steps), (s.log_dropped, s.log_dropped));
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    }
}
