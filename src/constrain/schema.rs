//! What is done to a JSON schema before it is compiled, and where in it a refusal belongs.

use serde_json::{Map, Value, json};

/// White space between the parts of a JSON answer: none, a space, or a new line with its indentation. Without a bound a model could
/// write spaces for ever.
const WHITE_SPACE: &str = r"( |\r?\n[ \t]{0,32})?";
/// The key by which a schema sets options of the parser.
const OPTIONS: &str = "x-guidance";

/// The schema with a bound on white space, unless it says itself how that is.
pub fn bounded(schema: Value) -> Value {
    let mut map = match schema {
        Value::Object(map) => map,
        Value::Bool(true) => Map::new(),
        other => return other,
    };
    let options = map.entry(OPTIONS).or_insert_with(|| json!({}));
    if let Value::Object(options) = options {
        let says = ["whitespace_pattern", "whitespace_flexible"].iter().any(|key| options.contains_key(*key));
        if !says {
            options.insert("whitespace_pattern".into(), WHITE_SPACE.into());
        }
    }
    Value::Object(map)
}

/// The JSON pointer of the first key or text that a message names, in quotes or after its last colon, and the schema has.
pub fn place(schema: &Value, message: &str) -> Option<String> {
    let quoted = message.split(['"', '\'', '`']).skip(1).step_by(2);
    let names = quoted.chain(message.rsplit(": ").take(1)).filter(|name| !name.is_empty());
    names.into_iter().find_map(|name| find(schema, name, &mut String::new()))
}

/// The pointer of a key or string, depth first.
fn find(value: &Value, name: &str, at: &mut String) -> Option<String> {
    let length = at.len();
    let mut inside = |key: &str, inner: &Value| {
        at.truncate(length);
        at.push('/');
        at.push_str(&key.replace('~', "~0").replace('/', "~1"));
        if key == name { Some(at.clone()) } else { find(inner, name, at) }
    };
    match value {
        Value::Object(map) => map.iter().filter(|(key, _)| *key != OPTIONS).find_map(|(key, inner)| inside(key, inner)),
        Value::Array(list) => list.iter().enumerate().find_map(|(index, inner)| inside(&index.to_string(), inner)),
        Value::String(text) if text == name => Some(at.clone()),
        _ => None,
    }
}
