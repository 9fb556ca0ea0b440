//! What a step costs the host: how often it waits, copies and submits.

use crate::cuda_driver::Driver;
use crate::support::models::root;
use crate::support::target::Target;
use astrai::engine::*;
use std::path::PathBuf;

pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/parity").join(name)
}

pub fn open(name: &str, options: EngineOptions) -> Engine {
    let gpu = Target::Gpu(0).options();
    let options = EngineOptions { device: gpu.device, memory_budget: 64 << 20, ..options };
    Engine::open(&fixture(name), options).unwrap()
}

pub fn submit(engine: &Engine, tokens: &[u32], options: RequestOptions) -> Request {
    let prompt = Prompt { parts: vec![PromptPart::Tokens(tokens.to_vec())], ..Prompt::default() };
    engine.submit(&prompt, &options, Sink::Pull).unwrap()
}

pub fn wait(request: &Request) -> Event {
    match request.wait(None).unwrap() {
        Next::Event(event) => {
            assert_eq!(event.error, None);
            *event
        }
        other => panic!("{other:?} instead of the terminal event"),
    }
}

fn greedy(max_tokens: u32) -> RequestOptions {
    RequestOptions {
        max_tokens: Some(max_tokens),
        temperature: Some(0.0),
        ignore_eos: true,
        ..RequestOptions::default()
    }
}

/// A stream's steps are submitted as recorded ones, each waited for once, with one copy of its integers, one of its draws and
/// two of its page tables and tokens.
pub fn decode_steps_are_recorded_and_waited_for_once(driver: &Driver) {
    let engine = open("llama", EngineOptions::default());
    // The first request sees each kind of step twice, so that all are recorded.
    wait(&submit(&engine, &[3, 1, 4, 1, 5], greedy(40)));
    let before = driver.counts();
    let event = wait(&submit(&engine, &[2, 7, 1, 8, 2, 8], greedy(32)));
    let after = driver.counts();
    assert_eq!(event.tokens.len(), 32);
    let of = |f: fn(&crate::cuda_driver::Counts) -> u64| f(&after) - f(&before);
    // One step computes the prompt, and each of the others a token.
    assert_eq!(of(|c| c.graph_launches), 31, "all decode steps are recorded ones");
    assert_eq!(of(|c| c.graph_instantiations), 0);
    assert_eq!(of(|c| c.stream_synchronisations + c.context_synchronisations), 0);
    assert_eq!(of(|c| c.device_allocations + c.pinned_allocations), 0);
    // The tokens of each; the memory of integers and draws on their way is used again by the third step after.
    let waits = of(|c| c.event_synchronisations);
    assert!(waits <= 3 * 32, "{waits} waits for 32 tokens");
    let copies = (of(|c| c.to_device_copies), of(|c| c.to_host_copies));
    assert!(copies.0 <= 3 * 32 && copies.1 <= 2 * 32, "{copies:?} copies for 32 tokens");
}

/// Requests that come, grow and end at different times get what each gets alone, whether steps are recorded or not.
pub fn steps_ahead_change_nothing() {
    let prompts: Vec<Vec<u32>> = (1..9).map(|n| (0..n * 5).map(|i| (i * 37 + n * 11) % 90).collect()).collect();
    let options = |i: usize| RequestOptions {
        max_tokens: Some([1, 2, 3, 17, 30, 31, 40, 12][i]),
        temperature: Some([0.0, 0.9][i % 2]),
        top_k: Some([0, 5, 80][i % 3]),
        top_p: Some([1.0, 0.8][i / 2 % 2]),
        repetition_penalty: Some([1.0, 1.0, 1.0, 1.3][i % 4]),
        xtc_probability: Some([0.0, 1.0, 0.5][i % 3]),
        xtc_threshold: Some(0.05),
        dry_multiplier: Some([0.0, 0.8, 0.0, 0.0][i % 4]),
        dry_allowed_length: Some(1),
        logprobs: [None, Some(0), Some(3)][i % 3],
        prompt_logprobs: i % 3 == 1,
        seed: Some(i as u64),
        ..RequestOptions::default()
    };
    let bits = |event: Event| {
        let bits = |v: &[f32]| v.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
        let logprobs = (bits(&event.logprobs), bits(&event.top_logprobs), bits(&event.prompt_logprobs));
        (event.tokens, event.top_tokens, logprobs, event.finish)
    };
    let together = open("qwen3", EngineOptions { max_running: 8, step_tokens: 24, ..EngineOptions::default() });
    let requests: Vec<Request> =
        prompts.iter().enumerate().map(|(i, prompt)| submit(&together, prompt, options(i))).collect();
    let answers: Vec<_> = requests.iter().map(|r| bits(wait(r))).collect();
    together.check().unwrap();
    for (i, prompt) in prompts.iter().enumerate() {
        let alone = open("qwen3", EngineOptions { max_running: 1, step_tokens: 512, ..EngineOptions::default() });
        assert_eq!(bits(wait(&submit(&alone, prompt, options(i)))), answers[i], "request {i}");
    }
}

/// Tokens that a host samples from the logits it is given are those of the device, beside others and with steps in flight.
pub fn hosts_get_the_logits_of_the_device() {
    let engine = open("qwen3", EngineOptions { max_running: 4, step_tokens: 24, ..EngineOptions::default() });
    let options = |seed| RequestOptions {
        max_tokens: Some(20),
        temperature: Some([0.0, 0.8][seed as usize % 2]),
        repetition_penalty: Some([1.0, 1.0, 1.3][seed as usize % 3]),
        logprobs: Some(2),
        ignore_eos: true,
        seed: Some(seed),
        ..RequestOptions::default()
    };
    let tokens = |event: Event| (event.tokens, event.top_tokens);
    let prompt: Vec<u32> = (0..30).map(|i| i * 11 % 90).collect();
    for seed in 0..4 {
        let plain = tokens(wait(&submit(&engine, &prompt, options(seed))));
        let neighbours: Vec<Request> = (10..12).map(|other| submit(&engine, &[3, 4, 5], options(other))).collect();
        let hosted = submit(&engine, &prompt, RequestOptions { host_logits: true, queue_tokens: 100, ..options(seed) });
        while let HostLogits::Ready(logits) = hosted.logits(None).unwrap() {
            assert!(hosted.choose(Choice::Sample(&logits)).unwrap());
        }
        assert_eq!(tokens(wait(&hosted)), plain, "seed {seed}");
        neighbours.iter().for_each(|request| drop(wait(request)));
    }
    engine.check().unwrap();
}

/// Sixteen streams, one of them with penalties, whose next token cannot be asked for before the host knows the last one: it has a row
/// in every second step. The others have one in each, and two steps stay in flight.
pub fn a_stream_with_penalties_holds_up_no_other() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = seen.clone();
    let call = Box::new(move |step: &StepTrace| sink.lock().unwrap().push(step.clone()));
    let options = EngineOptions { max_running: 16, trace: Some(Trace::new(call)), ..EngineOptions::default() };
    let engine = open("llama", options);
    engine.pause(None).unwrap();
    let requests: Vec<Request> = (0..16)
        .map(|i| {
            let penalty = if i == 0 { 1.3 } else { 1.0 };
            submit(&engine, &[1 + i, 2, 3], RequestOptions { repetition_penalty: Some(penalty), ..greedy(40) })
        })
        .collect();
    engine.resume().unwrap();
    requests.iter().for_each(|request| assert_eq!(wait(request).tokens.len(), 40));
    let seen = seen.lock().unwrap();
    let of = |step: &StepTrace, request: &Request| step.rows.iter().any(|row| row.request_id == request.id());
    // From the first step that decodes for all fifteen on, as long as they last.
    let first = seen.iter().position(|step| step.rows.len() >= 15 && step.rows.iter().all(|row| !row.prefill)).unwrap();
    let last = seen.iter().rposition(|step| requests[1..].iter().all(|request| of(step, request))).unwrap();
    let steps = &seen[first..=last];
    assert!(steps.len() >= 38, "{} steps decode for all", steps.len());
    for step in steps {
        assert!(requests[1..].iter().all(|request| of(step, request)), "step {} left somebody out", step.step);
        assert_eq!(step.in_flight, 2, "step {}", step.step);
    }
    let penalised = steps.iter().filter(|step| of(step, &requests[0])).count();
    assert!(penalised.abs_diff(steps.len() / 2) <= 1, "{penalised} rows in {} steps", steps.len());
}

/// Streams with penalties that come one after the other share their steps: none waits while another's token is computed.
pub fn streams_with_penalties_share_their_steps() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = seen.clone();
    let call = Box::new(move |step: &StepTrace| sink.lock().unwrap().push(step.rows.len()));
    let options = EngineOptions { max_running: 8, trace: Some(Trace::new(call)), ..EngineOptions::default() };
    let engine = open("llama", options);
    let requests: Vec<Request> = (0..8)
        .map(|i| {
            let options = RequestOptions { repetition_penalty: Some(1.3), ..greedy(120) };
            let request = submit(&engine, &[1 + i, 2, 3], options);
            // Begun when the next one comes.
            assert!(matches!(request.next(None).unwrap(), Next::Event(event) if !event.terminal()));
            request
        })
        .collect();
    requests.iter().for_each(|request| _ = wait(request));
    let seen = seen.lock().unwrap();
    let all = seen.iter().position(|rows| *rows == 8).expect("a step with all eight");
    let steps = &seen[all..seen.iter().rposition(|rows| *rows == 8).unwrap() + 1];
    assert!(steps.len() >= 10 && steps.iter().all(|rows| *rows == 8), "rows of the steps: {steps:?}");
}

/// What the host spends on a step of `streams` streams: median over the decode steps, as `StepTrace::host`.
pub fn host_time(streams: u32) -> std::time::Duration {
    let spent = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = spent.clone();
    // The first step's record waits until all streams are submitted: on an idle device the first ones would be over by then.
    let (submitted, all_submitted) = std::sync::mpsc::channel::<()>();
    let mut begun = false;
    let call = Box::new(move |step: &StepTrace| {
        if !step.rows.is_empty() && !std::mem::replace(&mut begun, true) {
            all_submitted.recv().unwrap();
        }
        if step.rows.len() == streams as usize && step.rows.iter().all(|row| !row.prefill) {
            sink.lock().unwrap().push(step.host);
        }
    });
    let options = EngineOptions {
        max_running: streams,
        step_tokens: 4096,
        trace: Some(Trace::new(call)),
        ..EngineOptions::default()
    };
    let engine = open("llama", options);
    let requests: Vec<Request> = (0..streams).map(|i| submit(&engine, &[1 + i % 90, 2, 3], greedy(24))).collect();
    submitted.send(()).unwrap();
    requests.iter().for_each(|request| assert_eq!(wait(request).tokens.len(), 24));
    let mut spent = spent.lock().unwrap().clone();
    spent.sort();
    spent[spent.len() / 2]
}

/// A panic while a step is in flight ends every request, and the engine's thread sleeps then.
pub fn a_panic_in_the_air_leaves_nothing_running() {
    let engine = open("llama", EngineOptions::default());
    let request = submit(&engine, &[1, 2, 3], greedy(100));
    assert!(matches!(request.next(None).unwrap(), Next::Event(event) if !event.terminal()));
    engine.inject_panic();
    let last = loop {
        match request.next(None).unwrap() {
            Next::Event(event) if event.terminal() => break event,
            Next::Event(_) => {}
            other => panic!("{other:?} before the terminal event"),
        }
    };
    assert_eq!(last.error.map(|error| error.status), Some(astrai::Status::Internal));
    let begin = std::time::Instant::now();
    while engine_thread_state() != Some('S') {
        assert!(begin.elapsed().as_secs() < 10, "the engine's thread does not come to rest");
        std::thread::yield_now();
    }
}

/// The scheduler's letter for the one engine thread of this process.
fn engine_thread_state() -> Option<char> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let mut engines = stats.filter(|stat| stat.contains("(astrai-engine)"));
    engines.next()?.rsplit(") ").next()?.chars().next()
}
