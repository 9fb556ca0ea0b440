//! Small tokenizers for the tests of this room, one for each kind of decoder.

use serde_json::{Value, json};

use super::Tokenizer;

/// Seeded numbers: splitmix64.
pub(crate) struct Random(pub u64);

impl Random {
    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

/// An id that the byte-level vocabulary leaves out.
pub(crate) const HOLE: u32 = 300;

/// The character of a byte in the byte-level alphabet.
pub(crate) fn letter(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count();
    char::from_u32(0x100 + before as u32).unwrap()
}

/// The token of one byte.
pub(crate) fn byte_id(tokenizer: &Tokenizer, byte: u8) -> Option<u32> {
    tokenizer.id(&format!("<0x{byte:02X}>")).or_else(|| tokenizer.id(&letter(byte).to_string()))
}

fn added(id: u32, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special})
}

/// GPT-2's kind.
pub(crate) fn byte_level() -> String {
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255u8 {
        vocab.insert(letter(byte).to_string(), byte.into());
    }
    let merges = [["Ġ", "t"], ["h", "e"], ["Ġt", "he"], ["Ã", "©"], ["e", "a"]];
    for (at, [left, right]) in merges.iter().enumerate() {
        vocab.insert(format!("{left}{right}"), (256 + at).into());
    }
    vocab.insert("Ġfar".into(), (HOLE + 1).into());
    vocab.insert("<|bos|>".into(), (HOLE + 2).into());
    json!({
        "version": "1.0",
        "added_tokens": [added(HOLE + 2, "<|bos|>", true), added(HOLE + 3, "<|end|>", true),
            added(HOLE + 4, "<think>", false), added(HOLE + 5, "a b é", false)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [HOLE + 2], "tokens": ["<|bos|>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    })
    .to_string()
}

/// The pieces of a sentencepiece vocabulary: specials, bytes, words.
fn pieces() -> Vec<String> {
    let specials = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let bytes = (0..=255u8).map(|b| format!("<0x{b:02X}>"));
    let words = ["▁", "t", "h", "e", "a", "<", ">", "s", "/", "he", "▁t", "▁the", "▁▁", "▁▁▁", "é", "|", "n", "d"];
    specials.into_iter().chain(bytes).chain(words.map(str::to_owned)).collect()
}

fn sentencepiece_specials() -> Value {
    json!([added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)])
}

/// Llama 2's kind.
pub(crate) fn llama() -> String {
    let vocab: serde_json::Map<_, _> = pieces().into_iter().enumerate().map(|(id, name)| (name, id.into())).collect();
    json!({
        "version": "1.0",
        "added_tokens": sentencepiece_specials(),
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": [["h", "e"], ["▁", "t"], ["▁t", "he"], ["▁", "▁"]],
            "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true},
    })
    .to_string()
}

/// T5's kind.
pub(crate) fn unigram() -> String {
    let score = |name: &str| if name.starts_with('<') && name.len() > 1 { 0.0 } else { -1.0 - 1.0 / name.len() as f64 };
    let vocab: Vec<Value> = pieces().iter().map(|name| json!([name, score(name)])).collect();
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    json!({
        "version": "1.0",
        "added_tokens": sentencepiece_specials(),
        "pre_tokenizer": metaspace, "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false},
    })
    .to_string()
}

/// The llama vocabulary with another decoder.
fn llama_with(decoder: Value) -> String {
    let mut file: Value = serde_json::from_str(&llama()).unwrap();
    file["decoder"] = decoder;
    file.to_string()
}

/// Tokenizers whose text comes as it becomes certain.
pub(crate) fn streaming() -> Vec<(&'static str, String)> {
    let words = json!({"version": "1.0", "added_tokens": sentencepiece_specials(),
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "the": 3, "tea": 4},
            "unk_token": "<unk>"}});
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    vec![
        ("byte-level", byte_level()),
        ("llama", llama()),
        ("unigram", unigram()),
        ("wordlevel", words.to_string()),
        (
            "gemma",
            llama_with(json!({"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]})),
        ),
        ("wordpiece", llama_with(json!({"type": "WordPiece", "prefix": "▁", "cleanup": true}))),
        (
            "never",
            llama_with(json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true})),
        ),
        (
            "fused",
            llama_with(json!({"type": "Sequence", "decoders": [{"type": "Fuse"},
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}]})),
        ),
    ]
}

/// Those that can spell every text by its bytes.
pub(crate) fn byte_kinds() -> Vec<(&'static str, String)> {
    streaming().into_iter().filter(|(kind, _)| ["byte-level", "llama", "gemma"].contains(kind)).collect()
}

/// All of them, with those whose decoder needs the whole answer.
pub(crate) fn all() -> Vec<(&'static str, String)> {
    let mut all = streaming();
    all.push(("suffix", llama_with(json!({"type": "BPEDecoder", "suffix": "e"}))));
    all.push((
        "late",
        llama_with(json!({"type": "Sequence", "decoders": [{"type": "Fuse"},
        {"type": "Replace", "pattern": {"Regex": "▁+"}, "content": " "},
        {"type": "Strip", "content": " ", "start": 2, "stop": 0}]})),
    ));
    all
}
