//! Memory that runs out is `ERR_MEMORY` and silence, in the shared library as it ships: `tests/c/oom/inject.c` refuses its allocations
//! one after another through a preloaded malloc, and `tests/c/oom/limit.c` runs it in too little address space. See
//! docs/testing.md for the whole sweep, which takes longer than a usual run may.
//!
//! glibc only: the malloc below the library is replaced by its second names.

use crate::support::models::{self, root, storyteller as model};
use crate::support::programs::{cc, told};
use crate::support::shared_library;
use std::path::Path;
use std::process::{Command, Stdio};

/// The storyteller with two of its layers, for runs of which thousands are made.
fn short_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    models::copy(&model(), folder.path());
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["num_hidden_layers"] = serde_json::json!(2);
    std::fs::write(&path, config.to_string()).unwrap();
    folder
}

/// The programs of this test with the library beside them, in a folder that goes with it.
struct Programs(tempfile::TempDir);

impl Programs {
    fn new() -> Programs {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libastrai.so", "libastrai.so.1"] {
            std::os::unix::fs::symlink(shared_library::built(), folder.path().join(name)).unwrap();
        }
        let programs = Programs(folder);
        programs.compile("preload.c", "preload.so", &["-shared", "-fPIC", "-ldl"]);
        for name in ["inject", "limit"] {
            let path = format!("-Wl,-rpath,{}", programs.path().display());
            let folder = programs.path().display().to_string();
            programs.compile(&format!("{name}.c"), name, &["-L", &folder, "-lastrai", "-lpthread", &path]);
        }
        programs
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn compile(&self, source: &str, name: &str, arguments: &[&str]) {
        let mut compiler = cc();
        compiler.args(["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-I"]).arg(root().join("include"));
        compiler.arg(root().join("tests/c/oom").join(source)).args(arguments).arg("-o").arg(self.path().join(name));
        let output = compiler.output().unwrap();
        assert!(output.status.success(), "{compiler:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs `inject` with the allocations of these phases refused: the first `n` of each, and so many others.
    fn inject(&self, model: &Path, phases: &[&str], n: u32, samples: u32, seconds: u32) -> String {
        let scratch = tempfile::tempdir().unwrap();
        let seed = std::env::var("ASTRAI_TEST_SEED").unwrap_or("1".into());
        let mut command = Command::new(self.path().join("inject"));
        command.arg(model).arg(scratch.path());
        command.args([n.to_string(), samples.to_string(), seed, seconds.to_string()]).args(phases);
        let output = command.env("LD_PRELOAD", self.path().join("preload.so")).stdin(Stdio::null()).output().unwrap();
        let told = told(&output);
        assert!(output.status.success() && told.ends_with("\n0 faults\n"), "{}\n{told}", output.status);
        told
    }

    /// Runs `limit`; what it printed.
    fn limit(&self, arguments: &[&str]) -> String {
        let output = Command::new(self.path().join("limit")).arg(model()).args(arguments).output().unwrap();
        let told = told(&output);
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {}\n{told}", output.status);
        assert_eq!(told.lines().count(), 1, "{arguments:?}: {told}");
        told
    }
}

/// The statuses in a line of `limit` that are none of these.
fn others(line: &str, allowed: &[&str]) -> Vec<String> {
    let statuses =
        line.split(' ').map(|word| word.trim_end_matches([';', '\n'])).filter(|word| word.starts_with("ASTRAI_"));
    statuses.filter(|status| !allowed.contains(status)).map(str::to_owned).collect()
}

#[test]
fn any_allocation_may_be_refused() {
    let programs = Programs::new();
    let all = ["open", "submit", "steps", "save", "restore", "close"];
    let short = short_model();
    let whole = model();
    // ASTRAI_TEST_OOM=all: every allocation of every phase.
    let (model, n, samples, seconds) = match std::env::var("ASTRAI_TEST_OOM").as_deref() {
        Ok("all") => (whole.as_path(), 0, 0, 24 * 3600),
        _ => (short.path(), 500, 100, 115),
    };
    // Two at once, which share no more than the processors.
    let told = std::thread::scope(|scope| {
        let halves = all.chunks(3).map(|half| scope.spawn(|| programs.inject(model, half, n, samples, seconds)));
        halves.collect::<Vec<_>>().into_iter().map(|half| half.join().unwrap()).collect::<String>()
    });
    for phase in all {
        let lines: Vec<&str> = told.lines().filter(|line| line.starts_with(phase)).collect();
        assert_eq!(lines.len(), 2, "{phase} was tried alone and onwards: {told}");
        for line in lines {
            let number = |before: &str| {
                let number =
                    line.split(before).next().and_then(|text| text.split([' ', ',']).rfind(|word| !word.is_empty()));
                number.and_then(|number| number.parse::<u32>().ok()).unwrap_or_else(|| panic!("{line}"))
            };
            // A close has nothing to answer, and what a step lacks it may do without.
            let told_least = if ["steps", "close"].contains(&phase) { 0 } else { 1 };
            assert!(number(" of ") >= 20 && number(" told ERR_MEMORY") >= told_least, "too little was tried: {told}");
        }
    }
    #[allow(clippy::print_stdout, reason = "the figures for docs/testing.md")]
    {
        println!("{told}");
    }
}

/// From a limit at which nothing can be had to one at which all can, on the way every amount is too little for another reason.
#[test]
fn any_address_space_may_be_too_small() {
    let programs = Programs::new();
    let mut opened = 0;
    for step in 0..34 {
        let kib = (64.0 * 1.33f64.powi(step)) as u32;
        let line = programs.limit(&["open", &kib.to_string()]);
        assert!(others(&line, &["ASTRAI_OK", "ASTRAI_ERR_MEMORY"]).is_empty(), "{kib} KiB: {line}");
        opened += u32::from(line.starts_with("open ASTRAI_OK"));
    }
    assert!((3..31).contains(&opened), "{opened} of 34 limits were enough to open");
}

#[test]
fn a_long_text_in_little_memory_is_an_error() {
    let programs = Programs::new();
    for kib in ["4000", "20000", "60000"] {
        let line = programs.limit(&["submit", kib, "10000000"]);
        let errors = ["ASTRAI_ERR_MEMORY", "ASTRAI_ERR_CONTEXT"];
        let wrong = others(&line, &["ASTRAI_OK", errors[0], errors[1]]);
        assert!(wrong.is_empty() && errors.iter().any(|error| line.contains(error)), "{kib} KiB: {line}");
    }
}
