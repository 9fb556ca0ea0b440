//! Compiles C++ sources with g++ and links them to a shared library: the host build of the kernels, alone or with what stands
//! in for NVIDIA's driver.

use crate::support::programs::required;
use std::ffi::{CString, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// g++, or what CXX names.
pub fn compiler() -> Command {
    Command::new(std::env::var_os("CXX").unwrap_or("g++".into()))
}

/// Whether the kernels can be built. Where not, the test is skipped, or fails if ASTRAI_REQUIRE names g++.
pub fn available() -> bool {
    let found = compiler().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(!required("g++"), "ASTRAI_REQUIRE names g++, which is not there");
    println!("SKIP: the host build of the kernels needs g++");
    false
}

/// The files of a folder of this repository whose names end so; sorted.
pub fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let ends = |path: &PathBuf| path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending));
    let mut all: Vec<PathBuf> = entries.filter(ends).collect();
    all.sort();
    all
}

/// Every kernel source, and the self-test.
pub fn kernels() -> Vec<PathBuf> {
    let mut all = files("kernels", &["cu"]);
    all.push(root().join("tests/devices/kernels_cuda/selftest.cu"));
    all
}

/// What to build, beside what every host build has.
pub struct Build<'a> {
    pub sources: &'a [PathBuf],
    pub compile: &'a [&'a str],
    pub link: &'a [&'a str],
    /// File name of the library.
    pub library: &'a str,
}

/// Flags of every build: arithmetic as on the device, and no warnings.
pub const FLAGS: [&str; 9] = [
    "-std=c++17",
    "-g1",
    "-fPIC",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-fvisibility=hidden",
];

impl Build<'_> {
    /// Compiles all sources into `folder`, two at a time, and links them.
    pub fn run(&self, folder: &Path) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        let mut objects = Vec::new();
        let mut running: Vec<(Command, Child)> = Vec::new();
        let finish = |(command, child): (Command, Child)| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        for source in self.sources {
            let object = folder.join(source.file_name().unwrap()).with_extension("o");
            let mut command = compiler();
            command.args(FLAGS).args(self.compile).args(["-x", "c++", "-c"]).arg(source).arg("-o").arg(&object);
            let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            running.push((command, child));
            objects.push(object);
            if running.len() == 2 {
                finish(running.remove(0));
            }
        }
        running.into_iter().for_each(finish);
        let library = folder.join(self.library);
        let mut link = compiler();
        link.arg("-shared").args(self.link).arg("-o").arg(&library).args(&objects);
        assert!(link.status().unwrap().success(), "{link:?}");
        library
    }
}

/// Loads a library, for good: kept loaded until the process ends.
pub fn load(path: &Path, visibility: i32) -> *mut c_void {
    let name = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a string that ends in zero; the library has no initialisers but those of its own variables.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | visibility) };
    assert!(!handle.is_null(), "{} cannot be loaded", path.display());
    handle
}
