//! With the feature `cuda` compiles the kernels into fat binaries, which the library embeds.

#![allow(clippy::print_stderr, clippy::exit, reason = "a build that cannot be made says why and ends")]

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        cuda();
    }
}

/// GPU architectures that a release has machine code for: A100, RTX 30, RTX 40, H100 and H200, B200, RTX 50. PTX serves later
/// ones.
const TARGETS: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"];
/// What other profiles have: one target, so that a build takes seconds.
const TARGETS_SHORT: [&str; 1] = ["sm_90a"];
/// The architecture of the embedded PTX: the oldest that the kernels' instructions exist on.
const PTX: &str = "compute_80";
/// One fat binary each; those that take longest first.
const SOURCES: [&str; 9] =
    ["attention", "blocks", "linear", "norm", "sampling", "elementwise", "experts", "recurrent", "heads"];

/// Compiles `kernels/*.cu` into `OUT_DIR`.
fn cuda() {
    for name in ["ASTRAI_NVCC", "ASTRAI_CUDA_TARGETS", "CUDA_HOME", "CUDA_PATH", "PATH", "NVCC_CCBIN"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=kernels");
    let nvcc = find_nvcc().unwrap_or_else(|| {
        stop(
            "the feature `cuda` needs NVIDIA's compiler nvcc, version 12.8 or later, to compile kernels/*.cu, and it was not \
             found: not in ASTRAI_NVCC, CUDA_HOME, CUDA_PATH or PATH, nor among the packages of python3. Install the CUDA \
             toolkit, or let pip bring the compiler alone (no GPU and no driver needed): `pip install \
             nvidia-cuda-nvcc==13.0.* nvidia-cuda-runtime==13.0.* nvidia-cuda-crt==13.0.* nvidia-nvvm==13.0.*`. Or build without the feature: the CPU backend needs none of it.",
        )
    });
    let chosen = env::var("ASTRAI_CUDA_TARGETS").unwrap_or_default();
    let targets: Vec<&str> = match chosen.as_str() {
        "" if env::var("PROFILE").as_deref() == Ok("release") => TARGETS.to_vec(),
        "" => TARGETS_SHORT.to_vec(),
        "all" => TARGETS.to_vec(),
        list => list.split([',', ' ']).filter(|t| !t.is_empty()).collect(),
    };
    if let Some(wrong) = targets.iter().find(|t| !t.starts_with("sm_")) {
        stop(&format!("ASTRAI_CUDA_TARGETS names `{wrong}`; it takes `all` or a list such as `sm_86,sm_90a`"));
    }
    println!("cargo:rustc-env=ASTRAI_CUDA_TARGETS={}", targets.join(" "));
    println!("cargo:rustc-env=ASTRAI_CUDA_VERSION={}", version(&nvcc));
    compile(&nvcc, &targets);
}

/// The compiler: of an option, of a toolkit, on the path, or of pip's packages.
fn find_nvcc() -> Option<PathBuf> {
    if let Some(named) = env::var_os("ASTRAI_NVCC").filter(|name| !name.is_empty()) {
        let path = PathBuf::from(named);
        if !works(&path) {
            stop(&format!("ASTRAI_NVCC names {}, which is no nvcc that runs", path.display()));
        }
        return Some(path);
    }
    let program = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(env::var_os).map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = toolkits.chain(env::split_paths(&path)).chain([PathBuf::from("/usr/local/cuda/bin")]);
    let found = folders.map(|folder| folder.join(&program)).find(|path| path.is_file() && works(path));
    found.or_else(|| pip_folders().into_iter().map(|f| f.join("bin").join(&program)).find(|path| works(path)))
}

/// Folders of pip's nvidia packages.
fn pip_folders() -> Vec<PathBuf> {
    let code = "import nvidia, os; print(os.pathsep.join(nvidia.__path__))";
    let output = Command::new("python3").args(["-c", code]).stderr(Stdio::null()).output();
    let Ok(output) = output else { return Vec::new() };
    let list = OsString::from(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let packages = env::split_paths(&list).filter_map(|root| std::fs::read_dir(root).ok()).flatten();
    packages.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn works(nvcc: &Path) -> bool {
    let run = Command::new(nvcc).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}

/// The compiler's version as drivers count: 1000 for each major, 10 for each minor one.
fn version(nvcc: &Path) -> u32 {
    let output = Command::new(nvcc).arg("--version").output().map(|o| o.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).into_owned();
    let release = text.split("release ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
    let mut numbers = release.trim().split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if major == 0 {
        stop(&format!("{} --version does not say its release: {text}", nvcc.display()));
    }
    major * 1000 + minor * 10
}

/// Compiles all sources, as many at a time as there are processors.
fn compile(nvcc: &Path, targets: &[&str]) {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut waiting = SOURCES.iter();
    let mut running: Vec<(&str, std::process::Child)> = Vec::new();
    loop {
        while running.len() < jobs {
            let Some(&source) = waiting.next() else { break };
            let mut command = Command::new(nvcc);
            // A multiply-add is fused where a kernel says so and nowhere else: kernels that share arithmetic round alike.
            command.args(["-std=c++17", "-O3", "-fmad=false", "-fatbin", "-Werror", "all-warnings"]);
            for target in targets {
                let virtual_target = target.replace("sm_", "compute_");
                command.arg(format!("-gencode=arch={virtual_target},code={target}"));
            }
            command.arg(format!("-gencode=arch={PTX},code={PTX}"));
            command.arg("-o").arg(out.join(format!("{source}.fatbin"))).arg(format!("kernels/{source}.cu"));
            let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            let child = child.unwrap_or_else(|e| stop(&format!("{} cannot be run: {e}", nvcc.display())));
            running.push((source, child));
        }
        if running.is_empty() {
            return;
        }
        let (source, child) = running.remove(0);
        let output = child.wait_with_output().unwrap_or_else(|e| stop(&format!("nvcc for {source}.cu was lost: {e}")));
        if !output.status.success() {
            let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            stop(&format!("nvcc could not compile kernels/{source}.cu: {}{}", told[0], told[1]));
        }
    }
}

/// Ends the build with one paragraph.
#[allow(clippy::print_stderr, clippy::exit, reason = "how a build script tells cargo that it failed, and why")]
fn stop(why: &str) -> ! {
    eprintln!("error: {why}");
    std::process::exit(1)
}
