//! Weights on their way to the device, and what is kept in files: quantized weights, which every device shares, and prefixes,
//! which only the same kind of device reads.

use super::engines::{CPU, GPU, Lines, assert_nothing_lives, generate, options, refusal, salted, tokens};
use crate::cuda_driver;
use crate::support::jobs::drain;
use crate::support::models::fixture;
use astrai::Status;
use astrai::engine::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The progress function stops the open at any of its calls, and nothing is left.
#[test]
fn a_progress_function_stops_the_upload() {
    let Some(driver) = cuda_driver::begin() else { return };
    for (model, no_mmap, weights) in [("llama_sharded", false, Type::Auto), ("qwen3_moe", true, Type::Q8)] {
        let with = |stop_at: usize| {
            let calls = Arc::new(AtomicUsize::new(0));
            let counted = calls.clone();
            let progress: ProgressFn = Box::new(move |done, total| {
                assert!(done <= total);
                counted.fetch_add(1, Ordering::SeqCst) != stop_at
            });
            (EngineOptions { no_mmap, weights, progress: Some(progress), ..options(GPU) }, calls)
        };
        let (whole, calls) = with(usize::MAX);
        drop(Engine::open(&fixture(model), whole).unwrap());
        let calls = calls.load(Ordering::SeqCst);
        assert!(calls > 5, "{calls} calls");
        let stride = calls / 8 + 1;
        for stop_at in (0..calls).step_by(stride).chain([calls - 1]) {
            let (options, called) = with(stop_at);
            let error = refusal(&fixture(model), options);
            assert_eq!(error.status, Status::Aborted, "{error}");
            assert_eq!(called.load(Ordering::SeqCst), stop_at + 1, "it is not called again");
            assert_nothing_lives(&driver, &format!("{model}, stopped at {stop_at} of {calls}"));
        }
    }
}

/// What an engine on the GPU keeps is what one on the CPU keeps, and both use the other's.
#[test]
fn kept_weights_are_those_of_every_device() {
    let Some(_driver) = cuda_driver::begin() else { return };
    for (model, weights) in [("qwen3", Type::Q8), ("qwen3_moe", Type::Q4)] {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let open = |target, folder: Option<usize>, wanted: &str| {
            let lines = Lines::default();
            let weights_cache = folder.map(|index| folders[index].path().to_owned());
            let options = EngineOptions { weights, weights_cache, ..options(target) };
            let engine = Engine::open(&fixture(model), lines.of(options)).unwrap();
            let got = generate(&engine, &salted(30, 1), 6);
            drop(engine);
            let said = lines.with("quantized weights");
            assert!(said.len() == usize::from(folder.is_some()), "{said:?}");
            assert!(said.iter().all(|line| line.contains(wanted)), "{said:?}");
            got
        };
        let want = [open(GPU, None, ""), open(CPU, None, "")];
        assert_eq!(open(GPU, Some(0), "kept in"), want[0]);
        assert_eq!(open(CPU, Some(1), "kept in"), want[1]);
        assert_eq!([open(GPU, Some(1), "those of"), open(CPU, Some(0), "those of")], want);
        assert_eq!(open(GPU, Some(0), "those of"), want[0]);
        let bytes = folders.each_ref().map(|folder| {
            let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap();
            std::fs::read(file.path()).unwrap()
        });
        assert!(bytes[0] == bytes[1], "{model}: the same file, to the byte");
    }
}

/// Law 1 through a file: over a restored prefix a request gives the bits of a cold engine. Other devices' are refused.
#[test]
fn a_prefix_comes_back_to_a_gpu_and_goes_nowhere_else() {
    let Some(driver) = cuda_driver::begin() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (model, kv) in [("llama", Type::Auto), ("astrai_mla", Type::F32), ("qwen3_moe", Type::Q8)] {
        let open = |target| Engine::open(&fixture(model), EngineOptions { kv, ..options(target) }).unwrap();
        let persona = salted(70, 1);
        let paths = [("gpu", GPU), ("cpu", CPU)].map(|(name, target)| {
            let path = folder.path().join(name);
            let writer = open(target);
            let prefix = writer.pin_prefix(&tokens(&persona)).unwrap();
            assert_eq!(prefix.wait(None).unwrap(), Some(64));
            prefix.save(&path).unwrap();
            path
        });
        let (warm, cold, cpu) = (open(GPU), open(GPU), open(CPU));
        let prefix = warm.restore_prefix(&paths[0]).unwrap();
        assert_eq!((prefix.wait(None).unwrap(), warm.stats().unwrap().steps), (Some(64), 0), "nothing is computed");
        for salt in 2..4 {
            let prompt = [persona.clone(), salted(9, salt)].concat();
            let events = drain(&super::engines::submit(&warm, &prompt, 8));
            assert_eq!(events.last().unwrap().usage.unwrap().cached_tokens, 64);
            assert_eq!(crate::support::jobs::answer(&events), generate(&cold, &prompt, 8), "{model}");
            cold.clear_cache().unwrap();
        }
        let again = folder.path().join("again");
        prefix.save(&again).unwrap();
        assert!(std::fs::read(&paths[0]).unwrap() == std::fs::read(&again).unwrap(), "saved again it is the same file");
        for (engine, path) in [(&warm, &paths[1]), (&cpu, &paths[0])] {
            let error = engine.restore_prefix(path).map(|_| ()).unwrap_err();
            assert_eq!(error.status, Status::Mismatch, "{error}");
        }
        warm.check().unwrap();
    }
    // Another generation of cards computes other bits.
    let path = folder.path().join("other");
    let writer = Engine::open(&fixture("llama"), options(GPU)).unwrap();
    let prefix = writer.pin_prefix(&tokens(&salted(70, 1))).unwrap();
    prefix.wait(None).unwrap();
    prefix.save(&path).unwrap();
    drop((prefix, writer));
    driver.set_capability(8, 6);
    let other = Engine::open(&fixture("llama"), options(GPU)).unwrap();
    let error = other.restore_prefix(&path).map(|_| ()).unwrap_err();
    assert_eq!(error.status, Status::Mismatch, "{error}");
    assert!(error.message.contains("sm_90") && error.message.contains("sm_86"), "{error}");
    // So do engines whose products may depend on the step.
    driver.set_capability(9, 0);
    let relaxed = EngineOptions { invariant: false, ..options(GPU) };
    let relaxed = Engine::open(&fixture("llama"), relaxed).unwrap();
    assert_eq!(relaxed.restore_prefix(&path).map(|_| ()).unwrap_err().status, Status::Mismatch);
    drop((other, relaxed));
    assert_nothing_lives(&driver, "prefixes");
}
