//! What a host brings along that the library must not depend on: the size of its stacks, its floating-point environment.

use crate::programs::{compile, libraries};
use crate::support::models::storyteller as model;
use crate::support::programs::{required, run, succeed};
use astrai::limits;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A copy of the model with another chat template.
pub fn with_template(folder: &Path, template: &str) {
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
        let most = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<usize>().ok());
        assert!(
            used.lines().count() == 6 && used.lines().all(|l| most(l).is_some_and(|n| n < limits::CALLER_STACK_BYTES)),
            "{used}"
        );
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

/// Runs the program of `tests/c/memory.c` by a shell, after the lines of `before`.
fn memory(before: &str, kv_mib: &str, there_mib: &str) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{before}\nexec \"$@\""), "sh"]).arg(compile("tests/c", "memory", "c"));
    run(shell.arg(model()).args([kv_mib, there_mib]))
}

#[test]
fn memory_that_is_not_there_is_told_before_it_is_used() {
    // As much as the machine may have, and as much as the process may: in KiB.
    for (before, kv_mib, there_mib) in [("", "13000", "0"), ("ulimit -v 1000000", "1500", "1000")] {
        let output = memory(before, kv_mib, there_mib);
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{before}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        println!("{told}");
    }
}

/// A control group of our own with this limit, removed when dropped; or why there is none.
struct Group(PathBuf);

impl Group {
    fn new(limit: &str) -> Result<Group, String> {
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
        let version_1 = own.lines().find_map(|line| line.split_once(":memory:")).map(|(_, path)| path);
        let version_2 = own.lines().find_map(|line| line.strip_prefix("0::"));
        let (root, path, file) = match (version_1, version_2) {
            (Some(path), _) => ("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"),
            (None, Some(path)) => ("/sys/fs/cgroup", path, "memory.max"),
            (None, None) => return Err("this process is in no control group".to_owned()),
        };
        let parent = Path::new(root).join(path.trim_start_matches('/'));
        let parent = if parent.is_dir() { parent } else { PathBuf::from(root) };
        let group = Group(parent.join(format!("astrai-test-{}", std::process::id())));
        let failed = |e: std::io::Error| format!("{}: {e}", group.0.display());
        fs::create_dir(&group.0).map_err(failed)?;
        fs::write(group.0.join(file), limit).map_err(failed)?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_control_groups_limit_is_an_error_and_no_kill() {
    let group = match Group::new("300000000") {
        Ok(group) => group,
        Err(why) => {
            assert!(!required("cgroup"), "ASTRAI_REQUIRE names cgroup: {why}");
            println!("SKIP: no control group can be made: {why}");
            return;
        }
    };
    let output = memory(&format!("echo $$ > {}/cgroup.procs", group.0.display()), "600", "287");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty());
}
