//! Watching the engine's steps: the utilisation of its pages and, for a plot, who ran when and who had which page.
//!
//! Called on the engine thread after each step. What is kept stays small however long a run is: spans of steps instead
//! of steps, and page maps at ever larger distances.

use astrai::engine::{PageUse, StepTrace, Trace};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Page maps kept, at most. When there are more, every other one goes.
const MAPS_MAX: usize = 400;

/// Steps in a row in which a request did the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First step.
    pub first: u64,
    /// Last step.
    pub last: u64,
    /// Prefill, else decode.
    pub prefill: bool,
}

/// The pages after a step.
#[derive(Clone, Debug)]
pub struct PageMap {
    pub step: u64,
    /// Page frames, up to the last that is in use.
    pub pages: Vec<PageUse>,
}

/// What was seen since the last [`Watch::reset`].
#[derive(Default)]
pub struct Seen {
    /// Steps; of `static` and `grouped`, too, each is one forward pass.
    pub steps: u64,
    /// Sum over the steps of tokens held / places of used pages.
    utilisation: f64,
    /// Steps with a page in use.
    steps_with_pages: u64,
    /// Of the steps that only decode, the host's time, and how many there were.
    host: Duration,
    decode_steps: u64,
    /// Most page frames in use at once, and page frames in all.
    pub pages_used_max: usize,
    pub pages: usize,
    /// Requests by id.
    pub spans: HashMap<u64, Vec<Span>>,
    pub maps: Vec<PageMap>,
    /// Steps from one map to the next.
    map_stride: u64,
}

/// The shared place that the engine thread fills.
#[derive(Clone)]
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    /// Keep what a plot needs.
    detailed: bool,
}

impl Watch {
    pub fn new(detailed: bool) -> Watch {
        Watch { seen: Arc::default(), detailed }
    }

    /// The engine option that fills this.
    pub fn trace(&self) -> Trace {
        let watch = self.clone();
        let call = Box::new(move |step: &StepTrace| watch.lock().note(step, watch.detailed));
        Trace { pages: self.detailed, ..Trace::new(call) }
    }

    /// Forgets everything.
    pub fn reset(&self) {
        *self.lock() = Seen::default();
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// What was seen; begins anew.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Tokens held / capacity of the used pages, averaged over the steps that used any.
    pub fn kv_utilisation(&self) -> f64 {
        if self.steps_with_pages == 0 { 0.0 } else { self.utilisation / self.steps_with_pages as f64 }
    }

    /// Microseconds of the host in a step that only decodes, on average; what the CPU computes is in it.
    pub fn host_us_per_step(&self) -> Option<f64> {
        (self.decode_steps > 0).then(|| self.host.as_secs_f64() * 1e6 / self.decode_steps as f64)
    }

    fn note(&mut self, step: &StepTrace, detailed: bool) {
        self.steps += 1;
        if !step.rows.is_empty() && step.rows.iter().all(|row| !row.prefill) {
            self.host += step.host;
            self.decode_steps += 1;
        }
        if step.token_places > 0 {
            self.utilisation += step.tokens_held as f64 / step.token_places as f64;
            self.steps_with_pages += 1;
        }
        self.pages_used_max = self.pages_used_max.max(step.pages_used);
        self.pages = step.pages_used + step.pages_cached + step.pages_free;
        if detailed {
            self.note_rows(step);
            self.note_pages(&step.pages);
        }
    }

    fn note_rows(&mut self, step: &StepTrace) {
        let now = self.steps;
        for row in &step.rows {
            let spans = self.spans.entry(row.request_id).or_default();
            match spans.last_mut() {
                Some(span) if span.prefill == row.prefill && span.last + 1 >= now => span.last = now,
                _ => spans.push(Span { first: now, last: now, prefill: row.prefill }),
            }
        }
    }

    fn note_pages(&mut self, pages: &[PageUse]) {
        self.map_stride = self.map_stride.max(1);
        if !(self.steps - 1).is_multiple_of(self.map_stride) {
            return;
        }
        self.maps.push(PageMap { step: self.steps, pages: pages.to_vec() });
        if self.maps.len() > MAPS_MAX {
            let mut keep = false;
            self.maps.retain(|_| {
                keep = !keep;
                keep
            });
            self.map_stride *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use astrai::engine::TraceRow;

    fn step(rows: &[(u64, bool)]) -> StepTrace {
        let row =
            |&(request_id, prefill): &(u64, bool)| TraceRow { request_id, first: 0, count: 1, drafts: 0, prefill };
        StepTrace { rows: rows.iter().map(row).collect(), pages: vec![PageUse::Cached], ..StepTrace::default() }
    }

    #[test]
    fn steps_of_a_kind_become_spans_and_a_gap_begins_a_new_one() {
        let mut seen = Seen::default();
        for rows in [&[(1, true)][..], &[(1, false), (2, true)], &[(1, false)], &[(2, true)], &[(1, false)]] {
            seen.note(&step(rows), true);
        }
        let span = |first, last, prefill| Span { first, last, prefill };
        assert_eq!(seen.spans[&1], [span(1, 1, true), span(2, 3, false), span(5, 5, false)]);
        assert_eq!(seen.spans[&2], [span(2, 2, true), span(4, 4, true)]);
        assert_eq!(seen.kv_utilisation(), 0.0);
    }

    #[test]
    fn the_host_is_timed_where_a_step_only_decodes() {
        let mut seen = Seen::default();
        assert_eq!(seen.host_us_per_step(), None);
        for (rows, us) in
            [(&[(1, true)][..], 900), (&[(1, false)], 10), (&[(1, false), (2, true)], 800), (&[(1, false)], 30)]
        {
            seen.note(&StepTrace { host: Duration::from_micros(us), ..step(rows) }, false);
        }
        assert_eq!(seen.host_us_per_step(), Some(20.0));
    }

    #[test]
    fn page_maps_stay_few_and_evenly_apart() {
        let mut seen = Seen::default();
        for _ in 0..10_000 {
            seen.note(&step(&[]), true);
        }
        assert!(seen.maps.len() <= MAPS_MAX && seen.maps.len() > MAPS_MAX / 4, "{}", seen.maps.len());
        assert!(seen.maps.windows(2).all(|pair| pair[1].step - pair[0].step == seen.map_stride));
        assert_eq!(seen.maps[0].step, 1);
    }
}
