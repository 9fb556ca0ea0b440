//! What the tokenizer does to the process: it starts no thread.

use crate::support::own_process::alone;
use astrai::text::{TextStream, Tokenizer};
use std::sync::Arc;

const TOKENIZER: &str = r#"{"version": "1.0",
    "added_tokens": [{"id": 9, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true}],
    "padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "a"},
    "pre_tokenizer": {"type": "Whitespace"}, "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}"#;

#[cfg(target_os = "linux")]
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[cfg(not(target_os = "linux"))]
fn threads() -> usize {
    0
}

#[test]
fn no_call_starts_a_thread() {
    if !alone(no_call_starts_a_thread) {
        return;
    }
    let before = threads();
    let tokenizer = Arc::new(Tokenizer::from_json(TOKENIZER.as_bytes(), "tokenizer.json").unwrap());
    let text = "ab ba ab ".repeat(100_000);
    for (add_special, parse_special) in [(false, false), (false, true), (true, false), (true, true)] {
        let ids = tokenizer.encode(&text, add_special, parse_special).unwrap();
        assert_eq!(ids.len(), 400_000);
        assert_eq!(tokenizer.decode(&ids, false).unwrap().len(), 600_000);
        let mut stream = TextStream::new(tokenizer.clone(), true);
        let mut out = String::new();
        stream.push(2, &mut out).unwrap();
        stream.finish(&mut out).unwrap();
        assert_eq!(out, "ab");
    }
    assert_eq!(threads(), before);
}
