//! Special tokens beside the same texts in letters.

use super::*;

fn hermes() -> AnswerParser {
    AnswerParser::new(Some(Arc::new(ResponseTemplate::by_name("hermes").unwrap())), "", Arc::default())
}

fn strict() -> AnswerParser {
    hermes().with_special_texts(["<tool_call>", "</tool_call>", "<think>"].map(str::to_owned).into())
}

fn pieces(list: &[(&str, bool)]) -> Vec<Piece> {
    list.iter().map(|(text, special)| ((*text).to_owned(), *special)).collect()
}

fn kinds(parts: &[Part]) -> Vec<(PartKind, &str, PartEnd)> {
    parts.iter().map(|part| (part.kind, part.text.as_str(), part.end)).collect()
}

#[test]
fn a_marker_in_letters_within_a_string_is_text() {
    let text = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"</tool_call><tool_call>\"}}</tool_call>";
    let parts = parse(hermes(), &pieces(&[(text, false)]));
    assert_eq!(kinds(&parts), [(PartKind::Call, "{\"a\": \"</tool_call><tool_call>\"}", PartEnd::Complete)]);
}

#[test]
fn a_special_token_within_a_string_ends_the_call() {
    let open = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x";
    let parts = parse(hermes(), &pieces(&[(open, false), ("</tool_call>", true), ("after", false)]));
    assert_eq!(
        kinds(&parts),
        [(PartKind::Call, "{\"a\": \"x", PartEnd::Malformed), (PartKind::Content, "after", PartEnd::Complete)]
    );
    // Another special token is text there.
    let parts = parse(hermes(), &pieces(&[(open, false), ("<think>", true), ("\"}}", false), ("</tool_call>", true)]));
    assert_eq!(kinds(&parts), [(PartKind::Call, "{\"a\": \"x<think>\"}", PartEnd::Complete)]);
}

#[test]
fn a_marker_in_letters_is_content_where_special_tokens_are_known() {
    let text = "Write <tool_call>{\"name\": \"f\"}</tool_call>, or <think>.";
    let parts = parse(strict(), &pieces(&[(text, false)]));
    assert_eq!(kinds(&parts), [(PartKind::Content, text, PartEnd::Complete)]);
    let call = pieces(&[("So: ", false), ("<tool_call>", true), ("{\"name\": \"f\"}", false), ("</tool_call>", true)]);
    assert_eq!(
        kinds(&parse(strict(), &call)),
        [(PartKind::Content, "So:", PartEnd::Complete), (PartKind::Call, "{}", PartEnd::Complete)]
    );
}

#[test]
fn a_special_token_within_a_string_of_python_ends_the_call() {
    let lfm2 = || AnswerParser::new(Some(Arc::new(ResponseTemplate::by_name("lfm2").unwrap())), "", Arc::default());
    let open = "<|tool_call_start|>[f(a='x";
    let parts = parse(lfm2(), &pieces(&[(open, false), ("<|tool_call_end|>", true), ("after", false)]));
    assert_eq!(
        kinds(&parts),
        [(PartKind::Content, "<|tool_call_start|>[f(a='x<|tool_call_end|>after", PartEnd::Complete)]
    );
    let letters =
        parse(lfm2(), &pieces(&[(open, false), ("<|tool_call_end|>", false), ("')]<|tool_call_end|>", false)]));
    assert_eq!(kinds(&letters), [(PartKind::Call, "{\"a\": \"x<|tool_call_end|>\"}", PartEnd::Complete)]);
}
