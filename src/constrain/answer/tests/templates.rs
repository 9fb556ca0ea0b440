//! What templates say, and what is wrong with some.

use super::*;

fn with_fields(fields: &Value) -> Value {
    json!({"start_anchor": "<|a|>", "fields": fields})
}

#[test]
fn what_is_wrong_is_said_with_its_path() {
    let call = |extra: Value| {
        let mut field = json!({"open_pattern": "<c (?P<n>x)>", "close": "</c>", "content": "json"});
        field.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        with_fields(&json!({"tool_calls": field}))
    };
    for (template, path, what) in [
        (json!([]), "response_template", "object"),
        (json!({"version": 2}), "response_template.version", "not 1"),
        (json!({"fields": {}}), "response_template.fields", "1 to"),
        (json!({"field": {}}), "response_template.field", "not known"),
        (json!({"fields": {"content": {}}}), "response_template", "start_anchor"),
        (with_fields(&json!({"content": []})), "fields.content", "object"),
        (with_fields(&json!({"content": {"opens": "x"}})), "fields.content.opens", "not known"),
        (with_fields(&json!({"content": {"open": ""}})), "fields.content.open", "empty"),
        (with_fields(&json!({"content": {"open": ["a", 1]}})), "fields.content.open", "list of strings"),
        (with_fields(&json!({"content": {"open": "a", "open_pattern": "b"}})), "fields.content.open", "both"),
        (with_fields(&json!({"content": {"open_pattern": "("}})), "fields.content.open_pattern", "regular expression"),
        (with_fields(&json!({"content": {"open_pattern": "a(?=b)"}})), "fields.content.open_pattern", "look-around"),
        (
            with_fields(&json!({"content": {"close_pattern": "(a)\\1"}})),
            "fields.content.close_pattern",
            "back-references",
        ),
        (with_fields(&json!({"content": {}, "thinking": {}})), "fields", "more than one"),
        (with_fields(&json!({"content": {"content": "yaml"}})), "fields.content.content", "not known"),
        (with_fields(&json!({"content": {"join": "\n"}})), "fields.content.join", "repeats"),
        (with_fields(&json!({"content": {"repeats": 1}})), "fields.content.repeats", "true or false"),
        (with_fields(&json!({"tool_calls": {"content": "json"}})), "fields.tool_calls.open", "missing"),
        (call(json!({})), "fields.tool_calls.transform", "group \"n\""),
        (
            call(json!({"transform": {"function": {"name": "{m}", "arguments": "{content}"}}})),
            "transform.function.name",
            "{m}",
        ),
        (
            call(
                json!({"transform": {"function": {"name": "{n}", "arguments": "{content}"}}, "content": "xml-inline"}),
            ),
            "tag_pattern",
            "missing",
        ),
        (
            call(json!({"transform": {"function": {"name": "{n}", "arguments": "{content}"}}, "content": "xml-inline",
            "content_args": {"tag_pattern": "(?P<value>x)"}})),
            "content_args.tag_pattern",
            "\"key\"",
        ),
        (
            call(
                json!({"transform": {"function": {"name": "{content.n}", "arguments": "{content}"}}, "content": "kv-lines"}),
            ),
            "fields.tool_calls.transform",
            "name from a group",
        ),
        (
            call(
                json!({"transform": {"function": {"name": "{n}", "arguments": "{content}"}}, "content_args": {"string_delims": [["a"]]}}),
            ),
            "content_args.string_delims",
            "pairs",
        ),
    ] {
        let message = ResponseTemplate::parse(&template).expect_err(&template.to_string()).to_string();
        assert!(message.contains(path) && message.contains(what), "{template}: {message}");
    }
}

#[test]
fn the_answer_begins_after_the_last_anchor() {
    let literal = ResponseTemplate::parse(&json!({"start_anchor": ["<a>", "<b>"], "fields": {"content": {}}})).unwrap();
    assert_eq!(literal.tail("x<a>y<b>z<a>w"), "w");
    assert_eq!(literal.tail("<b>"), "");
    assert_eq!(literal.tail("none"), "none");
    let pattern =
        ResponseTemplate::parse(&json!({"start_anchor_pattern": "<a>\\s*", "fields": {"content": {}}})).unwrap();
    assert_eq!(pattern.tail("<a> x <a>\n y"), "y");
}

#[test]
fn delimiters_are_there_for_grammars() {
    let hermes = ResponseTemplate::by_name("hermes").unwrap();
    assert_eq!(hermes.name(), Some("hermes"));
    let reasoning = hermes.reasoning().unwrap();
    assert_eq!((reasoning.open, reasoning.close), (vec!["<think>".to_owned()], vec!["</think>".to_owned()]));
    assert_eq!(hermes.calls().unwrap().close, ["</tool_call>"]);
    assert!(ResponseTemplate::by_name("think").unwrap().call_syntax().is_none());
    for name in ResponseTemplate::names().into_iter().filter(|name| name != "think") {
        let template = ResponseTemplate::by_name(&name).unwrap();
        let syntax = template.call_syntax().unwrap_or_else(|| panic!("{name} has no syntax"));
        assert!(syntax.call.contains("{name}") && syntax.call.contains("{arguments}"), "{name}");
    }
}

#[test]
fn templates_are_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&ResponseTemplate::by_name("hermes").unwrap());
}
