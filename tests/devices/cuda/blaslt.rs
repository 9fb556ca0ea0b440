//! Products by cuBLASLt, where law 1 has been given up for them: that they are the same but for rounding, that nothing else is
//! touched by them, and that an engine does without where the library is missing or refuses.
//!
//! A stand-in for the library makes the products, by a kernel of its own and in another order of accumulation.

use super::engines::{GPU, Lines, assert_nothing_lives, generate, live, options, salted, submit, tokens};
use crate::cuda_driver::{self, Exclusive, blaslt};
use crate::support::jobs::{answer, drain};
use crate::support::models::{fixture, storyteller};
use crate::support::random::rounds;
use astrai::Status;
use astrai::engine::*;
use std::path::Path;
use std::process::Command;

const MISSING: &str = "cuBLASLt is not installed; own kernels take all products";
/// The kernel of the stand-in.
const PRODUCT: &str = "test_matmul";

fn relaxed() -> EngineOptions {
    EngineOptions { invariant: false, step_tokens: 64, ..options(GPU) }
}

fn invariant() -> EngineOptions {
    EngineOptions { invariant: true, ..relaxed() }
}

/// Log probabilities of a prompt.
fn score(engine: &Engine, prompt: &[u32]) -> Vec<f32> {
    let options = RequestOptions { max_tokens: Some(0), prompt_logprobs: true, ..RequestOptions::default() };
    let events = drain(&engine.submit(&tokens(prompt), &options, Sink::Pull).unwrap());
    assert_eq!(events.last().unwrap().error, None);
    events.last().unwrap().prompt_logprobs[1..].to_vec()
}

/// A prompt's scores by an engine, and the products that cuBLASLt made for them.
fn measure(driver: &Exclusive, dir: &Path, options: EngineOptions, prompt: &[u32]) -> (Vec<f32>, u64) {
    let library = blaslt::load();
    driver.log(true);
    let engine = Engine::open(dir, options).unwrap();
    let before = (library.products(), library.searches());
    let scores = score(&engine, prompt);
    let products = library.products() - before.0;
    assert_eq!(library.searches(), before.1, "algorithms are chosen when the engine opens");
    drop(engine);
    let launched = driver.logged_kernels().iter().filter(|name| *name == PRODUCT).count();
    assert_eq!(launched as u64, products, "products that run are those of the stream");
    assert_eq!(library.live(), 0, "objects of the library are left");
    assert_nothing_lives(driver, "measured");
    (scores, products)
}

/// Matrices of every shape, padded and not, with results replaced and added to: as far from those in f32 as our own.
#[test]
fn products_are_the_same_but_for_rounding() {
    let Some(driver) = cuda_driver::begin() else { return };
    driver.set_seed(7);
    let models = ["llama", "astrai_gqa", "qwen3_moe_mixed", "astrai_mla"].map(fixture);
    for dir in models.into_iter().chain([storyteller()]) {
        // Steps of 64 and 22 rows; of the large model one.
        let prompt = salted(if dir == storyteller() { 24 } else { 86 }, 3);
        let (want, none) = measure(&driver, &dir, invariant(), &prompt);
        let (got, some) = measure(&driver, &dir, relaxed(), &prompt);
        assert!(none == 0 && some > 5, "{}: {none} and {some} products", dir.display());
        let exact = EngineOptions { compute: Type::F32, ..invariant() };
        let (exact, _) = measure(&driver, &dir, exact, &prompt);
        let mean = |of: &[f32]| {
            let sum: f32 = of.iter().zip(&exact).map(|(a, b)| (a - b).abs()).sum();
            sum / exact.len() as f32
        };
        let (ours, theirs) = (mean(&want), mean(&got));
        println!("{}: {some} products; off by {ours:.2e} with ours and {theirs:.2e} with theirs", dir.display());
        assert!(theirs < 1.3 * ours + 1e-4 && theirs < 0.05, "{}: {ours} {theirs}", dir.display());
    }
    assert_eq!(driver.message(), "");
}

/// Few rows, other formats and the reference mode stay with our own kernels, to the bit.
#[test]
fn what_is_not_for_the_library_is_as_ever() {
    let Some(driver) = cuda_driver::begin() else { return };
    let dir = fixture("qwen3");
    for (prompt, weights, compute) in [
        (16, Type::Auto, Type::Auto),
        (40, Type::Q8, Type::Auto),
        (40, Type::Q4, Type::Auto),
        (40, Type::Auto, Type::F32),
    ] {
        let with = |options: EngineOptions| EngineOptions { weights, compute, ..options };
        let (want, _) = measure(&driver, &dir, with(invariant()), &salted(prompt, 3));
        let (got, some) = measure(&driver, &dir, with(relaxed()), &salted(prompt, 3));
        assert_eq!((some, got), (0, want), "{prompt} rows, {weights:?}, {compute:?}");
    }
    assert!(measure(&driver, &dir, relaxed(), &salted(17, 3)).1 > 0, "and 17 rows do not");
    // All of whose products have a bias.
    let biased = fixture("llama_bias");
    let (want, _) = measure(&driver, &biased, invariant(), &salted(40, 3));
    assert_eq!(measure(&driver, &biased, relaxed(), &salted(40, 3)), (want, 0));
}

/// Sizes that the library has no algorithm for, or refuses when it comes to it.
#[test]
fn what_the_library_refuses_our_kernels_do() {
    let Some(driver) = cuda_driver::begin() else { return };
    let (library, dir, prompt) = (blaslt::load(), fixture("llama"), salted(60, 3));
    let (want, _) = measure(&driver, &dir, invariant(), &prompt);
    library.set_largest(0);
    let without = measure(&driver, &dir, relaxed(), &prompt);
    library.set_largest(u64::MAX);
    assert_eq!(without, (want.clone(), 0));
    let (whole, all) = measure(&driver, &dir, relaxed(), &prompt);
    library.fail(3, 15);
    let (mixed, some) = measure(&driver, &dir, relaxed(), &prompt);
    assert_eq!(some, all - 1);
    let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst(&mixed, &whole) < 0.05 && worst(&mixed, &want) < 0.05);
}

/// Decode steps of many rows are recorded with their products, and say the same as those that were not.
#[test]
fn products_are_recorded_with_their_steps() {
    let Some(driver) = cuda_driver::begin() else { return };
    let (library, many) = (blaslt::load(), 24);
    let answers = |options: EngineOptions| {
        let engine = Engine::open(&fixture("llama"), EngineOptions { max_running: many, ..options }).unwrap();
        engine.pause(None).unwrap();
        let requests: Vec<Request> = (0..many).map(|salt| submit(&engine, &salted(3, salt), 12)).collect();
        engine.resume().unwrap();
        let answers: Vec<_> = requests.iter().map(|request| answer(&drain(request))).collect();
        engine.check().unwrap();
        answers
    };
    let want = answers(invariant());
    driver.log(true);
    let (submitted, replayed) = (library.products(), driver.counts().graph_launches);
    let got = answers(relaxed());
    let (submitted, replayed) = (library.products() - submitted, driver.counts().graph_launches - replayed);
    let ran = driver.logged_kernels().iter().filter(|name| *name == PRODUCT).count() as u64;
    println!("{submitted} products submitted, {ran} ran, {replayed} recorded steps");
    assert!(replayed > 3 && ran > submitted && submitted > 0, "{submitted} {ran} {replayed}");
    // Before a close call falls the other way, both draw the same.
    let alike = want.iter().zip(&got).filter(|(want, got)| want.tokens[..4] == got.tokens[..4]).count();
    assert!(alike > many as usize / 2, "{alike} of {many}");
    assert_eq!(driver.message(), "");
}

/// An error of the library is one of the device: laws 2 and 4.
#[test]
fn an_error_of_the_library_fails_the_requests() {
    let Some(driver) = cuda_driver::begin() else { return };
    let library = blaslt::load();
    for round in 0..2 * rounds() {
        let engine = Engine::open(&fixture("llama"), relaxed()).unwrap();
        library.fail(1 + 7 * round, 13);
        let error = drain(&submit(&engine, &salted(100, 1), 5)).pop().unwrap().error.unwrap();
        assert_eq!(error.status, Status::Device, "{error}");
        assert!(error.message.contains("cuBLASLt") && error.message.contains("EXECUTION_FAILED"), "{error}");
        assert!(drain(&submit(&engine, &[1, 2], 5)).pop().unwrap().error.is_some());
        drop(engine);
        assert_nothing_lives(&driver, "after the error");
        assert_eq!(library.live(), 0);
    }
    library.fail(0, 0);
}

/// What it takes is in the plan; each allocation and call of opening it may fail.
#[test]
fn its_memory_is_in_the_plan_and_may_be_missing() {
    let Some(driver) = cuda_driver::begin() else { return };
    let (library, dir) = (blaslt::load(), fixture("llama"));
    let plans = [invariant(), relaxed()].map(|options| Engine::plan(&dir, &options).unwrap().workspace_bytes);
    assert_eq!(plans[1] - plans[0], 32 << 20);
    let engine = Engine::open(&dir, relaxed()).unwrap();
    let plan = Engine::plan(&dir, &relaxed()).unwrap();
    assert!(live(&driver).live_device_bytes <= plan.total_bytes + (4 << 10), "{plan:?}");
    let want = generate(&engine, &salted(30, 1), 4);
    drop(engine);
    let mut failed = 0;
    loop {
        driver.fail_allocation(failed + 1);
        match Engine::open(&dir, relaxed()) {
            Ok(engine) => {
                driver.reset();
                break assert_eq!(generate(&engine, &salted(30, 1), 4), want);
            }
            Err(error) => assert_eq!(error.status, Status::Memory, "{error}"),
        }
        assert_nothing_lives(&driver, "an allocation failed");
        assert_eq!(library.live(), 0);
        failed += 1;
    }
    assert!(failed > 20, "{failed}");
}

/// Where it cannot be started, it is done without, and why is told.
#[test]
fn a_library_that_does_not_start_is_done_without() {
    let Some(driver) = cuda_driver::begin() else { return };
    let (library, dir, lines) = (blaslt::load(), fixture("llama"), Lines::default());
    let engine = Engine::open(&dir, invariant()).unwrap();
    let want = generate(&engine, &salted(30, 1), 4);
    let modules = live(&driver).live_modules;
    drop(engine);
    // After our own, it loads its.
    driver.fail_call(Some("cuModuleLoadData"), modules + 1, 999);
    let engine = Engine::open(&dir, lines.of(relaxed())).unwrap();
    assert_eq!(generate(&engine, &salted(30, 1), 4), want);
    drop(engine);
    let said = lines.with("cuBLASLt cannot be started");
    assert!(said.len() == 1 && said[0].contains("NOT_INITIALIZED") && said[0].contains("own kernels"), "{said:?}");
    assert_nothing_lives(&driver, "not started");
    assert_eq!(library.live(), 0);
}

const CHILD: &str = "ASTRAI_TEST_NO_BLASLT";

/// The part of the next test that runs in a process of its own, without the library; on its own it does nothing.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let Some(driver) = cuda_driver::begin() else { return };
    for name in [c"libcublasLt.so", c"libcublasLt.so.12"] {
        // SAFETY: a string that ends in zero.
        if !unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) }.is_null() {
            println!("child: SKIP: this machine has {name:?}");
            return;
        }
    }
    let (dir, lines, silent) = (storyteller(), Lines::default(), Lines::default());
    let engine = Engine::open(&dir, lines.of(relaxed())).unwrap();
    let got = generate(&engine, &salted(40, 1), 4);
    drop(engine);
    let engine = Engine::open(&dir, silent.of(invariant())).unwrap();
    assert_eq!(got, generate(&engine, &salted(40, 1), 4), "own kernels take all products");
    drop(engine);
    assert_eq!((lines.with(MISSING).len(), silent.with("cuBLASLt").len()), (1, 0), "{:?}", lines.with(""));
    // The reference mode does not ask for it.
    let engine = Engine::open(&dir, silent.of(EngineOptions { compute: Type::F32, ..relaxed() })).unwrap();
    drop(engine);
    assert_eq!(silent.with("cuBLASLt").len(), 0);
    assert_nothing_lives(&driver, "without the library");
    println!("child: well");
}

#[test]
fn without_the_library_an_engine_says_so_and_does_without() {
    if !cuda_driver::available() {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "cuda::blaslt::child", "--nocapture"]).env(CHILD, "1");
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let said = printed.lines().find_map(|line| line.split_once("child: ")).expect("the child says something").1;
    println!("{said}");
    assert!(said == "well" || said.starts_with("SKIP"), "{printed}");
}
