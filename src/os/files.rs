//! Writing a file so that its name holds the old contents or all of the new ones, whatever happens in between.

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Names tried for the temporary file; those in the way belong to other writers, or to processes that died.
const TEMPORARY_NAMES_MAX: u32 = 1000;

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

/// Lets `write` fill a new file beside `path`, brings it to the disk, and gives it the name `path` in one step; what had
/// that name before is gone then, and untouched if anything fails. Nothing else is left behind, also by a panic.
///
/// # Errors
/// `Argument` when `path` names no file, `Io`, and what `write` returns.
pub fn replace(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let shown = path.to_string_lossy().into_owned();
    let Some(name) = path.file_name() else {
        return Err(Error::argument(format!("{shown:?} does not name a file")).about(shown));
    };
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |what: &str, e: &std::io::Error| Error::io(format!("cannot {what} {shown}"), shown.as_str(), e);
    let (mut file, mut temporary) = create(folder, &name.to_string_lossy()).map_err(|e| failed("write beside", &e))?;
    write(&mut file)?;
    file.sync_all().map_err(|e| failed("write", &e))?;
    // Windows renames no open file.
    drop(file);
    fs::rename(&temporary.path, path).map_err(|e| failed("replace", &e))?;
    temporary.renamed = true;
    sync_folder(folder).map_err(|e| failed("bring to the disk the folder of", &e))
}

fn create(folder: &Path, name: &str) -> std::io::Result<(File, Temporary)> {
    let process = std::process::id();
    let mut last = None;
    for attempt in 0..TEMPORARY_NAMES_MAX {
        let path = folder.join(format!(".{name}.{process}-{attempt}.tmp"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, Temporary { path, renamed: false })),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => last = Some(e),
            Err(e) => return Err(e),
        }
    }
    Err(last.unwrap_or_else(|| ErrorKind::AlreadyExists.into()))
}

/// The new name is on the disk when its folder is. Windows has no such call, and no need of it.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;
    use std::io::Write;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn old_or_new_and_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let write =
            |text: &'static str| move |f: &mut File| f.write_all(text.as_bytes()).map_err(|e| Error::io("", "", &e));
        replace(&path, write("first")).unwrap();
        replace(&path, write("second")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        let fails = replace(&path, |f| write("half")(f).and(Err(Error::format("no"))));
        assert_eq!(fails.unwrap_err().status, Status::Format);
        let panics = std::panic::catch_unwind(|| replace(&path, |_| panic!("in the middle")));
        assert!(panics.is_err());
        // Somebody else's temporary file is in nobody's way.
        fs::write(folder.path().join(format!(".state.{}-0.tmp", std::process::id())), "").unwrap();
        replace(&path, write("third")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "third");
        assert_eq!(names(folder.path()).len(), 2, "{:?}", names(folder.path()));
        let nowhere = replace(&folder.path().join("no/such"), write("")).unwrap_err();
        assert_eq!((nowhere.status, nowhere.os_code != 0), (Status::Io, true));
        assert_eq!(replace(folder.path(), write("")).unwrap_err().status, Status::Io, "a folder is not replaced");
        assert_eq!(replace(Path::new(".."), write("")).unwrap_err().status, Status::Argument);
        assert_eq!(names(folder.path()).len(), 2);
    }
}
