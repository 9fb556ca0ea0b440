//! Tests that need a process of their own, because they look at all of it (its threads, memory, open files) or change it for
//! good. The tests of a program run side by side in one process; such a test has its program started again, for itself.

use std::any::type_name;
use std::process::Command;

/// Set in such a process, to the test's name.
const ALONE: &str = "ASTRAI_TEST_ALONE";

/// Whether no other test runs in this process. Where others may, runs `test`, which is the one that calls, in a process of its
/// own; it has passed there when this returns `false`.
///
/// ```ignore
/// #[test]
/// fn the_test() {
///     if !alone(the_test) {
///         return;
///     }
/// ```
#[track_caller]
pub fn alone<F: Fn()>(_test: F) -> bool {
    // Without the name of the crate.
    let (_, name) = type_name::<F>().split_once("::").expect("a path");
    if is_alone(name) {
        return true;
    }
    run_alone(name);
    false
}

/// Whether this process was started for the test of that name.
pub fn is_alone(name: &str) -> bool {
    std::env::var_os(ALONE).is_some_and(|test| test == name)
}

/// Runs one test of this program in a process of its own, prints what it prints, and fails if it fails.
#[track_caller]
pub fn run_alone(name: &str) {
    let mut program = Command::new(std::env::current_exe().expect("the test knows its own path"));
    program.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ALONE, name);
    let output = program.output().expect("the program starts again");
    let [printed, told] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    println!("{printed}");
    assert!(output.status.success(), "{name} in a process of its own: {}\n{told}", output.status);
    assert!(printed.contains("1 passed"), "{name} is no test of this program");
}
