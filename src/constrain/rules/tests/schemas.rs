//! Schemas of tools, and random values of them.

use super::*;

/// Tools whose arguments every format can write, and all of which end.
pub(super) fn tools() -> Vec<Tool> {
    let text = json!({"type": "string", "minLength": 1, "maxLength": 8});
    let place = json!({"type": "object", "properties": {"city": text, "zip": {"type": "integer", "minimum": 1000, "maximum": 99999}},
        "required": ["city"], "additionalProperties": false});
    vec![
        tool("ping", Value::Null),
        tool(
            "get",
            json!({"type": "object", "properties": {"id": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["id"],
            "additionalProperties": false}),
        ),
        tool(
            "get_weather",
            json!({"type": "object", "properties": {
                "city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "minimum": -3, "maximum": 12},
                "unit": {"type": "string", "enum": ["C", "F", "kelvin"]}, "exact": {"type": "boolean"}},
            "required": ["city", "unit"], "additionalProperties": false}),
        ),
        tool(
            "save",
            json!({"type": "object", "properties": {
                "tags": {"type": "array", "items": text, "minItems": 1, "maxItems": 3}, "place": {"$ref": "#/$defs/place"},
                "note": {"type": ["string", "null"], "maxLength": 6}, "level": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 3}, {"type": "null"}]},
                "ratio": {"type": "number", "minimum": 0, "maximum": 1}},
            "required": ["tags", "place"], "additionalProperties": false, "$defs": {"place": place}}),
        ),
        tool(
            "call-me.now",
            json!({"type": "object", "properties": {
                "code": {"type": "string", "pattern": "^[a-c]{2}[0-9]{1,3}$"}, "mode": {"enum": ["fast", "slow"]}},
            "additionalProperties": false}),
        ),
    ]
}

/// A random value of a schema, with properties in its order.
pub(super) fn instance(root: &Value, schema: &Value, random: &mut Random) -> Value {
    let Some(map) = schema.as_object() else { return Value::from(1) };
    if let Some(reference) = map.get("$ref") {
        return instance(root, root.pointer(&reference.as_str().unwrap()[1..]).unwrap(), random);
    }
    for key in ["enum", "anyOf"] {
        if let Some(list) = map.get(key).and_then(Value::as_array) {
            let one = &list[random.below(list.len())];
            return if key == "enum" { one.clone() } else { instance(root, one, random) };
        }
    }
    let between = |least: &str, most: &str, random: &mut Random, default: (i64, i64)| {
        let least = map.get(least).and_then(Value::as_i64).unwrap_or(default.0);
        let most = map.get(most).and_then(Value::as_i64).unwrap_or(default.1);
        least + random.below((most - least + 1) as usize) as i64
    };
    let name = match map.get("type") {
        Some(Value::Array(names)) => names[random.below(names.len())].as_str().unwrap(),
        Some(name) => name.as_str().unwrap(),
        None => "object",
    };
    match name {
        "null" => Value::Null,
        "boolean" => (random.below(2) == 0).into(),
        "integer" => between("minimum", "maximum", random, (-1000, 1000)).into(),
        "number" => json!(random.below(100) as f64 / 100.0),
        "string" if map.contains_key("pattern") => format!("ab{}", random.below(1000)).into(),
        "string" => {
            let letters: Vec<char> = "ab xyZ09'\"\\/<>{}[]é日😀\n:,=".chars().collect();
            let text = |random: &mut Random| {
                let length = between("minLength", "maxLength", random, (0, 12));
                (0..length).map(|_| letters[random.below(letters.len())]).collect::<String>()
            };
            let mut made = text(random);
            // Where it stands as it is, this would be no text.
            while made == "null" || made.contains("</") || made.contains("]]>") {
                made = text(random);
            }
            made.into()
        }
        "array" => {
            let count = between("minItems", "maxItems", random, (0, 4));
            (0..count).map(|_| instance(root, &map["items"], random)).collect()
        }
        _ => {
            let required = map.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
            let none = Map::new();
            let properties = map.get("properties").and_then(Value::as_object).unwrap_or(&none);
            let mut made = Map::new();
            for (key, schema) in properties {
                if required.contains(&key.as_str().into()) || random.below(2) == 0 {
                    made.insert(key.clone(), instance(root, schema, random));
                }
            }
            made.into()
        }
    }
}

/// A random call of one of the tools.
pub(super) fn call<'a>(tools: &'a [Tool], random: &mut Random) -> (&'a str, Value) {
    let tool = &tools[random.below(tools.len())];
    let schema =
        if tool.parameters.is_null() { json!({"type": "object", "properties": {}}) } else { tool.parameters.clone() };
    (tool.name.as_str(), instance(&schema, &schema, random))
}
