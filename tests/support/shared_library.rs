//! Where the shared library of this build is, for the tests that look at it as C programs do.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// `libastrai.so` beside the profile's other results. cargo makes it for `cargo build` and not for `cargo test` alone, so it is
/// checked against the sources: a test of yesterday's library would say nothing.
pub fn built() -> PathBuf {
    let own = std::env::current_exe().expect("the test knows its own path");
    let profile = own.parent().and_then(Path::parent).expect("tests lie in target/<profile>/deps");
    let library = profile.join("libastrai.so");
    let hint = "run `cargo build` with the features of the test first, as `make test` does";
    let made = fs::metadata(&library).and_then(|data| data.modified());
    let made = made.unwrap_or_else(|e| panic!("{}: {e}; {hint}", library.display()));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = ["src", "capi/src"].map(|folder| newest(&root.join(folder)));
    for (time, source) in sources.into_iter().flatten() {
        assert!(time <= made, "{} is older than {}; {hint}", library.display(), source.display());
    }
    library
}

/// The Rust file below `folder` that was changed last. The command line tool's are no part of the library.
fn newest(folder: &Path) -> Option<(SystemTime, PathBuf)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry of the folder").path());
    let times = paths.filter_map(|path| match path.is_dir() {
        true if path.ends_with("src/bin") => None,
        true => newest(&path),
        false if path.extension().is_some_and(|e| e == "rs") => {
            Some((fs::metadata(&path).ok()?.modified().ok()?, path))
        }
        false => None,
    });
    times.max()
}
