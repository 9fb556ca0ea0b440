//! The pace of a demonstration: the engine waits after each step, so that one can watch. Only an engine that is watched waits, and
//! only where the server was started with a [`Pace`].

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Steps a second of an engine that is watched, which viewers may change, and a clock that counts them, by which a script goes.
#[derive(Debug)]
pub struct Pace {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Steps a second; `None`: as fast as it can.
    rate: Option<f32>,
    /// Steps, and while the engine is idle the time of steps.
    clock: u64,
    /// When the last of them was.
    last: Instant,
    idle: bool,
    /// Number of the audience: it changes when the first viewer comes. 0: nobody watches.
    audience: u64,
    audiences: u64,
    stopped: bool,
}

/// Lowest and highest steps a second.
const RATES: (f32, f32) = (0.25, 1000.0);

/// One step a second where the rate is none, which only the script waits for.
const IDLE_TICK: Duration = Duration::from_millis(1);

impl Pace {
    /// A pace of so many steps a second.
    pub fn new(rate: f32) -> Pace {
        let last = Instant::now();
        let rate = Some(rate.clamp(RATES.0, RATES.1));
        let state = State { rate, clock: 0, last, idle: true, audience: 0, audiences: 0, stopped: false };
        Pace { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps a second; `None`: as fast as the engine can.
    pub fn rate(&self) -> Option<f32> {
        self.lock().rate
    }

    /// Sets the steps a second, at once.
    pub fn set_rate(&self, rate: Option<f32>) {
        self.lock().rate = rate.filter(|rate| rate.is_finite()).map(|rate| rate.clamp(RATES.0, RATES.1));
        self.changed.notify_all();
    }

    /// Nobody waits any more.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Whether somebody watches now.
    pub(super) fn set_watched(&self, watched: bool) {
        let mut state = self.lock();
        if watched {
            state.audiences += 1;
            state.clock = 0;
        }
        state.audience = if watched { state.audiences } else { 0 };
        drop(state);
        self.changed.notify_all();
    }

    /// The engine has made a step, or has nothing to do: waits until the next may begin.
    pub(super) fn step(&self, worked: bool) {
        let mut state = self.lock();
        state.idle = !worked;
        if worked {
            state = self.wait_for_tick(state, |state| state.audience == 0);
            state.clock += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until the time of a step has passed since the last; not with a full rate, and not when `over`.
    fn wait_for_tick<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        over: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        loop {
            let now = Instant::now();
            let next = state.rate.map_or(now, |rate| state.last + Duration::from_secs_f32(1.0 / rate));
            let left = next.saturating_duration_since(now);
            if left.is_zero() || state.stopped || over(&state) {
                state.last = now;
                return state;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// For a script: waits until somebody watches, and returns the number of that audience; `None` when it is to end.
    pub fn wait_for_audience(&self) -> Option<u64> {
        let mut state = self.lock();
        loop {
            match (state.stopped, state.audience) {
                (true, _) => return None,
                (false, 0) => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                (false, audience) => {
                    state.clock = 0;
                    return Some(audience);
                }
            }
        }
    }

    /// For a script: the clock, which begins at 0 with each audience.
    pub fn clock(&self) -> u64 {
        self.lock().clock
    }

    /// For a script: waits until the clock has come to `time`, which goes on while the engine is idle; false when the audience is
    /// another, or when it is to end.
    pub fn wait_until(&self, time: u64, audience: u64) -> bool {
        let mut state = self.lock();
        loop {
            if state.stopped || state.audience != audience {
                return false;
            }
            if state.clock >= time {
                return true;
            }
            if state.idle {
                if state.rate.is_none() {
                    state = self.changed.wait_timeout(state, IDLE_TICK).unwrap_or_else(PoisonError::into_inner).0;
                }
                state = self.wait_for_tick(state, |state| !state.idle || state.audience != audience);
                state.clock += u64::from(state.idle);
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
