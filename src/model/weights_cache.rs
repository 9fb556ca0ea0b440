//! Quantized matrices kept in a file, so that the next open maps them and makes none.
//!
//! A file belongs to the weights it was made of and to a [`Recipe`]. It has a name made of a sample of both, and in its
//! metadata a hash of all bytes of those weights. Since hashing reads them all, it also has their stamp: names, lengths
//! and times of their files. With the same stamp it is taken as it is; with another one (the model was copied, touched or
//! changed) the hash decides, and the new stamp is noted for the next time. What cannot be used is made anew, with a log
//! line. Its own bytes are trusted as those of a checkpoint are; any bytes at all are safe.
//!
//! The file that was looked at is the one that is mapped, even if another takes its name meanwhile.

use super::architecture::Architecture;
use super::recipe::Recipe;
use super::sizes::quantized_matrices;
use crate::dtype::DType;
use crate::encoding::{PANEL, VERSION};
use crate::error::{Error, Result, Status};
use crate::os::aligned::{ALIGNMENT, AlignedBytes};
use crate::source::{Bytes, ModelSource, TensorFile, TensorInfo, sample_hash};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A matrix that was made, and the name of what it was made of.
pub type Made = (String, Arc<AlignedBytes>);

/// Gives the hash of all weights of a model; the argument is asked now and then whether to go on.
pub type Contents<'a> = &'a dyn Fn(&mut dyn FnMut() -> bool) -> Result<u64>;

/// In place of a stamp that is not known: as long as one, and none.
const NO_STAMP: &str = "no-stamp-no-hash";

/// Where the quantized matrices of one model are kept.
pub struct WeightsCache<'a> {
    source: &'a dyn ModelSource,
    recipe: Recipe,
    path: PathBuf,
    /// What the file must hold, sorted by name.
    tensors: Vec<TensorInfo>,
}

/// What was found in a file.
#[derive(Debug)]
pub struct KeptMatrices(Vec<(TensorInfo, Bytes)>);

impl KeptMatrices {
    /// The matrix made of the tensor `name`.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        let at = self.0.binary_search_by(|(info, _)| info.name.as_str().cmp(name)).ok()?;
        Some(&self.0.get(at)?.1)
    }
}

impl<'a> WeightsCache<'a> {
    /// The place in `folder` for what `recipe` makes of `source`; it need not be there yet.
    ///
    /// # Errors
    /// As of [`sample_hash`], which reads a little of the weights.
    pub fn new(
        folder: &Path,
        architecture: &Architecture,
        source: &'a dyn ModelSource,
        recipe: Recipe,
    ) -> Result<WeightsCache<'a>> {
        let path = folder.join(format!("astrai-{recipe}-v{VERSION}-{:016x}.safetensors", sample_hash(source)?));
        let mut tensors = Vec::new();
        for (name, scheme, out_features, in_features) in quantized_matrices(architecture, source, recipe)? {
            let shape = vec![out_features.div_ceil(PANEL), scheme.panel_bytes(in_features)];
            tensors.push(TensorInfo { name, dtype: DType::U8, shape });
        }
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(WeightsCache { source, recipe, path, tensors })
    }

    /// What is kept of this model, mapped, or read with `no_mmap`. `contents` gives the hash of all its weights. `log` gets a
    /// line when there is a file that cannot be used.
    ///
    /// # Errors
    /// `Aborted`, by `go_on`; those of `contents`.
    pub fn find(
        &self,
        no_mmap: bool,
        contents: Contents,
        go_on: &mut dyn FnMut() -> bool,
        log: &mut dyn FnMut(String),
    ) -> Result<Option<KeptMatrices>> {
        let shown = self.path.to_string_lossy();
        let file = match TensorFile::find(&self.path) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            Err(e) => {
                log(format!("quantized weights are made anew: {e}"));
                return Ok(None);
            }
        };
        let mut unusable = |why: &str| {
            log(format!("{shown} {why}; quantized weights are made anew"));
            Ok(None)
        };
        let is = |key: &str, value: &str| file.metadata(key) == Some(value);
        if !is("recipe", &self.recipe.to_string()) || !is("version", &VERSION.to_string()) {
            return unusable("was made by another version of the library");
        }
        let mut held: Vec<&TensorInfo> = file.tensors().collect();
        held.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if !held.into_iter().eq(&self.tensors) {
            return unusable("does not hold the matrices of this model");
        }
        if self.source.stamp().is_none_or(|stamp| !is("stamp", &hex(stamp))) {
            if !is("contents", &hex(contents(go_on)?)) {
                return unusable("was made of other weights");
            }
            // Only to save the next open the hash: it may be somebody else's file, or on a disk that is read-only.
            if let Some(stamp) = self.source.stamp() {
                let _ = file.overwrite("stamp", &hex(stamp));
            }
        }
        let kept = match file.load(no_mmap, go_on) {
            Ok(kept) => kept,
            Err(e) if e.status == Status::Aborted => return Err(e),
            Err(e) => return unusable(&format!("cannot be read ({e})")),
        };
        if kept.iter().any(|(_, bytes)| !bytes.as_slice().as_ptr().addr().is_multiple_of(ALIGNMENT)) {
            return unusable("has matrices that are not aligned");
        }
        Ok(Some(KeptMatrices(kept)))
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps what was made, for the next time; says whether that went well. A failure costs only that, and is for the log.
    ///
    /// # Errors
    /// `Aborted`, by `go_on`; those of `contents`.
    pub fn store(
        &self,
        mut made: Vec<Made>,
        contents: Contents,
        go_on: &mut dyn FnMut() -> bool,
        log: &mut dyn FnMut(String),
    ) -> Result<bool> {
        made.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if !made.iter().map(|(name, _)| name).eq(self.tensors.iter().map(|info| &info.name)) {
            return Err(Error::internal("other matrices were made than the recipe says"));
        }
        let tensors: Vec<(TensorInfo, &[u8])> =
            self.tensors.iter().cloned().zip(made.iter().map(|(_, bytes)| bytes.as_slice())).collect();
        let (recipe, version) = (self.recipe.to_string(), VERSION.to_string());
        // Without a stamp the hash decides each time.
        let stamp = self.source.stamp().map_or_else(|| NO_STAMP.to_owned(), hex);
        let contents = hex(contents(go_on)?);
        let metadata = [("stamp", &*stamp), ("contents", &contents), ("recipe", &recipe), ("version", &version)];
        match TensorFile::write(&self.path, &metadata, &tensors, go_on) {
            Err(e) if e.status != Status::Aborted => {
                log(format!("quantized weights are not kept: {e}"));
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }
}

fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}
