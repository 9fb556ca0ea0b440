//! Byte-level pre-tokenizers without state that outlives the library.
//!
//! The crate compiles the pattern of GPT-2's pre-tokenizer into a static the first time it is used. Nobody frees statics
//! when a shared library is unloaded, and that pattern's tables are large, so each loading of the library would leave them
//! behind. The same pattern as a step of its own belongs to its tokenizer and goes with it.

use serde_json::{Value, json};

/// GPT-2's, as in `encoder.py` of its authors and in the crate.
const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The same pre-tokenizer with the pattern in a step of its own, wherever that gives the same. One that first adds a space
/// stays as it is.
pub(super) fn own_pattern(mut pre_tokenizer: Value) -> Value {
    if let Some(steps) = pre_tokenizer.get_mut("pretokenizers").and_then(Value::as_array_mut) {
        steps.iter_mut().for_each(|step| *step = own_pattern(step.take()));
        return pre_tokenizer;
    }
    let flag = |name: &str| pre_tokenizer.get(name).and_then(Value::as_bool).unwrap_or(true);
    let byte_level = pre_tokenizer.get("type").and_then(Value::as_str) == Some("ByteLevel");
    if !byte_level || !flag("use_regex") || flag("add_prefix_space") {
        return pre_tokenizer;
    }
    pre_tokenizer["use_regex"] = false.into();
    let split = json!({"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false});
    json!({"type": "Sequence", "pretokenizers": [split, pre_tokenizer]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::PreTokenizerWrapper;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn pieces(pre_tokenizer: &Value, text: &str) -> Vec<(String, (usize, usize))> {
        let read: PreTokenizerWrapper = serde_json::from_value(pre_tokenizer.clone()).unwrap();
        let mut string = PreTokenizedString::from(text);
        read.pre_tokenize(&mut string).unwrap();
        let splits = string.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(piece, offsets, _)| (piece.to_owned(), offsets)).collect()
    }

    #[test]
    fn the_own_pattern_splits_as_the_crates() {
        let plain = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let own = own_pattern(plain.clone());
        assert_ne!(own, plain);
        let texts =
            ["", "It's  the 3rd\u{a0}lantern, isn't it?\n\n  Zoë said: 日本語🦀 ", "a\tb  \t c", "   ", "x=1;'ll"];
        for text in texts {
            assert_eq!(pieces(&own, text), pieces(&plain, text), "{text:?}");
        }
        let nested =
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, plain]});
        assert_eq!(pieces(&own_pattern(nested.clone()), texts[1]), pieces(&nested, texts[1]));
    }

    #[test]
    fn others_stay_as_they_are() {
        for other in [
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}),
            json!({"type": "Whitespace"}),
            json!(null),
            json!("ByteLevel"),
        ] {
            assert_eq!(own_pattern(other.clone()), other);
        }
    }
}
