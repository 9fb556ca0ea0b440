//! Laws 2 and 4 when the device goes: every request ends once, as failed with the status Device, and nobody else notices.

use super::engines::{CPU, GPU, assert_nothing_lives, generate, options, salted, submit, tokens, wanted};
use crate::cuda_driver::selftest::api::{Api, Session};
use crate::cuda_driver::{self, Exclusive, error};
use crate::support::jobs::{answer, drain};
use crate::support::models::fixture;
use crate::support::random::{Random, rounds, seed};
use astrai::Status;
use astrai::engine::*;
use std::time::Duration;

/// Fails in this way while requests run. Returns what is to be kept until the engines are closed.
type Trouble = fn(&Exclusive, &mut Random) -> Option<Session>;

/// One engine on the GPU that fails, and one on the CPU that does not notice.
fn one_loss(driver: &Exclusive, trouble: Trouble, seed: u64) {
    let what = format!("ASTRAI_TEST_SEED={seed}");
    let mut random = Random(seed);
    let dir = fixture(["llama", "qwen3_moe"][random.below(2)]);
    let (gpu, cpu) = (Engine::open(&dir, options(GPU)).unwrap(), Engine::open(&dir, options(CPU)).unwrap());
    let want: Vec<_> = (0..5).map(|salt| generate(&gpu, &salted(10 + salt as usize, salt), 12)).collect();
    let beside = submit(&cpu, &salted(20, 9), 100);
    let requests: Vec<Request> = (0..5).map(|salt| submit(&gpu, &salted(10 + salt as usize, salt), 12)).collect();
    let deferred = gpu.submit(&tokens(&[1, 2]), &RequestOptions { defer: true, ..wanted(2) }, Sink::Pull).unwrap();
    // Most of its steps have no result that anybody waits for.
    let long = submit(&gpu, &salted(200, 7), 2);
    let session = trouble(driver, &mut random);
    let mut failed = 0;
    let wants = want.iter().map(Some).chain([None, None]);
    for (request, want) in requests.iter().chain([&deferred, &long]).zip(wants) {
        let events = drain(request);
        let last = events.last().unwrap();
        match last.kind {
            EventKind::Failed => {
                let error = last.error.as_ref().unwrap();
                assert_eq!((error.status, last.finish), (Status::Device, FinishReason::Error), "{what}: {error}");
                assert!(error.message.contains("close it and open it again"), "{what}: {error}");
                let got = answer(&events);
                assert!(want.is_none_or(|want| want.tokens.starts_with(&got.tokens)), "{what}: wrong tokens");
                failed += 1;
            }
            // It was faster than the failure.
            EventKind::Finished => assert!(want.is_none_or(|want| answer(&events) == *want), "{what}"),
            kind => panic!("{what}: {kind:?}"),
        }
        assert!(matches!(request.next(None).unwrap(), Next::End), "{what}: something after the end");
    }
    // Whoever comes now is told at once.
    loop {
        let late = drain(&submit(&gpu, &[3, 4, 5], 12));
        let last = late.last().unwrap();
        if last.kind == EventKind::Failed {
            assert_eq!(last.error.as_ref().unwrap().status, Status::Device, "{what}");
            break;
        }
        failed += 1;
    }
    assert!(failed > 0);
    assert_eq!(gpu.check().unwrap_err().status, Status::Device, "{what}");
    let pinned = gpu.pin_prefix(&tokens(&salted(20, 1))).and_then(|prefix| prefix.wait(None).map(|_| ()));
    assert_eq!(pinned.unwrap_err().status, Status::Device, "{what}");
    gpu.close(Duration::from_secs(10)).unwrap();
    drop((gpu, session));
    assert_eq!(answer(&drain(&beside)).tokens.len(), 100, "{what}: the CPU goes on");
    cpu.check().unwrap();
    assert_nothing_lives(driver, &what);
    driver.reset();
    let again = Engine::open(&dir, options(GPU)).unwrap();
    assert_eq!(generate(&again, &salted(10, 0), 12), want[0], "{what}: opened again");
    again.check().unwrap();
}

fn losses(troubles: &[Trouble], rounds: u64) {
    let Some(driver) = cuda_driver::begin() else { return };
    let seed = seed();
    for round in 0..rounds {
        for (index, &trouble) in troubles.iter().enumerate() {
            driver.reset();
            one_loss(&driver, trouble, seed + round * 10 + index as u64);
        }
    }
}

/// The device is lost after some more launches, for good.
#[test]
fn a_lost_device_fails_every_request_and_nothing_else() {
    fn lost(driver: &Exclusive, launches: usize, error: i32) -> Option<Session> {
        driver.lose_device(launches as u64, error);
        None
    }
    losses(
        &[
            |driver, random| lost(driver, 1 + random.below(300), error::DEVICE_UNAVAILABLE),
            |driver, random| lost(driver, 1 + random.below(300), error::ECC_UNCORRECTABLE),
            |driver, _| lost(driver, 0, error::DEVICE_UNAVAILABLE),
        ],
        2 * rounds(),
    );
}

/// A call that fails once, whatever it is: the engine cannot know what has been done, and ends.
#[test]
fn a_call_that_fails_ends_the_engine() {
    losses(
        &[
            |driver, random| {
                driver.fail_call(Some("cuLaunchKernel"), 1 + random.below(300) as u64, error::LAUNCH_FAILED);
                None
            },
            |driver, random| {
                driver.fail_call(Some("cuMemcpyDtoHAsync_v2"), 1 + random.below(10) as u64, 999);
                None
            },
            |driver, random| {
                driver.fail_call(Some("cuMemcpyHtoDAsync_v2"), 1 + random.below(10) as u64, 999);
                None
            },
            |driver, _| {
                driver.fail_call(Some("cuEventRecord"), 1, 999);
                None
            },
        ],
        rounds(),
    );
}

/// Another user of the context makes it fail: what it was, is told from the next wait on.
#[test]
fn a_fault_of_a_kernel_fails_the_engines_of_the_context() {
    losses(
        &[|driver, _| {
            let session = Session::new(driver);
            let (out, fault) = (session.api.new_memory(256), 3i32);
            let params = [Api::param(&out), Api::param(&fault)];
            session.launch("test_faults", [2, 1, 1], 64, 0, &params).unwrap();
            assert_eq!(session.api.stream_synchronize(session.stream), Err(error::ILLEGAL_ADDRESS));
            let _ = session.api.free(out);
            let _ = session.api.stream_destroy(session.stream);
            let _ = session.api.module_unload(session.module);
            Some(session)
        }],
        rounds(),
    );
}
