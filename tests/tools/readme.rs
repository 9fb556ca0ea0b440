//! The README does what it says: every `sh` block runs, and every `c` block compiles without warnings and runs.
//!
//! `sh` blocks run as they stand, in a scratch folder that links to this repository's `models`, with this build's
//! `astrai` first in the path. `make` stands there too, as a dry run: a target must exist with all it depends on, but
//! a release build inside a test would take minutes.

use crate::support::{damaged, shared_library};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// The fenced blocks of README.md with this language, and the line each begins on.
fn blocks(language: &str) -> Vec<(usize, String)> {
    let readme = fs::read_to_string(Path::new(REPOSITORY).join("README.md")).expect("README.md");
    let mut blocks = Vec::new();
    let mut open: Option<(bool, usize, String)> = None;
    for (number, line) in (1..).zip(readme.lines()) {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some((info == language, number, String::new())),
            (Some(_), Some(_)) => {
                if let Some((true, start, text)) = open.take() {
                    blocks.push((start, text));
                }
                open = None;
            }
            (Some((_, _, text)), None) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "README.md ends inside a block");
    blocks
}

/// A folder like a clone, as far as the README's commands can see.
fn scratch() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for name in ["models", "include", "examples-c"] {
        std::os::unix::fs::symlink(Path::new(REPOSITORY).join(name), dir.path().join(name)).expect("a link");
    }
    dir
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn succeed(what: &str, command: &mut Command) -> String {
    let output = run(command);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {command:?} ended with {}: {told}", output.status);
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

#[test]
fn every_shell_block_runs() {
    let blocks = blocks("sh");
    assert!(blocks.len() >= 4, "{} sh blocks", blocks.len());
    for (line, script) in blocks {
        let dir = scratch();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).expect("a folder");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_astrai"), bin.join("astrai")).expect("a link");
        let make = format!("#!/bin/sh\nexec \"$REAL_MAKE\" -n -C '{REPOSITORY}' \"$@\"\n");
        fs::write(bin.join("make"), make).expect("a script");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(bin.join("make"), mode).expect("an executable");
        let path = std::env::var("PATH").expect("PATH");
        let real_make = succeed("make", Command::new("sh").args(["-c", "command -v make"]));
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &script]).current_dir(dir.path());
        shell.env("PATH", format!("{}:{path}", bin.display())).env("REAL_MAKE", real_make.trim());
        let printed = succeed(&format!("README.md line {line}"), &mut shell);
        assert!(!printed.trim().is_empty(), "README.md line {line} prints nothing");
        if let Ok(results) = fs::read_to_string(dir.path().join("results.jsonl")) {
            assert!(!results.is_empty() && !results.contains("\"error\""), "README.md line {line}: {results}");
        }
    }
}

#[test]
fn every_c_block_compiles_without_warnings_and_runs() {
    let blocks = blocks("c");
    assert!(!blocks.is_empty());
    for (line, source) in blocks {
        assert!(source.lines().count() <= 30, "README.md line {line}: {} lines", source.lines().count());
        let dir = scratch();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(path("story.c"), source).expect("a source file");
        // Programs bind to the soname.
        for name in ["libastrai.so", "libastrai.so.1"] {
            std::os::unix::fs::symlink(shared_library::built(), path(name)).expect("a link");
        }
        let what = format!("README.md line {line}");
        let mut cc = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
        cc.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "story.c", "-Iinclude", "-L.", "-lastrai", "-o", "story"]);
        succeed(&what, cc.arg(format!("-Wl,-rpath,{}", dir.path().display())).current_dir(dir.path()));
        let story = succeed(&what, Command::new(path("story")).current_dir(dir.path()));
        assert!(story.len() > 20, "{what} prints {story:?}");
        let missing = run(Command::new(path("story")).arg("/no/such/folder"));
        assert!(!missing.status.success());
        assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/folder"));
        // A request that fails is told from one that finishes.
        let failing = damaged::model();
        let failed = run(Command::new(path("story")).arg(failing.path()));
        let told = String::from_utf8_lossy(&failed.stderr);
        assert!(failed.status.code().is_some_and(|code| code != 0) && told.contains("no finite logit"), "{told}");
    }
}

/// A target the README names in its prose exists.
#[test]
fn every_make_target_it_names_exists() {
    let readme = fs::read_to_string(Path::new(REPOSITORY).join("README.md")).expect("README.md");
    let makefile = fs::read_to_string(Path::new(REPOSITORY).join("Makefile")).expect("Makefile");
    let targets: Vec<&str> = readme.split("`make ").skip(1).filter_map(|rest| rest.split('`').next()).collect();
    assert!(targets.contains(&"test") && targets.contains(&"install"), "{targets:?}");
    for target in targets {
        assert!(makefile.lines().any(|line| line.starts_with(&format!("{target}:"))), "make {target}");
    }
}

/// A file the README links to exists.
#[test]
fn every_link_leads_to_a_file() {
    let readme = fs::read_to_string(Path::new(REPOSITORY).join("README.md")).expect("README.md");
    for link in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if !link.contains("://") {
            assert!(Path::new(REPOSITORY).join(link).exists(), "README.md links to {link}");
        }
    }
}
