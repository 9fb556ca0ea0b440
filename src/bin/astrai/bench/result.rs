//! The figures of a run.

use super::drive::Run;
use super::load::Kind;
use super::watch::Seen;
use astrai::engine::Stats;
use serde_json::{Value, json};
use std::time::Duration;

/// Percentiles of times in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub mean: f64,
}

impl Spread {
    /// Nearest-rank percentiles; `None` of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let at = |p: f64| values.get(((p * values.len() as f64).ceil() as usize).max(1) - 1).copied();
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        Some(Spread { p50: at(0.5)?, p90: at(0.9)?, p99: at(0.99)?, mean })
    }

    /// With three digits after the point.
    pub fn json(self) -> Value {
        let ms = |value: f64| (value * 1000.0).round() / 1000.0;
        json!({"p50": ms(self.p50), "p90": ms(self.p90), "p99": ms(self.p99), "mean": ms(self.mean)})
    }
}

/// The figures of one run.
#[derive(Clone, Debug)]
pub struct Figures {
    pub requests: usize,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub generated_tokens: u64,
    pub preemptions: u64,
    pub steps: u64,
    pub drafted_tokens: u64,
    pub accepted_tokens: u64,
    /// By drafts, in seconds.
    pub saved: f64,
    pub wall: Duration,
    pub ttft: Option<Spread>,
    pub itl: Option<Spread>,
    /// Tokens a second while every request decodes, prefill excluded.
    pub decode_tokens_per_s: Option<f64>,
    /// Time to first token of prefixes brought cold and warm.
    pub cold: Option<Spread>,
    pub warm: Option<Spread>,
    /// Prompt and cached tokens of all prefixes brought cold, and of all brought warm.
    pub cold_tokens: [u64; 2],
    pub warm_tokens: [u64; 2],
    pub kv_utilisation: f64,
    pub host_us_per_step: Option<f64>,
    pub pages_used_max: usize,
    pub pages: usize,
    /// Cleanup, refill, prefill, decode, in seconds.
    pub phases: [f64; 4],
}

impl Figures {
    /// From a run, what was seen of the steps, and the counters before and after.
    pub fn of(run: &Run, seen: &Seen, before: &Stats, after: &Stats) -> Figures {
        let usages = || run.records.iter().map(|record| &record.usage);
        let seconds = |f: fn(&Stats) -> u64| (f(after).saturating_sub(f(before))) as f64 / 1e6;
        let ttft_of = |kinds: &[Kind]| {
            let records = run.records.iter().filter(|r| kinds.contains(&r.kind));
            Spread::of(records.filter_map(|r| Some(ms(r.arrivals.first()?.0.saturating_sub(r.due)))).collect())
        };
        let tokens_of = |kind: Kind| {
            let usages = || run.records.iter().filter(|r| r.kind == kind).map(|r| &r.usage);
            [usages().map(|u| u64::from(u.prompt_tokens)).sum(), usages().map(|u| u64::from(u.cached_tokens)).sum()]
        };
        Figures {
            requests: run.records.len(),
            prompt_tokens: usages().map(|u| u64::from(u.prompt_tokens)).sum(),
            cached_tokens: usages().map(|u| u64::from(u.cached_tokens)).sum(),
            generated_tokens: usages().map(|u| u64::from(u.generated_tokens)).sum(),
            preemptions: usages().map(|u| u64::from(u.preemptions)).sum(),
            steps: after.steps - before.steps,
            drafted_tokens: after.drafted_tokens - before.drafted_tokens,
            accepted_tokens: after.accepted_tokens - before.accepted_tokens,
            saved: seconds(|s| s.saved_us),
            wall: run.wall,
            ttft: ttft_of(&[Kind::Plain, Kind::Cold, Kind::Warm, Kind::Turn]),
            itl: Spread::of(run.records.iter().flat_map(|r| gaps(&r.arrivals)).collect()),
            decode_tokens_per_s: decode_rate(&run.records.iter().map(|r| &r.arrivals[..]).collect::<Vec<_>>()),
            cold: ttft_of(&[Kind::Cold]),
            warm: ttft_of(&[Kind::Warm]),
            cold_tokens: tokens_of(Kind::Cold),
            warm_tokens: tokens_of(Kind::Warm),
            kv_utilisation: seen.kv_utilisation(),
            host_us_per_step: seen.host_us_per_step(),
            pages_used_max: seen.pages_used_max,
            pages: seen.pages,
            phases: [
                seconds(|s| s.cleanup_us),
                seconds(|s| s.refill_us),
                seconds(|s| s.prefill_us),
                seconds(|s| s.decode_us),
            ],
        }
    }

    /// Tokens of prompts, for prefill, else generated ones, in a second of wall time.
    pub fn tokens_per_s(&self, prefill: bool) -> f64 {
        let tokens = if prefill { self.prompt_tokens } else { self.generated_tokens };
        tokens as f64 / self.wall.as_secs_f64().max(1e-9)
    }

    /// How many times sooner a cached prefix gives its first token than a cold one, by the medians.
    pub fn prefix_ratio(&self) -> Option<f64> {
        Some(self.cold?.p50 / self.warm?.p50.max(1e-6))
    }

    /// As the fields of a JSON object.
    pub fn json(&self, prefill: bool) -> Value {
        let spread = |s: Option<Spread>| s.map(Spread::json);
        let [cleanup, refill, prefill_s, decode] = self.phases;
        let mut object = json!({
            "tokens_per_s": round(self.tokens_per_s(prefill), 2),
            "decode_tokens_per_s": self.decode_tokens_per_s.map(|rate| round(rate, 2)),
            "steps": self.steps,
            "wall_s": round(self.wall.as_secs_f64(), 6),
            "ttft_ms": spread(self.ttft),
            "itl_ms": spread(self.itl),
            "kv_utilisation": round(self.kv_utilisation, 4),
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "generated_tokens": self.generated_tokens,
            "preemptions": self.preemptions,
            "drafted_tokens": self.drafted_tokens,
            "accepted_tokens": self.accepted_tokens,
            "saved_s": round(self.saved, 6),
            "host_us_per_step": self.host_us_per_step.map(|us| round(us, 1)),
            "pages_used_max": self.pages_used_max,
            "pages": self.pages,
            "step_time_s": {
                "cleanup": round(cleanup, 6), "refill": round(refill, 6),
                "prefill": round(prefill_s, 6), "decode": round(decode, 6),
            },
        });
        if let (Some(cold), Some(warm), Some(ratio)) = (self.cold, self.warm, self.prefix_ratio()) {
            let tokens = |[prompt, cached]: [u64; 2]| json!({"prompt_tokens": prompt, "cached_tokens": cached});
            object["prefix"] = json!({
                "cold_ttft_ms": cold.json(), "warm_ttft_ms": warm.json(), "ratio": round(ratio, 2),
                "cold": tokens(self.cold_tokens), "warm": tokens(self.warm_tokens),
            });
        }
        object
    }
}

/// A number with so many digits after the point.
pub fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Times from token to token. Tokens that arrive together share the time since those before them; of those that came
/// with the first one nothing is known.
fn gaps(arrivals: &[(Duration, usize)]) -> impl Iterator<Item = f64> {
    arrivals.windows(2).flat_map(|pair| {
        let [(before, _), (at, count)] = [pair[0], pair[1]];
        std::iter::repeat_n(ms(at.saturating_sub(before)) / count.max(1) as f64, count)
    })
}

/// Tokens a second of requests that run at once, from when the last of them has its first token to when the first of them
/// has its last: the sum of their rates in between. `None` where they do not overlap so that each has two arrivals there.
fn decode_rate(requests: &[&[(Duration, usize)]]) -> Option<f64> {
    let begin = requests.iter().map(|arrivals| arrivals.first().map(|(at, _)| *at)).max()??;
    let end = requests.iter().map(|arrivals| arrivals.last().map(|(at, _)| *at)).min()??;
    let rates = requests.iter().map(|arrivals| {
        let mut inside = arrivals.iter().filter(|(at, _)| (begin..=end).contains(at));
        let (first, _) = inside.next()?;
        let (last, tokens) = inside.fold((*first, 0), |(_, tokens), (at, count)| (*at, tokens + count));
        (last > *first).then(|| tokens as f64 / (last - *first).as_secs_f64())
    });
    rates.sum()
}

/// The middle value, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let spread = Spread::of((1..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!((spread.p50, spread.p90, spread.p99, spread.mean), (50.0, 90.0, 99.0, 50.5));
        let one = Spread::of(vec![7.0]).unwrap();
        assert_eq!((one.p50, one.p99), (7.0, 7.0));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn the_decode_rate_is_that_while_all_decode() {
        let at = Duration::from_millis;
        // Alone until 100 ms, 10 ms for a token; then 20 ms each, until the first is done.
        let first: Vec<(Duration, usize)> =
            (0..10).map(|i| (at(10 * i), 1)).chain([(at(101), 1), (at(121), 1)]).collect();
        let second = [(at(100), 1), (at(120), 1), (at(140), 1), (at(145), 1)];
        assert_eq!(decode_rate(&[&first, &second]), Some(100.0));
        // Several tokens at once: the first arrival's came before its time.
        assert_eq!(decode_rate(&[&[(at(0), 4), (at(100), 3)]]), Some(30.0));
        assert_eq!(decode_rate(&[&first[..5], &second]), None, "one after the other");
        assert_eq!(decode_rate(&[&second[..1]]), None, "a single token");
        assert_eq!(decode_rate(&[&second, &[]]), None);
        assert_eq!(decode_rate(&[]), None);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn tokens_that_arrive_together_share_the_time() {
        let at = Duration::from_millis;
        let times: Vec<f64> = gaps(&[(at(10), 2), (at(30), 1), (at(60), 3)]).collect();
        assert_eq!(times, [20.0, 10.0, 10.0, 10.0]);
        assert_eq!(gaps(&[(at(10), 4)]).count(), 0);
    }
}
