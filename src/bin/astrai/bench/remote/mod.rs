//! The same workloads asked of a server over HTTP, in OpenAI's dialect: throughput, time to first token, time from token to token, as
//! its clients see them.
//!
//! Prompts are token ids to `/v1/completions`, so that their lengths are what the workload says; turns of a chat are texts to
//! `/v1/chat/completions`, because answers come back as text. Outputs have the length that they are given where the server knows
//! `ignore_eos`, else they may be shorter. Each lane is a thread with a connection of its own.

mod client;
mod report;

use super::args::{BenchArgs, Plan};
use super::drive::{PROGRESS, PROGRESS_HZ, Record, Run};
use super::load::{Job, Kind, Lane, Load};
use super::random::Random;
use super::result::Figures;
use super::watch::Seen;
use crate::failure::{Failure, Outcome};
use crate::open::progress_bar;
use astrai::engine::{Stats, Usage};
use client::{Answer, Client};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Lanes at most: each is a thread.
const LANES_MAX: usize = 1024;
/// Longest sequence, where neither the server nor the command line says.
const CONTEXT_DEFAULT: usize = 1 << 20;
/// Words that turns of a chat are made of.
const WORDS: [&str; 16] = [
    "the", "old", "house", "by", "sea", "where", "a", "light", "was", "seen", "at", "night", "and", "nobody", "knew",
    "why",
];

/// A server and what is asked of it.
struct Remote {
    url: String,
    key: Option<String>,
    model: String,
}

/// Measures the server at `url`.
pub fn bench(args: &BenchArgs, plan: &Plan, url: &str) -> Outcome {
    let url = url.trim_end_matches('/');
    let url = url.strip_suffix("/v1").unwrap_or(url).to_owned();
    let key = std::env::var("ASTRAI_API_KEY").ok().filter(|key| !key.is_empty());
    let models = Client::new(&url, key.as_deref())?.models()?;
    let named = args.model().map(|model| model.display().to_string());
    let model = match named.or_else(|| models.first().map(|(name, _)| name.clone())) {
        Some(model) => model,
        None => return Err(Failure::message("the server lists no model; name one with --model")),
    };
    let told = models.iter().find(|(name, _)| *name == model).and_then(|(_, context)| *context);
    let context = args.context.map(|context| context as usize).or(told).unwrap_or(CONTEXT_DEFAULT);
    let remote = Remote { url, key, model };
    let warm_up = Job { prompt: Random::new(0, 0).tokens(8, args.vocab), generate: 2, kind: Kind::Plain };
    remote.ask(&Client::new(&remote.url, remote.key.as_deref())?, &warm_up, &mut Vec::new(), Instant::now())?;
    let (mut all, mut truncated) = (Vec::new(), 0);
    for round in 0..u64::from(args.rounds) {
        let load = Load::new(plan, args.vocab, context, round)?;
        if load.lanes.len() > LANES_MAX {
            let message = format!("{} requests at once over HTTP; at most {LANES_MAX}", load.lanes.len());
            return Err(Failure::Message(message));
        }
        truncated = load.truncated;
        let run = remote.drive(&load)?;
        // What only the engine knows stays 0, and is not told.
        all.push(Figures::of(&run, &Seen::default(), &Stats::default(), &Stats::default()));
    }
    report::report(args, plan, &remote, &all, truncated)
}

impl Remote {
    /// Runs everything to its end.
    fn drive(&self, load: &Load) -> Outcome<Run> {
        let bar = progress_bar(load.requests() as u64, PROGRESS_HZ, PROGRESS);
        let clients = load.lanes.iter().map(|_| Client::new(&self.url, self.key.as_deref()));
        let clients = clients.collect::<Outcome<Vec<Client>>>()?;
        let start = Instant::now();
        let lanes: Vec<Outcome<Vec<Record>>> = std::thread::scope(|scope| {
            let lane = |(lane, client)| {
                let bar = &bar;
                scope.spawn(move || self.lane(client, lane, start, &|| bar.inc(1)))
            };
            let threads: Vec<_> = load.lanes.iter().zip(&clients).map(lane).collect();
            let panicked = |_| Err(Failure::message("a lane panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        bar.finish_and_clear();
        let wall = start.elapsed().saturating_sub(load.first_due());
        let records = lanes.into_iter().collect::<Outcome<Vec<_>>>()?.into_iter().flatten().collect();
        Ok(Run { records, wall })
    }

    /// The requests of one lane, one after the other.
    fn lane(&self, client: &Client, lane: &Lane, start: Instant, done: &dyn Fn()) -> Outcome<Vec<Record>> {
        std::thread::sleep(lane.start.saturating_sub(start.elapsed()));
        let (mut due, mut history, mut records) = (lane.start, Vec::new(), Vec::new());
        for (index, job) in lane.jobs.iter().enumerate() {
            let Answer { text, arrivals, usage } = self.ask(client, job, &mut history, start)?;
            if job.kind == Kind::Turn {
                history.push(json!({"role": "assistant", "content": text}));
            }
            records.push(Record { kind: job.kind, id: index as u64, step: 0, due, arrivals, usage });
            due = start.elapsed();
            done();
        }
        Ok(records)
    }

    /// One request; of a chat, `history` is the conversation, to which the question is added.
    fn ask(&self, client: &Client, job: &Job, history: &mut Vec<Value>, start: Instant) -> Outcome<Answer> {
        let mut body = json!({
            "model": self.model, "max_tokens": job.generate, "temperature": 0, "seed": 0, "ignore_eos": true, "stream": true,
            "stream_options": {"include_usage": true},
        });
        if job.kind != Kind::Turn {
            body["prompt"] = json!(job.prompt);
            return client.stream("/v1/completions", &body, start);
        }
        let words: Vec<&str> = job.prompt.iter().map(|id| WORDS[*id as usize % WORDS.len()]).collect();
        history.push(json!({"role": "user", "content": words.join(" ")}));
        body["messages"] = json!(history);
        client.stream("/v1/chat/completions", &body, start)
    }
}

/// Shares the tokens of an answer out over the pieces in which it came.
fn shared(pieces: &[Duration], tokens: usize) -> Vec<(Duration, usize)> {
    let count = pieces.len().max(1);
    let share = |at: usize| (at + 1) * tokens / count - at * tokens / count;
    pieces.iter().enumerate().map(|(at, time)| (*time, share(at))).collect()
}

/// The usage that a server reports.
fn usage(value: &Value) -> Usage {
    let number = |path: &str| value.pointer(path).and_then(Value::as_u64).unwrap_or(0) as u32;
    Usage {
        prompt_tokens: number("/prompt_tokens"),
        cached_tokens: number("/prompt_tokens_details/cached_tokens"),
        generated_tokens: number("/completion_tokens"),
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_shared_out_over_the_pieces() {
        let at = Duration::from_millis;
        assert_eq!(shared(&[at(1), at(2), at(3)], 7), [(at(1), 2), (at(2), 2), (at(3), 3)]);
        assert_eq!(shared(&[at(1), at(2)], 2), [(at(1), 1), (at(2), 1)]);
        assert_eq!(shared(&[], 3), []);
    }
}
