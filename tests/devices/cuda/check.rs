//! `tools/gpu_check` and `astrai bench` with the stand-in for their driver: everything they do on a GPU but its speed.

use super::engines::{GPU, generate, options};
use crate::cuda_driver;
use crate::support::models::{root, storyteller};
use crate::support::programs::{has_python, told};
use astrai::engine::{Engine, EngineOptions, Type};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// The program; of a build that has it.
const ASTRAI: Option<&str> = option_env!("CARGO_BIN_EXE_astrai");

/// A folder like a bundle, of what this build has.
fn bundle(folder: &Path) {
    let link = |from: &Path, to: &str| {
        let to = folder.join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(from, to).unwrap();
    };
    link(&std::env::current_exe().unwrap(), "tests/devices");
    link(&root().join("tests/fixtures"), "tests/fixtures");
    link(&root().join("models"), "models");
    ASTRAI.into_iter().for_each(|program| link(Path::new(program), "bin/astrai"));
}

/// Runs the script on the stand-in: the outcomes of the parts. None, with the reason told, where it cannot be.
fn check(folder: &Path, arguments: &[&str]) -> Option<(Output, Value)> {
    if !has_python(8) {
        return None;
    }
    bundle(folder);
    let json = folder.join("out.json");
    let output = Command::new("python3")
        .arg("-B")
        .arg(root().join("tools/gpu_check/gpu_check.py"))
        .arg("--bundle")
        .arg(folder)
        .arg("--json")
        .arg(&json)
        .args(arguments)
        .env("LD_PRELOAD", cuda_driver::preload())
        .env_remove("ASTRAI_TEST_ROUNDS")
        .env("ASTRAI_TEST_DEPTH", "short")
        .output()
        .unwrap();
    let results = std::fs::read(&json).unwrap_or_else(|_| panic!("{}", told(&output)));
    Some((output, serde_json::from_slice(&results).unwrap()))
}

#[test]
fn the_parts_of_gpu_check_run_on_the_stand_in() {
    let Some(_driver) = cuda_driver::begin() else { return };
    let dir = tempfile::tempdir().unwrap();
    // The stand-in is slow, and slower still on a busy machine; how long it takes is not what is tested.
    let arguments = ["--part", "kernels,parity,limits", "--kernels", "device::", "--copy-mib", "4", "--minutes", "120"];
    let Some((output, results)) = check(dir.path(), &arguments) else { return };
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(results["gpu"]["capability"], "9.0", "{results:#}");
    let status = |part: &str| results["parts"][part]["status"].as_str().unwrap().to_owned();
    assert_eq!(status("parity"), "PASS", "{results:#}");
    assert!(results["parts"]["parity"]["largest_difference"].as_f64().unwrap() < 1e-3, "{results:#}");
    assert_eq!(status("kernels"), "PASS", "{results:#}");
    assert_eq!(status("limits"), "PASS", "{results:#}");
    assert!(results["limits"]["copy_gb_per_s"].as_f64().unwrap() > 0.0, "{results:#}");
}

/// What goes wrong is told with the test's name, and is the exit status; the other parts go on.
#[test]
fn what_fails_is_told() {
    let Some(_driver) = cuda_driver::begin() else { return };
    let dir = tempfile::tempdir().unwrap();
    let tests = dir.path().join("tests");
    std::fs::create_dir_all(&tests).unwrap();
    let script = "#!/bin/sh\n\
        case \"$*\" in\n\
        --list) echo 'kernels_cuda::rows::sums: test' ;;\n\
        *kernels_cuda::rows*) echo 'test kernels_cuda::rows::sums ... FAILED'; echo 'assertion failed'; exit 101 ;;\n\
        esac\n";
    std::fs::write(tests.join("devices"), script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(tests.join("devices"), mode).unwrap();
    let run = Command::new("python3")
        .arg("-B")
        .arg(root().join("tools/gpu_check/gpu_check.py"))
        .args(["--part", "kernels,parity,bench", "--bundle"])
        .arg(dir.path())
        .env("LD_PRELOAD", cuda_driver::preload())
        .output();
    let Ok(output) = run else {
        println!("SKIP: there is no python3");
        return;
    };
    let text = told(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let skips = ["SKIP parity", "compared nothing on a GPU", "SKIP bench", "bin/astrai is not in"];
    for part in ["FAIL kernels", "rows::sums", "assertion failed"].into_iter().chain(skips) {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

/// Random weights of every format are made on the device, and a run says which GPU it was.
#[test]
fn bench_runs_on_the_stand_in() {
    let Some(_driver) = cuda_driver::begin() else { return };
    let Some(program) = ASTRAI else {
        println!("SKIP: this build has no program astrai");
        return;
    };
    for (weights, invariant) in [("bf16", "1"), ("q8", "1"), ("q4", "0")] {
        let output = Command::new(program)
            .args(["bench", "--json", "--shape", "storyteller", "--workload", "decode", "--device", "cuda:0"])
            .args(["--requests", "1", "--prompt-len", "5", "--gen-len", "3", "--context", "64", "--slots", "1"])
            .args(["--weights", weights, "--invariant", invariant, "--step-tokens", "64"])
            .env("LD_PRELOAD", cuda_driver::preload())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", told(&output));
        let run: Value = serde_json::from_slice(&output.stdout).unwrap();
        let config = &run["config"];
        assert_eq!(run["generated_tokens"], 3, "{run:#}");
        assert_eq!((&config["device"], &config["weights"]), (&"cuda".into(), &weights.into()), "{run:#}");
        assert_eq!((&config["invariant"], &config["step_tokens"]), (&(invariant == "1").into(), &64.into()), "{run:#}");
        assert_eq!(config["gpu"]["capability"], "9.0", "{run:#}");
        assert!(config["gpu"]["memory_bytes"].as_u64().unwrap() > 1 << 20, "{run:#}");
        assert!(run["host_us_per_step"].as_f64().unwrap() > 0.0, "{run:#}");
        assert!(run["open_to_first_token_s"].as_f64().unwrap() >= run["open_s"].as_f64().unwrap(), "{run:#}");
    }
}

/// Matrices of random weights are made where they lie: of the model's bytes hardly any comes from the host.
#[test]
fn random_weights_are_made_on_the_device() {
    let Some(driver) = cuda_driver::begin() else { return };
    let config = std::fs::read(storyteller().join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let model = astrai::model::unmade_random_model("random", config, 3).unwrap();
    for (weights, compute) in
        [(Type::Auto, Type::Auto), (Type::Auto, Type::F32), (Type::Q8, Type::Auto), (Type::Q4, Type::Auto)]
    {
        let before = driver.counts().to_device_bytes;
        let options = EngineOptions { weights, compute, memory_budget: 64 << 20, step_tokens: 32, ..options(GPU) };
        let engine = Engine::open_source(Box::new(model.clone()), options).unwrap();
        let brought = driver.counts().to_device_bytes - before;
        assert!(
            brought < model.weight_bytes() / 50,
            "{weights:?} {compute:?}: {brought} bytes of {}",
            model.weight_bytes()
        );
        // They are numbers: log probabilities of something that is neither certain nor not a number.
        let answer = generate(&engine, &[1, 2, 3, 4], 4);
        assert!(
            answer.tokens.len() == 4
                && answer.logprobs.iter().all(|&bits| {
                    let logprob = f32::from_bits(bits);
                    logprob < 0.0 && logprob > -40.0
                }),
            "{answer:?}"
        );
    }
}
