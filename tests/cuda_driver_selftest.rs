//! The stand-in for NVIDIA's driver: that it runs kernels, and that it is as unkind as it promises.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

mod cuda_driver;

#[path = "cuda_driver/api.rs"]
mod api;

use api::{Api, Session};
use cuda_driver::error;

#[test]
fn a_kernel_runs() {
    let Some(driver) = cuda_driver::begin() else { return };
    let session = Session::new(&driver);
    let sum = session.upload(&[0i32]);
    session.launch("test_atomics", [3, 2, 2], 96, 0, &[Api::param(&sum)]).unwrap();
    assert_eq!(session.download::<i32>(sum, 1), [3 * 2 * 2 * 96]);
    assert_eq!(driver.counts().launches, 1);
    let _ = error::INVALID_VALUE;
}
