//! What clients send, in the form the template wants.

use astrai::Status;
use astrai::text::{ChatTemplate, TemplateInput, exact};
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
    let want = rendered(&concatenated, &call(text), false);
    assert_eq!(rendered(&concatenated, &call(object), false), want);
    assert_eq!(want, "```{\"port\": \"Bergen\", \"hours\": 6, \"deep\": {\"x\": [1, 2.5, null, true]}}```");
}

/// Published templates print calls only of messages without content, put together with `+`; what tools answer stands between
/// markers that depend on the answer before.
const SILENT: &str = "{% set state = namespace(calls=false, answers=false) %}{% for message in messages %}\
    {% if message['role'] == 'user' %}{% set state.calls = false %}{{ '<ask>' + message['content'] }}{% endif %}\
    {% if message['role'] == 'assistant' and message['content'] is none %}{% for call in message['tool_calls'] %}\
    {% if not state.calls %}{% set state.calls = true %}{{ '<reply><calls>' }}{% else %}{{ '\n' }}{% endif %}\
    {{ '<call>' + call['type'] + '<of>' + call['function']['name'] + '\n```json\n' + call['function']['arguments'] + '\n```</call>' }}\
    {% endfor %}{{ '</calls><done>' }}{% endif %}\
    {% if message['role'] == 'assistant' and message['content'] is not none %}{% if state.answers %}\
    {{ '</answers>' + message['content'] + '<done>' }}{% set state.answers = false %}{% else %}\
    {% set said = message['content'] %}{% if '</why>' in said %}{% set said = said.split('</why>')[-1] %}{% endif %}\
    {{ '<reply>' + said + '<done>' }}{% endif %}{% endif %}\
    {% if message['role'] == 'tool' %}{% if state.answers %}{{ '\n<answer>' + message['content'] + '</answer>' }}{% else %}\
    {{ '<answers><answer>' + message['content'] + '</answer>' }}{% set state.answers = true %}{% endif %}{% endif %}{% endfor %}";

#[test]
fn calls_without_content_show_what_arguments_are() {
    let template = learned(SILENT);
    let conversation = |arguments: Value, answer: Value| {
        json!([
            {"role": "user", "content": "When?"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call00001", "type": "function", "function": {"name": "tide", "arguments": arguments}}]},
            {"role": "tool", "tool_call_id": "call00001", "content": answer},
        ])
    };
    let text = conversation(json!("{\"port\":\"Bergen\"}"), json!("06:10"));
    let want = "<ask>When?<reply><calls><call>function<of>tide\n```json\n{\"port\":\"Bergen\"}\n```</call></calls><done>\
        <answers><answer>06:10</answer>";
    assert_eq!(rendered(&template, &text, true), want);
    assert_eq!(rendered(&template, &text, false), want);
    // Another client's object is the same text, but for its layout; and what a tool returns may come in parts.
    let parts = json!([{"type": "text", "text": "06:"}, {"type": "text", "text": "10"}]);
    let object = conversation(json!({"port": "Bergen"}), parts);
    let spaced = want.replace("\":\"", "\": \"").replace("06:10", "06:\n10");
    assert_eq!(rendered(&template, &object, false), spaced);
    assert!(rendered(&template, &object, true).contains("can only concatenate str"));
}

#[test]
fn numbers_in_arguments_are_what_python_reads() {
    let template = learned(TOJSON);
    for (given, want) in [
        ("{\"x\": 100.23934140005247}", "{\"x\": 100.23934140005247}"),
        ("{\"x\": [-0, -0.0, 0, 1e400, -1e999]}", "{\"x\": [0, -0.0, 0, Infinity, -Infinity]}"),
        ("{\"x\": NaN, \"y\": [Infinity, -Infinity]}", "{\"x\": NaN, \"y\": [Infinity, -Infinity]}"),
        ("{\"x\": \"-0, NaN\"}", "{\"x\": \"-0, NaN\"}"),
    ] {
        assert_eq!(rendered(&template, &call(json!(given)), false), want, "{given}");
    }
    let messages =
        exact::parse("[{\"role\": \"user\", \"content\": [-0, 1e400, NaN, 2.2250738585072011e-308]}]").unwrap();
    let printed = "{{ messages[0].content }}{{ messages[0].content | tojson }}";
    let want = "[0, inf, nan, 2.225073858507201e-308][0, Infinity, NaN, 2.225073858507201e-308]";
    assert_eq!(rendered(&learned(printed), &messages, true), want);
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
const PARTS: &str = "{% for m in messages %}[{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}\
    {% endfor %}]{% endfor %}";
const BOTH: &str = "{% for m in messages %}[{% if m.content is string %}{{ m.content }}{% else %}\
    {% for p in m.content %}{% if p['type'] == 'text' %}{{ p['text'] }}|{% endif %}{% endfor %}{% endif %}]{% endfor %}";
const BY_ROLE: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ '(' + m.content + ')' }}{% else %}\
    [{% for p in m.content if p.type == 'text' %}{{ p.text }}|{% endfor %}]{% endif %}{% endfor %}";

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
    // Whatever a client calls a text, templates see one type.
    let names = json!([{"role": "user", "content": [
        "a", {"type": "output_text", "text": "b"}, {"text": "c"}, {"type": "refusal", "refusal": "d"}]}]);
    for (source, want) in [(TEXTS, "[a\nb\nc\nd]"), (PARTS, "[abcd]"), (BOTH, "[a|b|c|d|]")] {
        assert_eq!(rendered(&learned(source), &names, false), want, "{source}");
    }
    assert_eq!(rendered(&learned(PARTS), &names, true), "[]");
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
        (json!({"type": "input_video"}), "is a video (\"input_video\")"),
        (json!({"video_embeds": []}), "is a video (\"video_embeds\")"),
        (json!({"audio_embeds": []}), "is audio (\"audio_embeds\")"),
        (json!({"type": "image_pil"}), "is an image (\"image_pil\")"),
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
fn what_cannot_be_put_into_one_text_is_refused() {
    let template = learned(PRINTS);
    for (part, what) in [
        (json!({"type": "sticker", "text": "x"}), "a part of type \"sticker\""),
        (json!({"type": "text"}), "a part of type \"text\""),
        (json!({"of": "x"}), "a part without a type"),
    ] {
        let messages = json!([{"role": "user", "content": "x"}, {"role": "user", "content": ["y", part]}]);
        let message = rendered(&template, &messages, false);
        assert!(message.contains(&format!("messages[1].content[1] is {what}")), "{message}");
        // A template that looks at parts itself sees them all.
        assert_eq!(rendered(&learned(BOTH), &messages, false).split('|').next(), Some("[x][y"));
    }
    // What a tool returns is data where it does not look like parts.
    let data = json!([{"role": "tool", "content": [{"type": "text", "text": "a"}, {"of": 1}]}]);
    assert_eq!(rendered(&template, &data, false), "[[{'type': 'text', 'text': 'a'}, {'of': 1}]]");
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
