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

/// Requests with DRY have no drafts, nor those that ask for none; others have as many as they ask for.
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

/// Adjustments of so many tokens that the logits of a step are sampled in pieces, which end in the middle of rows with drafts.
#[test]
fn rows_that_are_sampled_in_pieces_are_as_whole_ones() {
    let dir = fixture("qwen3");
    let cold = open(&dir, target::fastest().options());
    let mut random = Random(seed());
    let jobs: Vec<Job> = (0..4)
        .map(|index| {
            let mut job = greedy((0..30).map(|_| random.below(128) as u32).collect());
            job.options.temperature = Some([0.0, 1.0][index % 2]);
            job.options.seed = Some(index as u64);
            job.options.frequency_penalty = Some(0.2);
            job.options.repetition_penalty = Some(1.2);
            let most = astrai::limits::BIASES_MAX / 3;
            let bias = (0..most).map(|at| (at as u32 % 128, 1e-5)).collect();
            job.options.settings = Some(Arc::new(Settings { bias, ..Settings::default() }));
            job
        })
        .collect();
    let want: Vec<Answer> = jobs.iter().map(|job| run(&cold, job).0).collect();
    for mistakes in [0, 20, 60] {
        let texts = jobs.iter().zip(&want).map(|(job, want)| text(job, want)).collect();
        let engine = open(&dir, drafting(texts, mistakes));
        let requests: Vec<Request> = jobs.iter().map(|job| job.submit(&engine, Sink::Pull)).collect();
        for (request, want) in requests.iter().zip(&want) {
            assert_eq!(answer(&drain(request)), *want, "{mistakes}");
        }
        let stats = settled(&engine);
        assert!(stats.accepted_tokens > 20 && stats.pages_used == 0, "{mistakes}: {stats:?}");
    }
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
            // Beside itself: two with drafts and masks in one step, more than its logits have room for.
            let engine = open(&dir, drafting(vec![text(&job, &want)], 10));
            let both = [job.submit(&engine, Sink::Pull), job.submit(&engine, Sink::Pull)];
            both.iter().for_each(|request| assert_eq!(answer(&drain(request)), want, "{kind:?} {seed} twice"));
            // And by what the answer itself has said before.
            let engine = open(&dir, own_text());
            let got = ended(&engine);
            assert_eq!(got, (want.clone(), finish, complete, None, got.4), "{kind:?} {seed}");
        }
    }
    println!("{accepted} drafts accepted");
    assert!(accepted > 100, "{accepted}");
}

/// A model that drafts for itself is right as often as it can be, one of other weights seldom; neither changes a bit. Windows, latent
/// pages, several requests at once, prompts of several steps.
#[test]
fn another_model_drafts() {
    let mut random = Random(seed());
    for (model, draft) in [
        ("qwen3", "qwen3"),
        ("qwen3", "qwen2"),
        ("gemma3_text", "gemma3_text"),
        ("deepseek_v3", "deepseek_v3"),
        ("qwen3_5_text", "qwen3"),
    ] {
        let dir = fixture(model);
        let options = || EngineOptions { threads: 1, max_running: 3, step_tokens: 40, ..target::fastest().options() };
        let cold = Engine::open(&dir, options()).unwrap();
        let jobs: Vec<Job> = (0..5)
            .map(|index| {
                let prompt = (0..1 + random.below(150)).map(|_| random.below(90) as u32).collect();
                let mut job = greedy(prompt);
                job.options.temperature = Some([0.0, 0.8][index % 2]);
                (job.options.seed, job.options.queue_tokens) = (Some(index as u64), [1, 1000][index / 3]);
                job
            })
            .collect();
        let want: Vec<Answer> = jobs.iter().map(|job| run(&cold, job).0).collect();
        let draft_model = Some(fixture(draft));
        let speculation = Speculation { always: true, draft_tokens: 5, ..Speculation::default() };
        let engine = Engine::open(&dir, EngineOptions { draft_model, speculation, ..options() }).unwrap();
        let requests: Vec<Request> = jobs.iter().map(|job| job.submit(&engine, Sink::Pull)).collect();
        for (request, want) in requests.iter().zip(&want) {
            assert_eq!(answer(&drain(request)), *want, "{model} {draft}");
        }
        let stats = settled(&engine);
        println!("{model} {draft}: {} of {} accepted", stats.accepted_tokens, stats.drafted_tokens);
        assert!(stats.drafted_tokens > 100, "{model} {draft}: {stats:?}");
        assert!(model != draft || stats.accepted_tokens > 60, "{model} {draft}: {stats:?}");
        assert_eq!(stats.pages_used, 0);
        // Greedy, alone: all that it drafts is right.
        if model == draft {
            let draft_model = Some(dir.clone());
            let engine = Engine::open(&dir, EngineOptions { draft_model, speculation, ..options() }).unwrap();
            let (got, usage) = run(&engine, &jobs[4]);
            assert_eq!((got, usage.accepted_tokens), (want[4].clone(), usage.drafted_tokens), "{model}");
        }
    }
    let refused = |model: &str, draft: &Path| {
        let options = EngineOptions { draft_model: Some(draft.into()), threads: 1, ..target::fastest().options() };
        Engine::open(&fixture(model), options).map(drop).unwrap_err()
    };
    let error = refused("qwen3", &fixture("qwen3_5_text"));
    assert!(error.message.contains("keep a state"), "{error}");
    assert_eq!(refused("qwen3", &storyteller()).subject, "draft_model");
    assert!(refused("qwen3", Path::new("/nonexistent")).message.starts_with("the draft model: "));
    let dir = fixture("qwen3");
    let (options, plan) = (target::fastest().options(), |o: &EngineOptions| Engine::plan(&dir, o).unwrap());
    let alone = plan(&options);
    let both = plan(&EngineOptions { draft_model: Some(dir.clone()), ..options });
    assert_eq!((both.weight_bytes, both.fits), (2 * alone.weight_bytes, true));
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
        let speculation = Speculation { own_text: true, shared_texts, draft_tokens: 8, ..Speculation::default() };
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
