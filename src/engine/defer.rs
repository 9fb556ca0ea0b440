//! Deferred submits: template and tokenizer run on a helper thread, not on the submitter's.
//!
//! The engine thread owns the request from the start ([`Deferred`]), so a cancel, a deadline, a close or a panic finds it
//! like any other and gives it its one terminal event. The [`Helper`] owns the prompts only, works through them in the
//! order of their submits, and sends back token ids or an error; what it sends for a request that has ended is dropped.
//! Its thread starts with the first such submit, sleeps when there is nothing to do, and ends with the engine thread.

use super::active::NewRequest;
use super::api::{Prompt, TextOptions};
use super::delivery::{lock, wait_until};
use super::prompt::TextKit;
use super::{Command, Engine, Shared};
use crate::error::{Error, Result};
use crate::os::{shortage, thread};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// Requests whose prompt is not ready, by id: in the order of their submits. Engine thread only.
#[derive(Default)]
pub(super) struct Deferred {
    requests: BTreeMap<u64, Box<NewRequest>>,
}

impl Deferred {
    /// Takes in a request without a prompt.
    pub fn insert(&mut self, request: Box<NewRequest>) {
        self.requests.insert(request.delivery.id, request);
    }

    /// The request whose prompt has come; None when it has ended.
    pub fn take(&mut self, id: u64) -> Option<Box<NewRequest>> {
        self.requests.remove(&id)
    }

    /// Takes out those that end now.
    pub fn take_where(&mut self, which: impl Fn(&NewRequest) -> bool) -> Vec<Box<NewRequest>> {
        let ended: Vec<u64> = self.requests.values().filter(|r| which(r)).map(|r| r.delivery.id).collect();
        ended.iter().filter_map(|id| self.requests.remove(id)).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Their deadlines.
    pub fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.requests.values().filter_map(|r| r.deadline)
    }
}

/// Places in the line that a submit sees to: its own, and those of other threads that have seen to theirs and not come yet.
const RESERVED_PROMPTS: usize = 64;

/// The prompts on their way. As many as there are deferred requests, which `max_running` and `max_waiting` bound.
#[derive(Default)]
pub(super) struct Helper {
    jobs: Mutex<Jobs>,
    changed: Condvar,
    #[cfg(test)]
    test: tests::Hooks,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<(u64, Prompt)>,
    started: bool,
    stopped: bool,
}

impl Helper {
    /// A place for one more prompt, as far as memory goes.
    fn reserve(&self) -> Result<()> {
        let waiting = &mut lock(&self.jobs).waiting;
        let bytes = (waiting.len() as u64 + 1) * size_of::<(u64, Prompt)>() as u64;
        // Every prompt on its way has its place: others may have reserved and not come yet.
        waiting.try_reserve(RESERVED_PROMPTS).map_err(|_| Error::memory("the line of prompts", bytes))
    }

    fn add(&self, id: u64, prompt: Prompt) {
        let mut jobs = lock(&self.jobs);
        if !jobs.stopped {
            jobs.waiting.push_back((id, prompt));
            drop(jobs);
            self.changed.notify_one();
        }
    }

    /// Requests have ended: their prompts are not needed.
    pub fn forget(&self, ended: &[Box<NewRequest>]) {
        let ids: BTreeSet<u64> = ended.iter().map(|r| r.delivery.id).collect();
        if !ids.is_empty() {
            lock(&self.jobs).waiting.retain(|job| !ids.contains(&job.0));
        }
    }

    /// The engine thread has ended; the helper's ends too.
    pub fn stop(&self) {
        let mut jobs = lock(&self.jobs);
        jobs.stopped = true;
        jobs.waiting.clear();
        drop(jobs);
        self.changed.notify_all();
    }

    /// The next prompt; blocks. None when the thread is to end.
    fn next(&self) -> Option<(u64, Prompt)> {
        let mut jobs = lock(&self.jobs);
        loop {
            if jobs.stopped {
                return None;
            }
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            (jobs, _) = wait_until(&self.changed, jobs, None);
        }
    }
}

/// The helper thread's body.
fn run(shared: &Shared, text: &TextKit, context: usize) {
    while let Some((id, prompt)) = shared.helper.next() {
        let prepare = || {
            #[cfg(test)]
            shared.helper.test.before_a_prompt();
            shortage::forget();
            let tokens = text.prepare(&prompt, TextOptions::default(), context)?;
            shortage::check("a prompt")?;
            shared.warn_of_two_begins(text, &tokens);
            let room = context.saturating_sub(tokens.len());
            Ok((tokens, room))
        };
        let prepared = catch_unwind(AssertUnwindSafe(prepare)).unwrap_or_else(|_| {
            Err(Error::internal("defect of the library in the chat template or the tokenizer; please report it"))
        });
        shared.send_anyway(Command::Prepared(id, prepared));
    }
}

impl Engine {
    /// Hands over a request without a prompt, and then the prompt.
    pub(super) fn defer(&self, request: Box<NewRequest>, prompt: &Prompt) -> Result<()> {
        self.start_helper()?;
        let id = request.delivery.id;
        let prompt = prompt.try_clone()?;
        self.shared.helper.reserve()?;
        shortage::check("a deferred request")?;
        // In this order: tokens for a request that the engine thread does not know would be dropped.
        self.shared.send(Command::Defer(request))?;
        self.shared.helper.add(id, prompt);
        Ok(())
    }

    /// Starts the helper thread unless that was done.
    fn start_helper(&self) -> Result<()> {
        let mut threads = lock(&self.threads);
        // Under the lock of the threads: who closes the engine takes them after it was closed.
        self.open_or_closed()?;
        if !lock(&self.shared.helper.jobs).started {
            let (shared, text) = (self.shared.clone(), Arc::clone(&self.text));
            let context = self.info.context_length as usize;
            threads.push(thread::spawn("text", self.placing, move || run(&shared, &text, context))?);
            lock(&self.shared.helper.jobs).started = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineOptions, LogLevel};
    use crate::engine::{Event, EventKind, FinishReason, Next, PromptPart, Request, RequestOptions, Sink};
    use crate::error::Status;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    /// What a test does to the helper.
    #[derive(Default)]
    pub struct Hooks {
        /// Held by a test: prompts wait.
        hold: Mutex<()>,
        /// The next prompt panics.
        panic_next: AtomicBool,
    }

    impl Hooks {
        pub fn before_a_prompt(&self) {
            drop(lock(&self.hold));
            if self.panic_next.swap(false, Ordering::SeqCst) {
                panic!("a test asked the helper to panic");
            }
        }
    }

    fn open(running: u32, waiting: u32) -> Engine {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller");
        let options = EngineOptions {
            threads: 1,
            max_running: running,
            max_waiting: waiting,
            log_level: LogLevel::Off,
            ..EngineOptions::default()
        };
        Engine::open(&dir, options).unwrap()
    }

    fn text(text: &str) -> Prompt {
        Prompt { parts: vec![PromptPart::Text { text: text.into(), special: false }], ..Prompt::default() }
    }

    fn deferred() -> RequestOptions {
        RequestOptions { defer: true, max_tokens: Some(3), ignore_eos: true, ..RequestOptions::default() }
    }

    fn submit(engine: &Engine, options: &RequestOptions) -> Request {
        engine.submit(&text("Once upon a time"), options, Sink::Pull).unwrap()
    }

    fn rest(request: &Request) -> Event {
        match request.wait(None).unwrap() {
            Next::Event(event) => *event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_deferred_request_gives_what_any_other_does() {
        let engine = open(4, 0);
        let now = rest(&submit(&engine, &RequestOptions { defer: false, temperature: Some(0.0), ..deferred() }));
        let later = rest(&submit(&engine, &RequestOptions { temperature: Some(0.0), ..deferred() }));
        assert_eq!((now.tokens.len(), &now.tokens, &now.text), (3, &later.tokens, &later.text));
        // As long as the context lets it be.
        let context = engine.info().context_length as usize;
        let tokens = Prompt { parts: vec![PromptPart::Tokens(vec![5; context - 2])], ..Prompt::default() };
        let options = RequestOptions { max_tokens: None, ..deferred() };
        let long = rest(&engine.submit(&tokens, &options, Sink::Pull).unwrap());
        assert_eq!((long.kind, long.finish, long.tokens.len()), (EventKind::Finished, FinishReason::Length, 2));
        engine.check().unwrap();
    }

    #[test]
    fn errors_of_the_prompt_are_the_same_ones_later() {
        let engine = open(4, 0);
        let context = engine.info().context_length as usize;
        let too_long = Prompt { parts: vec![PromptPart::Tokens(vec![5; context + 3])], ..Prompt::default() };
        let message = |role| serde_json::json!({ "role": role, "content": "x" });
        let wizard = Prompt { messages: vec![message("wizard")], ..Prompt::default() };
        let strange = Prompt { parts: vec![PromptPart::Tokens(vec![u32::MAX])], ..Prompt::default() };
        for (prompt, status) in [
            (&too_long, Status::Context),
            (&wizard, Status::Template),
            (&Prompt::default(), Status::Argument),
            (&strange, Status::Argument),
        ] {
            let at_once = RequestOptions { defer: false, ..deferred() };
            let error = engine.submit(prompt, &at_once, Sink::Pull).map(|_| ()).unwrap_err();
            let event = rest(&engine.submit(prompt, &deferred(), Sink::Pull).unwrap());
            assert_eq!((event.kind, event.finish), (EventKind::Failed, FinishReason::Error));
            assert_eq!((error.status, event.error.as_ref()), (status, Some(&error)));
            assert!(event.usage.is_some());
        }
        // What is wrong with the options shows at once.
        let options = RequestOptions { temperature: Some(-1.0), ..deferred() };
        assert_eq!(engine.submit(&text("x"), &options, Sink::Pull).map(|_| ()).unwrap_err().status, Status::Argument);
        engine.check().unwrap();
        let stats = engine.stats().unwrap();
        assert_eq!((stats.failed, stats.waiting, engine.shared.pending.load(Ordering::SeqCst)), (4, 0, 0));
    }

    #[test]
    fn what_waits_for_its_prompt_ends_once_and_counts() {
        let engine = open(2, 3);
        let held = lock(&engine.shared.helper.test.hold);
        let all: Vec<Request> = (0..4).map(|_| submit(&engine, &deferred())).collect();
        let hurried = submit(&engine, &RequestOptions { deadline_ms: 1, ..deferred() });
        // As many as may run and wait; the deadline's place is free again once it has passed.
        assert_eq!(rest(&hurried).finish, FinishReason::Deadline);
        let again = submit(&engine, &deferred());
        let full = engine.submit(&text("x"), &deferred(), Sink::Pull).map(|_| ()).unwrap_err();
        assert_eq!((full.status, full.available), (Status::QueueFull, 5));
        engine.check().unwrap();
        assert_eq!(engine.stats().unwrap().waiting, 5);
        all[1].cancel();
        let event = rest(&all[1]);
        assert_eq!((event.kind, event.finish), (EventKind::Cancelled, FinishReason::Cancel));
        assert_eq!(event.usage.unwrap().prompt_tokens, 0);
        engine.check().unwrap();
        // The helper has the first prompt in hand; the cancelled one's is gone.
        let waiting: Vec<u64> = lock(&engine.shared.helper.jobs).waiting.iter().map(|job| job.0).collect();
        let wanted = [all[2].id(), all[3].id(), again.id()];
        assert_eq!(waiting.iter().filter(|id| **id != all[0].id()).copied().collect::<Vec<_>>(), wanted);
        drop(held);
        for request in [&all[0], &all[2], &all[3], &again] {
            assert_eq!(rest(request).finish, FinishReason::Length);
        }
        engine.check().unwrap();
        let stats = engine.stats().unwrap();
        assert_eq!((stats.finished, stats.cancelled, stats.failed, stats.waiting), (4, 2, 0, 0));
    }

    #[test]
    fn prompts_are_prepared_in_the_order_of_their_submits() {
        let engine = open(1, 20);
        let order = Arc::new(Mutex::new(Vec::new()));
        let requests: Vec<Request> = (0..10)
            .map(|i| {
                let order = order.clone();
                let sink = Sink::Callback(Box::new(move |event: &Event| {
                    if event.terminal() {
                        lock(&order).push(i);
                    }
                    true
                }));
                // Each fails, slowly or at once: a helper that overtook itself would show.
                let prompt = if i % 2 == 0 { text(&"Once upon a time ".repeat(2000)) } else { Prompt::default() };
                engine.submit(&prompt, &deferred(), sink).unwrap()
            })
            .collect();
        for request in &requests {
            request.wait(None).unwrap();
        }
        assert_eq!(*lock(&order), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_of_the_tokenizer_fails_its_request_alone() {
        let engine = open(4, 0);
        engine.shared.helper.test.panic_next.store(true, Ordering::SeqCst);
        let (bad, good) = (submit(&engine, &deferred()), submit(&engine, &deferred()));
        let event = rest(&bad);
        assert_eq!((event.kind, event.error.unwrap().status), (EventKind::Failed, Status::Internal));
        assert_eq!(rest(&good).finish, FinishReason::Length);
        engine.check().unwrap();
        assert_eq!(engine.stats().unwrap().failed, 1);
    }

    #[test]
    fn a_panic_of_the_engine_and_a_close_end_them_too() {
        let engine = open(2, 5);
        let held = lock(&engine.shared.helper.test.hold);
        let victims = [submit(&engine, &deferred()), submit(&engine, &deferred())];
        engine.inject_panic();
        for victim in &victims {
            assert_eq!(rest(victim).error.unwrap().status, Status::Internal);
        }
        assert_eq!(rest(&submit(&engine, &deferred())).error.unwrap().status, Status::Internal);
        drop(held);
        engine.close(Duration::ZERO).unwrap();

        let engine = open(2, 5);
        let held = lock(&engine.shared.helper.test.hold);
        let cut = [submit(&engine, &deferred()), submit(&engine, &deferred())];
        engine.begin_close(Duration::ZERO).unwrap();
        for request in &cut {
            let event = rest(request);
            assert_eq!((event.kind, event.finish), (EventKind::Cancelled, FinishReason::Close));
        }
        assert_eq!(engine.submit(&text("x"), &deferred(), Sink::Pull).map(|_| ()).unwrap_err().status, Status::Closed);
        drop(held);
        drop(engine);

        // With time enough the prompts are prepared and the requests run.
        let engine = open(2, 5);
        let graced = [submit(&engine, &deferred()), submit(&engine, &deferred())];
        engine.close(Duration::from_secs(600)).unwrap();
        assert!(graced.iter().all(|r| rest(r).finish == FinishReason::Length));
    }
}
