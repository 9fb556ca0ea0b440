//! Law 3 on a GPU: what an engine takes there is what its plan says, and is gone when it is closed; a host that uses CUDA
//! itself finds its own context current after every call.

use super::engines::{CPU, GPU, assert_nothing_lives, generate, options, salted, submit};
use crate::cuda_driver::selftest::api::{Api, Handle};
use crate::cuda_driver::{self, Driver};
use crate::support::jobs::drain;
use crate::support::models::{fixture, storyteller};
use crate::support::random::rounds;
use crate::support::target::Target;
use astrai::engine::*;
use std::path::PathBuf;
use std::ptr::null_mut;
use std::time::Duration;

#[test]
fn open_and_close_in_a_loop_leave_nothing() {
    let Some(driver) = cuda_driver::begin() else { return };
    driver.set_device_count(2);
    let models = ["llama", "qwen3_moe", "astrai_mla", "llama_bias"];
    for round in 0..2 * rounds() as usize {
        for (index, model) in models.into_iter().enumerate() {
            let weights = [Type::Auto, Type::Q8, Type::Q4][(round + index) % 3];
            let device = (round + index) % 2;
            let options = EngineOptions { weights, ..options(Target::Gpu(device as i32)) };
            let engine = Engine::open(&fixture(model), options).unwrap();
            assert!(engine.info().device_name.contains(&format!("cuda:{device}")), "{:?}", engine.info());
            let live = driver.counts();
            // One stream runs, and one captures steps.
            assert_eq!((live.live_contexts, live.live_streams), (1, 2), "{live:?}");
            assert!(live.live_device_bytes > 0 && live.live_modules > 0, "{live:?}");
            generate(&engine, &salted(40, 1), 3);
            // Steps take no memory: all of it was reserved.
            let after = driver.counts();
            assert_eq!(after.live_device_bytes, live.live_device_bytes, "{model}");
            assert_eq!(after.live_pinned_bytes, live.live_pinned_bytes, "{model}");
            assert_eq!(after.live_device_allocations, live.live_device_allocations, "{model}");
            if round % 2 == 0 {
                // Some still run.
                let request = submit(&engine, &salted(20, 2), 100);
                engine.close(Duration::ZERO).unwrap();
                assert!(drain(&request).last().unwrap().terminal());
            }
            drop(engine);
            assert_nothing_lives(&driver, model);
        }
    }
    assert_eq!(driver.message(), "");
}

/// The host's own context, current on this thread.
struct Host {
    api: Api,
    device: i32,
    context: Handle,
}

impl Host {
    fn new(driver: &Driver, device: i32) -> Host {
        let api = Api::new(driver);
        api.init(0).unwrap();
        let context = api.made(null_mut(), |out| api.retain(out, device)).unwrap();
        api.push(context).unwrap();
        Host { api, device, context }
    }

    #[track_caller]
    fn assert_current(&self, after: &str) {
        let current = self.api.made(null_mut(), |out| self.api.current(out)).unwrap();
        assert_eq!(current, self.context, "after {after}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Exactly one was pushed.
        let popped = self.api.made(null_mut(), |out| self.api.pop(out));
        let under = self.api.made(null_mut(), |out| self.api.current(out));
        let released = self.api.release(self.device);
        if !std::thread::panicking() {
            let left = (popped, under, released);
            assert_eq!(left, (Ok(self.context), Ok(null_mut()), Ok(())), "the stack of contexts");
        }
    }
}

/// Whether the host uses the same device or another one, and whether opening succeeds or fails.
#[test]
fn the_context_of_the_host_stays_current() {
    let Some(driver) = cuda_driver::begin() else { return };
    for device in [0, 1] {
        driver.reset();
        driver.set_device_count(2);
        let host = Host::new(&driver, device);
        let dir = fixture("qwen3");
        Engine::plan(&dir, &options(GPU)).unwrap();
        host.assert_current("plan");
        for failing in [1, 7, 20, 40] {
            driver.fail_allocation(failing);
            Engine::open(&dir, options(GPU)).map(|_| ()).unwrap_err();
            host.assert_current("an open that failed");
        }
        for function in ["cuCtxPushCurrent_v2", "cuStreamCreateWithPriority", "cuMemcpyHtoDAsync_v2"] {
            driver.fail_call(Some(function), 3, 999);
            let _ = Engine::open(&dir, options(GPU));
            driver.fail_call(None, 0, 0);
            host.assert_current(function);
        }
        let engine = Engine::open(&dir, options(GPU)).unwrap();
        host.assert_current("open");
        let request = submit(&engine, &salted(20, 1), 5);
        host.assert_current("submit");
        drain(&request);
        let prefix = engine.pin_prefix(&super::engines::tokens(&salted(40, 3))).unwrap();
        prefix.wait(None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        prefix.save(&folder.path().join("prefix")).unwrap();
        host.assert_current("save");
        engine.check().unwrap();
        engine.close(Duration::ZERO).unwrap();
        host.assert_current("close");
        drop(engine);
        host.assert_current("drop");
        drop(prefix);
        // Device lost, while it is the host's too.
        let engine = Engine::open(&dir, options(GPU)).unwrap();
        driver.lose_device(0, cuda_driver::error::DEVICE_UNAVAILABLE);
        let failed = drain(&submit(&engine, &salted(100, 2), 5)).pop().unwrap().error.unwrap();
        assert_eq!(failed.status, astrai::Status::Device, "{failed}");
        let _ = Engine::open(&dir, options(GPU)).map(|_| ()).unwrap_err();
        drop(engine);
        driver.reset();
        driver.set_device_count(2);
        host.assert_current("the loss of the device");
        drop(host);
        assert_nothing_lives(&driver, "after the host");
    }
}

/// What allocations may take beyond what was asked for: each is at least a byte, and there are some.
const SLACK_BYTES: u64 = 4 << 10;

/// Law 3 and the plan: an engine takes what its plan says, and no more than its budget.
#[test]
fn an_open_engine_is_as_large_as_its_plan() {
    let Some(driver) = cuda_driver::begin() else { return };
    let models: Vec<PathBuf> = ["llama", "qwen3_moe", "astrai_mla", "astrai_gqa", "llama_f16"].map(fixture).into();
    let large = [storyteller()];
    for dir in models.iter().chain(&large) {
        for (weights, kv, compute, step_tokens) in [
            (Type::Auto, Type::Auto, Type::Auto, 64),
            (Type::Auto, Type::Q8, Type::Auto, 300),
            (Type::Q8, Type::F32, Type::Auto, 17),
            (Type::Q4, Type::Auto, Type::F32, 64),
            (Type::Auto, Type::Auto, Type::F32, 64),
        ] {
            let with = |kv| Engine::plan(dir, &EngineOptions { kv, compute, ..GPU.options() });
            // Heads of the smallest models have no pages of i8.
            let kv = if with(kv).is_err_and(|error| error.subject == "kv") { Type::F32 } else { kv };
            let what = format!("{} {weights:?} {kv:?} {compute:?}", dir.display());
            let base = || EngineOptions { weights, kv, compute, step_tokens, max_running: 5, ..GPU.options() };
            let least = EngineOptions { memory_budget: 1, ..base() };
            let least = Engine::plan(dir, &least).unwrap();
            assert!(!least.fits, "{what}: {least:?}");
            // As tight as it opens, with some spare, and without a budget.
            for memory_budget in [least.total_bytes, least.total_bytes + (1 << 20), 0] {
                let options = || EngineOptions { memory_budget, ..base() };
                let plan = Engine::plan(dir, &options()).unwrap();
                assert!(plan.fits, "{what}: {plan:?}");
                let engine = Engine::open(dir, options()).unwrap();
                let live = driver.counts().live_device_bytes;
                assert!(live <= plan.total_bytes + SLACK_BYTES, "{what}: {live} of {plan:?}");
                // And it is not said to be much larger than it is.
                assert!(live + live / 8 + (1 << 16) >= plan.total_bytes, "{what}: {live} of {plan:?}");
                if memory_budget > 0 {
                    assert!(plan.total_bytes <= memory_budget, "{what}: {plan:?}");
                }
                drop(engine);
            }
        }
    }
    assert_nothing_lives(&driver, "plans");
}

/// A budget is of the device's memory, whatever the CPU has.
#[test]
fn a_budget_that_does_not_suffice_is_refused_with_numbers() {
    let Some(driver) = cuda_driver::begin() else { return };
    let dir = fixture("llama");
    let error = super::engines::refusal(&dir, EngineOptions { memory_budget: 10_000, ..options(GPU) });
    assert_eq!((error.status, error.subject.as_str()), (astrai::Status::Memory, "memory_budget"));
    assert!(error.needed > 10_000 && error.available == 10_000, "{error:?}");
    assert_nothing_lives(&driver, "refused");
    let plan = Engine::plan(&dir, &EngineOptions { memory_budget: error.needed, ..options(GPU) }).unwrap();
    assert_eq!((plan.fits, plan.total_bytes), (true, error.needed));
    // The CPU's plan is another one.
    let other = Engine::plan(&dir, &EngineOptions { memory_budget: error.needed, ..options(CPU) }).unwrap();
    assert_ne!(other.workspace_bytes, plan.workspace_bytes);
}

/// With the option, waits sleep: they wait for events made for that, not for the stream.
#[test]
fn a_blocking_wait_is_one_for_an_event() {
    let Some(driver) = cuda_driver::begin() else { return };
    let mut answers = Vec::new();
    for gpu_blocking_wait in [false, true] {
        let engine = Engine::open(&fixture("llama"), EngineOptions { gpu_blocking_wait, ..options(GPU) }).unwrap();
        let before = driver.counts();
        answers.push(generate(&engine, &salted(10, 1), 6));
        engine.check().unwrap();
        let after = driver.counts();
        let streams = after.stream_synchronisations - before.stream_synchronisations;
        let events = after.event_synchronisations - before.event_synchronisations;
        println!("blocking {gpu_blocking_wait}: {streams} waits for the stream, {events} for events");
        if gpu_blocking_wait {
            assert!(streams == 0 && events > 0, "{streams} waits for the stream, {events} for events");
        }
    }
    assert_eq!(answers[0], answers[1]);
}
