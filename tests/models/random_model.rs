//! Models of random weights: they have the tensors of the real ones, run, and repeat; and what the trace of an engine
//! says adds up.

use crate::support::models::fixtures;
use astrai::engine::{
    Engine, EngineOptions, Event, EventKind, Next, PageUse, Prompt, PromptPart, RequestOptions, Sink, StepTrace, Trace,
};
use astrai::model::random_model;
use astrai::source::{Folder, FolderOptions, ModelSource};
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, Mutex};

fn config(folder: &Path) -> Value {
    Folder::open(folder, FolderOptions::default(), &mut |_, _| true).unwrap().config().unwrap().clone()
}

fn generate(engine: &Engine, prompt: Vec<u32>, tokens: u32) -> Box<Event> {
    let prompt = Prompt { parts: vec![PromptPart::Tokens(prompt)], ..Prompt::default() };
    let options = RequestOptions {
        max_tokens: Some(tokens),
        ignore_eos: true,
        temperature: Some(0.0),
        logprobs: Some(0),
        ..RequestOptions::default()
    };
    match engine.submit(&prompt, &options, Sink::Pull).unwrap().wait(None).unwrap() {
        Next::Event(event) => event,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_random_model_has_the_tensors_of_a_real_one() {
    for folder in fixtures() {
        let real = Folder::open(&folder, FolderOptions::default(), &mut |_, _| true).unwrap();
        let random = random_model("random", config(&folder), 1).unwrap();
        let shapes = |source: &dyn ModelSource| -> Vec<(String, Vec<usize>)> {
            source.tensors().unwrap().iter().map(|t| (t.name.clone(), t.shape.clone())).collect()
        };
        // Parts for images and layers that guess ahead are not of the text model, nor are keys and values of layers that read
        // those of others.
        let config = config(&folder);
        let layers = config["num_hidden_layers"].as_u64().or(config["text_config"]["num_hidden_layers"].as_u64());
        let of_text = |(name, shape): (String, Vec<usize>)| {
            let inner = name.strip_prefix("language_model.").unwrap_or(&name);
            let layer = inner.split("layers.").nth(1).and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
            let other = ["vision_tower.", "multi_modal_projector."].iter().any(|part| inner.starts_with(part));
            let shares = layer.zip(layers).is_some_and(|(layer, layers)| {
                let own = ["k_proj", "v_proj", "k_norm"].iter().any(|part| inner.contains(part));
                own && layer + config["num_kv_shared_layers"].as_u64().unwrap_or(0) >= layers
            });
            (!other && !shares && layer.is_none_or(|layer| Some(layer) < layers)).then(|| (inner.to_owned(), shape))
        };
        let random = shapes(&random);
        // A head that the config does not know of is used where it is there.
        let tied = random.iter().all(|(name, _)| name != "lm_head.weight");
        let text: Vec<_> = shapes(&real).into_iter().filter_map(of_text).collect();
        let text: Vec<_> = text.into_iter().filter(|(name, _)| !tied || name != "lm_head.weight").collect();
        assert_eq!(random, text, "{}", folder.display());
    }
}

#[test]
fn a_random_model_of_every_family_runs_and_repeats() {
    for folder in fixtures() {
        let open = |seed| {
            let source = random_model("random", config(&folder), seed).unwrap();
            let options = EngineOptions { threads: 1, memory_budget: 4 << 20, ..EngineOptions::default() };
            Engine::open_source(Box::new(source), options).unwrap()
        };
        let [first, again, other] = [3, 3, 4].map(|seed| generate(&open(seed), vec![1, 2, 3, 4, 5], 6));
        assert_eq!((first.kind, first.tokens.len()), (EventKind::Finished, 6), "{}: {first:?}", folder.display());
        assert!(first.logprobs.iter().all(|p| p.is_finite() && *p <= 0.0), "{}: {first:?}", folder.display());
        assert_eq!((&first.tokens, &first.logprobs), (&again.tokens, &again.logprobs), "{}", folder.display());
        assert_ne!(first.logprobs, other.logprobs, "{}", folder.display());
    }
}

#[test]
fn a_model_that_is_no_folder_reports_progress_and_refuses_text() {
    let source = random_model("nameless", config(&fixtures()[0]), 1).unwrap();
    let bytes = source.weight_bytes();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let progress = seen.clone();
    let options = EngineOptions {
        progress: Some(Box::new(move |done, total| {
            progress.lock().unwrap().push((done, total));
            true
        })),
        ..EngineOptions::default()
    };
    let engine = Engine::open_source(Box::new(source.clone()), options).unwrap();
    assert!(engine.detokenize(&[1], Default::default()).is_err());
    let seen = seen.lock().unwrap();
    assert_eq!(seen.last(), Some(&(bytes, bytes)));
    assert!(seen.is_sorted());
    let aborted = EngineOptions { progress: Some(Box::new(|_, _| false)), ..EngineOptions::default() };
    let error = Engine::open_source(Box::new(source), aborted).map(|_| ()).unwrap_err();
    assert_eq!(error.status, astrai::Status::Aborted);
}

#[test]
fn the_trace_sees_every_step_and_all_pages() {
    let steps: Arc<Mutex<Vec<StepTrace>>> = Arc::default();
    let kept = steps.clone();
    let options = EngineOptions {
        threads: 1,
        page_tokens: 4,
        step_tokens: 16,
        memory_budget: 4 << 20,
        trace: Some(Trace { pages: true, ..Trace::new(Box::new(move |step| kept.lock().unwrap().push(step.clone()))) }),
        ..EngineOptions::default()
    };
    let folder = fixtures().into_iter().find(|path| path.ends_with("llama")).unwrap();
    let source = random_model("random", config(&folder), 1).unwrap();
    let engine = Engine::open_source(Box::new(source), options).unwrap();
    // A prompt of 18 tokens in steps of 16 and 2, then a step for each token after the first.
    generate(&engine, (0..18).collect(), 5);
    engine.check().unwrap();
    let steps = steps.lock().unwrap();
    let rows: Vec<_> = steps.iter().flat_map(|s| s.rows.iter().map(|r| (r.first, r.count, r.prefill))).collect();
    assert_eq!(rows, [(0, 16, true), (16, 2, true), (18, 1, false), (19, 1, false), (20, 1, false), (21, 1, false)]);
    for (number, step) in (1..).zip(steps.iter()) {
        assert_eq!(step.step, number);
        assert!(step.rows.iter().all(|row| row.request_id == steps[0].rows[0].request_id && row.request_id > 0));
        let held = step.rows[0].first + step.rows[0].count;
        assert_eq!((step.tokens_held, step.token_places), (held, 4 * held.div_ceil(4)), "step {number}");
        assert_eq!(step.pages_used, held.div_ceil(4));
        let owned = step.pages.iter().filter(|page| matches!(page, PageUse::Used(id) if *id > 0)).count();
        assert_eq!(owned, step.pages_used, "step {number}");
    }
}
