//! The cache of huggingface_hub, folder for folder, so that what one program downloaded the others find:
//!
//! ```text
//! models--owner--name/blobs/<hash>                  a file's bytes; <hash>.incomplete while they arrive
//! models--owner--name/snapshots/<commit>/<name>     a link to its blob
//! models--owner--name/refs/<revision>               the commit of a branch or tag
//! .locks/models--owner--name/<hash>.lock            who downloads it
//! ```

use super::reference::{is_below, is_commit};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Bytes of a file in `refs`, at most.
const REF_BYTES_MAX: u64 = 256;
/// Names looked at in a snapshot, and folders within folders, at most.
const SNAPSHOT_NAMES_MAX: usize = 1 << 16;
const SNAPSHOT_DEPTH_MAX: usize = 4;

/// The cache's folder of one repository.
pub struct RepositoryCache {
    root: PathBuf,
    locks: PathBuf,
}

/// A file of a snapshot.
pub struct CachedFile {
    /// Relative to the snapshot, with slashes.
    pub name: String,
    pub bytes: u64,
}

impl RepositoryCache {
    /// Of `owner/name`, which was checked.
    pub fn new(cache: &Path, repository: &str) -> Self {
        let folder = format!("models--{}", repository.replace('/', "--"));
        RepositoryCache { root: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The bytes of a file.
    pub fn blob(&self, hash: &str) -> PathBuf {
        self.root.join("blobs").join(hash)
    }

    /// The bytes that arrived so far.
    pub fn incomplete(&self, hash: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{hash}.incomplete"))
    }

    /// The folder with the files of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit of a revision, as far as the cache knows.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let mut commit = String::new();
        File::open(self.root.join("refs").join(revision)).ok()?.take(REF_BYTES_MAX).read_to_string(&mut commit).ok()?;
        let commit = commit.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Notes the commit of a revision.
    pub fn set_commit(&self, revision: &str, commit: &str) -> Result<(), String> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        let fresh = path.with_file_name(format!(".{}-{commit}", std::process::id()));
        make_parent(&path)?;
        let write = || fs::write(&fresh, commit).and_then(|()| fs::rename(&fresh, &path));
        write().map_err(|error| {
            // Nothing is left to do about a temporary file that cannot be removed either.
            let _ = fs::remove_file(&fresh);
            failed(&path, &error)
        })
    }

    /// Whether the whole file is there under its hash.
    pub fn has_blob(&self, hash: &str, bytes: u64) -> bool {
        fs::metadata(self.blob(hash)).is_ok_and(|meta| meta.is_file() && meta.len() == bytes)
    }

    /// Whether the whole file is there under its name.
    pub fn has(&self, commit: &str, name: &str, bytes: u64) -> bool {
        fs::metadata(self.snapshot(commit).join(name)).is_ok_and(|meta| meta.is_file() && meta.len() == bytes)
    }

    /// Gives a blob its name in a snapshot.
    pub fn link(&self, commit: &str, name: &str, hash: &str) -> Result<(), String> {
        let path = self.snapshot(commit).join(name);
        make_parent(&path)?;
        let up = "../".repeat(2 + name.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{hash}"));
        let blob = self.blob(hash);
        for _ in 0..2 {
            let linked = symlink(&target, &path).or_else(|error| match error.kind() {
                ErrorKind::AlreadyExists => Err(error),
                // Where links are not allowed, as on Windows: a second name of the same bytes, or a copy.
                _ => fs::hard_link(&blob, &path).or_else(|_| copy(&blob, &path)),
            });
            match linked {
                Ok(()) => return Ok(()),
                // Another process made it, or it is an old one.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if same_bytes(&path, &blob) {
                        return Ok(());
                    }
                    fs::remove_file(&path).map_err(|e| failed(&path, &e))?;
                }
                Err(error) => return Err(failed(&path, &error)),
            }
        }
        Err(format!("{} changes while it is made; is another program at work there?", path.display()))
    }

    /// Keeps other processes from downloading the same file as long as the returned value lives. `waiting` is called once if
    /// one does. `None` on file systems without locks.
    pub fn lock(&self, hash: &str, waiting: impl FnOnce()) -> Result<Option<File>, String> {
        let path = self.locks.join(format!("{hash}.lock"));
        make_parent(&path)?;
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(|error| failed(&path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock().map(|()| Some(file)).map_err(|error| failed(&path, &error))
            }
            Err(TryLockError::Error(_)) => Ok(None),
        }
    }

    /// The whole files of a snapshot, in the order of their names.
    pub fn files(&self, commit: &str) -> Vec<CachedFile> {
        let mut found = Vec::new();
        list(&self.snapshot(commit), "", SNAPSHOT_DEPTH_MAX, &mut found);
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// Bytes free where the cache is, if the system tells.
    pub fn free_bytes(&self) -> Option<u64> {
        self.root.ancestors().find(|path| path.is_dir()).and_then(|path| fs4::available_space(path).ok())
    }
}

/// Makes the folder that shall hold `path`.
pub fn make_parent(path: &Path) -> Result<(), String> {
    path.parent().map_or(Ok(()), |parent| fs::create_dir_all(parent).map_err(|error| failed(parent, &error)))
}

/// That something in the cache could not be written.
pub fn failed(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}; HF_HUB_CACHE names another folder for models", path.display())
}

fn list(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<CachedFile>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else {
            continue;
        };
        if found.len() >= SNAPSHOT_NAMES_MAX || !is_below(&name) {
            continue;
        }
        // Follows the link; what leads nowhere is not there.
        match fs::metadata(entry.path()) {
            Ok(meta) if meta.is_file() => found.push(CachedFile { name, bytes: meta.len() }),
            Ok(meta) if meta.is_dir() && depth > 1 => list(&entry.path(), &format!("{name}/"), depth - 1, found),
            _ => {}
        }
    }
}

/// Whether a name leads to the blob, or to as many bytes where that cannot be told.
fn same_bytes(path: &Path, blob: &Path) -> bool {
    match (path.canonicalize(), blob.canonicalize()) {
        (Ok(path), Ok(blob)) if path == blob => true,
        (Ok(_), Ok(_)) if path.is_symlink() => false,
        _ => match (fs::metadata(path), fs::metadata(blob)) {
            (Ok(path), Ok(blob)) => path.len() == blob.len(),
            _ => false,
        },
    }
}

/// A copy that has its name only when it is whole.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let part = to.with_extension(format!("{}.incomplete", std::process::id()));
    fs::copy(from, &part).and_then(|_| fs::rename(&part, to)).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = fs::remove_file(&part);
    })
}

#[cfg(unix)]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(windows)]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target.to_string_lossy().replace('/', "\\"), path)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_target: &Path, _path: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_blob_has_names_in_snapshots_and_revisions_have_commits() {
        let dir = tempfile::tempdir().unwrap();
        let cache = RepositoryCache::new(dir.path(), "owner/name");
        assert_eq!(cache.root(), dir.path().join("models--owner--name"));
        assert_eq!(cache.commit("main"), None);
        cache.set_commit("main", COMMIT).unwrap();
        cache.set_commit("refs/pr/1", COMMIT).unwrap();
        assert_eq!(
            (cache.commit("main").as_deref(), cache.commit("refs/pr/1").as_deref()),
            (Some(COMMIT), Some(COMMIT))
        );
        make_parent(&cache.blob("aa")).unwrap();
        fs::write(cache.blob("aa"), "old").unwrap();
        fs::write(cache.blob("bb"), "new").unwrap();
        for name in ["config.json", "sub/x.gguf"] {
            cache.link(COMMIT, name, "aa").unwrap();
            cache.link(COMMIT, name, "aa").unwrap();
            cache.link(COMMIT, name, "bb").unwrap();
            assert!(cache.has(COMMIT, name, 3) && !cache.has(COMMIT, name, 4));
            assert_eq!(fs::read(cache.snapshot(COMMIT).join(name)).unwrap(), b"new", "{name}");
        }
        fs::remove_file(cache.blob("bb")).unwrap();
        cache.link(COMMIT, "a.json", "aa").unwrap();
        let names: Vec<String> = cache.files(COMMIT).into_iter().map(|file| file.name).collect();
        if cfg!(unix) {
            assert_eq!(names, ["a.json"], "links that lead nowhere are not listed");
        }
        assert!(cache.free_bytes().is_none_or(|bytes| bytes > 0));
    }

    #[test]
    fn one_process_at_a_time_has_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let cache = RepositoryCache::new(dir.path(), "owner/name");
        let first = cache.lock("aa", || panic!("nobody else has it")).unwrap();
        std::thread::scope(|scope| {
            let (sender, waits) = std::sync::mpsc::channel();
            let cache = &cache;
            let second = scope.spawn(move || cache.lock("aa", || sender.send(()).unwrap()).unwrap());
            if first.is_some() {
                waits.recv().expect("the second one waits");
            }
            drop(first);
            second.join().unwrap();
        });
    }
}
