//! Rules that are refused, and what the errors say.

use super::*;
use crate::error::Status;

fn refused(vocabulary: &Vocabulary, rules: AnswerRules) -> (Status, String) {
    let error = compile_answer(&vocabulary.trie, rules).err().expect("refused");
    (error.status, error.message)
}

#[test]
fn tools_must_be_told_apart_and_be_there() {
    let vocabulary = Vocabulary::storyteller();
    let object = || json!({"type": "object"});
    let named = |name: &str| tool(name, object());
    for (tools, choice, text) in [
        (vec![named("a"), named("a")], ToolChoice::Auto, "two tools have the name \"a\""),
        (vec![named("")], ToolChoice::Auto, "the name of tool 0 has 0 bytes"),
        (vec![named(&"n".repeat(CALL_NAME_BYTES_MAX + 1))], ToolChoice::Auto, "the name of tool 0 has"),
        (vec![tool("a", json!([]))], ToolChoice::Auto, "the parameters of tool \"a\" are no object"),
        (Vec::new(), ToolChoice::Required, "a call is required, and there are no tools"),
        (vec![named("a")], ToolChoice::Named("b".to_owned()), "a call of \"b\" is required, and no tool has that name"),
        ((0..=TOOLS_MAX).map(|index| named(&format!("t{index}"))).collect(), ToolChoice::Auto, "at most"),
        (
            vec![tool("a", json!({"description": "d".repeat(TOOLS_BYTES_MAX)}))],
            ToolChoice::Auto,
            "bytes of names and schemas",
        ),
    ] {
        let (status, message) = refused(&vocabulary, rules("hermes", tools, choice));
        assert!(status == Status::Argument && message.contains(text), "{status:?} {message}: {text}");
    }
}

#[test]
fn a_schema_that_cannot_be_demanded_is_named_in_every_format() {
    for format in formats() {
        let template = template(&format);
        let vocabulary = Vocabulary::bytes(&template, Markers::Special);
        let fine = tool(
            "fine",
            json!({"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": false}),
        );
        for schema in [
            json!({"not": {"type": "string"}}),
            json!({"type": "array", "uniqueItems": true, "items": {"type": "integer"}}),
        ] {
            let parameters = json!({"type": "object", "properties": {"x": schema}, "required": ["x"], "additionalProperties": false});
            let tools = vec![fine.clone(), tool("worse", parameters)];
            let (status, message) = refused(&vocabulary, rules(&format, tools.clone(), ToolChoice::Required));
            assert!(status == Status::Unsupported && message.contains("\"worse\""), "{format}: {status:?} {message}");
            assert!(message.contains("not") || message.contains("uniqueItems"), "{format}: {message}");
            // The other one alone can be called.
            assert!(
                compile_answer(&vocabulary.trie, rules(&format, tools, ToolChoice::Named("fine".to_owned()))).is_ok(),
                "{format}"
            );
        }
    }
}

#[test]
fn formats_that_are_only_read_are_not_written() {
    let vocabulary = Vocabulary::storyteller();
    let tools = vec![tool("a", Value::Null)];
    let (status, message) = refused(&vocabulary, rules("think", tools.clone(), ToolChoice::Required));
    assert_eq!(status, Status::Unsupported);
    assert!(message.contains("think") && message.contains("not how they are written"), "{message}");
    assert!(compile_answer(&vocabulary.trie, rules("think", tools, ToolChoice::Auto)).is_err());
}

#[test]
fn a_prompt_that_ends_within_a_call_has_no_grammar() {
    let template = template("hermes");
    let vocabulary = Vocabulary::bytes(&template, Markers::Special);
    let grammar = made(&vocabulary, rules("hermes", vec![tool("a", Value::Null)], ToolChoice::Required));
    let error =
        grammar.starting("<|im_start|>assistant\n<tool_call>\n{\"name\": \"a\"").matcher().err().expect("refused");
    assert_eq!((error.status, error.subject.as_str()), (Status::Unsupported, "tools"), "{error}");
}
