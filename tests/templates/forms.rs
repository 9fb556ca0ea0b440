//! What clients send, in the form the template wants.

use astrai::Status;
use astrai::text::{ChatTemplate, TemplateInput};
use serde_json::{Map, Value, json};

/// A template that has found out what it wants.
fn learned(source: &str) -> ChatTemplate {
    let mut template = ChatTemplate::new(source, "t").unwrap();
    template.learn(&Map::new());
    template
}

fn rendered(template: &ChatTemplate, messages: &Value, exact: bool) -> String {
    let (messages, variables) = (messages.as_array().unwrap(), Map::new());
    let input = TemplateInput { exact, add_generation_prompt: false, ..TemplateInput::new(messages, &variables) };
    template.render(&input).map_or_else(|e| e.message, |marked| marked.text)
}

fn call(arguments: Value) -> Value {
    json!([{"role": "assistant", "content": null, "tool_calls": [
        {"id": "call00001", "type": "function", "function": {"name": "tide", "arguments": arguments}}]}])
}

const ITEMS: &str = "{% for m in messages %}{{ m.content or '' }}{% for c in m.tool_calls %}\
    {% for k, v in c.function.arguments | items %}{{ k }}={{ v }};{% endfor %}{% endfor %}{% endfor %}";
const TOJSON: &str = "{% for m in messages %}{{ m.content or '' }}{% for c in m.tool_calls %}\
    {{ c.function.arguments | tojson }}{% endfor %}{% endfor %}";
const CAREFUL: &str = "{% for m in messages %}{{ m.content or '' }}{% for c in m.tool_calls %}\
    {% set a = c.function.arguments %}{{ a if a is string else a | tojson }}{% endfor %}{% endfor %}";
const CONCATENATED: &str = "{% for m in messages %}{{ m.content or '' }}{% for c in m.tool_calls %}\
    {{ '```' + c.function.arguments + '```' }}{% endfor %}{% endfor %}";

#[test]
fn arguments_given_as_text_become_objects() {
    let object = json!({"port": "Bergen", "hours": 6, "deep": {"x": [1, 2.5, null, true]}});
    let text = json!("{\"port\": \"Bergen\", \"hours\": 6, \"deep\": {\"x\": [1, 2.5, null, true]}}");
    for source in [ITEMS, TOJSON, CAREFUL] {
        let template = learned(source);
        let want = rendered(&template, &call(object.clone()), true);
        assert_eq!(rendered(&template, &call(text.clone()), false), want, "{source}");
        assert_eq!(rendered(&template, &call(object.clone()), false), want, "{source}");
    }
    assert_eq!(rendered(&learned(TOJSON), &call(text.clone()), true), serde_json::to_string(&text).unwrap());
    // A template that can only do with text gets text.
    let concatenated = learned(CONCATENATED);
    assert_eq!(rendered(&concatenated, &call(json!("{\"a\": 1}")), false), "```{\"a\": 1}```");
}

#[test]
fn what_is_no_object_stays_as_it_is() {
    let template = learned(TOJSON);
    for (given, want) in [
        ("", "{}"),
        ("  ", "{}"),
        ("not json", "\"not json\""),
        ("{\"a\": 1", "\"{\\\"a\\\": 1\""),
        ("{\"a\": 1} x", "\"{\\\"a\\\": 1} x\""),
        ("[1]", "\"[1]\""),
        ("5", "\"5\""),
        ("{}", "{}"),
        (" {\"a\": 1, \"b\": 2, \"a\": 3} ", "{\"a\": 3, \"b\": 2}"),
        ("{\"wei\": 250000000000000000000}", "{\"wei\": 250000000000000000000}"),
        ("{\"é\": \"\\u00e9\\n\"}", "{\"é\": \"é\\n\"}"),
    ] {
        assert_eq!(rendered(&template, &call(json!(given)), false), want, "{given}");
    }
    let deep = format!("{{\"a\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(rendered(&template, &call(json!(deep)), false).starts_with("\"{"));
}

#[test]
fn other_places_of_arguments() {
    let source =
        "{% for m in messages %}{{ m.function_call.arguments.a }}{{ m.tool_calls[0].arguments.a }}{% endfor %}";
    let messages = json!([
        {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{\"a\": 1}"}, "tool_calls": [{"name": "f", "arguments": "{\"a\": 2}"}]},
    ]);
    assert_eq!(rendered(&learned(source), &messages, false), "12");
}

const TEXTS: &str = "{% for m in messages %}{{ '[' + m.content + ']' }}{% endfor %}";
const PRINTS: &str = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
const PARTS: &str = "{% for m in messages %}[{% for p in m.content %}{{ p.text }}{% endfor %}]{% endfor %}";
const BOTH: &str = "{% for m in messages %}[{% if m.content is string %}{{ m.content }}{% else %}\
    {% for p in m.content %}{{ p.text }}|{% endfor %}{% endif %}]{% endfor %}";
const BY_ROLE: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ '(' + m.content + ')' }}{% else %}\
    [{% for p in m.content %}{{ p.text }}|{% endfor %}]{% endif %}{% endfor %}";

#[test]
fn content_takes_the_form_the_template_wants() {
    let text = json!([{"role": "user", "content": "a"}]);
    let parts =
        json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]}]);
    for (source, from_text, from_parts) in
        [(TEXTS, "[a]", "[a\nb]"), (PRINTS, "[a]", "[a\nb]"), (PARTS, "[a]", "[ab]"), (BOTH, "[a]", "[a|b|]")]
    {
        let template = learned(source);
        assert_eq!(rendered(&template, &text, false), from_text, "{source}");
        assert_eq!(rendered(&template, &parts, false), from_parts, "{source}");
    }
    let two = json!([{"role": "system", "content": [{"type": "text", "text": "s"}]}, {"role": "user", "content": "u"}]);
    assert_eq!(rendered(&learned(BY_ROLE), &two, false), "(s)[u|]");
    // Exactly as given, a list is printed as Python prints it.
    assert!(rendered(&learned(PRINTS), &parts, true).starts_with("[[{'type': 'text'"));
    // Nothing is nothing, and what a tool returns is not taken for parts.
    let other = json!([{"role": "user", "content": null}, {"role": "tool", "content": [{"output": 1}]}]);
    assert_eq!(rendered(&learned(PRINTS), &other, false), "[None][[{'output': 1}]]");
}

#[test]
fn what_is_no_text_is_refused_by_name_and_place() {
    for (part, what) in [
        (json!({"type": "image_url", "image_url": {"url": "x"}}), "is an image (\"image_url\")"),
        (json!({"type": "image"}), "is an image (\"image\")"),
        (json!({"image": "x"}), "is an image (\"image\")"),
        (json!({"type": "input_audio", "input_audio": {}}), "is audio (\"input_audio\")"),
        (json!({"type": "video_url"}), "is a video (\"video_url\")"),
    ] {
        let messages = [
            json!({"role": "user", "content": "x"}),
            json!({"role": "user", "content": [{"type": "text", "text": "y"}, part]}),
        ];
        let variables = Map::new();
        let error = learned(BOTH).render(&TemplateInput::new(&messages, &variables)).unwrap_err();
        assert_eq!(error.status, Status::Unsupported);
        assert!(error.message.contains("messages[1].content[1]") && error.message.contains(what), "{}", error.message);
    }
}

#[test]
fn a_hostile_template_is_not_asked_for_long() {
    let source = "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = a %}{% endfor %}{% endfor %}";
    let mut template = ChatTemplate::new(source, "t").unwrap();
    let started = std::time::Instant::now();
    template.learn(&Map::new());
    // Ten renderings to the end of the whole allowance would take many times as long.
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
