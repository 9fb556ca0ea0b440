//! Speculation: drafts, right or wrong, change no bit of any answer, only the number of steps; and what is counted of them is so.

use crate::support::jobs::{Answer, Job, answer, drain};
use crate::support::models::{fixture, fixtures, storyteller};
use crate::support::random::{Random, seed};
use crate::support::storm::oracle;
use crate::support::target;
use astrai::constrain::Kind;
use astrai::engine::*;
use std::path::Path;
use std::sync::Arc;

const GENERATED: u32 = 40;

fn open(dir: &Path, options: EngineOptions) -> Engine {
    Engine::open(dir, EngineOptions { threads: 1, max_running: 4, ..options }).unwrap()
}

fn drafting(texts: Vec<Vec<u32>>, mistakes: usize) -> EngineOptions {
    EngineOptions { draft_fn: Some(oracle(texts, mistakes)), ..target::fastest().options() }
}

fn own_text() -> EngineOptions {
    let speculation = Speculation { own_text: true, ..Speculation::default() };
    EngineOptions { speculation, ..target::fastest().options() }
}

fn greedy(prompt: Vec<u32>) -> Job {
    let options = RequestOptions {
        max_tokens: Some(GENERATED),
        ignore_eos: true,
        temperature: Some(0.0),
        logprobs: Some(2),
        ..RequestOptions::default()
    };
    Job { prompt, options }
}

fn run(engine: &Engine, job: &Job) -> (Answer, Usage) {
    let events = drain(&job.submit(engine, Sink::Pull));
    (answer(&events), events.last().unwrap().usage.unwrap())
}

/// The counters when the accounting was checked, after all that has been delivered.
fn settled(engine: &Engine) -> Stats {
    engine.check().unwrap();
    engine.stats().unwrap()
}

/// The text of a job, as its answer will have made it.
fn text(job: &Job, want: &Answer) -> Vec<u32> {
    [&job.prompt[..], &want.tokens].concat()
}

/// On one model of each kind: windows, states, latent pages, shared ones.
#[test]
fn accepted_drafts_save_steps_and_change_no_bit() {
    let mut random = Random(seed());
    for dir in fixtures() {
        let what = dir.display();
        let cold = open(&dir, target::fastest().options());
        let vocab = cold.info().vocab_size as usize;
        let prompt = (0..1 + random.below(50)).map(|_| random.below(vocab) as u32).collect();
        let mut job = greedy(prompt);
        job.options.temperature = Some([0.0, 0.9][random.below(2)]);
        job.options.seed = Some(random.below(100) as u64);
        let (want, usage) = run(&cold, &job);
        assert_eq!((usage.drafted_tokens, usage.accepted_tokens), (0, 0), "{what}: off");
        for mistakes in [0, 20, 100] {
            let engine = open(&dir, drafting(vec![text(&job, &want)], mistakes));
            let (got, usage) = run(&engine, &job);
            assert_eq!(got, want, "{what}, {mistakes} mistakes in a hundred drafts");
            let (stats, generated) = (settled(&engine), u64::from(GENERATED));
            let counted = (u64::from(usage.drafted_tokens), u64::from(usage.accepted_tokens));
            assert_eq!(counted, (stats.drafted_tokens, stats.accepted_tokens), "{what}");
            assert!(stats.drafted_tokens >= generated / 3, "{what}: {stats:?}");
            match mistakes {
                // One step for the prompt, and one for every few tokens.
                0 => assert!(
                    stats.accepted_tokens == stats.drafted_tokens && stats.steps < generated / 2,
                    "{what}: {stats:?}"
                ),
                100 => assert!(stats.accepted_tokens <= stats.drafted_tokens / 4, "{what}: {stats:?}"),
                _ => assert!(stats.steps <= generated + 1, "{what}: {stats:?}"),
            }
        }
    }
}

/// Stops, the end of the answer and penalties fall into the middle of rows with drafts.
#[test]
fn ends_and_penalties_inside_a_row_are_as_without() {
    let dir = fixture("qwen3");
    let cold = open(&dir, target::fastest().options());
    let mut random = Random(seed());
    for round in 0..40 {
        let mut job = greedy((0..20).map(|_| random.below(128) as u32).collect());
        job.options.seed = Some(round);
        job.options.temperature = Some([0.0, 1.0][random.below(2)]);
        job.options.repetition_penalty = Some([1.0, 1.3][random.below(2)]);
        job.options.frequency_penalty = Some([0.0, 0.5][random.below(2)]);
        job.options.presence_penalty = Some([0.0, 0.5][random.below(2)]);
        job.options.queue_tokens = [1, 5, 1000][random.below(3)];
        let (whole, _) = run(&cold, &job);
        let bias = vec![(whole.tokens[3], 0.5)];
        let stop_tokens = vec![whole.tokens[5 + random.below(20)]];
        let settings = Settings { stop_tokens, bias, ..Settings::default() };
        job.options.settings = (random.below(2) == 0).then(|| Arc::new(settings));
        job.options.max_tokens = Some(1 + random.below(30) as u32);
        let (want, _) = run(&cold, &job);
        let engine = open(&dir, drafting(vec![text(&job, &want), text(&job, &whole)], 10));
        let (got, usage) = run(&engine, &job);
        assert_eq!(got, want, "{:?}", job.options);
        assert!(usage.accepted_tokens <= usage.drafted_tokens && usage.accepted_tokens < usage.generated_tokens);
        assert_eq!(settled(&engine).pages_used, 0);
    }
}

/// Whose next token depends on what the host or a parser makes of the last has no drafts, nor has a request that asks for none.
#[test]
fn requests_that_cannot_have_drafts_go_without() {
    let dir = fixture("qwen3");
    let job = greedy((0..20).collect());
    let (want, _) = run(&open(&dir, target::fastest().options()), &job);
    let engine = open(&dir, drafting(vec![text(&job, &want)], 0));
    for options in [
        RequestOptions { draft_tokens: Some(0), ..job.options.clone() },
        RequestOptions { dry_multiplier: Some(0.01), ..job.options.clone() },
    ] {
        let (_, usage) = run(&engine, &Job { options, ..job.clone() });
        assert_eq!(usage.drafted_tokens, 0);
    }
    let two = RequestOptions { draft_tokens: Some(2), ..job.options.clone() };
    let before = settled(&engine).steps;
    let (got, usage) = run(&engine, &Job { options: two, ..job.clone() });
    let steps = settled(&engine).steps - before;
    assert_eq!((got, usage.drafted_tokens), (want, usage.accepted_tokens));
    assert!(steps >= u64::from(GENERATED) / 3, "three tokens a step, not more: {steps}");
    let most = astrai::limits::DRAFT_TOKENS_MAX as u32 + 1;
    let options = RequestOptions { draft_tokens: Some(most), ..job.options.clone() };
    let prompt = Prompt { parts: vec![PromptPart::Tokens(job.prompt.clone())], ..Prompt::default() };
    let refused = engine.submit(&prompt, &options, Sink::Pull).map(|_| ()).unwrap_err();
    assert_eq!((refused.subject.as_str(), refused.needed), ("draft_tokens", u64::from(most)));
    let refused = Speculation { draft_tokens: 4, ..Speculation::default() };
    let refused = EngineOptions { speculation: refused, ..target::fastest().options() };
    assert_eq!(Engine::open(&dir, refused).map(|_| ()).unwrap_err().subject, "draft_tokens");
}

/// Drafts of constrained requests go as far as the constraint lets them; answers, and whether they are complete, are as without.
#[test]
fn drafts_under_a_constraint_are_cut_by_it() {
    let dir = storyteller();
    let cold = open(&dir, target::fastest().options());
    let item = r#"{"type": "array", "minItems": 2, "maxItems": 4, "items": {"type": "object", "properties": {"mood": {"enum":
        ["glad", "cross"]}, "gold": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["mood", "gold"]}}"#;
    let mut accepted = 0;
    for (kind, text_of) in
        [(Kind::JsonSchema, item), (Kind::Regex, "[a-z]{3,9}( [a-z]{3,9}){3,6}[.!]"), (Kind::Texts, r#"["yes", "no"]"#)]
    {
        let constraint = cold.compile_constraint(kind, text_of).unwrap();
        for seed in 0..6 {
            let mut job = greedy((300 + seed..330 + seed).collect());
            job.options.temperature = Some(1.3);
            job.options.seed = Some(u64::from(seed));
            job.options.ignore_eos = seed % 3 == 2;
            job.options.queue_tokens = [1, 4, 1000][seed as usize % 3];
            job.options.max_tokens = Some([100, 9][seed as usize / 3]);
            let settings = Settings { constraint: Some(constraint.clone()), ..Settings::default() };
            job.options.settings = Some(Arc::new(settings));
            let ended = |engine: &Engine| {
                let events = drain(&job.submit(engine, Sink::Pull));
                let last = events.last().unwrap();
                (answer(&events), last.finish, last.complete, last.error.clone(), last.usage.unwrap().accepted_tokens)
            };
            let (want, finish, complete, error, none) = ended(&cold);
            assert_eq!((error, none), (None, 0), "{kind:?} {seed}");
            for mistakes in [0, 30] {
                let engine = open(&dir, drafting(vec![text(&job, &want)], mistakes));
                let got = ended(&engine);
                accepted += got.4;
                assert_eq!(got, (want.clone(), finish, complete, None, got.4), "{kind:?} {seed} {mistakes}");
                assert_eq!(settled(&engine).pages_used, 0);
            }
            // And by what the answer itself has said before.
            let engine = open(&dir, own_text());
            let got = ended(&engine);
            assert_eq!(got, (want.clone(), finish, complete, None, got.4), "{kind:?} {seed}");
        }
    }
    println!("{accepted} drafts accepted");
    assert!(accepted > 100, "{accepted}");
}

/// A random model soon says the same again and again, which is drafted from its own text.
#[test]
fn what_repeats_itself_is_drafted_from_the_text() {
    let dir = storyteller();
    let prompt: Vec<u32> = (0..60).map(|i| 100 + i % 12).collect();
    let mut job = greedy(prompt);
    job.options.max_tokens = Some(150);
    // Draws the same tokens again after the same tokens.
    let bias = (100..112).map(|token| (token, 40.0)).collect();
    job.options.settings = Some(Arc::new(Settings { bias, ..Settings::default() }));
    let (want, _) = run(&open(&dir, target::fastest().options()), &job);
    let engine = open(&dir, own_text());
    let (got, usage) = run(&engine, &job);
    let stats = settled(&engine);
    assert_eq!(got, want);
    println!("{} of {} drafts accepted in {} steps", usage.accepted_tokens, usage.drafted_tokens, stats.steps);
    assert!(usage.accepted_tokens > 40 && stats.steps < 110, "{usage:?} {stats:?}");
}

/// What an earlier request was told is drafted for the next one that begins to say the same, and only where texts are shared.
#[test]
fn answers_of_others_are_drafted_where_texts_are_shared() {
    let dir = storyteller();
    let mut job = greedy((200..230).collect());
    (job.options.temperature, job.options.seed, job.options.max_tokens) = (Some(1.0), Some(7), Some(120));
    let (want, _) = run(&open(&dir, target::fastest().options()), &job);
    let mut accepted = [0, 0];
    for (shared_texts, accepted) in [false, true].into_iter().zip(&mut accepted) {
        let speculation = Speculation { own_text: true, shared_texts, draft_tokens: 8 };
        let engine = open(&dir, EngineOptions { speculation, ..target::fastest().options() });
        for _ in 0..2 {
            let (got, usage) = run(&engine, &job);
            assert_eq!(got, want);
            *accepted = usage.accepted_tokens;
        }
    }
    println!("accepted without sharing and with: {accepted:?}");
    assert!(accepted[1] > 60 && accepted[0] < accepted[1] / 2, "{accepted:?}");
}
