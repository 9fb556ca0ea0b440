//! Pinning: what is kept, for how long, and that waiters always get an answer.

use super::*;
use astrai::{Status, Unit};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn a_request_starts_from_the_pinned_prefix() {
    for dir in [storyteller(), fixture("mistral"), fixture("astrai_mla_norm")] {
        let (engine, cold) = (open(&dir), open(&dir));
        let persona = salted(100, 1);
        let prefix = pin(&engine, &persona);
        assert_eq!(pinned(&prefix), 96, "whole pages of 100 tokens");
        let stats = engine.stats().unwrap();
        assert_eq!((stats.pages_used > 0, stats.running, stats.waiting), (true, 0, 0));
        assert_eq!((stats.finished, stats.cancelled, stats.failed, stats.tokens_out), (0, 0, 0, 0), "it is no request");
        let prompt: Vec<u32> = persona.iter().copied().chain(salted(9, 2)).collect();
        let (answer, cached) = run(&engine, &prompt, 12);
        assert_eq!(cached, 96);
        assert_eq!(engine.stats().unwrap().prefix_tokens_hit - stats.prefix_tokens_hit, 96);
        assert_eq!((answer, 0), run(&cold, &prompt, 12), "{}", dir.display());
        engine.check().unwrap();
        // Again, and shorter ones: everything is there, so they are pinned without computing anything.
        let steps = engine.stats().unwrap().steps;
        let (again, shorter) = (pin(&engine, &persona), pin(&engine, &persona[..40]));
        assert_eq!((pinned(&again), pinned(&shorter)), (96, 32));
        assert_eq!(engine.stats().unwrap().steps, steps);
        engine.check().unwrap();
    }
}

#[test]
fn less_than_a_page_is_nothing_and_no_error() {
    let engine = open(&fixture("llama"));
    let prefix = pin(&engine, &[1, 2, 3]);
    assert_eq!(pinned(&prefix), 0);
    assert_eq!(engine.pin_prefix(&Prompt::default()).map(|_| ()).unwrap_err().status, Status::Argument);
    let long = engine.pin_prefix(&tokens(vec![1; 257])).map(|_| ()).unwrap_err();
    assert_eq!((long.status, long.needed, long.available), (Status::Context, 257, 256));
    assert_eq!(engine.pin_prefix(&tokens(vec![999])).map(|_| ()).unwrap_err().status, Status::Argument);
    let text = EngineOptions { text_only: true, ..EngineOptions::default() };
    let text = Engine::open(&storyteller(), text).unwrap();
    assert_eq!(text.pin_prefix(&tokens(vec![1])).map(|_| ()).unwrap_err().status, Status::Unsupported);
    engine.check().unwrap();
}

#[test]
fn a_chat_is_pinned_without_the_opening_of_the_answer() {
    let engine = open(&storyteller());
    let message = |role: &str, text: &str| serde_json::json!({"role": role, "content": text});
    let system = message("system", &"You are the keeper of the old lighthouse. ".repeat(12));
    let persona = Prompt { messages: vec![system.clone()], ..Prompt::default() };
    let prefix = engine.pin_prefix(&persona).unwrap();
    let kept = pinned(&prefix);
    assert!(kept >= 3 * PAGE, "the persona was meant to be longer than {kept} tokens");
    let chat = Prompt { messages: vec![system, message("user", "Good evening!")], ..Prompt::default() };
    let request = engine.submit(&chat, &generate(5), Sink::Pull).unwrap();
    assert_eq!(finish(&request).1, kept);
}

#[test]
fn it_survives_traffic_that_evicts_everything_else_until_it_is_freed() {
    let dir = fixture("llama");
    let engine = tiny(&dir, 16);
    let (persona, other) = (salted(64, 1), salted(64, 2));
    let prefix = pin(&engine, &persona);
    assert_eq!(pinned(&prefix), 64);
    let traffic = |from: u32| {
        for salt in from..from + 12 {
            run(&engine, &salted(100, salt), 4);
        }
        engine.check().unwrap();
    };
    run(&engine, &[other.as_slice(), &[5, 6, 7]].concat(), 2);
    traffic(10);
    assert!(engine.stats().unwrap().evictions > 40);
    assert_eq!(run(&engine, &[persona.as_slice(), &[5, 6, 7]].concat(), 2).1, 64);
    assert_eq!(run(&engine, &[other.as_slice(), &[5, 6, 7]].concat(), 2).1, 0, "what was not pinned is gone");
    drop(prefix);
    traffic(40);
    assert_eq!(engine.stats().unwrap().pages_used, 0);
    assert_eq!(run(&engine, &[persona.as_slice(), &[5, 6, 7]].concat(), 2).1, 0, "it could be evicted");
}

#[test]
fn the_next_turn_of_a_conversation_starts_from_its_own_pages() {
    let engine = open(&storyteller());
    let mut conversation = salted(50, 3);
    for turn in 0..5 {
        let (answer, cached) = run(&engine, &conversation, 30);
        if turn > 0 {
            // Everything of the turn before was computed but its newest token; the user's 10 are new.
            assert_eq!(cached, (conversation.len() - 11) / PAGE * PAGE, "turn {turn}");
        }
        conversation.extend(answer.tokens);
        conversation.extend(salted(10, turn));
    }
}

#[test]
fn simultaneous_cold_arrivals_compute_a_shared_prefix_once_and_hold_it_once() {
    let options = EngineOptions { threads: 2, max_running: 64, ..EngineOptions::default() };
    let engine = Engine::open(&storyteller(), options).unwrap();
    let persona = salted(1000, 1);
    // A queue of one token: each is paused after its first, so that all 64 hold their pages at the same time.
    let options = RequestOptions { queue_tokens: 1, ..generate(2) };
    let requests: Vec<Request> = (0..64u32)
        .map(|i| {
            let suffix = (0..16).map(|k| 200 + i * 16 + k);
            let prompt = persona.iter().copied().chain(suffix).collect();
            engine.submit(&tokens(prompt), &options, Sink::Pull).unwrap()
        })
        .collect();
    eventually("all wait for their readers", || engine.stats().unwrap().stalled == 64);
    engine.check().unwrap();
    let stats = engine.stats().unwrap();
    assert_eq!(stats.running, 64);
    let computed = stats.prefix_tokens_seen - stats.prefix_tokens_hit;
    assert_eq!(computed, 1016 + 63 * (1016 - 992), "62 full pages of the prefix are computed by the first alone");
    let groups = 1;
    assert_eq!(stats.pages_used, groups * (62 + 64 * 2), "its full pages are there once");
    for (index, request) in requests.iter().enumerate() {
        assert_eq!(finish(request).1, if index == 0 { 0 } else { 992 });
    }
    assert_eq!(engine.stats().unwrap().preemptions, 0);
}

#[test]
fn requests_that_arrive_with_the_pin_wait_for_it_instead_of_computing_it_again() {
    let engine = open(&storyteller());
    let persona = salted(800, 1);
    let prefix = pin(&engine, &persona);
    let prompts: Vec<Vec<u32>> = (0..3).map(|i| [persona.clone(), salted(5, i)].concat()).collect();
    let requests: Vec<Request> =
        prompts.iter().map(|p| engine.submit(&tokens(p.clone()), &generate(3), Sink::Pull).unwrap()).collect();
    for request in &requests {
        assert_eq!(finish(request).1, 800);
    }
    assert_eq!(pinned(&prefix), 800);
    let stats = engine.stats().unwrap();
    assert_eq!(stats.prefix_tokens_seen - stats.prefix_tokens_hit, 800 + 3 * 5);
}

#[test]
fn pins_may_take_half_of_the_pages_and_the_refusal_has_numbers() {
    let engine = tiny(&fixture("llama"), 16);
    let first = pin(&engine, &salted(64, 1));
    assert_eq!(pinned(&first), 64);
    let second = pin(&engine, &salted(80, 2));
    let error = second.wait(None).unwrap_err();
    assert_eq!((error.status, error.unit, error.needed, error.available), (Status::Memory, Unit::Tokens, 80, 64));
    assert_eq!(pinned(&pin(&engine, &salted(64, 3))), 64, "the third takes the other quarter");
    drop((first, second));
    engine.check().unwrap();
}

#[test]
fn an_accepted_request_gets_the_pinned_pages_if_there_is_no_other_way() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let dir = fixture("llama");
    let log: LogFn = {
        let lines = lines.clone();
        Arc::new(move |level, line: &str| lines.lock().unwrap().push((level, line.to_owned())))
    };
    let (memory_budget, log_level) = (budget(&dir, 12), LogLevel::Warn);
    let engine = Engine::open(&dir, EngineOptions { memory_budget, log_level, log: Some(log), ..options() }).unwrap();
    let prefix = pin(&engine, &salted(96, 1));
    assert_eq!(pinned(&prefix), 96);
    // It grows to 160 tokens, 10 of the 12 pages; the prefix has 6.
    let long = salted(120, 2);
    let (answer, _) = run(&engine, &long, 40);
    assert_eq!((answer, 0), run(&open(&dir), &long, 40));
    engine.check().unwrap();
    let left = pinned(&prefix);
    assert_eq!(left, 2 * PAGE, "it gave up as many pages as were needed, and no more");
    assert_eq!(run(&engine, &[salted(96, 1), vec![3; 9]].concat(), 2).1, left);
    engine.close(Duration::ZERO).unwrap();
    let lines = lines.lock().unwrap();
    let warned = lines.iter().any(|(level, line)| *level == LogLevel::Warn && line.contains("pinned prefixes gave up"));
    assert!(warned, "{lines:?}");
}

#[test]
fn a_pin_that_is_freed_before_it_is_done_leaves_nothing() {
    let engine = open(&storyteller());
    for _ in 0..20 {
        let prefix = pin(&engine, &salted(1500, 1));
        engine.check().unwrap();
        drop(prefix);
        engine.check().unwrap();
        assert_eq!(engine.stats().unwrap().pages_used, 0);
    }
    // As many at once as may wait: each has its place, and gives it back.
    let few = EngineOptions { max_running: 1, max_waiting: 2, ..options() };
    let engine = Engine::open(&fixture("llama"), few).unwrap();
    for round in 0..50 {
        let first = engine.pin_prefix(&tokens(salted(32, round)));
        let more: Vec<_> = (0..2).map(|i| engine.pin_prefix(&tokens(salted(32, 1000 + round * 2 + i)))).collect();
        for prefix in more.into_iter().chain([first]) {
            assert_eq!(pinned(&prefix.expect("three places are free")), 32);
        }
    }
    engine.check().unwrap();
    assert_eq!((engine.stats().unwrap().pages_used, engine.stats().unwrap().waiting), (0, 0));
}

/// Law 4, for prefixes: whatever ends the engine, who waits gets an answer.
#[test]
fn who_waits_always_gets_an_answer() {
    let waiting = |engine: &Engine, end: &(dyn Fn() + Sync)| -> Vec<Status> {
        // Computed one after the other, so that some are waiting, some run and some may be done.
        let prefixes: Vec<Prefix> = (0..12).map(|i| pin(engine, &salted(900, i))).collect();
        std::thread::scope(|scope| {
            let waiters: Vec<_> = prefixes
                .iter()
                .map(|p| scope.spawn(|| p.wait(None).map_or_else(|e| e.status, |_| Status::Ok)))
                .collect();
            end();
            waiters.into_iter().map(|w| w.join().unwrap()).collect()
        })
    };
    for grace in [Duration::ZERO, Duration::from_secs(60)] {
        let engine = open(&storyteller());
        let statuses = waiting(&engine, &|| engine.close(grace).unwrap());
        assert!(statuses.iter().all(|s| matches!(s, Status::Ok | Status::Closed | Status::Memory)), "{statuses:?}");
        assert!(statuses.contains(&Status::Closed), "{statuses:?}");
        assert_eq!(engine.pin_prefix(&tokens(vec![1])).map(|_| ()).unwrap_err().status, Status::Closed);
    }
    let engine = open(&storyteller());
    let statuses = waiting(&engine, &|| engine.inject_panic());
    assert!(statuses.iter().all(|s| matches!(s, Status::Ok | Status::Internal | Status::Memory)), "{statuses:?}");
    assert!(statuses.contains(&Status::Internal), "{statuses:?}");
    let late = engine.pin_prefix(&tokens(vec![1])).unwrap();
    assert_eq!(late.wait(None).unwrap_err().status, Status::Internal);
    // Freed by another thread, and after the engine is gone.
    let engine = open(&storyteller());
    let prefix = pin(&engine, &salted(1500, 1));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| prefix.wait(None));
        prefix.free();
        let answer = waiter.join().unwrap();
        assert!(answer.map_or_else(|e| e.status == Status::Handle, |n| n == Some(1488)));
    });
    let ready = pin(&engine, &salted(64, 1));
    assert_eq!(pinned(&ready), 64);
    drop(engine);
    assert_eq!(ready.wait(None).unwrap_err().status, Status::Closed);
    assert_eq!(ready.save(Path::new("never")).unwrap_err().status, Status::Closed);
}

#[test]
fn inside_a_callback_it_may_be_pinned_and_freed_but_not_waited_for() {
    let engine = Arc::new(open(&fixture("llama")));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let (engine, seen) = (Arc::downgrade(&engine), seen.clone());
        Sink::Callback(Box::new(move |_| {
            let engine = engine.upgrade().expect("the engine outlives its request here");
            let prefix = engine.pin_prefix(&tokens(salted(64, 1))).unwrap();
            let status = |e: astrai::Error| e.status;
            let path = Path::new("never");
            let mut seen = seen.lock().unwrap();
            seen.push(prefix.wait(Some(Duration::from_secs(1))).map(|_| ()).map_err(status));
            seen.push(prefix.save(path).map_err(status));
            seen.push(engine.restore_prefix(path).map(|_| ()).map_err(status));
            seen.push(prefix.wait(Some(Duration::ZERO)).map(|_| ()).map_err(status));
            true
        }))
    };
    let request = engine.submit(&tokens(vec![1, 2]), &generate(1), sink).unwrap();
    request.wait(None).unwrap();
    let refused = Err(Status::Reentrant);
    assert_eq!(seen.lock().unwrap()[..4], [refused, refused, refused, Ok(())]);
}

/// A step that computes nothing but a pin is worth going on with, however often it has to rest; a pause holds it.
#[test]
fn under_a_duty_limit_and_through_a_pause_a_pin_is_computed_all_the_same() {
    let engine = open(&storyteller());
    engine.set_duty(200, 500).unwrap();
    let prefix = pin(&engine, &salted(500, 1));
    assert_eq!(pinned(&prefix), 496);
    engine.set_duty(0, 0).unwrap();
    assert!(engine.pause(None).unwrap());
    let held = pin(&engine, &salted(500, 2));
    assert_eq!(held.wait(Some(Duration::ZERO)).unwrap(), None);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefix");
    prefix.save(&path).unwrap();
    assert_eq!(pinned(&engine.restore_prefix(&path).unwrap()), 496, "files are copied in a pause too");
    assert_eq!(held.wait(Some(Duration::ZERO)).unwrap(), None);
    engine.resume().unwrap();
    assert_eq!(pinned(&held), 496);
    // Paused in the middle of a step, freed, and resumed.
    let dropped = pin(&engine, &salted(900, 3));
    assert!(engine.pause(None).unwrap());
    drop(dropped);
    engine.resume().unwrap();
    engine.check().unwrap();
    let cold = open(&storyteller());
    let prompt = [salted(500, 2), vec![3; 4]].concat();
    assert_eq!(run(&engine, &prompt, 6).0, run(&cold, &prompt, 6).0);
}

/// Copying pages is work under a duty limit: with the first piece the limit is exceeded for days, and the rest waits until it
/// is gone, or the engine.
/// Files in a folder, and open ones that have no name there yet.
fn files_in(folder: &Path) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let nameless = open
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter(|file| file.parent() == Some(folder) && file.to_string_lossy().ends_with(" (deleted)"));
    std::fs::read_dir(folder).unwrap().count() + nameless.count()
}

#[test]
fn a_duty_limit_holds_the_pages_of_a_saved_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let dir = storyteller();
    let len = 2000 / PAGE * PAGE;
    let bytes = 2 * page_bytes(&dir) * (len / PAGE) as u64;
    assert!(bytes > 2 * astrai::limits::PREFIX_PIECE_BYTES as u64, "{bytes} bytes are several pieces");
    for close in [false, true] {
        let engine = Engine::open(&dir, EngineOptions { kv: Type::F32, ..options() }).unwrap();
        let prefix = pin(&engine, &salted(len, 1));
        assert_eq!(pinned(&prefix), len);
        engine.set_duty(1, u32::MAX).unwrap();
        let path = folder.path().join(format!("prefix {close}"));
        let files = files_in(folder.path());
        std::thread::scope(|scope| {
            let saving = scope.spawn(|| prefix.save(&path));
            eventually("the file is begun", || files_in(folder.path()) > files);
            // Each is a turn of the engine thread, in which it could copy.
            (0..500).for_each(|_| engine.check().unwrap());
            assert!(!saving.is_finished(), "it was not held");
            if close {
                engine.close(Duration::ZERO).unwrap();
                assert_eq!(saving.join().unwrap().unwrap_err().status, Status::Closed);
                assert!(!path.exists());
                return;
            }
            // Nor is it lost when a pause comes on top.
            assert!(engine.pause(None).unwrap());
            assert!(!saving.is_finished());
            engine.set_duty(0, 0).unwrap();
            saving.join().unwrap().unwrap();
            engine.resume().unwrap();
            assert_eq!(pinned(&engine.restore_prefix(&path).unwrap()), len);
            engine.check().unwrap();
        });
    }
}
