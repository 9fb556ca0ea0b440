//! Statistics that any thread can read without a lock, as one consistent snapshot: a sequence lock.
//!
//! The engine thread is the only writer. It makes the version odd, writes the fields, and makes the version even again.
//! A reader that saw an odd version, or a version that changed while it read, reads again.

use super::api::Stats;
use std::sync::atomic::{AtomicU64, Ordering, fence};

const FIELDS: usize = 22;

/// The published statistics of an engine.
#[derive(Default)]
pub(super) struct StatsCell {
    /// Odd while the fields are being written.
    version: AtomicU64,
    fields: [AtomicU64; FIELDS],
}

fn pack(s: &Stats) -> [u64; FIELDS] {
    [
        s.running as u64,
        s.waiting as u64,
        s.stalled as u64,
        s.pages_used,
        s.pages_cached,
        s.pages_free,
        s.prefix_tokens_seen,
        s.prefix_tokens_hit,
        s.preemptions,
        s.evictions,
        s.tokens_in,
        s.tokens_out,
        s.finished,
        s.cancelled,
        s.failed,
        s.steps,
        s.cleanup_us,
        s.refill_us,
        s.prefill_us,
        s.decode_us,
        s.queue_us,
        s.log_dropped,
    ]
}

fn unpack(f: [u64; FIELDS]) -> Stats {
    Stats {
        running: f[0] as u32,
        waiting: f[1] as u32,
        stalled: f[2] as u32,
        pages_used: f[3],
        pages_cached: f[4],
        pages_free: f[5],
        prefix_tokens_seen: f[6],
        prefix_tokens_hit: f[7],
        preemptions: f[8],
        evictions: f[9],
        tokens_in: f[10],
        tokens_out: f[11],
        finished: f[12],
        cancelled: f[13],
        failed: f[14],
        steps: f[15],
        cleanup_us: f[16],
        refill_us: f[17],
        prefill_us: f[18],
        decode_us: f[19],
        queue_us: f[20],
        log_dropped: f[21],
    }
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
