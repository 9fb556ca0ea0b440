//! The C programs of `examples-c` and `tests/c`: each compiled as C99 or as C++11 with all warnings as errors, and linked with the
//! shared library of this build.

use crate::support::models::root;
use crate::support::programs::{cc, succeed};
use crate::support::shared_library;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

pub const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

/// A folder with the shared library under its soname, as it would be installed.
pub fn libraries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let built = shared_library::built();
        // Named after this test's file, which differs between profiles and sets of features.
        let own = std::env::current_exe().unwrap();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(own.file_name().unwrap());
        fs::create_dir_all(&folder).unwrap();
        for name in ["libastrai.so", "libastrai.so.1"] {
            let link = folder.join(name);
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&built, &link).unwrap();
        }
        folder
    })
}

/// Compiles `examples-c/<name>.c` or `tests/c/<name>.c`, once in this process.
pub fn compile(folder: &str, name: &str, language: &str) -> PathBuf {
    static DONE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut done = DONE.lock().unwrap_or_else(|e| e.into_inner());
    let source = root().join(folder).join(format!("{name}.c"));
    let program = libraries().join(format!("{name}-{language}"));
    if done.contains(&program) {
        return program;
    }
    let mut compiler = match language {
        "c" => cc(),
        _ => Command::new(std::env::var_os("CXX").unwrap_or("c++".into())),
    };
    compiler.args(match language {
        "c" => ["-std=c99", "-x", "c"],
        _ => ["-std=c++11", "-x", "c++"],
    });
    compiler.args(WARNINGS).arg("-g").arg("-O1").arg("-I").arg(root().join("include"));
    compiler.arg(&source).args(["-x", "none"]).arg("-L").arg(libraries()).args([
        "-lastrai",
        "-lpthread",
        "-ldl",
        "-lm",
    ]);
    compiler.arg(format!("-Wl,-rpath,{}", libraries().display())).arg("-o").arg(&program);
    succeed(&mut compiler);
    done.insert(program.clone());
    program
}

/// Names of the C files of a folder, without their ending.
pub fn programs(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "c"));
    let mut names: Vec<String> = files.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
