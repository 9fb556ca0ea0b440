//! A tokenizer.json read, and what its tokens are.

use super::super::fixtures;
use super::*;

fn open(json: &str) -> Tokenizer {
    Tokenizer::from_json(json.as_bytes(), "tokenizer.json").unwrap()
}

fn refused(json: &str) -> Error {
    let error = Tokenizer::from_json(json.as_bytes(), "some/tokenizer.json").expect_err(json);
    assert_eq!(error.status, Status::Format, "{error}");
    assert_eq!(error.subject, "some/tokenizer.json");
    assert!(error.message.starts_with("some/tokenizer.json "), "{error}");
    error
}

#[test]
fn encodes_and_decodes_as_the_crate() {
    for (kind, json) in fixtures::all() {
        let ours = open(&json);
        let theirs = tokenizers::Tokenizer::from_bytes(&json).unwrap();
        for text in ["the tea", "", " the  the", "t\nh", "<|end|>the<s>the</s>", "é語🦀", "<think>the</think>"] {
            for add in [false, true] {
                let Ok(expected) = theirs.encode_fast(text, add) else { continue };
                assert_eq!(ours.encode(text, add, true).unwrap(), expected.get_ids(), "{kind}: {text:?}");
            }
        }
    }
}

#[test]
fn ordinary_text_makes_no_special_token() {
    for (kind, json) in fixtures::all() {
        let tokenizer = open(&json);
        for name in ["<|end|>", "<s>", "</s>"] {
            let text = format!("the {name} the{name}{name}");
            let plain = tokenizer.encode(&text, false, false).unwrap();
            let unknown = tokenizer.id("<unk>");
            assert!(plain.iter().all(|&id| !tokenizer.is_special(id) || Some(id) == unknown), "{kind}: {plain:?}");
            if fixtures::byte_kinds().iter().any(|(of, _)| *of == kind) {
                assert_eq!(tokenizer.decode(&plain, true).unwrap().trim_start(), text, "{kind}");
            }
            if let Some(id) = tokenizer.id(name) {
                let parsed = tokenizer.encode(&text, false, true).unwrap();
                assert_eq!(parsed.iter().filter(|&&other| other == id).count(), 3, "{kind}");
            }
        }
    }
}

#[test]
fn a_special_name_in_a_unigram_vocabulary_is_taken_apart() {
    let tokenizer = open(&fixtures::unigram());
    let end = tokenizer.id("</s>").unwrap();
    assert!(tokenizer.encode("the</s>", false, true).unwrap().contains(&end));
    let plain = tokenizer.encode("the</s>", false, false).unwrap();
    assert!(!plain.contains(&end), "{plain:?}");
    assert_eq!(tokenizer.decode(&plain, false).unwrap(), "the</s>");
    // The crate's own switch is not enough: this is what the fence is for.
    let mut theirs = tokenizers::Tokenizer::from_bytes(fixtures::unigram()).unwrap();
    theirs.set_encode_special_tokens(true);
    assert!(theirs.encode_fast("the</s>", false).unwrap().get_ids().contains(&end));
}

#[test]
fn the_post_processor_adds_its_tokens_in_both_ways() {
    let tokenizer = open(&fixtures::byte_level());
    let bos = tokenizer.id("<|bos|>").unwrap();
    for parse in [false, true] {
        assert_eq!(tokenizer.encode("t", true, parse).unwrap(), [bos, tokenizer.id("t").unwrap()]);
        assert_eq!(tokenizer.encode("t", false, parse).unwrap(), [tokenizer.id("t").unwrap()]);
    }
}

#[test]
fn names_and_flags_of_ids() {
    let tokenizer = open(&fixtures::byte_level());
    let end = tokenizer.id("<|end|>").unwrap();
    let think = tokenizer.id("<think>").unwrap();
    assert_eq!(tokenizer.token(end).as_deref(), Some("<|end|>"));
    assert!(tokenizer.is_special(end) && !tokenizer.is_special(think));
    assert!(tokenizer.is_named(end) && tokenizer.is_named(think));
    let beyond = u32::try_from(tokenizer.vocab_size()).unwrap();
    for id in [beyond, u32::MAX, fixtures::HOLE] {
        assert!(!tokenizer.is_named(id) && !tokenizer.is_special(id), "{id}");
        assert_eq!(tokenizer.token(id), None, "{id}");
    }
    assert!(tokenizer.is_named(beyond - 1));
    assert_eq!(tokenizer.id("no such token"), None);
}

#[test]
fn truncation_padding_and_dropout_of_the_file_do_nothing() {
    let plain = open(&fixtures::byte_level());
    let mut file: Value = serde_json::from_str(&fixtures::byte_level()).unwrap();
    file["truncation"] = serde_json::json!(
        {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = serde_json::json!({"strategy": {"Fixed": 64}, "direction": "Right",
        "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    file["model"]["dropout"] = serde_json::json!(1.0);
    let altered = open(&file.to_string());
    let text = "the tea of the the";
    assert_eq!(altered.encode(text, true, true).unwrap(), plain.encode(text, true, true).unwrap());
}

#[test]
fn old_merges_are_read() {
    let mut file: Value = serde_json::from_str(&fixtures::byte_level()).unwrap();
    let lines: Vec<Value> = file["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap()).into())
        .collect();
    file["model"]["merges"] = [vec![Value::from("#version: 0.2")], lines].concat().into();
    file["model"].as_object_mut().unwrap().remove("type");
    let (old, new) = (open(&file.to_string()), open(&fixtures::byte_level()));
    assert_eq!(old.encode(" the tea", false, true).unwrap(), new.encode(" the tea", false, true).unwrap());
}

#[test]
fn what_is_no_tokenizer_is_refused_by_name() {
    assert!(refused("").message.contains("not JSON"));
    assert!(refused("{\"model\": ").message.contains("not JSON"));
    refused(&"[".repeat(100_000));
    assert!(refused("[1, 2]").message.contains("expected an object"));
    assert!(refused("{}").message.contains("no `model`"));
    assert!(refused("{\"version\": \"2.0\", \"model\": {}}").message.contains("2.0"));
    refused("{\"model\": null}");
    refused("{\"model\": {\"type\": \"Magic\"}}");
    assert!(refused(r#"{"model": {"type": "BPE", "vocab": {}, "merges": []}}"#).message.contains("empty"));
    refused(r#"{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}"#);
    let huge = refused(r#"{"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}"#);
    assert_eq!((huge.unit, huge.needed), (Unit::Tokens, 1 << 32));
}

#[test]
fn contradictions_are_refused() {
    let model = |more: &str| format!(r#"{{"model": {{"type": "BPE", "vocab": {{"a": 0, "b": 1, "é": 2}}, {more}}}}}"#);
    assert!(refused(&model(r#""merges": [["a", "b"]]"#)).message.contains("\"ab\""));
    assert!(refused(&model(r#""merges": [["a", "x"]]"#)).message.contains("\"x\""));
    refused(&model(r#""merges": ["a b c"]"#));
    refused(&model(r#""merges": [["a", "é"]], "continuing_subword_prefix": "x""#));
    refused(r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [{"id": 1}]}"#);
    refused(r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "decoder": {"type": "None"}}"#);
    let fuse = r#"{"type": "ByteFallback"},"#.repeat(100);
    let decoder = format!(r#"{{"type": "Sequence", "decoders": [{}]}}"#, fuse.trim_end_matches(','));
    let long = format!(r#"{{"model": {{"type": "BPE", "vocab": {{"a": 0}}, "merges": []}}, "decoder": {decoder}}}"#);
    assert!(refused(&long).message.contains("more than 64 steps"));
}

#[test]
fn a_text_beyond_the_limit_carries_both_lengths() {
    let tokenizer = open(&fixtures::byte_level());
    let error = tokenizer.encode(&"a".repeat(PROMPT_BYTES_MAX + 1), false, false).unwrap_err();
    assert_eq!((error.status, error.unit), (Status::Argument, Unit::Bytes));
    assert_eq!((error.needed, error.available), (PROMPT_BYTES_MAX as u64 + 1, PROMPT_BYTES_MAX as u64));
}
