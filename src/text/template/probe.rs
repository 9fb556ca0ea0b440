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
    let mut wants = Wants::default();
    for (form, role) in wants.content.iter_mut().zip(ROLES) {
        *form = content(template, variables, role);
    }
    wants.argument_text = argument_text(template, variables);
    wants
}

fn rendered(template: &ChatTemplate, variables: &Map<String, Value>, messages: &[Value]) -> Option<String> {
    let mut input = TemplateInput::new(messages, variables);
    input.exact = true;
    template.render_within(&input, limits::TEMPLATE_PROBE_FUEL).ok().map(|marked| marked.text)
}

fn call(arguments: Value) -> Value {
    json!([{"id": "call00001", "type": "function", "function": {"name": "probe", "arguments": arguments}}])
}

/// A conversation in which the message of `role` has this content.
fn conversation(role: &str, content: Value) -> Vec<Value> {
    let user = json!({"role": "user", "content": "hi"});
    let message = json!({"role": role, "content": content});
    match role {
        "system" => vec![message, user],
        "assistant" => vec![user.clone(), message, user],
        "tool" => {
            let calls = json!({"role": "assistant", "content": "", "tool_calls": call(json!({}))});
            let answer = json!({"role": "tool", "content": content, "tool_call_id": "call00001", "name": "probe"});
            vec![user, calls, answer]
        }
        _ => vec![message],
    }
}

fn content(template: &ChatTemplate, variables: &Map<String, Value>, role: &str) -> Form {
    let parts = json!([{"type": "text", "text": WORD}]);
    let text = rendered(template, variables, &conversation(role, json!(WORD)));
    let list = rendered(template, variables, &conversation(role, parts.clone()));
    let shows = |rendered: &Option<String>| rendered.as_ref().is_some_and(|r| r.contains(WORD));
    if !shows(&text) {
        return if takes_parts(&list) { Form::Parts } else { Form::Given };
    }
    // A template that prints whatever it gets shows the word too, inside the list's own text.
    if list == text || takes_parts(&list) { Form::Given } else { Form::Text }
}

/// Whether a rendering shows the word of a part, and the word alone.
fn takes_parts(rendered: &Option<String>) -> bool {
    let quoted = |q: &str| [format!("{q}text{q}: {q}{WORD}"), format!("{q}text{q}:{q}{WORD}")];
    rendered.as_ref().is_some_and(|r| {
        let printed = [quoted("'"), quoted("\""), quoted("\\\"")].concat().iter().any(|q| r.contains(q));
        r.contains(WORD) && !printed
    })
}

/// Whether arguments must stay text: as an object they fail or are printed as Python prints a dict.
fn argument_text(template: &ChatTemplate, variables: &Map<String, Value>) -> bool {
    let conversation = |arguments: Value| {
        let user = json!({"role": "user", "content": "hi"});
        let assistant = json!({"role": "assistant", "content": "", "tool_calls": call(arguments)});
        let answer = json!({"role": "tool", "content": "1", "tool_call_id": "call00001", "name": "probe"});
        [user, assistant, answer]
    };
    let text = rendered(template, variables, &conversation(json!(format!("{{\"{WORD}\": 1}}"))));
    if !text.is_some_and(|t| t.contains(WORD)) {
        return false;
    }
    match rendered(template, variables, &conversation(json!({WORD: 1}))) {
        Some(object) => object.contains(&format!("'{WORD}': 1")),
        None => true,
    }
}
