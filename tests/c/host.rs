//! What a host brings along that the library must not depend on: the size of its stacks, its floating-point environment.

use super::{compile, libraries, model, run, succeed};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A copy of the model with another chat template.
fn with_template(folder: &Path, template: &str) {
    for entry in fs::read_dir(model()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::os::unix::fs::symlink(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    }
    let config = folder.join("tokenizer_config.json");
    let text = fs::read_to_string(&config).unwrap_or_else(|_| "{}".to_owned());
    let mut config_json: serde_json::Value = serde_json::from_str(&text).unwrap();
    config_json.as_object_mut().unwrap().insert("chat_template".into(), template.into());
    for name in ["tokenizer_config.json", "chat_template.jinja"] {
        let _ = fs::remove_file(folder.join(name));
    }
    fs::write(&config, config_json.to_string()).unwrap();
}

/// The stack a caller needs is what the contract says, and what may need more finds it elsewhere.
#[test]
fn every_function_runs_on_the_stack_of_the_contract() {
    for language in ["c", "cpp"] {
        let folder = tempfile::tempdir().unwrap();
        let used = succeed(Command::new(compile("tests/c", "short_stack", language)).arg(model()).arg(folder.path()));
        let most = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<u32>().ok());
        assert!(used.lines().count() == 6 && used.lines().all(|l| most(l).is_some_and(|n| n < 64 << 10)), "{used}");
        println!("{used}");
    }
}

/// 256 KiB are less than a recursive template may use.
#[test]
fn a_template_that_recurs_is_an_error_on_small_stacks() {
    let folder = tempfile::tempdir().unwrap();
    with_template(folder.path(), "{% macro f(n) %}{{ f(n+1) }}{% endmacro %}{{ f(0) }}");
    let program = compile("tests/c", "recursion", "c");
    for kib in ["256", "8192", "unlimited"] {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -s $0; exec \"$@\"", kib]).arg(&program).arg(folder.path());
        let output = run(&mut shell);
        assert!(output.status.success(), "{kib}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_hosts_floating_point_environment_changes_nothing() {
    for language in ["c", "cpp"] {
        let folder = tempfile::tempdir_in(libraries()).unwrap();
        let output = run(Command::new(compile("tests/c", "floats", language)).arg(model()).arg(folder.path()));
        assert!(output.status.success(), "{language}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
