//! Requests whose tokens the host chooses: they are what the engine would have sampled, or what the host says, and nobody waits.

use crate::requests::open;
use crate::support::jobs::{Answer, Job, answer, drain};
use crate::support::models::{fixture, storyteller};
use astrai::Status;
use astrai::constrain::Kind;
use astrai::engine::*;
use std::sync::Arc;
use std::time::Duration;

/// Answers every turn with what was given, until the request ends.
fn echo(request: &Request) -> Answer {
    while let HostLogits::Ready(logits) = request.logits(None).unwrap() {
        request.choose(Choice::Sample(&logits)).unwrap();
    }
    answer(&drain(request))
}

/// Four requests that differ in what is asked of a token.
fn jobs() -> Vec<Job> {
    let options = |index: usize| RequestOptions {
        seed: Some(index as u64),
        ignore_eos: true,
        max_tokens: Some(25 + 5 * index as u32),
        temperature: Some([0.0, 0.9, 1.2, 0.7][index]),
        top_p: Some([1.0, 0.9, 1.0, 1.0][index]),
        top_k: Some([0, 0, 7, 0][index]),
        repetition_penalty: Some([1.0, 1.2, 1.0, 1.0][index]),
        dry_multiplier: Some([0.0, 0.0, 0.8, 0.0][index]),
        xtc_probability: Some([0.0, 0.0, 0.0, 0.5][index]),
        logprobs: [None, Some(0), Some(3), Some(1)][index],
        prompt_logprobs: index == 3,
        ..RequestOptions::default()
    };
    (0..4)
        .map(|index| Job { prompt: (0..20).map(|i| (i * 7 + index as u32) % 90).collect(), options: options(index) })
        .collect()
}

fn hosted(job: &Job) -> Job {
    Job {
        prompt: job.prompt.clone(),
        options: RequestOptions { host_logits: true, queue_tokens: 1000, ..job.options.clone() },
    }
}

#[test]
fn what_a_host_hands_back_is_what_the_engine_would_have_sampled() {
    // Few pages: some of them are preempted while their hosts think.
    for pages in [0, 8] {
        let engine = open(&fixture("llama"), CpuTier::Auto, 4, 0, pages, 1);
        let alone: Vec<Answer> = jobs().iter().map(|job| answer(&drain(&job.submit(&engine, Sink::Pull)))).collect();
        let requests: Vec<Request> = jobs().iter().map(|job| hosted(job).submit(&engine, Sink::Pull)).collect();
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let threads: Vec<_> = requests.iter().map(|request| scope.spawn(|| echo(request))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(answers, alone, "{pages} pages");
        engine.check().unwrap();
    }
}

/// One host never answers, and the others do not notice.
#[test]
fn a_host_that_never_answers_holds_up_nobody() {
    let engine = open(&fixture("llama"), CpuTier::Auto, 4, 0, 0, 1);
    let silent: Vec<Request> = (0..2).map(|index| hosted(&jobs()[index]).submit(&engine, Sink::Pull)).collect();
    assert!(silent.iter().all(|request| matches!(request.logits(None).unwrap(), HostLogits::Ready(_))));
    let alone: Vec<Answer> = jobs().iter().map(|job| answer(&drain(&job.submit(&engine, Sink::Pull)))).collect();
    assert_eq!(echo(&hosted(&jobs()[3]).submit(&engine, Sink::Pull)), alone[3]);
    // It still has its turn, and the same logits.
    let HostLogits::Ready(logits) = silent[0].logits(Some(Duration::ZERO)).unwrap() else { panic!("a turn is kept") };
    silent[0].choose(Choice::Sample(&logits)).unwrap();
    assert_eq!(echo(&silent[0]), alone[0]);
    // A cancel wakes who waits, and there is nothing to choose any more.
    silent[1].cancel();
    while silent[1].logits(None).unwrap() != HostLogits::End {}
    assert!(!silent[1].choose(Choice::Token(1)).unwrap());
    engine.check().unwrap();
    // As many silent hosts as there are places: the others run all the same.
    let silent: Vec<Request> = (0..6).map(|_| hosted(&jobs()[0]).submit(&engine, Sink::Pull)).collect();
    assert!(silent.iter().take(4).all(|request| matches!(request.logits(None).unwrap(), HostLogits::Ready(_))));
    let others: Vec<Answer> = jobs().iter().map(|job| answer(&drain(&job.submit(&engine, Sink::Pull)))).collect();
    assert_eq!(others, alone);
    for request in &silent {
        assert_eq!(echo(request), alone[0]);
    }
    engine.check().unwrap();
}

/// What ends while its prompt is being made ready, or by a panic of the engine, wakes who waits for logits.
#[test]
fn whatever_ends_a_request_ends_the_wait_for_its_logits() {
    let engine = open(&fixture("llama"), CpuTier::Auto, 4, 0, 0, 1);
    let requests: Vec<Request> = (0..6).map(|_| hosted(&jobs()[1]).submit(&engine, Sink::Pull)).collect();
    engine.inject_panic();
    for request in &requests {
        while request.logits(None).unwrap() != HostLogits::End {
            assert!(!request.choose(Choice::Token(1)).is_err_and(|error| error.status != Status::Argument));
        }
    }
    let dead = hosted(&jobs()[1]);
    let parts = vec![PromptPart::Tokens(dead.prompt.clone())];
    if let Ok(request) = engine.submit(&Prompt { parts, ..Prompt::default() }, &dead.options, Sink::Pull) {
        assert_eq!(request.logits(None).unwrap(), HostLogits::End);
    }
}

#[test]
fn a_host_chooses_what_may_follow_and_nothing_else() {
    let engine = open(&storyteller(), CpuTier::Auto, 4, 0, 0, 1);
    let vocab = engine.info().vocab_size;
    let constraint = engine.compile_constraint(Kind::Texts, r#"["yes", "no"]"#).unwrap();
    let settings = Settings { constraint: Some(constraint), ..Settings::default() };
    let options = RequestOptions { host_logits: true, settings: Some(Arc::new(settings)), ..RequestOptions::default() };
    let prompt =
        Prompt { parts: vec![PromptPart::Text { text: "Is it?".into(), special: false }], ..Prompt::default() };
    let words = |word: &str| engine.tokenize(&raw(word), TextOptions::default()).unwrap();
    let request = engine.submit(&prompt, &options, Sink::Pull).unwrap();
    let HostLogits::Ready(logits) = request.logits(None).unwrap() else { panic!("the first turn") };
    assert_eq!(logits.len(), vocab as usize);
    let first = *words("no").last().unwrap();
    let refused = |choice: Choice| request.choose(choice).unwrap_err();
    assert_eq!(
        (refused(Choice::Token(vocab)).status, refused(Choice::Sample(&[0.0])).status),
        (Status::Argument, Status::Argument)
    );
    let other = *words("perhaps").last().unwrap();
    assert!(refused(Choice::Token(other)).message.contains("constraint"));
    // Another request's tokens are the engine's to sample.
    let plain = engine
        .submit(&prompt, &RequestOptions { max_tokens: Some(1), ..RequestOptions::default() }, Sink::Pull)
        .unwrap();
    assert_eq!(plain.logits(None).unwrap_err().status, Status::Argument);
    assert_eq!(plain.choose(Choice::Token(1)).unwrap_err().status, Status::Argument);
    // "no", by its letters or as a whole, and then only the end may follow.
    if request.choose(Choice::Token(first)).is_err() {
        request.choose(Choice::Sample(&logits)).unwrap();
    }
    let answer: String = loop {
        match request.logits(None).unwrap() {
            HostLogits::Ready(logits) => assert!(request.choose(Choice::Sample(&logits)).unwrap()),
            HostLogits::End => break drain(&request).into_iter().map(|event| event.text).collect(),
            HostLogits::Timeout => unreachable!("it waits without limit"),
        }
    };
    assert!(["yes", "no"].contains(&answer.as_str()), "{answer:?}");
    engine.check().unwrap();
}

fn raw(text: &str) -> Prompt {
    Prompt { parts: vec![PromptPart::Text { text: text.into(), special: false }], ..Prompt::default() }
}

/// Deadlines, closed engines and dropped handles end a turn like anything else.
#[test]
fn a_turn_ends_with_its_request() {
    let engine = open(&fixture("llama"), CpuTier::Auto, 4, 0, 0, 1);
    let job = hosted(&jobs()[0]);
    let late = Job { prompt: job.prompt.clone(), options: RequestOptions { deadline_ms: 30, ..job.options.clone() } };
    let late = late.submit(&engine, Sink::Pull);
    while late.logits(None).unwrap() != HostLogits::End {}
    assert_eq!(drain(&late).last().unwrap().finish, FinishReason::Deadline);
    drop(job.submit(&engine, Sink::Pull));
    let deferred = Job { prompt: job.prompt.clone(), options: RequestOptions { defer: true, ..job.options.clone() } };
    let deferred = deferred.submit(&engine, Sink::Pull);
    let HostLogits::Ready(logits) = deferred.logits(None).unwrap() else { panic!("a turn") };
    deferred.choose(Choice::Sample(&logits)).unwrap();
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| while deferred.logits(None).unwrap() != HostLogits::End {});
        engine.close(Duration::ZERO).unwrap();
        waiting.join()
    });
    waiting.unwrap();
}
