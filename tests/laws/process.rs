//! What an engine does to its process, as Linux sees it: threads that sleep, where they may run, how they rank, what is
//! read. Each test in a process of its own: all of them look at the whole.

use crate::support::lines::Lines;
use crate::support::models::{fixture, storyteller};
use crate::support::own_process;
use astrai::engine::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Whether to go on: in a process of its own, and where there is a Linux to ask.
fn alone<F: Fn()>(test: F) -> bool {
    if !cfg!(target_os = "linux") {
        println!("SKIP: this test reads /proc, which is Linux's");
        return false;
    }
    own_process::alone(test)
}

/// The engines' threads: id, and the text of a file of each.
fn threads(file: &str) -> BTreeMap<u32, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = entry.unwrap().path();
        // A thread may end while it is looked at.
        let (Ok(name), Ok(text)) =
            (std::fs::read_to_string(path.join("comm")), std::fs::read_to_string(path.join(file)))
        else {
            continue;
        };
        if name.starts_with("astrai-") {
            found.insert(path.file_name().unwrap().to_str().unwrap().parse().unwrap(), text);
        }
    }
    found
}

/// How often each of these threads gave up its processor to wait, and how often it was taken from it.
fn switches(ids: &[u32]) -> Vec<(u32, String)> {
    let all = threads("status");
    let lines = |text: &String| text.lines().filter(|l| l.contains("ctxt_switches")).collect::<Vec<_>>().join(", ");
    ids.iter().map(|id| (*id, all.get(id).map(lines).expect("the thread lives"))).collect()
}

/// Opens an engine, and finds its threads: engine, dispatch, and those that help to compute.
fn open(options: EngineOptions) -> (Engine, Vec<u32>) {
    let (before, count) = (threads("comm"), options.threads as usize + 1);
    let engine = Engine::open(&fixture("llama"), options).unwrap();
    let begin = Instant::now();
    loop {
        // A thread names itself when it begins.
        let ids: Vec<u32> = threads("comm").into_keys().filter(|id| !before.contains_key(id)).collect();
        if ids.len() >= count {
            assert_eq!(ids.len(), count, "threads that compute, and dispatch");
            return (engine, ids);
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{} of {count} threads began", ids.len());
        std::thread::yield_now();
    }
}

fn submit(engine: &Engine, options: RequestOptions) -> Request {
    let prompt = Prompt { parts: vec![PromptPart::Tokens(vec![1, 2, 3, 4, 5])], ..Prompt::default() };
    let options = RequestOptions { ignore_eos: true, ..options };
    engine.submit(&prompt, &options, Sink::Pull).unwrap()
}

fn answer(engine: &Engine, tokens: u32) {
    let request = submit(engine, RequestOptions { max_tokens: Some(tokens), ..RequestOptions::default() });
    assert!(matches!(request.wait(None).unwrap(), Next::Event(event) if event.finish == FinishReason::Length));
}

/// The threads come to rest, and then do nothing at all while another engine answers ten times.
fn sleeps(ids: &[u32], state: &str) {
    let (other, _) = open(EngineOptions { threads: 1, ..EngineOptions::default() });
    let begin = Instant::now();
    let mut last = switches(ids);
    loop {
        answer(&other, 20);
        let now = switches(ids);
        if now == last {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{state}: the threads never rest, {last:?}, then {now:?}");
        last = now;
    }
    for _ in 0..10 {
        answer(&other, 100);
    }
    assert_eq!(switches(ids), last, "{state}: an idle thread woke up");
}

#[test]
fn an_engine_without_work_sleeps() {
    if !alone(an_engine_without_work_sleeps) {
        return;
    }
    let (engine, ids) = open(EngineOptions { threads: 3, ..EngineOptions::default() });
    sleeps(&ids, "new");
    answer(&engine, 50);
    sleeps(&ids, "after a request");
    engine.set_duty(1, 1_000).unwrap();
    answer(&engine, 3);
    sleeps(&ids, "after a request under a duty limit");
    engine.set_duty(0, 0).unwrap();
    assert!(engine.pause(None).unwrap());
    let waiting = submit(&engine, RequestOptions { max_tokens: Some(5), ..RequestOptions::default() });
    sleeps(&ids, "paused, with a request");
    engine.resume().unwrap();
    assert!(matches!(waiting.wait(None).unwrap(), Next::Event(event) if event.tokens.len() == 5));
}

#[test]
fn an_engine_that_waits_for_a_reader_a_deadline_or_its_budget_sleeps() {
    if !alone(an_engine_that_waits_for_a_reader_a_deadline_or_its_budget_sleeps) {
        return;
    }
    let (engine, ids) = open(EngineOptions { threads: 2, ..EngineOptions::default() });
    let options = RequestOptions { max_tokens: Some(50), queue_tokens: 1, deadline_ms: 600_000, ..Default::default() };
    let unread = submit(&engine, options);
    while engine.stats().unwrap().stalled == 0 {
        std::thread::yield_now();
    }
    sleeps(&ids, "waiting for a reader and a deadline");
    drop(unread);
    engine.set_duty(1, u32::MAX).unwrap();
    let held = submit(&engine, RequestOptions { max_tokens: Some(5), ..RequestOptions::default() });
    while engine.stats().unwrap().running == 0 {
        std::thread::yield_now();
    }
    sleeps(&ids, "resting between two layers");
    drop(held);
}

/// The value of a field of /proc/self/task/*/status.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}")).trim()
}

#[test]
fn thread_count_affinity_and_priority_take_effect() {
    if !alone(thread_count_affinity_and_priority_take_effect) {
        return;
    }
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = u64::from_str_radix(field(&own, "Cpus_allowed:").rsplit(',').next().unwrap(), 16).unwrap();
    let last = 1u64 << (63 - allowed.leading_zeros());
    let nice = |stat: &str| stat.rsplit(") ").next().unwrap().split(' ').nth(16).unwrap().parse::<i32>().unwrap();
    let usual = nice(&std::fs::read_to_string("/proc/self/stat").unwrap());
    for (threads_wanted, mask, priority) in [(1, 0, 0), (2, last, -3), (5, allowed, -1)] {
        let options = EngineOptions {
            threads: threads_wanted,
            affinity_mask: mask,
            thread_priority: priority,
            ..EngineOptions::default()
        };
        let (engine, ids) = open(options);
        answer(&engine, 10);
        for id in &ids {
            let expected = if mask == 0 { allowed } else { mask };
            let begin = Instant::now();
            loop {
                let status = std::fs::read_to_string(format!("/proc/self/task/{id}/status")).unwrap();
                let cpus =
                    u64::from_str_radix(field(&status, "Cpus_allowed:").rsplit(',').next().unwrap(), 16).unwrap();
                let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).unwrap();
                if (cpus, nice(&stat)) == (expected, (usual - priority).min(19)) {
                    break;
                }
                // A thread places itself when it begins, after it has named itself.
                let late = begin.elapsed() > Duration::from_secs(30);
                assert!(!late, "{}: processors {cpus:x}, nice {}", field(&status, "Name:"), nice(&stat));
                std::thread::yield_now();
            }
        }
        engine.close(Duration::ZERO).unwrap();
        assert!(ids.iter().all(|id| !threads("comm").contains_key(id)), "closed engines leave no thread");
    }
}

#[test]
fn placing_that_is_not_granted_is_told() {
    if !alone(placing_that_is_not_granted_is_told) {
        return;
    }
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = u64::from_str_radix(field(&own, "Cpus_allowed:").rsplit(',').next().unwrap(), 16).unwrap();
    let told = |affinity_mask, thread_priority, threads| {
        let lines = Lines::default();
        let options = EngineOptions {
            affinity_mask,
            thread_priority,
            threads,
            text_only: threads == 0,
            ..EngineOptions::default()
        };
        // For text alone a tokenizer is needed, and nothing else.
        let model = if options.text_only { storyteller() } else { fixture("llama") };
        let opened = Engine::open(&model, lines.at(LogLevel::Warn, options)).map(|_| ());
        (opened, lines.all().join("\n"))
    };
    let quiet = |(opened, lines): (astrai::Result<()>, String)| opened.is_ok() && lines.is_empty();
    assert!(quiet(told(0, 0, 1)) && quiet(told(allowed, -1, 1)) && quiet(told(allowed & allowed.wrapping_neg(), 0, 1)));
    // Beyond what any system has.
    for priority in [100, -100, i32::MAX, i32::MIN] {
        let (opened, lines) = told(0, priority, 1);
        assert!(opened.is_ok() && lines.contains(&format!("thread_priority is {priority}")), "{lines}");
    }
    let many = std::thread::available_parallelism().unwrap().get() as u32 + 1;
    let (opened, lines) = told(0, 0, many);
    assert!(opened.is_ok() && lines.contains(&format!("threads is {many}")), "{lines}");
    if allowed == u64::MAX {
        println!("SKIP: this process may use all 64 processors that a mask can name");
        return;
    }
    let missing = (!allowed).trailing_zeros();
    for threads in [0, 1] {
        let (opened, lines) = told(allowed | 1u64 << missing, 0, threads);
        assert!(opened.is_ok() && lines.contains(&format!("may not use processor {missing}")), "{lines}");
        let error = told(1u64 << missing, 0, threads).0.unwrap_err();
        assert_eq!((error.status, error.subject.as_str()), (astrai::Status::Argument, "affinity_mask"));
        assert!(error.message.contains(&format!("processor {missing}")), "{error}");
        assert_eq!((error.needed, error.available), (1, allowed.count_ones().into()));
    }
}

/// A plan reads no weights, maps none and starts nothing, be they 64 GiB.
#[test]
fn a_plan_touches_no_weights_and_starts_no_thread() {
    if !alone(a_plan_touches_no_weights_and_starts_no_thread) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (width, rows) = (1usize << 20, 1usize << 14);
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("llama").join("config.json")).unwrap()).unwrap();
    config["vocab_size"] = rows.into();
    config["hidden_size"] = width.into();
    config["tie_word_embeddings"] = true.into();
    config["num_hidden_layers"] = 1.into();
    config["num_attention_heads"] = 1.into();
    config["num_key_value_heads"] = 1.into();
    config["head_dim"] = 16.into();
    config["intermediate_size"] = 32.into();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let layer = |name: &str, shape: Vec<usize>| (format!("model.layers.0.{name}.weight"), shape);
    let tensors = [
        ("model.embed_tokens.weight".to_owned(), vec![rows, width]),
        ("model.norm.weight".to_owned(), vec![width]),
        layer("input_layernorm", vec![width]),
        layer("post_attention_layernorm", vec![width]),
        layer("self_attn.q_proj", vec![16, width]),
        layer("self_attn.k_proj", vec![16, width]),
        layer("self_attn.v_proj", vec![16, width]),
        layer("self_attn.o_proj", vec![width, 16]),
        layer("mlp.gate_proj", vec![32, width]),
        layer("mlp.up_proj", vec![32, width]),
        layer("mlp.down_proj", vec![width, 32]),
    ];
    let mut bytes = 0;
    let entries = tensors.into_iter().map(|(name, shape)| {
        let begin = bytes;
        bytes += 4 * shape.iter().product::<usize>() as u64;
        (name, serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, bytes]}))
    });
    let header = serde_json::Value::Object(entries.collect());
    let header = header.to_string();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
    // The data is a hole: it has a length and takes no disk.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(8 + header.len() as u64 + bytes).unwrap();
    let read = || {
        let io = std::fs::read_to_string("/proc/self/io").unwrap();
        field(&io, "rchar:").parse::<u64>().unwrap()
    };
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        field(&status, "VmPeak:").trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    for no_mmap in [false, true] {
        let (read_before, threads_before, peak_before) = (read(), threads("comm"), peak());
        let options = EngineOptions { no_mmap, memory_budget: 1 << 30, ..EngineOptions::default() };
        let plan = Engine::plan(dir.path(), &options).unwrap();
        assert_eq!((plan.fits, plan.weight_bytes), (false, bytes));
        assert!(plan.total_bytes > plan.weight_bytes && plan.available_bytes == 1 << 30);
        assert!(read() - read_before < 1 << 20, "{} bytes were read", read() - read_before);
        assert!(peak() - peak_before < 1 << 30, "{} bytes were mapped", peak() - peak_before);
        assert_eq!(threads("comm"), threads_before);
        let error = Engine::open(dir.path(), options).map(|_| ()).unwrap_err();
        assert_eq!((error.status, error.needed), (astrai::Status::Memory, plan.total_bytes));
        assert!(read() - read_before < 2 << 20, "open refuses before it reads");
    }
}
