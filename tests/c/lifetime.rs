//! What is left when engines are closed, programs misbehave or the library is unloaded: nothing.

use crate::programs::{WARNINGS, compile, libraries};
use crate::support::models::{root, storyteller as model};
use crate::support::programs::{cc, has, required, succeed};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Growth of memory over 40 open/close rounds that is not a leak, in KiB: the allocator's own arenas.
const GROWTH_KIB_MAX: &str = "4096";

#[test]
fn fifty_engines_leave_nothing_behind() {
    let program = compile("tests/c", "lifecycle", "c");
    println!("{}", succeed(Command::new(program).arg(model()).args(["50", GROWTH_KIB_MAX])));
}

/// Largest growth of memory over 40 rounds of loading and unloading, from the tenth on, in KiB: 150 to 190 were
/// measured. Of that 13 are what statics of dependencies point to; the rest is the allocator's. See `docs/testing.md`.
const UNLOAD_GROWTH_KIB_MAX: &str = "512";

/// The one program that is not linked with the library: it loads and unloads it.
#[test]
fn the_library_can_be_unloaded_fifty_times() {
    let program = libraries().join("unload-alone");
    let mut compiler = cc();
    compiler.arg("-std=c99").args(WARNINGS).arg("-g").arg("-O1").arg("-I").arg(root().join("include"));
    compiler.arg(root().join("tests/c/unload.c")).args(["-ldl", "-lpthread"]).arg("-o").arg(&program);
    succeed(&mut compiler);
    let library = fs::canonicalize(libraries().join("libastrai.so")).unwrap();
    let model = crate::contract::calling();
    let mut command = Command::new(&program);
    println!("{}", succeed(command.arg(library).arg(model.path()).args(["50", UNLOAD_GROWTH_KIB_MAX])));
}

/// Runs a program under valgrind. Blocks that statics still point to are no leak; a table that a static points into the
/// middle of counts as "possibly lost", so that kind is no error.
fn valgrind(program: &Path, arguments: &[&str]) {
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect"]);
    command.args(["--show-leak-kinds=definite,indirect", "--fair-sched=yes", "--num-callers=30"]);
    let printed = succeed(command.arg(program).arg(model()).args(arguments));
    println!("{printed}");
}

#[test]
fn engines_come_and_go_under_valgrind() {
    // Fifty take minutes there; where valgrind is required they are worth it.
    let rounds = if required("valgrind") { "50" } else { "5" };
    if has("valgrind") {
        valgrind(&compile("tests/c", "lifecycle", "c"), &[rounds, "0"]);
    }
}

#[test]
fn hostile_programs_under_valgrind() {
    if has("valgrind") {
        valgrind(&compile("tests/c", "hostile", "c"), &["brief"]);
    }
}

#[test]
fn deferred_submits_under_valgrind() {
    if has("valgrind") {
        valgrind(&compile("tests/c", "deferred", "c"), &[]);
    }
}

#[test]
fn prefixes_under_valgrind() {
    if has("valgrind") {
        let folder = tempfile::tempdir().unwrap();
        valgrind(&compile("tests/c", "prefix", "c"), &[folder.path().to_str().unwrap(), "brief"]);
    }
}
