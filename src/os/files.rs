//! Writing a file so that its name holds the old contents or all of the new ones, whatever happens in between.
//!
//! Where the system can (Linux, on most file systems) the new contents have no name until they are complete, so that a
//! process that is killed leaves nothing behind. Elsewhere, and for the moment between having a name and having the right
//! one, they are in a temporary file beside it, which its writer holds locked; the next writer removes those that nobody
//! holds.

use crate::error::{Error, Result, Status};
use crate::limits;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Names tried for the temporary file; those in the way belong to other writers.
const TEMPORARY_NAMES_MAX: u32 = 1000;
/// Bytes of the file's name that are in the temporary one: that must not be too long itself.
const TEMPORARY_NAME_BYTES: usize = 200;

/// Lets `write` fill a new file, brings it to the disk, and gives it the name `path` in one step; what had that name before is
/// gone then, and untouched if anything fails. Only a regular file is replaced, and through a symbolic link the file that
/// it leads to. The new file has the mode of the old one, and its owner if we may say so; without an old one only its owner may read
/// it. Nothing else is left behind, also by a panic.
///
/// # Errors
/// `Argument` when `path` names no file, `Io`, also for what is no regular file, and what `write` returns.
pub fn replace(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    replace_with(path, true, write)
}

/// As [`replace`]; `nameless` says whether to try without a name.
fn replace_with(path: &Path, nameless: bool, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let shown = path.to_string_lossy().into_owned();
    let shown = shown.as_str();
    let failed = |what: &str, e: &io::Error| Error::io(format!("cannot {what} {shown}"), shown, e);
    let target = Target::find(path, shown)?;
    let beside = |e: io::Error| failed("write beside", &e);
    let unnamed = if nameless { platform::unnamed(&target.folder) } else { None };
    let (mut file, mut temporary) = match unnamed {
        Some(file) => (file, None),
        None => {
            let (file, temporary) = create(&target).map_err(beside)?;
            (file, Some(temporary))
        }
    };
    write(&mut file)?;
    if let Some(old) = &target.old {
        platform::take_after(&file, old).map_err(|e| failed("set owner and mode of", &e))?;
    }
    file.sync_all().map_err(|e| failed("write", &e))?;
    // It may have become something else meanwhile.
    let target = Target { old: Target::find(path, shown)?.old, ..target };
    if temporary.is_none() {
        if target.old.is_none() && platform::link(&file, &target.path).is_ok() {
            clean(&target);
            return sync_folder(&target.folder).map_err(|e| failed("bring to the disk the folder of", &e));
        }
        temporary = Some(name_temporarily(&file, &target).map_err(beside)?);
    }
    if let Some(mut temporary) = temporary {
        #[cfg(windows)]
        drop(file); // Windows renames no open file.
        fs::rename(&temporary.path, &target.path).map_err(|e| failed("replace", &e))?;
        temporary.renamed = true;
    }
    clean(&target);
    sync_folder(&target.folder).map_err(|e| failed("bring to the disk the folder of", &e))
}

/// Opens a regular file that is there to change it in place; does not wait for the other end of a pipe.
///
/// # Errors
/// `Io`, also for what is no regular file.
pub fn open_to_change(path: &Path) -> Result<File> {
    let shown = path.to_string_lossy();
    let failed = |e: io::Error| Error::io(format!("cannot update {shown}"), shown.as_ref(), &e);
    let file = platform::change().read(true).write(true).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::new(Status::Io, format!("cannot update {shown}: it is not a regular file")).about(&*shown));
    }
    Ok(file)
}

/// The file that is to be replaced.
struct Target {
    path: PathBuf,
    folder: PathBuf,
    /// The beginning of the names of its temporary files.
    prefix: String,
    /// What has the name now.
    old: Option<Metadata>,
}

impl Target {
    fn find(path: &Path, shown: &str) -> Result<Target> {
        let Some(name) = path.file_name() else {
            return Err(Error::argument(format!("{shown:?} does not name a file")).about(shown));
        };
        let failed = |e: io::Error| Error::io(format!("cannot replace {shown}"), shown, &e);
        let old = match fs::symlink_metadata(path) {
            Ok(old) => Some(old),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(failed(e)),
        };
        if old.as_ref().is_some_and(Metadata::is_symlink) {
            // One that leads nowhere, or in a circle, is an error of the system's.
            return Target::find(&fs::canonicalize(path).map_err(failed)?, shown);
        }
        if old.as_ref().is_some_and(|old| !old.is_file()) {
            let what = "it is a folder, a device, a pipe or a socket, and only a regular file is replaced";
            return Err(Error::new(Status::Io, format!("cannot replace {shown}: {what}")).about(shown));
        }
        let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = name.to_string_lossy();
        let starts = name.char_indices().map(|(at, c)| at + c.len_utf8());
        let end = starts.take_while(|&end| end <= TEMPORARY_NAME_BYTES).last().unwrap_or(0);
        let prefix = format!(".{}.", name.get(..end).unwrap_or_default());
        Ok(Target { path: path.to_path_buf(), folder: folder.to_path_buf(), prefix, old })
    }

    /// The path of a temporary file.
    fn temporary(&self, attempt: u32) -> PathBuf {
        self.folder.join(format!("{}{}-{attempt}.tmp", self.prefix, std::process::id()))
    }

    /// Whether a file of the folder has a name that [`Target::temporary`] gives, in this process or another.
    fn is_temporary(&self, name: &str) -> bool {
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let middle = name.strip_prefix(self.prefix.as_str()).and_then(|rest| rest.strip_suffix(".tmp"));
        middle.and_then(|m| m.split_once('-')).is_some_and(|(process, attempt)| number(process) && number(attempt))
    }
}

/// A temporary file that is removed unless it got its name.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a temporary file, and locks it.
fn create(target: &Target) -> io::Result<(File, Temporary)> {
    named(target, |path| {
        let file = platform::private().write(true).create_new(true).open(path)?;
        // Between the two, whoever removes what nobody holds may have come by.
        Ok((lock(&file) && platform::is_at(&file, path)).then_some(file))
    })
}

/// Gives a file without a name a temporary one.
fn name_temporarily(file: &File, target: &Target) -> io::Result<Temporary> {
    lock(file);
    let (_, temporary) = named(target, |path| platform::link(file, path).map(Some))?;
    Ok(temporary)
}

/// Tries names until `make` succeeds with one.
fn named<T>(target: &Target, make: impl Fn(&Path) -> io::Result<Option<T>>) -> io::Result<(T, Temporary)> {
    for attempt in 0..TEMPORARY_NAMES_MAX {
        let path = target.temporary(attempt);
        match make(&path) {
            Ok(Some(made)) => return Ok((made, Temporary { path, renamed: false })),
            Ok(None) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// Says that somebody works on a file, until it is closed; false when somebody else says so. Where there are no locks, nobody
/// removes a file for being without.
fn lock(file: &File) -> bool {
    !matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock))
}

/// Removes the temporary files of writers that died. What goes wrong costs only that.
fn clean(target: &Target) {
    let Ok(entries) = fs::read_dir(&target.folder) else { return };
    for entry in entries.take(limits::STALE_ENTRIES_MAX).filter_map(io::Result::ok) {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !entry.file_name().to_str().is_some_and(|name| target.is_temporary(name)) {
            continue;
        }
        let Ok(file) = platform::private().write(true).open(entry.path()) else { continue };
        if file.try_lock().is_ok() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The new name is on the disk when its folder is. Windows has no such call, and no need of it.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
mod platform {
    use super::*;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};

    /// Makes a file for its owner alone, follows no link, and does not wait for the other end of a pipe.
    pub fn private() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        options
    }

    /// Does not wait for the other end of a pipe.
    pub fn change() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.custom_flags(libc::O_NONBLOCK);
        options
    }

    /// Whether a file still has the name it was made with.
    pub fn is_at(file: &File, path: &Path) -> bool {
        let id = |m: io::Result<Metadata>| m.ok().map(|m| (m.dev(), m.ino()));
        id(file.metadata()).is_some_and(|own| id(fs::symlink_metadata(path)) == Some(own))
    }

    /// Gives a file the owner and the mode of another one. Where the group cannot be kept it has no rights.
    pub fn take_after(file: &File, old: &Metadata) -> io::Result<()> {
        let own = file.metadata()?;
        let same = (own.uid(), own.gid()) == (old.uid(), old.gid());
        let kept = same || fchown(file, Some(old.uid()), Some(old.gid())).is_ok();
        let mode = old.mode() & if kept { 0o777 } else { 0o707 };
        file.set_permissions(fs::Permissions::from_mode(mode))
    }

    /// A file without a name in `folder`, where that can be had and given a name later.
    #[cfg(target_os = "linux")]
    pub fn unnamed(folder: &Path) -> Option<File> {
        let may_be_named = Path::new("/proc/self/fd").is_dir();
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
        may_be_named.then(|| options.open(folder).ok()).flatten()
    }

    #[cfg(not(target_os = "linux"))]
    pub fn unnamed(_folder: &Path) -> Option<File> {
        None
    }

    /// Gives a file of [`unnamed`] a name that nothing has.
    #[cfg(target_os = "linux")]
    pub fn link(file: &File, path: &Path) -> io::Result<()> {
        use std::ffi::CString;
        use std::os::fd::AsRawFd;
        use std::os::unix::ffi::OsStrExt;
        let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let to = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: two NUL-terminated strings, which are only read.
        let code = unsafe {
            libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW)
        };
        if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    #[cfg(not(target_os = "linux"))]
    pub fn link(_file: &File, _path: &Path) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
}

#[cfg(not(unix))]
mod platform {
    use super::*;

    pub fn private() -> OpenOptions {
        OpenOptions::new()
    }

    pub fn change() -> OpenOptions {
        OpenOptions::new()
    }

    pub fn is_at(_file: &File, path: &Path) -> bool {
        path.exists()
    }

    pub fn take_after(file: &File, old: &Metadata) -> io::Result<()> {
        file.set_permissions(old.permissions())
    }

    pub fn unnamed(_folder: &Path) -> Option<File> {
        None
    }

    pub fn link(_file: &File, _path: &Path) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests;
