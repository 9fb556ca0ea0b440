//! DeepSeek's matrix that makes keys and values of a latent, in GGUF files that have it in two stacks.

use crate::gguf::{headers, written};
use crate::support::gguf::Writer;
use crate::support::gguf_of_fixture::of_fixture;
use crate::support::models::fixture;
use astrai::model::Recipe;
use astrai::model::families::describe;
use astrai::model::sizes::{WeightBytes, sizes};
use astrai::source::{Gguf, Loadable, ModelSource};

/// Two layers, of each four heads of 18 rows of 14 elements in bf16.
const MADE: u64 = 2 * 4 * 18 * 14 * 2;

fn file(whole: bool) -> Writer {
    of_fixture(&fixture("deepseek_v3"), whole).unwrap().writer
}

#[test]
fn what_is_made_counts_as_memory() {
    let dir = tempfile::tempdir().unwrap();
    let of = |whole: bool| -> WeightBytes {
        let gguf = headers(dir.path(), &file(whole).file()).unwrap();
        let (_, _, architecture) = describe(&gguf, 0).unwrap();
        sizes(&architecture, &gguf, Recipe::Stored).unwrap()
    };
    let (split, whole) = (of(false), of(true));
    assert_eq!((split.quantized, split.made_from, whole.quantized), (MADE, MADE, 0));
    assert_eq!((split.used(), split.read()), (whole.used(), whole.read()));
}

/// However a model is split into files, and whether they are mapped or read.
#[test]
fn stacks_may_lie_in_different_files() {
    let dir = tempfile::tempdir().unwrap();
    let name = "model.layers.1.self_attn.kv_b_proj.weight";
    let load = |mut gguf: Gguf, no_mmap: bool| {
        gguf.load(no_mmap, &mut |_, _| true).unwrap();
        let (info, bytes) = gguf.tensor(name).unwrap().unwrap();
        (info, bytes.as_slice().to_vec())
    };
    let want = load(headers(dir.path(), &file(true).file()).unwrap(), false);
    let writer = file(false);
    for cut in 1..writer.tensors() {
        for (part, range) in [0..cut, cut..writer.tensors()].into_iter().enumerate() {
            written(dir.path(), &format!("model-0000{}-of-00002.gguf", part + 1), &writer.part(range, 2));
        }
        let gguf = Gguf::headers(&dir.path().join("model-00001-of-00002.gguf"), false).unwrap();
        assert!(gguf.tensor(name).unwrap().is_none(), "it is not loaded yet");
        assert!(gguf.tensors().unwrap().iter().all(|info| !info.name.ends_with("_b.weight")));
        assert_eq!(load(gguf, cut % 2 == 0), want, "{cut}");
    }
}
