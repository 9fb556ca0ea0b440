//! Programs that tests start: compilers, tools of the system, what was compiled here.

use std::process::{Command, Output, Stdio};

/// The C compiler: `cc`, or what CC names.
pub fn cc() -> Command {
    Command::new(std::env::var_os("CC").unwrap_or("cc".into()))
}

/// Whether ASTRAI_REQUIRE names a tool, as it does where nothing may be skipped.
pub fn required(tool: &str) -> bool {
    let required = std::env::var("ASTRAI_REQUIRE").unwrap_or_default();
    required.split([',', ' ']).any(|name| name == tool)
}

/// Whether a tool is there. Without it the test is skipped, or fails if ASTRAI_REQUIRE names the tool.
pub fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(!required(tool), "ASTRAI_REQUIRE names {tool}, which is not there");
    println!("SKIP: {tool} is not there");
    false
}

/// Whether `python3` is there, of at least version 3.`minor`. Where not, the reason is told.
pub fn has_python(minor: u32) -> bool {
    let version = format!("import sys; sys.exit(sys.version_info < (3, {minor}))");
    let there = Command::new("python3").args(["-c", &version]).output();
    let there = there.is_ok_and(|output| output.status.success());
    if !there {
        println!("SKIP: there is no python3 of at least 3.{minor}");
    }
    there
}

/// Runs a program to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{shown}: {e}"))
}

/// Runs it and wants success; returns what was printed.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let shown = format!("{command:?}");
    let output = run(command);
    assert!(output.status.success(), "{shown}: {}\n{}", output.status, told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All that a program printed.
pub fn told(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}
