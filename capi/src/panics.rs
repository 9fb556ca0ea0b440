//! A panic inside the library is reported as an error of the call, or of the engine's requests, so it does not print. The hook
//! that keeps it quiet is set in this library's own copy of std, when the library is loaded: law 2 lists it as an exception.
//! Panics of anybody else (of a Rust program that links the static library) go to the hook that was there before.
//!
//! Nothing here allocates or has a destructor in a thread-local: memory that stayed behind, or a destructor registered on a host
//! thread, would outlive `dlclose`.

use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// The hook that was there before ours.
static PREVIOUS: OnceLock<Hook> = OnceLock::new();

/// Sets the hook. Once: [`super::load`].
pub(crate) fn install() {
    if PREVIOUS.set(panic::take_hook()).is_ok() {
        // A function takes no memory in a box. A closure that held the hook before would.
        panic::set_hook(Box::new(on_panic));
    }
}

fn on_panic(info: &PanicHookInfo<'_>) {
    if library::ffi::package::reports_panics() {
        return;
    }
    if let Some(previous) = PREVIOUS.get() {
        previous(info);
    }
}

#[cfg(test)]
mod tests {
    use library::os::thread::{self, ThreadOptions};
    use std::process::{Command, Stdio};

    /// Set in the child process that the test below starts.
    const CHILD: &str = "ASTRAI_TEST_PANICS";

    #[test]
    fn panics_of_the_library_do_not_print_and_those_of_others_do() {
        if std::env::var_os(CHILD).is_some() {
            thread::spawn("panics", ThreadOptions::default(), || panic!("of the library")).unwrap().join();
            assert!(std::panic::catch_unwind(|| panic!("of somebody else")).is_err());
            return;
        }
        let name = "panics::tests::panics_of_the_library_do_not_print_and_those_of_others_do";
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "--nocapture", name]).env(CHILD, "1").stdin(Stdio::null());
        let output = child.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("of somebody else"), "{told}");
        assert!(!told.contains("of the library"), "{told}");
    }
}
