//! The hash of the weights: it covers every byte and is computed once.

use super::*;
use crate::dtype::DType;
use crate::source::{Bytes, SpecialTokens, TensorInfo};
use std::sync::atomic::{AtomicUsize, Ordering};

impl Identity {
    /// An identity without a source; its weights hash is that of the description.
    pub fn by_hand(known: Description, layout: PrefixLayout) -> Identity {
        let hash = u64::from_str_radix(&known.weights_hash, 16).unwrap();
        let source: Weak<dyn ModelSource> = Weak::<Tensors>::new();
        Identity { layout, known, weights: Weights { source, hash: Mutex::new(Some(hash)) } }
    }
}

/// A source that has tensors only, and counts how often they are read.
struct Tensors {
    infos: Vec<TensorInfo>,
    contents: Vec<Vec<u8>>,
    reads: AtomicUsize,
}

fn tensors(list: &[(&str, &[usize], &[u8])]) -> Arc<Tensors> {
    let info = |name: &str, shape: &[usize]| TensorInfo { name: name.into(), dtype: DType::Bf16, shape: shape.into() };
    Arc::new(Tensors {
        infos: list.iter().map(|(name, shape, _)| info(name, shape)).collect(),
        contents: list.iter().map(|(_, _, bytes)| bytes.to_vec()).collect(),
        reads: AtomicUsize::new(0),
    })
}

impl ModelSource for Tensors {
    fn subject(&self) -> &str {
        "the test"
    }

    fn config(&self) -> Result<&serde_json::Value> {
        Err(closed())
    }

    fn generation_config(&self) -> Result<Option<&serde_json::Value>> {
        Ok(None)
    }

    fn tokenizer_json(&self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    fn special_tokens(&self) -> Result<SpecialTokens> {
        Ok(SpecialTokens::default())
    }

    fn chat_template(&self) -> Result<Option<String>> {
        Ok(None)
    }

    fn tensors(&self) -> Result<&[TensorInfo]> {
        Ok(&self.infos)
    }

    fn tensor(&self, name: &str) -> Result<Option<(TensorInfo, Bytes)>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let found = self.infos.iter().zip(&self.contents).find(|(info, _)| info.name == name);
        Ok(found.map(|(info, bytes)| (info.clone(), Bytes::from_vec(bytes.clone()))))
    }
}

fn weights(source: &Arc<Tensors>) -> Weights {
    let source: Arc<dyn ModelSource> = source.clone();
    Weights { source: Arc::downgrade(&source), hash: Mutex::new(None) }
}

fn hash_of(list: &[(&str, &[usize], &[u8])]) -> u64 {
    weights(&tensors(list)).hash(&mut || true).unwrap()
}

#[test]
fn every_byte_of_every_tensor_counts() {
    let contents: Vec<u8> = (0..50_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let of = |a: &[u8], b: &[u8]| hash_of(&[("a", &[a.len() / 2], a), ("b", &[b.len() / 2], b)]);
    let whole = of(&contents, &contents);
    assert_eq!(whole, of(&contents, &contents));
    for at in (0..contents.len()).step_by(997).chain([contents.len() - 1]) {
        let mut changed = contents.clone();
        changed[at] ^= 1;
        assert_ne!(whole, of(&changed, &contents), "byte {at} of the first tensor");
        assert_ne!(whole, of(&contents, &changed), "byte {at} of the last tensor");
    }
}

#[test]
fn names_types_and_shapes_count() {
    let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
    let all = [
        hash_of(&[("a", &[4], &bytes)]),
        hash_of(&[("b", &[4], &bytes)]),
        hash_of(&[("a", &[2, 2], &bytes)]),
        hash_of(&[("a", &[1, 4], &bytes)]),
        hash_of(&[("a", &[2], &bytes[..4]), ("b", &[2], &bytes[4..])]),
        hash_of(&[("a", &[3], &bytes[..6]), ("b", &[1], &bytes[6..])]),
        hash_of(&[]),
    ];
    let distinct: std::collections::BTreeSet<u64> = all.iter().copied().collect();
    assert_eq!(distinct.len(), all.len(), "{all:x?}");
}

#[test]
fn callers_at_the_same_time_read_the_weights_once() {
    let source = tensors(&[("a", &[2], &[1, 2, 3, 4]), ("b", &[1], &[5, 6])]);
    let weights = weights(&source);
    assert_eq!(source.reads.load(Ordering::SeqCst), 0);
    let hashes: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| weights.hash(&mut || true).unwrap())).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(hashes.iter().all(|&hash| hash == hashes[0]));
    assert_eq!(source.reads.load(Ordering::SeqCst), 2, "each tensor once");
    drop(source);
    assert_eq!(weights.hash(&mut || true).unwrap(), hashes[0], "it is kept when the weights are gone");
}

#[test]
fn what_cannot_be_read_is_an_error_that_names_it_and_is_not_kept() {
    let mut source = tensors(&[("model.embed", &[1], &[1, 2])]);
    Arc::get_mut(&mut source).unwrap().contents.clear();
    let error = contents_hash(&*source, &mut || true).unwrap_err();
    assert!(error.status == Status::Internal && error.message.contains("model.embed"), "{error}");
    let weights = weights(&source);
    weights.hash(&mut || true).unwrap_err();
    drop(source);
    assert_eq!(weights.hash(&mut || true).unwrap_err().status, Status::Closed);
}
