//! Deferred submits: the chat template and the tokenizer run on the text thread instead of the submitting thread.
//!
//! The engine thread owns a deferred request from its submit on ([`super::requests`]), so a cancel, a deadline, a close or
//! a panic ends it with exactly one terminal event, like any other request. The text thread owns the prompts only
//! ([`super::text_queue`]). It prepares them in the order of their submits and sends back token ids or an error; the engine
//! thread drops the result if the request has ended meanwhile. The text thread starts with the first deferred submit,
//! sleeps while its queue is empty, and ends with the engine thread.
//!
//! Text is encoded in pieces. After each piece the text thread abandons the prompt if its request has ended. After each
//! piece of a long prompt (more than [`crate::limits::LONG_PROMPT_BYTES`]) it first prepares the short prompts that have
//! arrived, so a long prompt does not delay short ones. Long prompts are prepared one after the other.

use super::answer_grammars::Rules;
use super::command::ReadyPrompt;
use super::prompt::goes_on;
use super::text_queue::{Encoded, Job};
use super::{Command, Engine, NewRequest, Prompt, RequestOptions, Shared, TextKit, TextOptions, closed, lock};
use crate::error::{Error, Result, copied};
use crate::os::{shortage, thread};
use crate::text::EncodeLimits;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The text thread's body.
fn run(shared: &Shared, text: &TextKit, context: usize) {
    while let Some(job) = shared.texts.next() {
        prepare(shared, text, context, &job);
    }
}

/// Prepares a prompt; if it is long, also short prompts between its pieces. The recursion is one level deep, since a
/// short prompt takes in no others.
fn prepare(shared: &Shared, text: &TextKit, context: usize, job: &Job) {
    let encode = || -> Result<ReadyPrompt> {
        if let (Some(encoded), Some(rules)) = (&job.encoded, &job.rules) {
            let guide = rules.guide(&shared.guides, text, &encoded.text)?;
            let tokens = copied("a prompt", &encoded.tokens)?;
            return Ok(ReadyPrompt { room: context.saturating_sub(tokens.len()), tokens, answer: None, guide });
        }
        #[cfg(test)]
        shared.texts.test.before_a_prompt();
        let mut go_on = || {
            while let Some(short) = if job.long { shared.texts.next_short() } else { None } {
                shortage::apart(|| prepare(shared, text, context, &short));
            }
            #[cfg(test)]
            shared.texts.test.between_pieces(job.long);
            if job.ended.load(Ordering::Relaxed) { Err(closed()) } else { Ok(()) }
        };
        let stop = Some(Arc::clone(&job.ended));
        let limits = &mut EncodeLimits { stop, ..EncodeLimits::new(context, &mut go_on) };
        shortage::forget();
        let encoded = text.prepare(&job.prompt, TextOptions::default(), limits)?;
        let answer = text.answer_reader(&job.prompt, &encoded.text, &job.options, job.id);
        shortage::check("a prompt")?;
        text.warn_of_two_begins(&encoded.tokens, shared);
        let guide = job.rules.as_ref().map(|rules| rules.guide(&shared.guides, text, &encoded.text)).transpose()?;
        let room = context.saturating_sub(encoded.tokens.len());
        Ok(ReadyPrompt { tokens: encoded.tokens, room, answer, guide: guide.flatten() })
    };
    let prepared = catch_unwind(AssertUnwindSafe(encode)).unwrap_or_else(|_| {
        Err(Error::internal("defect of the library in the chat template or the tokenizer; please report it"))
    });
    if shared.texts.done(job.id) {
        shared.mailbox.send_anyway(Command::PromptReady(job.id, prepared));
    }
}

impl Engine {
    /// Submits a request without a prompt to the engine thread, and its prompt to the text thread.
    pub(super) fn defer(
        &self,
        request: Box<NewRequest>,
        prompt: &Prompt,
        options: &RequestOptions,
        rules: Option<Rules>,
    ) -> Result<()> {
        let options = RequestOptions { mid_text: goes_on(prompt, options), settings: None, ..options.clone() };
        let job = Job { rules, ..Job::new(request.delivery.id, prompt, options)? };
        self.queue(request, job)
    }

    /// Submits a request whose prompt is encoded to the engine thread, and the rules of its answer to the text thread.
    pub(super) fn defer_rules(&self, mut request: Box<NewRequest>, text: String, rules: Rules) -> Result<()> {
        let tokens = std::mem::take(&mut request.prompt);
        let job = Job::of_rules(request.delivery.id, Encoded { tokens, text }, rules);
        self.queue(request, job)
    }

    fn queue(&self, request: Box<NewRequest>, job: Job) -> Result<()> {
        self.start_text_thread()?;
        shortage::check("a deferred request")?;
        self.shared.texts.push(job, || self.shared.mailbox.send(Command::Defer(request)))
    }

    /// Starts the text thread unless it was started before.
    fn start_text_thread(&self) -> Result<()> {
        let mut threads = lock(&self.threads);
        // Checked under the lock on the threads: closing marks the engine closed before it takes the threads to join
        // them, so a thread added here is joined.
        self.open_or_closed()?;
        if !lock(&self.shared.texts.jobs).started {
            let (shared, text) = (self.shared.clone(), Arc::clone(&self.text));
            let context = self.info.context_length as usize;
            threads.push(thread::spawn("text", self.placing, move || run(&shared, &text, context))?);
            lock(&self.shared.texts.jobs).started = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::delivery::lock;
    use crate::engine::{EngineOptions, LogLevel};
    use crate::engine::{Event, EventKind, FinishReason, Next, PromptPart, Request, RequestOptions, Sink};
    use crate::error::Status;
    use std::path::Path;
    use std::sync::Mutex;
    use std::time::Duration;

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
        // The longest prompt that leaves room for two tokens in the context.
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
        // Invalid options are refused by the submit itself.
        let options = RequestOptions { temperature: Some(-1.0), ..deferred() };
        assert_eq!(engine.submit(&text("x"), &options, Sink::Pull).map(|_| ()).unwrap_err().status, Status::Argument);
        engine.check().unwrap();
        let stats = engine.stats().unwrap();
        assert_eq!((stats.failed, stats.waiting, engine.shared.pending.load(Ordering::SeqCst)), (4, 0, 0));
    }

    #[test]
    fn what_waits_for_its_prompt_ends_once_and_counts() {
        let engine = open(2, 3);
        let held = lock(&engine.shared.texts.test.hold);
        let all: Vec<Request> = (0..4).map(|_| submit(&engine, &deferred())).collect();
        let hurried = submit(&engine, &RequestOptions { deadline_ms: 1, ..deferred() });
        // max_running + max_waiting are taken; the request with the deadline gives its place back once it has ended.
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
        // The helper has begun the first prompt; the cancelled request's prompt was removed from the queue.
        let waiting: Vec<u64> = lock(&engine.shared.texts.jobs).waiting.iter().map(|job| job.id).collect();
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
                // Each fails, after a long or a short preparation: out-of-order preparation would show in `order`.
                let prompt = if i % 2 == 0 { text(&"Once upon a time ".repeat(2000)) } else { Prompt::default() };
                engine.submit(&prompt, &deferred(), sink).unwrap()
            })
            .collect();
        for request in &requests {
            request.wait(None).unwrap();
        }
        assert_eq!(*lock(&order), (0..10).collect::<Vec<_>>());
    }

    /// A long text, below the size up to which all tokens are counted.
    fn long_text() -> Prompt {
        text(&"Once upon a time there was ".repeat(7_000))
    }

    #[test]
    fn a_long_prompt_is_given_up_between_two_pieces() {
        let engine = open(4, 4);
        let hooks = &engine.shared.texts.test;
        let held = lock(&hooks.hold_pieces);
        let long = engine.submit(&long_text(), &deferred(), Sink::Pull).unwrap();
        while hooks.pieces.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        long.cancel();
        assert_eq!(rest(&long).finish, FinishReason::Cancel);
        engine.check().unwrap();
        drop(held);
        assert_eq!(rest(&submit(&engine, &deferred())).finish, FinishReason::Length);
        assert_eq!(hooks.pieces.load(Ordering::SeqCst), 1, "it went on");
        // The same with a deadline, and with a close.
        let hurried = RequestOptions { deadline_ms: 1, ..deferred() };
        let held = lock(&hooks.hold_pieces);
        let late = engine.submit(&long_text(), &hurried, Sink::Pull).unwrap();
        assert_eq!(rest(&late).finish, FinishReason::Deadline);
        let cut = engine.submit(&long_text(), &deferred(), Sink::Pull).unwrap();
        engine.begin_close(Duration::ZERO).unwrap();
        assert_eq!(rest(&cut).finish, FinishReason::Close);
        drop(held);
        drop(engine);
    }

    #[test]
    fn a_template_whose_request_has_ended_is_stopped() {
        let engine = open(4, 4);
        let held = lock(&engine.shared.texts.test.hold);
        let request = submit(&engine, &deferred());
        let ended = loop {
            if let [(_, ended)] = &lock(&engine.shared.texts.jobs).current[..] {
                break Arc::clone(ended);
            }
            std::thread::yield_now();
        };
        assert!(!ended.load(Ordering::SeqCst));
        request.cancel();
        assert_eq!(rest(&request).finish, FinishReason::Cancel);
        engine.check().unwrap();
        assert!(ended.load(Ordering::SeqCst));
        drop(held);
        assert_eq!(rest(&submit(&engine, &deferred())).finish, FinishReason::Length, "and the next one is not");
    }

    #[test]
    fn short_prompts_do_not_wait_for_long_ones() {
        let engine = open(4, 20);
        let hooks = &engine.shared.texts.test;
        let held = lock(&hooks.hold_pieces);
        let order = Arc::new(Mutex::new(Vec::new()));
        let note = |name: &'static str| {
            let order = order.clone();
            Sink::Callback(Box::new(move |event: &Event| {
                if event.terminal() {
                    lock(&order).push((name, event.kind));
                }
                true
            }))
        };
        let first = engine.submit(&long_text(), &deferred(), note("first long")).unwrap();
        while hooks.pieces.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let others = [("second long", long_text()), ("short", text("x")), ("bad", Prompt::default())];
        let others = others.map(|(name, prompt)| engine.submit(&prompt, &deferred(), note(name)).unwrap());
        drop(held);
        for request in others.iter().chain([&first]) {
            request.wait(None).unwrap();
        }
        // Short prompts run or fail before the long one is encoded; long prompts are prepared in the order of their
        // submits.
        let order = lock(&order);
        let at = |name| order.iter().position(|(n, _)| *n == name).unwrap();
        assert!(at("bad") < at("first long") && at("first long") < at("second long"), "{order:?}");
        assert_eq!(order[at("short")].1, EventKind::Finished);
        assert_eq!(order[at("first long")].1, EventKind::Failed);
        drop(order);
        engine.check().unwrap();
    }

    #[test]
    fn a_deadline_ends_a_submit_that_encodes_on_its_callers_thread() {
        let engine = open(2, 2);
        let options = RequestOptions { defer: false, deadline_ms: 1, ..deferred() };
        let long = text(&"Once upon a time there was ".repeat(9_000));
        // Too long for the context, which is detected only after the deadline has passed.
        let event = rest(&engine.submit(&long, &options, Sink::Pull).unwrap());
        assert_eq!((event.kind, event.finish), (EventKind::Cancelled, FinishReason::Deadline));
        assert_eq!(event.usage.unwrap().prompt_tokens, 0);
        engine.check().unwrap();
    }

    #[test]
    fn a_panic_of_the_tokenizer_fails_its_request_alone() {
        let engine = open(4, 0);
        engine.shared.texts.test.panic_next.store(true, Ordering::SeqCst);
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
        let held = lock(&engine.shared.texts.test.hold);
        let victims = [submit(&engine, &deferred()), submit(&engine, &deferred())];
        engine.inject_panic();
        for victim in &victims {
            assert_eq!(rest(victim).error.unwrap().status, Status::Internal);
        }
        assert_eq!(rest(&submit(&engine, &deferred())).error.unwrap().status, Status::Internal);
        drop(held);
        engine.close(Duration::ZERO).unwrap();

        let engine = open(2, 5);
        let held = lock(&engine.shared.texts.test.hold);
        let cut = [submit(&engine, &deferred()), submit(&engine, &deferred())];
        engine.begin_close(Duration::ZERO).unwrap();
        for request in &cut {
            let event = rest(request);
            assert_eq!((event.kind, event.finish), (EventKind::Cancelled, FinishReason::Close));
        }
        assert_eq!(engine.submit(&text("x"), &deferred(), Sink::Pull).map(|_| ()).unwrap_err().status, Status::Closed);
        drop(held);
        drop(engine);

        // With enough time to close, the prompts are prepared and the requests run to their end.
        let engine = open(2, 5);
        let graced = [submit(&engine, &deferred()), submit(&engine, &deferred())];
        engine.close(Duration::from_secs(600)).unwrap();
        assert!(graced.iter().all(|r| rest(r).finish == FinishReason::Length));
    }
}
