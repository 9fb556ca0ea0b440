use super::*;
use crate::engine::{Engine, EngineOptions, Event, LogLevel, Next, Prompt, PromptPart, RequestOptions, Sink};
use crate::server::ModelSpec;
use crate::server::models::{Models, State as ModelState};
use crate::server::window::{Window, WindowOptions};
use std::path::Path;

fn model() -> Arc<Model> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller");
    let options = EngineOptions { threads: 1, log_level: LogLevel::Off, ..EngineOptions::default() };
    let engine = Arc::new(Engine::open(&dir, options).unwrap());
    let window = Window::new(WindowOptions::default());
    let (models, loading) = Models::start(vec![ModelSpec::opened("m", engine)], None, window).unwrap();
    loading.join();
    let (_, ModelState::Ready(model)) = models.all(false).remove(0) else { panic!("it was open") };
    models.stop();
    model
}

/// Runs a request of so many tokens to its end.
fn generate(engine: &Engine, tokens: u32) -> Event {
    let parts = vec![PromptPart::Text { text: "Once upon a time".into(), special: false }];
    let options = RequestOptions { max_tokens: Some(tokens), ignore_eos: true, ..RequestOptions::default() };
    let request = engine.submit(&Prompt { parts, ..Prompt::default() }, &options, Sink::Pull).unwrap();
    loop {
        match request.next(None).unwrap() {
            Next::Event(event) if event.terminal() => return *event,
            _ => {}
        }
    }
}

fn step(message: &Message) -> u64 {
    let value: serde_json::Value = serde_json::from_str(&message.data).unwrap();
    value["step"].as_u64().unwrap()
}

/// A viewer who does not read holds up nobody: neither the engine, nor another viewer. Once he reads he gets a snapshot of how things
/// are now, and goes on with what changes.
#[test]
fn a_slow_viewer_gets_a_snapshot_and_holds_up_nobody() {
    let model = model();
    let feed = Arc::new(Feed::new(&model, false, None));
    let mut slow = feed.watch(1).unwrap().unwrap();
    let mut fast = feed.watch(4096).unwrap().unwrap();
    assert!(fast.messages.blocking_recv().unwrap().snapshot);
    // Until the other has had more than the slow one's queue holds.
    let mut last = 0;
    for _ in 0..6 {
        assert_eq!(generate(&model.engine, 20).usage.unwrap().generated_tokens, 20);
        let message = fast.messages.blocking_recv().unwrap();
        assert!(!message.snapshot && step(&message) >= last);
        last = step(&message);
    }
    let first = slow.messages.blocking_recv().unwrap();
    assert!(first.snapshot && step(&first) == 0, "what was in its queue");
    let second = slow.messages.blocking_recv().unwrap();
    assert!(second.snapshot && step(&second) >= last, "he has missed too much for a delta");
    generate(&model.engine, 3);
    let third = slow.messages.blocking_recv().unwrap();
    assert!(!third.snapshot || step(&third) > step(&second));
    drop(slow);
    feed.close();
    while fast.messages.blocking_recv().is_some() {}
    feed.join();
    assert!(feed.watch(1).unwrap().is_none(), "it is closed");
}

#[test]
fn there_are_only_so_many_viewers_and_a_place_comes_free() {
    let model = model();
    let feed = Arc::new(Feed::new(&model, false, None));
    let mut all: Vec<Watching> = Vec::new();
    while let Some(watching) = feed.watch(1).unwrap() {
        all.push(watching);
    }
    assert_eq!(all.len(), limits::WINDOW_VIEWERS_MAX);
    all.pop();
    let mut again = feed.watch(1).unwrap().unwrap();
    assert!(again.messages.blocking_recv().unwrap().snapshot);
    all.clear();
    drop(again);
    // The thread has ended or ends; another one begins anew.
    let mut anew = feed.watch(1).unwrap().unwrap();
    assert!(anew.messages.blocking_recv().unwrap().snapshot);
    feed.close();
    feed.join();
}
