//! What a workload asks of the engine, decided before it starts: prompts, lengths, arrivals.

use super::args::{Plan, Workload};
use super::random::Random;
use crate::failure::{Failure, Outcome};
use std::time::Duration;

/// Tokens after a shared prefix.
pub const SUFFIX_TOKENS: usize = 16;

/// Streams of random numbers.
const PROMPTS: u64 = 1;
const LENGTHS: u64 = 2;
const ARRIVALS: u64 = 3;

/// One request to come.
#[derive(Clone, Debug)]
pub struct Job {
    /// The prompt; of a turn, what is new in it.
    pub prompt: Vec<u32>,
    /// Tokens to generate, exactly.
    pub generate: usize,
    pub kind: Kind,
}

/// What a request stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// The first to bring its prefix.
    Cold,
    /// A follower, whose prefix is cached.
    Warm,
    /// Continues the conversation of its lane.
    Turn,
}

/// Requests of which each waits for the one before.
#[derive(Clone, Debug)]
pub struct Lane {
    /// When the first is due, from the start.
    pub start: Duration,
    pub jobs: Vec<Job>,
}

/// A whole workload. Lanes are in order of their start.
#[derive(Clone, Debug)]
pub struct Load {
    pub lanes: Vec<Lane>,
    /// Requests whose output was cut to what the context leaves.
    pub truncated: usize,
}

impl Load {
    /// The workload for a model. Lengths and arrivals depend on the seed alone; prompts are different in each round, so
    /// that none is in the prefix cache from the round before.
    pub fn new(plan: &Plan, vocab: u32, context: usize, round: u64) -> Outcome<Load> {
        let longest = plan.prompt_len + if plan.workload == Workload::Prefix { SUFFIX_TOKENS } else { 0 };
        if longest >= context {
            return Err(Failure::Message(format!(
                "prompts of {longest} tokens leave no room in a context of {context}; choose a smaller --prompt-len"
            )));
        }
        let mut load = Load { lanes: Vec::new(), truncated: 0 };
        let mut prompts = Random::new(plan.seed.wrapping_add(round << 32), PROMPTS);
        let mut lengths = Random::new(plan.seed, LENGTHS);
        let mut arrivals = Random::new(plan.seed, ARRIVALS);
        let exponential = matches!(plan.workload, Workload::Batch | Workload::Poisson);
        let mut due = Duration::ZERO;
        let mut prefix = Vec::new();
        for index in 0..plan.requests {
            let kind = match plan.workload {
                Workload::Prefix if index % 2 == 0 => Kind::Cold,
                Workload::Prefix => Kind::Warm,
                Workload::Chat => Kind::Turn,
                _ => Kind::Plain,
            };
            let prompt = match kind {
                Kind::Cold | Kind::Warm => {
                    if kind == Kind::Cold {
                        prefix = prompts.tokens(plan.prompt_len, vocab);
                    }
                    [&prefix[..], &prompts.tokens(SUFFIX_TOKENS, vocab)].concat()
                }
                _ => prompts.tokens(plan.prompt_len, vocab),
            };
            let wanted = if exponential { output_len(&mut lengths, plan.gen_len) } else { plan.gen_len };
            let generate = wanted.min(context - prompt.len());
            load.truncated += usize::from(generate < wanted);
            if let Some(rate) = plan.rate {
                due += Duration::from_secs_f64(arrivals.exponential(1.0 / rate).min(1e6));
            }
            let job = Job { prompt, generate, kind };
            match load.lanes.get_mut(index % plan.streams.max(1)) {
                Some(lane) => lane.jobs.push(job),
                None => load.lanes.push(Lane { start: due, jobs: vec![job] }),
            }
        }
        Ok(load)
    }

    /// When the first request is due, from the start.
    pub fn first_due(&self) -> Duration {
        self.lanes.first().map_or(Duration::ZERO, |lane| lane.start)
    }

    /// Requests in all.
    pub fn requests(&self) -> usize {
        self.lanes.iter().map(|lane| lane.jobs.len()).sum()
    }
}

/// An exponentially distributed number of tokens, at least one.
pub fn output_len(random: &mut Random, mean: usize) -> usize {
    random.exponential(mean as f64).round().max(1.0) as usize
}

/// Output lengths of a batch, as [`Load::new`] draws them.
pub fn output_lens(plan: &Plan) -> Vec<usize> {
    let mut lengths = Random::new(plan.seed, LENGTHS);
    (0..plan.requests).map(|_| output_len(&mut lengths, plan.gen_len)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(workload: Workload) -> Plan {
        Plan { workload, requests: 12, streams: 12, slots: 4, prompt_len: 40, gen_len: 20, rate: None, seed: 5 }
    }

    #[test]
    fn a_round_changes_the_prompts_and_nothing_else() {
        let loads = [0, 1].map(|round| Load::new(&plan(Workload::Batch), 1000, 500, round).unwrap());
        let lens = |load: &Load| load.lanes.iter().map(|lane| lane.jobs[0].generate).collect::<Vec<_>>();
        assert_eq!(lens(&loads[0]), lens(&loads[1]));
        assert_eq!(lens(&loads[0]), output_lens(&plan(Workload::Batch)));
        assert_ne!(loads[0].lanes[0].jobs[0].prompt, loads[1].lanes[0].jobs[0].prompt);
        assert!(lens(&loads[0]).iter().any(|len| *len != 20));
    }

    #[test]
    fn output_is_cut_to_the_context_and_counted() {
        let load = Load::new(&plan(Workload::Decode), 1000, 50, 0).unwrap();
        assert!(load.lanes.iter().all(|lane| lane.jobs.iter().all(|job| job.generate == 10)));
        assert_eq!((load.truncated, load.requests()), (12, 12));
        assert!(Load::new(&plan(Workload::Decode), 1000, 40, 0).is_err());
    }

    #[test]
    fn prefixes_are_brought_cold_and_followed_warm() {
        let load = Load::new(&Plan { streams: 1, ..plan(Workload::Prefix) }, 1000, 500, 0).unwrap();
        let jobs = &load.lanes[0].jobs;
        assert_eq!((load.lanes.len(), jobs.len()), (1, 12));
        for pair in jobs.chunks(2) {
            assert_eq!((pair[0].kind, pair[1].kind), (Kind::Cold, Kind::Warm));
            assert_eq!(pair[0].prompt[..40], pair[1].prompt[..40]);
            assert_ne!(pair[0].prompt[40..], pair[1].prompt[40..]);
        }
        assert_ne!(jobs[0].prompt[..40], jobs[2].prompt[..40]);
    }

    #[test]
    fn arrivals_ascend_at_about_the_rate() {
        let plan = Plan { rate: Some(10.0), requests: 2000, streams: 2000, ..plan(Workload::Poisson) };
        let load = Load::new(&plan, 1000, 500, 0).unwrap();
        assert!(load.lanes.is_sorted_by_key(|lane| lane.start));
        let last = load.lanes.last().unwrap().start.as_secs_f64();
        assert!((last - 200.0).abs() < 20.0, "{last}");
    }
}
