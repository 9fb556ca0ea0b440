//! The duty limit: how much of the time the engine may work, so that a host such as a game keeps its frame rate.
//!
//! [`Bucket`] is a token bucket of working time. It refills at the rate `work / interval`. The layer that runs while
//! the bucket becomes empty may overdraw it; then the engine rests until the bucket is full again. Its capacity is
//! `work * (1 - work / interval)`: as it also refills during work, a full bucket lasts for exactly `work`, and is full
//! again one interval after that work began. So a busy engine works `work` of every interval, and over any stretch of
//! time `t` at most `t * work / interval + work`, plus the layer in progress.
//!
//! Working time is wall time of the engine thread within a step, during which all threads of the pool compute. The
//! current time is a parameter, so that tests use a clock of their own. Used by [`super::pacing`] on the engine
//! thread.

use crate::error::{Error, Result, Unit};
use std::time::{Duration, Instant};

/// A limit of `work` in each `interval`; `work` is shorter than `interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Duty {
    work: Duration,
    interval: Duration,
}

impl Duty {
    /// The limit that the options describe, in microseconds; `None` (no limit) when both are 0 or equal.
    ///
    /// # Errors
    /// `Argument` with both numbers.
    pub fn new(work_us: u32, interval_us: u32) -> Result<Option<Duty>> {
        let bad = |what: String| {
            let error = Error::argument(format!("{what}, or set both to 0 for no limit")).about("duty_work_us");
            Err(error.numbers(Unit::Count, work_us.into(), interval_us.into()))
        };
        if work_us > interval_us {
            let what =
                format!("duty_work_us is {work_us}, more than duty_interval_us, which is {interval_us}; lower it");
            return bad(what);
        }
        if work_us == 0 && interval_us != 0 {
            let what =
                format!("duty_work_us is 0 with duty_interval_us {interval_us}: the engine would never work; pause it");
            return bad(what);
        }
        let micros = |us: u32| Duration::from_micros(us.into());
        Ok((work_us < interval_us).then(|| Duty { work: micros(work_us), interval: micros(interval_us) }))
    }

    /// Working time gained per unit of time.
    fn rate(&self) -> f64 {
        self.work.as_secs_f64() / self.interval.as_secs_f64()
    }

    /// Working time of a full bucket, in nanoseconds.
    fn capacity_ns(&self) -> f64 {
        self.work.as_nanos() as f64 * (1.0 - self.rate())
    }
}

/// The working time that is left under a duty limit.
#[derive(Debug)]
pub(super) struct Bucket {
    duty: Option<Duty>,
    /// Working time left as of `at`, in nanoseconds; negative when overdrawn.
    left_ns: f64,
    /// When `left_ns` was last updated.
    at: Instant,
    /// The bucket became empty: no work until it is full.
    resting: bool,
}

/// Tolerance for rounding errors when deciding that the bucket is full, in nanoseconds.
const ROUNDING_NS: f64 = 1.0;
/// Longest rest before the bucket is checked again; bounded so that adding it to an `Instant` cannot overflow.
const REST_MAX: Duration = Duration::from_secs(24 * 3600);

impl Bucket {
    /// A full bucket.
    pub fn new(duty: Option<Duty>, now: Instant) -> Bucket {
        Bucket { duty, left_ns: duty.map_or(0.0, |d| d.capacity_ns()), at: now, resting: false }
    }

    /// Whether there is a limit.
    pub fn limited(&self) -> bool {
        self.duty.is_some()
    }

    /// Changes the limit. Setting the same limit again does nothing, and an overdraft is kept, so that a host that sets
    /// the limit at every frame does not reset it.
    pub fn set(&mut self, duty: Option<Duty>, now: Instant) {
        if self.duty == duty {
            return;
        }
        *self = match self.duty {
            None => Bucket::new(duty, now),
            Some(_) => {
                self.refill(now);
                let left_ns = self.left_ns.min(duty.map_or(0.0, |d| d.capacity_ns()));
                Bucket { duty, left_ns, ..*self }
            }
        };
    }

    /// Subtracts the working time `worked`, which ended at `now`.
    pub fn spend(&mut self, worked: Duration, now: Instant) {
        if self.duty.is_some() {
            self.refill(now);
            self.left_ns -= worked.as_nanos() as f64;
        }
    }

    /// `None` when work is allowed at `now`, else the time at which to ask again.
    pub fn ready_at(&mut self, now: Instant) -> Option<Instant> {
        let duty = self.duty?;
        self.refill(now);
        let missing = duty.capacity_ns() - self.left_ns;
        self.resting = if self.resting { missing > ROUNDING_NS } else { self.left_ns <= 0.0 };
        let rest = Duration::from_nanos((missing / duty.rate()).ceil() as u64);
        self.resting.then(|| now + rest.min(REST_MAX))
    }

    /// Adds the working time gained since the last update.
    fn refill(&mut self, now: Instant) {
        let Some(duty) = self.duty else { return };
        let passed = now.saturating_duration_since(self.at).as_nanos() as f64;
        self.left_ns = (self.left_ns + passed * duty.rate()).min(duty.capacity_ns());
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    /// Simulates an engine that always has work, in layers of the given lengths; returns start and length of each.
    fn busy(bucket: &mut Bucket, mut now: Instant, layers: impl Iterator<Item = Duration>) -> Vec<(Instant, Duration)> {
        let mut worked = Vec::new();
        for layer in layers {
            if let Some(ready) = bucket.ready_at(now) {
                assert!(ready > now);
                now = ready;
                assert_eq!(bucket.ready_at(now), None, "it is ready when it said it would be");
            }
            worked.push((now, layer));
            now += layer;
            bucket.spend(layer, now);
        }
        worked
    }

    /// Work within `[from, from + length]`.
    fn within(worked: &[(Instant, Duration)], from: Instant, length: Duration) -> Duration {
        let overlap = |&(begin, work): &(Instant, Duration)| {
            (begin + work).min(from + length).saturating_duration_since(begin.max(from))
        };
        worked.iter().map(overlap).sum()
    }

    #[test]
    fn a_busy_engine_works_its_share_of_every_interval() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Duty::new(4_000, 16_000).unwrap(), start);
        let worked = busy(&mut bucket, start, std::iter::repeat_n(us(100), 4_000));
        for (begin, _) in &worked[..3_000] {
            let sum = within(&worked, *begin, us(16_000));
            assert!(sum <= us(4_000 + 100) && sum >= us(3_600), "{sum:?} of an interval");
        }
        let last = worked.last().unwrap();
        let share = 400_000.0 / (last.0 + last.1 - start).as_micros() as f64;
        assert!((share - 0.25).abs() < 0.01, "a share of {share}");
    }

    #[test]
    fn the_bound_holds_for_layers_and_pauses_of_any_length() {
        let start = Instant::now();
        let mut state = 7u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for (work, interval) in [(1u32, 1_000u32), (2_000, 16_667), (900, 1_000), (50_000, 1_000_000)] {
            let mut bucket = Bucket::new(Duty::new(work, interval).unwrap(), start);
            let (mut now, mut worked) = (start, Vec::new());
            for _ in 0..300 {
                let layers: Vec<Duration> = (0..below(8)).map(|_| us(1 + below(u64::from(work)))).collect();
                worked.extend(busy(&mut bucket, now, layers.into_iter()));
                now = worked.last().map_or(now, |(begin, work)| *begin + *work).max(now) + us(below(interval.into()));
            }
            for &(begin, _) in &worked {
                for intervals in [1, 3] {
                    let sum = within(&worked, begin, us(u64::from(interval) * intervals));
                    let bound = us(u64::from(work) * (intervals + 2)) + us(1);
                    assert!(sum <= bound, "{sum:?} of {intervals} x {interval} us, the bound is {bound:?}");
                }
            }
        }
    }

    #[test]
    fn a_layer_longer_than_the_budget_is_paid_for() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Duty::new(1_000, 10_000).unwrap(), start);
        let worked = busy(&mut bucket, start, std::iter::repeat_n(us(50_000), 20));
        let share = (20.0 * 50_000.0) / (worked[19].0 + us(500_000) - start).as_micros() as f64;
        assert!((share - 0.1).abs() < 0.01, "a share of {share}");
    }

    #[test]
    fn a_new_limit_takes_effect_at_once_and_the_same_one_changes_nothing() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Duty::new(10, 1_000_000).unwrap(), start);
        bucket.spend(us(1_000), start + us(1_000));
        let now = start + us(1_000);
        let far = bucket.ready_at(now).unwrap();
        assert!(far > now + Duration::from_secs(90));
        bucket.set(Duty::new(10, 1_000_000).unwrap(), now);
        assert_eq!(bucket.ready_at(now), Some(far), "the same limit");
        bucket.set(Duty::new(5_000, 10_000).unwrap(), now);
        assert!(bucket.ready_at(now).unwrap() < now + us(8_000), "what was overdrawn is paid at the new rate");
        bucket.set(None, now);
        assert_eq!(bucket.ready_at(now), None, "no limit");
        bucket.spend(us(1_000_000), now);
        assert_eq!(bucket.ready_at(now), None);
        bucket.set(Duty::new(5_000, 10_000).unwrap(), now);
        assert_eq!(bucket.ready_at(now), None, "work without a limit is not held against a new one");
    }

    #[test]
    fn nonsense_is_refused_with_both_numbers() {
        for (work, interval) in [(2, 1), (1, 0), (0, 5)] {
            let error = Duty::new(work, interval).unwrap_err();
            assert_eq!((error.status, error.needed, error.available), (Status::Argument, work.into(), interval.into()));
            assert!(error.message.contains(&work.to_string()) && error.message.contains(&interval.to_string()));
        }
        assert_eq!(Duty::new(0, 0).unwrap(), None);
        assert_eq!(Duty::new(5, 5).unwrap(), None, "all of the time is no limit");
        assert!(Duty::new(u32::MAX - 1, u32::MAX).unwrap().is_some());
    }
}
