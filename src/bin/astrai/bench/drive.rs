//! Runs a workload against an engine and notes when each token arrived.
//!
//! Tokens are taken by callback: the dispatch thread notes the time and passes on what came, and this thread submits
//! whatever is due next.

use super::load::{Job, Kind, Load};
use super::watch::Watch;
use crate::failure::{Failure, Outcome};
use crate::open::progress_bar;
use astrai::engine::{Engine, Prompt, PromptPart, RequestOptions, Sink, Usage};
use indicatif::ProgressBar;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Redraws of the progress bar per second, at most.
pub const PROGRESS_HZ: u8 = 4;
pub const PROGRESS: &str = "{bar:32} {pos}/{len} requests, {elapsed}, about {eta} to go";
/// Longest wait for something to happen, after which the wait goes on.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// What became of a request. Times are from the start of the run.
#[derive(Clone, Debug)]
pub struct Record {
    pub kind: Kind,
    pub id: u64,
    /// Steps the engine had made when it was submitted.
    pub step: u64,
    /// When it was due: an arrival's time is not that of a late submit.
    pub due: Duration,
    /// Tokens as they arrived: when, and how many at once.
    pub arrivals: Vec<(Duration, usize)>,
    pub usage: Usage,
}

/// A run of a whole workload.
pub struct Run {
    /// In the order of their ends.
    pub records: Vec<Record>,
    /// From the first arrival's due time to the last terminal event.
    pub wall: Duration,
}

/// What the dispatch thread says about a request.
struct Note {
    lane: usize,
    at: Instant,
    tokens: Vec<u32>,
    end: Option<Result<Usage, String>>,
}

/// A lane's request that is being answered.
struct OpenRequest {
    record: Record,
    /// Where the next job of the lane is.
    next: usize,
    /// All tokens of the conversation so far, of a chat.
    history: Vec<u32>,
}

/// Runs everything to its end.
pub fn drive(engine: &Engine, load: &Load, watch: &Watch) -> Outcome<Run> {
    let (sender, receiver) = channel();
    let bar = progress_bar(load.requests() as u64, PROGRESS_HZ, PROGRESS);
    let mut driver = Driver {
        engine,
        load,
        watch,
        sender,
        start: Instant::now(),
        open: load.lanes.iter().map(|_| None).collect(),
        records: Vec::with_capacity(load.requests()),
        running: 0,
    };
    let outcome = driver.run(&receiver, &bar);
    bar.finish_and_clear();
    outcome?;
    let wall = driver.start.elapsed().saturating_sub(load.first_due());
    Ok(Run { wall, records: driver.records })
}

struct Driver<'a> {
    engine: &'a Engine,
    load: &'a Load,
    watch: &'a Watch,
    sender: Sender<Note>,
    start: Instant,
    open: Vec<Option<OpenRequest>>,
    records: Vec<Record>,
    running: usize,
}

impl Driver<'_> {
    fn run(&mut self, receiver: &Receiver<Note>, bar: &ProgressBar) -> Outcome {
        let mut begun = 0;
        loop {
            begun = self.begin_lanes(begun)?;
            let next = self.load.lanes.get(begun).map(|lane| lane.start.saturating_sub(self.start.elapsed()));
            if self.running == 0 && next.is_none() {
                return Ok(());
            }
            match receiver.recv_timeout(next.unwrap_or(WAIT_MAX)) {
                Ok(note) => self.take(note, bar)?,
                Err(RecvTimeoutError::Timeout) => {}
                // Not while we hold a sender ourselves.
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::message("the engine let go of its requests"));
                }
            }
        }
    }

    /// Begins the lanes that are due, which are in order of their start, from `begun` on. The engine sees the first
    /// ones all at once: its first batch is not the few that were submitted before it looked.
    fn begin_lanes(&mut self, mut begun: usize) -> Outcome<usize> {
        let due = |driver: &Driver, at: usize| {
            driver.load.lanes.get(at).map(|lane| lane.start).filter(|&start| start <= driver.start.elapsed())
        };
        let first = begun == 0 && due(self, begun).is_some();
        if first {
            self.engine.pause(None)?;
        }
        while let Some(start) = due(self, begun) {
            self.submit(begun, 0, start, Vec::new())?;
            begun += 1;
        }
        if first {
            self.engine.resume()?;
        }
        Ok(begun)
    }

    /// Submits a job of a lane; `history` is what its conversation has said.
    fn submit(&mut self, lane: usize, index: usize, due: Duration, mut history: Vec<u32>) -> Outcome {
        let Some(job) = self.load.lanes.get(lane).and_then(|l| l.jobs.get(index)) else { return Ok(()) };
        let prompt = match job.kind {
            Kind::Turn => {
                let context = self.engine.info().context_length as usize;
                // A full conversation is over; the next turn begins another.
                if history.len() + job.prompt.len() + job.generate > context {
                    history.clear();
                }
                history.extend_from_slice(&job.prompt);
                history.clone()
            }
            _ => job.prompt.clone(),
        };
        let step = self.watch.steps();
        let id = submit(self.engine, prompt, job, lane, self.sender.clone())?;
        let record = Record { kind: job.kind, id, step, due, arrivals: Vec::new(), usage: Usage::default() };
        self.open[lane] = Some(OpenRequest { record, next: index + 1, history });
        self.running += 1;
        Ok(())
    }

    /// Notes what arrived; an end begins the lane's next job.
    fn take(&mut self, note: Note, bar: &ProgressBar) -> Outcome {
        let Some(open) = self.open.get_mut(note.lane).and_then(Option::as_mut) else { return Ok(()) };
        let at = note.at.saturating_duration_since(self.start);
        if !note.tokens.is_empty() {
            open.record.arrivals.push((at, note.tokens.len()));
        }
        if open.record.kind == Kind::Turn {
            open.history.extend_from_slice(&note.tokens);
        }
        let Some(end) = note.end else { return Ok(()) };
        let usage = end.map_err(Failure::Message)?;
        let Some(open) = self.open[note.lane].take() else { return Ok(()) };
        self.running -= 1;
        self.records.push(Record { usage, ..open.record });
        bar.inc(1);
        self.submit(note.lane, open.next, at, open.history)
    }
}

/// Submits one request, greedy and without an end token, whose tokens go to `sender`. Returns its id.
fn submit(engine: &Engine, prompt: Vec<u32>, job: &Job, lane: usize, sender: Sender<Note>) -> Outcome<u64> {
    let prompt = Prompt { parts: vec![PromptPart::Tokens(prompt)], ..Prompt::default() };
    let options = RequestOptions {
        max_tokens: Some(u32::try_from(job.generate).unwrap_or(u32::MAX)),
        ignore_eos: true,
        temperature: Some(0.0),
        seed: Some(0),
        queue_tokens: astrai::limits::QUEUE_TOKENS_MAX as u32,
        ..RequestOptions::default()
    };
    let sink = Sink::Callback(Box::new(move |event| {
        let at = Instant::now();
        let end = event.terminal().then(|| match (&event.error, event.usage) {
            (Some(error), _) => Err(error.to_string()),
            (None, Some(usage)) => Ok(usage),
            (None, None) => Err("a request ended without its usage".to_owned()),
        });
        // The receiver is gone only when the run has failed already.
        sender.send(Note { lane, at, tokens: event.tokens.clone(), end }).is_ok()
    }));
    let request = engine.submit(&prompt, &options, sink)?;
    let id = request.id();
    request.detach();
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::super::load::Lane;
    use super::super::shapes;
    use super::*;
    use astrai::engine::EngineOptions;

    /// What passed outside includes the wait for the first arrival, the wall time does not.
    #[test]
    fn wall_time_begins_with_the_first_arrival() {
        let config = shapes::config("storyteller").expect("a known name");
        let source = astrai::model::random_model("storyteller", config, 1).expect("a model");
        let options = EngineOptions { context_length: 64, ..EngineOptions::default() };
        let engine = Engine::open_source(Box::new(source), options).expect("an engine");
        let start = Duration::from_millis(500);
        let job = Job { prompt: vec![1, 2, 3], generate: 2, kind: Kind::Plain };
        let load = Load { lanes: vec![Lane { start, jobs: vec![job] }], truncated: 0 };
        let outside = Instant::now();
        let Ok(run) = drive(&engine, &load, &Watch::new(false)) else { panic!("the run failed") };
        let outside = outside.elapsed();
        assert!(run.wall + start <= outside, "{:?} after {start:?} in {outside:?}", run.wall);
        // Times of the records are from the start of the run, and the last token came before its end.
        let last = run.records[0].arrivals.last().expect("tokens").0;
        assert!(run.records[0].due == start && last <= start + run.wall, "{last:?}");
    }
}
