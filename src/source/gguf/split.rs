//! Models that were split into several files: `name-00001-of-00003.gguf`.

use super::metadata::Metadata;
use crate::error::{Error, Result, Status, Unit};
use crate::limits;
use crate::source::files::quoted;
use std::path::{Path, PathBuf};

/// Name, number and count that the name of a part says; `None` when it is no such name.
fn part(path: &Path) -> Option<(String, usize, usize)> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| (text.len() == 5).then(|| text.parse().ok()).flatten();
    Some((name.to_owned(), digits(number)?, digits(count)?))
}

/// All files of the model that `path` belongs to, in order.
///
/// # Errors
/// `Io` naming the first one that is missing.
pub fn all(path: &Path) -> Result<Vec<PathBuf>> {
    let Some((name, _, count)) = part(path).filter(|&(_, number, count)| number >= 1 && number <= count) else {
        return Ok(vec![path.to_path_buf()]);
    };
    if count > limits::SHARDS_MAX {
        let (shown, most) = (path.to_string_lossy(), limits::SHARDS_MAX);
        let message = format!("{shown} is one of {count} files; at most {most} are read");
        return Err(Error::format(message).about(shown).numbers(Unit::Count, count as u64, most as u64));
    }
    let files: Vec<PathBuf> =
        (1..=count).map(|number| path.with_file_name(format!("{name}-{number:05}-of-{count:05}.gguf"))).collect();
    match files.iter().find(|file| !file.exists()) {
        None => Ok(files),
        Some(missing) => {
            let missing = missing.to_string_lossy();
            let message = format!("{missing} is not there, one of the {count} files of a model; download the rest");
            Err(Error::new(Status::Io, message).about(missing))
        }
    }
}

/// That the metadata speaks of as many files as there are.
pub fn check(metadata: Metadata, files: usize) -> Result<()> {
    let count = metadata.whole("split.count")?.unwrap_or(1).max(1);
    if count == files as u64 {
        return Ok(());
    }
    let message = format!(
        "{} says it is of {count} files, but goes by the name of {files}; the name of a part ends in -00001-of-{count:05}.gguf",
        metadata.file
    );
    Err(Error::format(message).about(metadata.file).numbers(Unit::Count, count, files as u64))
}

/// The GGUF file of a folder that holds one model, or the first of those it was split into; `None` when it holds none.
///
/// # Errors
/// `Argument` when there are several models.
pub fn in_folder(dir: &Path) -> Result<Option<PathBuf>> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().take(limits::FOLDER_NAMES_MAX);
    let mut models: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        // Beside a model there may be its projector of images.
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| !name.starts_with("mmproj")))
        .filter(|path| part(path).is_none_or(|(_, number, _)| number == 1))
        .collect();
    models.sort_unstable();
    match models.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => {
            let names: Vec<String> = several.iter().take(8).map(|path| quoted(&path.to_string_lossy())).collect();
            let shown = dir.to_string_lossy();
            let message =
                format!("{shown} holds {} GGUF models; name one of them: {}", several.len(), names.join(", "));
            Err(Error::argument(message).about(shown))
        }
    }
}
