//! Calls that are required: what they are, and near misses.

use super::*;

/// The vocabularies that a format is tried with.
fn vocabularies(template: &ResponseTemplate) -> Vec<Vocabulary> {
    let mut all: Vec<Vocabulary> =
        [Markers::Special, Markers::Plain, Markers::Letters].map(|markers| Vocabulary::bytes(template, markers)).into();
    all.push(Vocabulary::storyteller());
    all
}

#[test]
fn valid_calls_are_accepted_however_they_are_tokenized() {
    let tools = schemas::tools();
    for format in formats() {
        let template = template(&format);
        let syntax = template.call_syntax().unwrap();
        for (kind, vocabulary) in vocabularies(&template).iter().enumerate() {
            let grammar = made(vocabulary, rules(&format, tools.clone(), ToolChoice::Required)).starting("");
            for seed in 0..25 {
                let random = &mut Random(seed);
                let mut calls = vec![schemas::call(&tools, random)];
                if seed % 3 == 0 && syntax.messages.is_none() {
                    calls.push(schemas::call(&tools, random));
                }
                let listed: Vec<(&str, &Value)> = calls.iter().map(|(name, value)| (*name, value)).collect();
                let text = writer::calls(syntax, &listed);
                for tokens in [vocabulary.encode(&text), vocabulary.cut(&text, random)] {
                    let (count, ended) = vocabulary.accepted(&*grammar, &tokens);
                    let at = vocabulary.text(&tokens[..count]);
                    assert!(
                        count == tokens.len() && ended,
                        "{format} {kind} {seed}: {text:?} up to {at:?}, {:?}",
                        tokens.get(count).map(|id| vocabulary.tokenizer.token(*id))
                    );
                    let parts = vocabulary.parts(&template, &tools, "", &tokens, kind == 0);
                    let read: Vec<(&str, Value)> = parts
                        .iter()
                        .map(|part| (part.name.as_deref().unwrap(), serde_json::from_str(&part.text).unwrap()))
                        .collect();
                    assert_eq!(read, calls, "{format} {kind} {seed}: {text:?}");
                }
                // The one that is named, and no other.
                if let [(name, _)] = calls.as_slice() {
                    let grammar =
                        made(vocabulary, rules(&format, tools.clone(), ToolChoice::Named((*name).to_owned())));
                    assert!(vocabulary.accepts(&*grammar.starting(""), &text), "{format} {kind} {seed}: {text:?}");
                    let other = if *name == "ping" { "get" } else { "ping" };
                    let grammar = made(vocabulary, rules(&format, tools.clone(), ToolChoice::Named(other.to_owned())));
                    assert!(
                        !vocabulary.begins(&*grammar.starting(""), &text),
                        "{format} {kind} {seed}: {text:?} as {other}"
                    );
                }
            }
        }
    }
}

#[test]
fn near_misses_are_refused() {
    let tools = schemas::tools();
    for format in formats() {
        let template = template(&format);
        let syntax = template.call_syntax().unwrap();
        let vocabulary = Vocabulary::bytes(&template, Markers::Special);
        let grammar = made(&vocabulary, rules(&format, tools.clone(), ToolChoice::Required)).starting("");
        let good = json!({"city": "Rome", "unit": "C"});
        let text = |name: &str, arguments: &Value| writer::calls(syntax, &[(name, arguments)]);
        assert!(vocabulary.accepts(&*grammar, &text("get_weather", &good)), "{format}");
        for (about, text) in [
            ("a wrong name", text("get_wether", &good)),
            ("a longer name", text("get_weathers", &good)),
            ("a missing one", text("get_weather", &json!({"city": "Rome"}))),
            ("one too many", text("get_weather", &json!({"city": "Rome", "unit": "C", "x": 1}))),
            ("a wrong type", text("get_weather", &json!({"city": "Rome", "days": "ten", "unit": "C"}))),
            ("too large", text("get_weather", &json!({"city": "Rome", "days": 13, "unit": "C"}))),
            ("no choice", text("get_weather", &json!({"city": "Rome", "unit": "K"}))),
            ("too long", text("get_weather", &json!({"city": "Montevideo", "unit": "C"}))),
            ("no pattern", text("call-me.now", &json!({"code": "abc"}))),
            ("none within", text("save", &json!({"tags": ["a"], "place": {"zip": 1000}}))),
            ("too few", text("save", &json!({"tags": [], "place": {"city": "x"}}))),
            ("content", "Hello.".to_owned()),
        ] {
            assert!(!vocabulary.accepts(&*grammar, &text), "{format}: {about}: {text:?}");
        }
        // Not whole, and more than one where there may be one.
        let whole = text("get_weather", &good);
        let tokens = vocabulary.encode(&whole);
        let end = tokens.len() - if syntax.messages.is_some() { 2 } else { 1 };
        let cut = vocabulary.accepted(&*grammar, &tokens[..end]);
        assert_eq!(cut, (end, false), "{format}: {whole:?}");
        if syntax.messages.is_none() {
            let two = writer::calls(syntax, &[("get_weather", &good), ("get", &json!({"id": 1}))]);
            assert!(vocabulary.accepts(&*grammar, &two), "{format}: {two:?}");
            let rules = AnswerRules { parallel: false, ..rules(&format, tools.clone(), ToolChoice::Required) };
            let one = made(&vocabulary, rules).starting("");
            assert!(vocabulary.accepts(&*one, &whole) && !vocabulary.accepts(&*one, &two), "{format}");
        }
    }
}

/// A schema that a value meets.
fn inferred(value: &Value) -> Value {
    match value {
        Value::Null => json!({"type": "null"}),
        Value::Bool(_) => json!({"type": "boolean"}),
        Value::Number(number) => json!({"type": if number.is_f64() { "number" } else { "integer" }}),
        Value::String(_) => json!({"type": "string"}),
        Value::Array(_) => json!({"type": "array"}),
        Value::Object(map) => {
            let properties: Map<String, Value> =
                map.iter().map(|(key, value)| (key.clone(), inferred(value))).collect();
            json!({"type": "object", "required": map.keys().collect::<Vec<_>>(), "properties": properties, "additionalProperties": false})
        }
    }
}

/// The calls of the answers by which the formats' readers are tested.
#[test]
fn calls_of_known_answers_are_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/answers");
    let mut count = 0;
    for format in formats() {
        let template = template(&format);
        let syntax = template.call_syntax().unwrap();
        let vocabulary = Vocabulary::bytes(&template, Markers::Special);
        let file = std::fs::read_to_string(folder.join(format!("{format}.json"))).unwrap();
        let fixture: Value = serde_json::from_str(&file).unwrap();
        for part in fixture["cases"].as_array().unwrap().iter().flat_map(|case| case["parts"].as_array().unwrap()) {
            let (Some(name), Some(arguments)) = (part["name"].as_str(), part["arguments"].as_object()) else {
                continue;
            };
            let arguments = Value::Object(arguments.clone());
            // Delimiters that are tokens are those tokens wherever a text is tokenized.
            if delimiters(&template).iter().any(|text| arguments.to_string().contains(text)) {
                continue;
            }
            // Texts that end a value where it stands as it is.
            let tagged = !writer::arguments(&syntax.arguments, &json!({"a": "b"})).contains("\"b\"");
            if tagged && (arguments.to_string().contains("</") || arguments.to_string().contains("<|\\\"")) {
                continue;
            }
            let tools = vec![tool(name, inferred(&arguments)), tool("other", Value::Null)];
            let grammar = match compile_answer(&vocabulary.trie, rules(&format, tools, ToolChoice::Required)) {
                Ok(grammar) => grammar.unwrap().starting(""),
                Err(error) => panic!("{format}: {arguments}: {error}"),
            };
            let text = writer::calls(syntax, &[(name, &arguments)]);
            let tokens = vocabulary.encode(&text);
            let (accepted, ended) = vocabulary.accepted(&*grammar, &tokens);
            assert!(
                accepted == tokens.len() && ended,
                "{format}: {text} up to {}",
                vocabulary.text(&tokens[..accepted])
            );
            count += 1;
        }
    }
    assert!(count > 150, "{count}");
}
