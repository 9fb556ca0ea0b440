//! What a template wants, found out by rendering small conversations: content as text or as a list of parts, for each role,
//! and the arguments of calls as objects or as JSON text.

use super::messages::{Form, ROLES, Wants};
use super::{ChatTemplate, TemplateInput};
use crate::limits;
use serde_json::{Map, Value, json};

/// A word no template has.
const WORD: &str = "zqxprobe";

/// Renders the probes; what cannot be found out stays as it is given.
pub(super) fn probe(template: &ChatTemplate, variables: &Map<String, Value>) -> Wants {
    // First of all, since a template that fails with arguments in the other form says nothing of a tool's answer to a call.
    let argument_text = beside_calls().iter().any(|beside| argument_text(template, variables, beside));
    let mut wants = Wants { argument_text, ..Wants::default() };
    for (form, role) in wants.content.iter_mut().zip(ROLES) {
        *form = content(template, variables, role, argument_text);
    }
    wants
}

/// What clients send as the content of a message that only makes calls. Some templates print calls beside one of them alone.
fn beside_calls() -> [Value; 2] {
    [Value::Null, json!("")]
}

fn rendered(template: &ChatTemplate, variables: &Map<String, Value>, messages: &[Value]) -> Option<String> {
    let mut input = TemplateInput::new(messages, variables);
    input.exact = true;
    template.render_within(&input, limits::TEMPLATE_PROBE_FUEL).ok().map(|marked| marked.text)
}

/// A conversation with a call: `beside` is the content of the message that makes it, `answer` what the tool says.
fn called(beside: &Value, arguments: Value, answer: Value) -> Vec<Value> {
    let call = json!({"id": "call00001", "type": "function", "function": {"name": "probe", "arguments": arguments}});
    vec![
        json!({"role": "user", "content": "hi"}),
        json!({"role": "assistant", "content": beside, "tool_calls": [call]}),
        json!({"role": "tool", "content": answer, "tool_call_id": "call00001", "name": "probe"}),
    ]
}

/// A conversation in which the message of `role` has this content.
fn conversation(role: &str, content: Value) -> Vec<Value> {
    let user = json!({"role": "user", "content": "hi"});
    let message = json!({"role": role, "content": content});
    match role {
        "system" => vec![message, user],
        "assistant" => vec![user.clone(), message, user],
        _ => vec![message],
    }
}

fn content(template: &ChatTemplate, variables: &Map<String, Value>, role: &str, argument_text: bool) -> Form {
    if role != "tool" {
        return form(template, variables, |content| conversation(role, content)).unwrap_or_default();
    }
    let arguments = if argument_text { json!("{\"n\": 1}") } else { json!({"n": 1}) };
    let forms = beside_calls();
    let mut forms = forms.iter().map(|beside| form(template, variables, |c| called(beside, arguments.clone(), c)));
    forms.find_map(|form| form).unwrap_or_default()
}

/// The form of content that shows in a conversation; `None` if neither does.
fn form(
    template: &ChatTemplate,
    variables: &Map<String, Value>,
    conversation: impl Fn(Value) -> Vec<Value>,
) -> Option<Form> {
    let text = rendered(template, variables, &conversation(json!(WORD)));
    let list = rendered(template, variables, &conversation(json!([{"type": "text", "text": WORD}])));
    if !text.as_ref().is_some_and(|text| text.contains(WORD)) {
        return takes_parts(&list).then_some(Form::Parts);
    }
    // A template that prints whatever it gets shows the word too, inside the list's own text.
    Some(if list == text || takes_parts(&list) { Form::Given } else { Form::Text })
}

/// Whether a rendering shows the word of a part, and the word alone.
fn takes_parts(rendered: &Option<String>) -> bool {
    let quoted = |q: &str| [format!("{q}text{q}: {q}{WORD}"), format!("{q}text{q}:{q}{WORD}")];
    rendered.as_ref().is_some_and(|r| {
        let printed = [quoted("'"), quoted("\""), quoted("\\\"")].concat().iter().any(|q| r.contains(q));
        r.contains(WORD) && !printed
    })
}

/// Whether arguments must be text beside this content: as an object they fail or are printed as Python prints a dict.
fn argument_text(template: &ChatTemplate, variables: &Map<String, Value>, beside: &Value) -> bool {
    let rendered = |arguments: Value| rendered(template, variables, &called(beside, arguments, json!("1")));
    if !rendered(json!(format!("{{\"{WORD}\": 1}}"))).is_some_and(|text| text.contains(WORD)) {
        return false;
    }
    match rendered(json!({WORD: 1})) {
        Some(object) => object.contains(&format!("'{WORD}': 1")),
        None => true,
    }
}
