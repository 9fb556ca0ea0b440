//! Saving and restoring: the same bits, in another process too, or an error and nothing changed.

use super::*;
use astrai::backend::cpu::tiers;
use astrai::{Status, Unit, limits};
use std::process::Command;

fn restored(engine: &Engine, path: &Path) -> Prefix {
    engine.restore_prefix(path).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(engine: &Engine, path: &Path) -> astrai::Error {
    engine.restore_prefix(path).map(|_| ()).expect_err("it must not be restored")
}

/// Law 1 through a file: over a restored prefix, in a fresh engine, a request gives the bits of a cold one.
#[test]
fn over_a_restored_prefix_every_bit_is_that_of_a_cold_engine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefix");
    let pages = ["llama", "mistral", "astrai_mla_norm", "qwen3_moe_mixed", "qwen2"];
    let other_kinds = ["gemma3_text", "deepseek_v2", "gemma4_text", "lfm2", "qwen3_5_text", "granitemoehybrid_dense"];
    let fixtures = pages.into_iter().chain(other_kinds);
    for (dir, len) in fixtures.map(|name| (fixture(name), 150)).chain([(storyteller(), 700)]) {
        for tier in tiers() {
            if tier == CpuTier::Reference && len > 150 {
                continue;
            }
            let open = |threads, step_tokens| {
                let o =
                    EngineOptions { cpu_tier: tier, threads, step_tokens, max_running: 4, ..EngineOptions::default() };
                Engine::open(&dir, o).unwrap()
            };
            let persona = salted(len, 1);
            let writer = open(2, 64);
            let prefix = pin(&writer, &persona);
            prefix.save(&path).unwrap();
            let kept = len / PAGE * PAGE;
            assert_eq!(pinned(&prefix), kept);
            drop((prefix, writer));
            let (warm, cold) = (open(1, 0), open(1, 0));
            let prefix = restored(&warm, &path);
            assert_eq!(prefix.wait(Some(Default::default())).unwrap(), Some(kept), "it is there at once");
            warm.check().unwrap();
            let computed = warm.stats().unwrap().steps;
            assert_eq!(computed, 0, "nothing was computed");
            for salt in 2..5 {
                let prompt = [persona.clone(), salted(20, salt)].concat();
                let (answer, cached) = run(&warm, &prompt, 24);
                assert_eq!(cached, kept);
                assert_eq!(answer, run(&cold, &prompt, 24).0, "{} {tier:?}", dir.display());
            }
            // What was restored can be saved again, and is the same file.
            let again = folder.path().join("again");
            prefix.save(&again).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
}

const CHILD: &str = "ASTRAI_TEST_PREFIX_CHILD";

/// The part of the next test that runs in a process of its own; on its own it does nothing.
#[test]
fn child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let (what, path) = what.split_once(' ').unwrap();
    let engine = open(&storyteller());
    let persona = salted(300, 1);
    let prefix = match what {
        "save" => {
            let prefix = pin(&engine, &persona);
            prefix.save(Path::new(path)).unwrap();
            prefix
        }
        _ => restored(&engine, Path::new(path)),
    };
    let steps = engine.stats().unwrap().steps;
    let (answer, cached) = run(&engine, &[persona, vec![7; 8]].concat(), 20);
    println!("child: {} {cached} {} {answer:?}", pinned(&prefix), steps > 0);
}

#[test]
fn a_prefix_goes_from_one_process_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefix");
    let process = |what: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "prefix::files::child", "--nocapture"])
            .env(CHILD, format!("{what} {}", path.display()));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8(output.stdout).unwrap();
        let (_, line) = printed.split_once("child: ").unwrap_or_else(|| panic!("{printed}"));
        line.lines().next().unwrap().to_owned()
    };
    let (saved, restored) = (process("save"), process("restore"));
    assert!(saved.starts_with("288 288 true Answer"), "{saved}");
    assert_eq!(restored, saved.replacen("true", "false", 1), "the same bits, and nothing was computed for them");
}

/// Saves `len` tokens of a fixture's engine.
fn saved(dir: &Path, options: EngineOptions, len: usize, path: &Path) {
    let engine = Engine::open(dir, options).unwrap();
    pin(&engine, &salted(len, 1)).save(path).unwrap();
}

#[test]
fn damage_is_always_an_error_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefix");
    let dir = fixture("llama");
    saved(&dir, options(), 64, &path);
    let whole = std::fs::read(&path).unwrap();
    let engine = open(&dir);
    run(&engine, &salted(40, 9), 2);
    engine.check().unwrap();
    let before = engine.stats().unwrap();
    let mut random = Random(seed());
    let header = 16 + u32::from_le_bytes(whole[12..16].try_into().unwrap()) as usize + 8;
    let attempts = (0..header).chain((0..400).map(|_| random.below(whole.len()))).collect::<Vec<_>>();
    for at in attempts {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << random.below(8);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(refused(&engine, &path).status, Status::Format, "byte {at} of {}", whole.len());
    }
    for _ in 0..50 {
        std::fs::write(&path, &whole[..random.below(whole.len())]).unwrap();
        assert_eq!(refused(&engine, &path).status, Status::Format);
    }
    engine.check().unwrap();
    let after = engine.stats().unwrap();
    assert_eq!((after.pages_used, after.pages_cached, after.evictions), (0, before.pages_cached, 0));
    assert_eq!(refused(&engine, &folder.path().join("missing")).status, Status::Io);
    assert_eq!(refused(&engine, folder.path()).status, Status::Io);
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(pinned(&restored(&engine, &path)), 64);
}

#[test]
fn a_prefix_of_something_else_is_refused_with_both_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefix");
    let dir = fixture("llama");
    let portable = || EngineOptions { cpu_tier: CpuTier::Portable, ..options() };
    saved(&dir, portable(), 64, &path);
    let mismatch = |dir: &Path, o: EngineOptions, parts: &[&str]| {
        let error = refused(&Engine::open(dir, o).unwrap(), &path);
        assert_eq!(error.status, Status::Mismatch, "{error}");
        parts.iter().for_each(|part| assert!(error.message.contains(part), "{part} is not in: {error}"));
    };
    mismatch(&dir, EngineOptions { cpu_tier: CpuTier::Reference, ..options() }, &["arch", "portable", "reference"]);
    mismatch(&dir, EngineOptions { kv: Type::F32, ..portable() }, &["kv", "bf16", "f32"]);
    mismatch(&dir, EngineOptions { compute: Type::F32, kv: Type::Bf16, ..portable() }, &["compute", "bf16", "f32"]);
    mismatch(&dir, EngineOptions { weights: Type::Q8, ..portable() }, &["weights", "auto", "q8"]);
    mismatch(&dir, EngineOptions { page_tokens: 32, ..portable() }, &["page_tokens", "16", "32"]);
    mismatch(&fixture("mistral"), portable(), &["model_type", "llama", "mistral"]);
    // The same shapes with one weight changed, in the first, middle or last bytes of its tensor; and another tokenizer.
    let copy = folder.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    assert_eq!(
        pinned(&restored(&Engine::open(&copy, portable()).unwrap(), &path)),
        64,
        "where it lies does not matter"
    );
    let weights = std::fs::read(copy.join("model.safetensors")).unwrap();
    let mut changed = weights.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(copy.join("model.safetensors"), &changed).unwrap();
    mismatch(&copy, portable(), &["weights_hash"]);
    std::fs::write(copy.join("model.safetensors"), &weights).unwrap();
    let config = std::fs::read_to_string(copy.join("config.json")).unwrap();
    std::fs::write(copy.join("config.json"), config.replacen('{', "{\"remark\": 1,", 1)).unwrap();
    mismatch(&copy, portable(), &["config_hash"]);
    // A shorter context: the model is the same, but the prefix does not fit.
    let error = refused(&Engine::open(&dir, EngineOptions { context_length: 48, ..portable() }).unwrap(), &path);
    assert_eq!((error.status, error.unit, error.needed, error.available), (Status::Context, Unit::Tokens, 64, 48));
}

/// A checkpoint that differs in one bit of one tensor is another one, wherever that bit is.
#[test]
fn a_prefix_of_weights_that_differ_in_one_bit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefix");
    saved(&storyteller(), options(), 64, &path);
    let other = folder.path().join("model");
    std::fs::create_dir(&other).unwrap();
    for file in std::fs::read_dir(storyteller()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), other.join(file.file_name())).unwrap();
    }
    restored(&open(&other), &path);
    let weights = other.join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    let data = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut random = Random(seed());
    // The last byte, and some anywhere; the middle of large tensors most of the time.
    for at in (0..12).map(|_| data + random.below(whole.len() - data)).chain([whole.len() - 1]).collect::<Vec<_>>() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&weights, bytes).unwrap();
        for no_mmap in [false, true] {
            let engine = Engine::open(&other, EngineOptions { no_mmap, ..options() }).unwrap();
            let error = refused(&engine, &path);
            assert_eq!(error.status, Status::Mismatch, "byte {at}: {error}");
            assert!(error.message.contains("weights_hash"), "byte {at}: {error}");
            engine.check().unwrap();
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_numbers_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefix");
    let dir = fixture("llama");
    saved(&dir, options(), 96, &path);
    let engine = tiny(&dir, 11);
    let error = refused(&engine, &path);
    assert_eq!((error.status, error.unit, error.needed, error.available), (Status::Memory, Unit::Tokens, 96, 80));
    // Half of 14 pages are enough, but a paused request holds 9 of them.
    let engine = tiny(&dir, 14);
    let held =
        engine.submit(&tokens(salted(140, 5)), &RequestOptions { queue_tokens: 1, ..generate(2) }, Sink::Pull).unwrap();
    eventually("the request waits for its reader", || engine.stats().unwrap().stalled == 1);
    let before = engine.stats().unwrap();
    let error = refused(&engine, &path);
    assert_eq!((error.status, error.needed, error.available), (Status::Memory, 96, 80));
    engine.check().unwrap();
    let after = engine.stats().unwrap();
    assert_eq!((after.pages_used, after.preemptions, after.evictions), (before.pages_used, 0, 0));
    finish(&held);
    assert_eq!(pinned(&restored(&engine, &path)), 96, "cached pages give way");
    engine.check().unwrap();
}

#[test]
fn pages_that_are_there_are_shared_with_the_restored_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefix");
    let dir = fixture("qwen3_moe_mixed");
    saved(&dir, options(), 96, &path);
    let (engine, cold) = (open(&dir), open(&dir));
    run(&engine, &salted(70, 1), 2);
    engine.check().unwrap();
    let cached = engine.stats().unwrap().pages_cached;
    let (a, b) = (restored(&engine, &path), restored(&engine, &path));
    engine.check().unwrap();
    let stats = engine.stats().unwrap();
    assert_eq!((pinned(&a), pinned(&b)), (96, 96));
    assert_eq!((stats.pages_used / 6, stats.pages_cached), (cached / 4, 0), "4 pages were there, 2 are new");
    let prompt = [salted(96, 1), vec![9; 5]].concat();
    assert_eq!((run(&engine, &prompt, 10).0, 0), run(&cold, &prompt, 10));
}

/// Pages are copied between steps, a piece at a time: a stream that runs meanwhile makes a step for each.
#[test]
fn a_stream_goes_on_while_a_prefix_is_saved_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefix");
    let dir = storyteller();
    let open = || Engine::open(&dir, EngineOptions { kv: Type::F32, ..options() }).unwrap();
    let engine = open();
    let prefix = pin(&engine, &salted(2000, 1));
    let kept = pinned(&prefix);
    let pieces = (kept / PAGE).div_ceil(limits::PREFIX_PIECE_BYTES / (2 * page_bytes(&dir) as usize));
    assert!(pieces >= 3, "the prefix was meant to take several pieces, it takes {pieces}");
    let alone = run(&open(), &[1, 2, 3], 700).0;
    for restore in [false, true] {
        let other = open();
        let engine = if restore { &other } else { &engine };
        // If the stream ends before the file does, nothing is shown; it does not on any but a very slow disk.
        let mut shown = false;
        for _ in 0..20 {
            let options = RequestOptions { queue_tokens: 1 << 20, ..generate(700) };
            let stream = engine.submit(&tokens(vec![1, 2, 3]), &options, Sink::Pull).unwrap();
            eventually("the stream runs", || engine.stats().unwrap().tokens_out > 0);
            let before = engine.stats().unwrap();
            let keep = if restore { Some(restored(engine, &path)) } else { prefix.save(&path).map(|()| None).unwrap() };
            let after = engine.stats().unwrap();
            assert_eq!(finish(&stream).0, alone, "and notices nothing");
            drop(keep);
            if after.finished == before.finished {
                assert!(after.steps - before.steps >= pieces as u64 - 1, "{before:?} {after:?}");
                shown = true;
                break;
            }
        }
        assert!(shown, "the stream was always shorter than the file");
        engine.check().unwrap();
    }
}

#[test]
fn a_save_that_fails_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefix");
    let engine = open(&fixture("llama"));
    let prefix = pin(&engine, &salted(64, 1));
    prefix.save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(prefix.save(&folder.path().join("no/folder")).unwrap_err().status, Status::Io);
    assert_eq!(prefix.save(folder.path()).unwrap_err().status, Status::Io);
    assert_eq!(prefix.save(Path::new("..")).unwrap_err().status, Status::Argument);
    engine.close(Default::default()).unwrap();
    assert_eq!(prefix.save(&path).unwrap_err().status, Status::Closed);
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let nothing = open(&fixture("llama"));
    let short = pin(&nothing, &[1]);
    short.save(&path).unwrap();
    assert_eq!(pinned(&restored(&nothing, &path)), 0, "less than a page is saved as nothing");
}

/// Closing or a panic in the middle of saving and restoring: an error at most, and never half a file.
#[test]
fn the_engine_may_end_while_files_are_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefix");
    let dir = storyteller();
    saved(&dir, options(), 900, &path);
    let whole = std::fs::read(&path).unwrap();
    for panic in [false, true] {
        for _ in 0..3 {
            let engine = open(&dir);
            let prefix = pin(&engine, &salted(900, 1));
            pinned(&prefix);
            let new = folder.path().join("new");
            let _ = std::fs::remove_file(&new);
            std::thread::scope(|scope| {
                let saving = scope.spawn(|| prefix.save(&new).map_err(|e| e.status));
                let restoring = scope.spawn(|| engine.restore_prefix(&path).map(|_| ()).map_err(|e| e.status));
                if panic {
                    engine.inject_panic()
                } else {
                    engine.close(Default::default()).unwrap()
                }
                for result in [saving.join().unwrap(), restoring.join().unwrap()] {
                    assert!(matches!(result, Ok(()) | Err(Status::Closed | Status::Internal)), "{result:?}");
                }
            });
            if let Ok(bytes) = std::fs::read(&new) {
                assert!(bytes == whole, "half a file was left");
            }
        }
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().count() <= 2);
}
