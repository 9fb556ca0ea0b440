//! `tools/gpu_check` without a GPU: everything is skipped with its reason, and the arithmetic beside the figures is right. On
//! the stand-in for the driver it is run by tests/devices/cuda/check.rs.
//!
//! A machine without `python3` prints SKIP.

use crate::support::programs::{has_python, run, told};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// No machine has so many.
const NO_GPU: [&str; 2] = ["--device", "99"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/gpu_check")
}

/// Runs `python3` in the tool's folder; `None`, with the reason told, where there is none.
fn python(args: &[&str], environment: &[(&str, &str)]) -> Option<Output> {
    if !has_python(8) {
        return None;
    }
    let mut command = Command::new("python3");
    // No compiled files in the checkout.
    command.arg("-B").args(args).current_dir(folder()).env_remove("ASTRAI_REQUIRE").envs(environment.iter().copied());
    Some(run(&mut command))
}

/// What a line of Python prints.
fn printed(code: &str) -> Option<String> {
    let output = python(&["-c", code], &[])?;
    assert!(output.status.success(), "{}", told(&output));
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

#[test]
fn without_a_gpu_every_part_is_skipped_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = dir.path().display().to_string();
    let json = dir.path().join("out.json").display().to_string();
    let args = [&["gpu_check.py", "--scratch", &scratch, "--json", &json][..], &NO_GPU].concat();
    let Some(output) = python(&args, &[]) else { return };
    assert!(output.status.success(), "{}", told(&output));
    let results: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let parts = results["parts"].as_object().unwrap();
    let names: Vec<&str> = parts.keys().map(String::as_str).collect();
    assert_eq!(names, ["kernels", "parity", "law1", "sanitizer", "limits", "bench", "torch"]);
    for (name, part) in parts {
        assert_eq!(part["status"], "SKIP", "{name}");
        assert_eq!(part["why"], results["no_gpu"], "{name}");
    }
    assert!(results["no_gpu"].as_str().unwrap().len() > 10, "{results:#}");
    // Required, it fails.
    let args = [&["gpu_check.py", "--scratch", &scratch, "--part", "limits"][..], &NO_GPU].concat();
    let output = python(&args, &[("ASTRAI_REQUIRE", "avx2,gpu")]).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("ASTRAI_REQUIRE"), "{}", told(&output));
}

#[test]
fn wrong_usage_is_told() {
    for args in [&["gpu_check.py", "--part", "speed"][..], &["gpu_check.py", "--shape", "gpt-7"]] {
        let Some(output) = python(args, &[]) else { return };
        let text = told(&output);
        assert!(output.status.code() == Some(2) && !text.contains("Traceback"), "{text}");
        assert!(text.contains("limits") || text.contains("qwen3-0.6b"), "{text}");
    }
}

/// A part whose time is over is ended with its children, and what does not fit any more is not begun.
#[test]
fn time_is_kept() {
    let code = "import time, gpu_check
begin = time.monotonic()
out = gpu_check.run(['sh', '-c', 'echo begun; sleep 60 & sleep 60'], 0.5)
print(out.code, out.text.strip(), time.monotonic() - begin < 20)
options = gpu_check.arguments(['--part', 'limits,bench', '--minutes', '0.01'])
check = gpu_check.Check(options)
gpu_check.perform(check, 'limits', lambda check, seconds: print('never'), 60)
print(check.parts['limits']['status'])";
    let Some(out) = printed(code) else { return };
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "None begun True");
    assert!(lines[1].starts_with("SKIP limits") && lines[1].contains("no time"), "{out}");
    assert_eq!(lines[2], "SKIP");
}

/// The figures of qwen3-0.6b in docs/performance.md: 596 million weights, 440 of them in layers, 115 kB of KV a token.
#[test]
fn figures_are_set_beside_the_limits() {
    let code = r#"
import types, speed
config = dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
              head_dim=128, vocab_size=151936, max_position_embeddings=40960)
shape = speed.Shape(config)
print(round(shape.layers / 1e6), round((shape.layers + shape.head) / 1e6), shape.kv_bytes)
print([round(shape.weight_bytes(weights) / 1e9, 2) for weights in ("bf16", "q8", "q4")])
print(shape.lengths(8192, 1), speed.Shape({**config, "max_position_embeddings": 2048}).lengths(8192, 1))
check = types.SimpleNamespace(rows=[], limits={"copy_gb_per_s": 3000.0, "bf16_tflop_per_s": 700.0, "bf16_by": "torch.matmul"})
decode = dict(column="8 streams", workload="streams", prompt=512, generate=48, streams=8, shape="qwen3-0.6b")
speed.note(check, shape, dict(decode, engine="astrai", weights="bf16", invariant=1, tokens_per_s=8000.0, host_us_per_step=3.0))
speed.note(check, shape, dict(decode, engine="torch", mode="compiled", weights="bf16", tokens_per_s=2000.0))
speed.note(check, shape, dict(decode, engine="torch", mode="eager", weights="bf16", tokens_per_s=500.0))
prefill = dict(decode, column="prefill 8192", workload="prefill", prompt=8192, generate=1, streams=1)
speed.note(check, shape, dict(prefill, engine="torch", mode="eager", weights="bf16", tokens_per_s=1e5))
print(speed.table(check))
"#;
    let Some(out) = printed(code) else { return };
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "440 596 114688");
    assert_eq!(lines[1], "[1.19, 0.63, 0.43]");
    assert_eq!(lines[2], "(8192, 1) (2046, 1)");
    let row = |start: &str| -> Vec<String> {
        let line = lines.iter().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {out}"));
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    // 1,000 steps a second of 1.19 GB of weights and 8 times 536 tokens of 114,688 bytes.
    let ours = row("| qwen3-0.6b | bf16 | 8 streams");
    assert_eq!(ours[3..], ["8000.0", "1684", "56%", "9.5", "1%", "3.0", "2000.0 (compiled)", "4.00"]);
    // Prompts are bound by computing, and nobody else has a figure.
    let theirs = row("| qwen3-0.6b | torch | prefill 8192");
    assert_eq!(theirs[3..], ["–", "–", "–", "88.1", "13%", "–", "100000.0 (eager)", "–"]);
}

#[test]
fn the_bundle_has_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.tar.xz");
    std::fs::write(&file, vec![0u8; 100]).unwrap();
    let code = format!(
        "import bundle, pathlib\npath = pathlib.Path({:?})\nprint(bundle.check_size(path, 100))\nbundle.check_size(path, 99)",
        file.display().to_string()
    );
    let Some(output) = python(&["-c", &code], &[]) else { return };
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "100");
    assert!(!output.status.success() && told(&output).contains("ASTRAI_CUDA_TARGETS"), "{}", told(&output));
    // Nobody takes it for a good one.
    assert!(!file.exists());
}

/// Same targets and same flags as the build's.
#[test]
fn the_bundle_is_compiled_for_the_targets_of_a_release() {
    let build = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs")).unwrap();
    let line = build.lines().find(|line| line.starts_with("const TARGETS:")).unwrap();
    let targets: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
    let Some(out) = printed("import bundle; print(bundle.TARGETS, bundle.PTX)") else { return };
    assert_eq!(out.trim(), format!("{} compute_80", targets.join(",")));
    assert!(build.contains("const PTX: &str = \"compute_80\""));
}
