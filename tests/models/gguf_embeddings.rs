//! Embedding models in GGUF files.

use crate::gguf::{headers, open, prompt, written};
use crate::support::embeddings;
use crate::support::gguf::Writer;
use crate::support::gguf_of_fixture::of_fixture;
use crate::support::models::copy;
use astrai::engine::*;
use astrai::source::ModelSource;

/// Embedding models as files: what they say of pooling, and the dense layers that are in them.
#[test]
fn embeddings_are_what_a_folder_makes() {
    let dir = tempfile::tempdir().unwrap();
    for name in embeddings::NAMES {
        let folder = embeddings::dir(name);
        let converted = of_fixture(&folder, false).unwrap();
        let published = dir.path().join(name);
        copy(&folder, &published);
        for inside in ["1_Pooling", "2_Dense", "3_Dense"].iter().filter(|inside| folder.join(inside).is_dir()) {
            copy(&folder.join(inside), &published.join(inside));
        }
        written(&published, "config.json", converted.config.to_string().as_bytes());
        let file = written(dir.path(), &format!("{name}.gguf"), &converted.writer.file());
        let (from_folder, from_file) = (open(&published, Type::F32), open(&file, Type::F32));
        for len in [1, 9, 50] {
            let of = |engine: &Engine| embeddings::embedding(&embeddings::submit(engine, &prompt(len, 128)));
            let (want, got) = (of(&from_folder), of(&from_file));
            assert_eq!(want.len(), got.len());
            for (want, got) in want.iter().zip(&got) {
                assert!((want - got).abs() < 1e-5, "{name}: {want} {got}");
            }
        }
        // Other kinds are refused by number when an embedding is wanted, and dense layers that do not follow.
        let key = format!("{}.pooling_type", converted.arch);
        let refused = |writer: Writer, words: &[&str]| {
            let gguf = headers(dir.path(), &writer.file()).unwrap();
            let error = gguf.embedding_modules().map(|_| ()).unwrap_err();
            assert!(words.iter().all(|word| error.message.contains(word)), "{error}");
        };
        let mut ranks = converted.writer.clone().without(&key);
        ranks.whole(&key, 4);
        refused(ranks, &[&key, "is 4"]);
        if name == "embeddinggemma" {
            refused(converted.writer.clone().without(&key), &["no pooling_type"]);
            refused(converted.writer.clone().with_shape("dense_3.weight", &[44, 28]), &["dense_3.weight", "[44, 28]"]);
            refused(converted.writer.clone().with_shape("dense_2.weight", &[1232]), &["dense_2.weight", "[1232]"]);
        } else {
            let none = headers(dir.path(), &converted.writer.clone().without(&key).file()).unwrap();
            assert_eq!(none.embedding_modules(), Ok(None));
        }
    }
}
