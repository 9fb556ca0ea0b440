//! The tensors of a checkpoint, over all of its files.

use super::TensorInfo;
use super::bytes::Bytes;
use super::shard::{Report, Shard, align};
use crate::error::{Error, Result, reserved};
use xxhash_rust::xxh3::xxh3_64;

/// All tensors, sorted by name; once loaded, `bytes[i]` belongs to `infos[i]`.
#[derive(Debug)]
pub(super) struct WeightFiles {
    /// The model, for messages.
    subject: String,
    /// They were not looked at, and who asks for them gets an error.
    text_only: bool,
    infos: Vec<TensorInfo>,
    bytes: Vec<Bytes>,
    /// The files, until they are loaded.
    shards: Vec<Shard>,
    stamp: Option<u64>,
}

impl WeightFiles {
    /// Those of a model that was opened for its text.
    pub fn text_only(subject: &str) -> WeightFiles {
        let subject = subject.to_owned();
        WeightFiles { subject, text_only: true, infos: Vec::new(), bytes: Vec::new(), shards: Vec::new(), stamp: None }
    }

    /// Those of files whose headers were read.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(subject: &str, shards: Vec<Shard>) -> Result<WeightFiles> {
        let stored = shards.iter().flat_map(|shard| &shard.tensors);
        let mut infos = reserved("the list of tensors", stored.clone().count())?;
        infos.extend(stored.map(|stored| stored.info.clone()));
        infos.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let stamps: Option<Vec<u64>> = shards.iter().map(Shard::stamp).collect();
        let stamp = stamps.map(|stamps| xxh3_64(format!("{stamps:x?}").as_bytes()));
        let subject = subject.to_owned();
        Ok(WeightFiles { subject, text_only: false, infos, bytes: Vec::new(), shards, stamp })
    }

    /// Names, types and shapes, by name in ascending order.
    ///
    /// # Errors
    /// `Argument` where only the text was opened; so below.
    pub fn infos(&self) -> Result<&[TensorInfo]> {
        if !self.text_only {
            return Ok(&self.infos);
        }
        let message = format!("{} was opened for text only; open it with weights to run the model", self.subject);
        Err(Error::argument(message).about(&self.subject))
    }

    /// See [`super::ModelSource::stamp`].
    pub fn stamp(&self) -> Option<u64> {
        self.stamp
    }

    /// Maps the files, or with `no_mmap` reads them; does nothing where only the text was opened.
    ///
    /// # Errors
    /// `Io`, `Memory`; `Aborted` by `progress`, which is called with bytes done and in all.
    pub fn load(&mut self, no_mmap: bool, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        if self.text_only {
            return Ok(());
        }
        let shards = std::mem::take(&mut self.shards);
        let total = shards.iter().fold(0, |sum: u64, shard| sum.saturating_add(shard.file_bytes));
        let mut report = Report { done: 0, total, progress, subject: &self.subject };
        report.add(0)?;
        let count = shards.iter().map(|shard| shard.tensors.len()).sum();
        let mut all = reserved("the tensors", count)?;
        for shard in shards {
            shard.load(no_mmap, &mut all, &mut report)?;
        }
        all.sort_unstable_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let (mut infos, mut bytes) = (reserved("the list of tensors", count)?, reserved("the tensors", count)?);
        for (info, of) in all {
            infos.push(info);
            bytes.push(of);
        }
        (self.infos, self.bytes) = (infos, bytes);
        Ok(())
    }

    /// One tensor with its bytes; `None` before they are loaded.
    ///
    /// # Errors
    /// `Memory`, for the copy of a tensor that lies misaligned.
    pub fn tensor(&self, name: &str) -> Result<Option<(TensorInfo, Bytes)>> {
        let Ok(at) = self.infos()?.binary_search_by(|info| info.name.as_str().cmp(name)) else { return Ok(None) };
        let (Some(info), Some(bytes)) = (self.infos.get(at), self.bytes.get(at)) else { return Ok(None) };
        Ok(Some((info.clone(), align(bytes, info, &self.subject)?)))
    }
}
