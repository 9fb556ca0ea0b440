//! What an answer goes through: reasoning, content, calls.

use super::*;

/// The vocabulary of the Hermes format, with its delimiters as special tokens.
fn hermes() -> (Arc<ResponseTemplate>, Vocabulary) {
    let template = template("hermes");
    let vocabulary = Vocabulary::bytes(&template, Markers::Special);
    (template, vocabulary)
}

fn free(name: &str, parameters: Value) -> Tool {
    Tool { strict: false, ..tool(name, parameters) }
}

fn number() -> Value {
    json!({"type": "object", "properties": {"id": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["id"],
        "additionalProperties": false})
}

fn call(name: &str, arguments: &str) -> String {
    format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>")
}

fn content(vocabulary: &Vocabulary) -> Arc<dyn Grammar> {
    compile(
        &vocabulary.trie,
        Kind::JsonSchema,
        r#"{"type":"object","properties":{"a":{"type":"boolean"}},"required":["a"],"additionalProperties":false}"#,
    )
    .unwrap()
}

#[test]
fn nothing_is_constrained_that_needs_no_grammar() {
    let (_, vocabulary) = hermes();
    for rules in [
        rules("hermes", Vec::new(), ToolChoice::Auto),
        rules("hermes", Vec::new(), ToolChoice::None),
        rules("hermes", vec![free("get", number())], ToolChoice::Auto),
    ] {
        assert!(compile_answer(&vocabulary.trie, rules).unwrap().is_none());
    }
}

#[test]
fn with_auto_text_is_free_until_a_call_begins() {
    let (_, vocabulary) = hermes();
    let grammar =
        made(&vocabulary, rules("hermes", vec![tool("get", number()), free("any", number())], ToolChoice::Auto))
            .starting("");
    let good = call("get", r#"{"id": 3}"#);
    for text in [
        String::new(),
        "Hello, world: {\"id\": 12} <tool> </think>.".to_owned(),
        good.clone(),
        format!("I will look.\n{good}"),
        format!("{good}\n{good}"),
        format!("<think>is it {{?</think>\n\nYes. {good}"),
        format!("<think>a {good} within is thought</think>No."),
        call("any", r#"{"id": 12, "more": [true]}"#),
    ] {
        assert!(vocabulary.accepts(&*grammar, &text), "{text:?}");
    }
    for text in [
        call("get", r#"{"id": 12}"#),
        call("got", r#"{"id": 1}"#),
        format!("{good}{}", call("get", "{}")),
        "<tool_call>".to_owned(),
        "Well <tool_call>\n{\"name\": \"get\"".to_owned(),
        call("any", "[1]"),
    ] {
        assert!(!vocabulary.accepts(&*grammar, &text), "{text:?}");
    }
    // A delimiter in letters, which a reader of special tokens takes for text: it is not written.
    let letters: Vec<u32> = "<tool_call>".chars().flat_map(|c| vocabulary.encode(&c.to_string())).collect();
    assert_eq!(vocabulary.accepted(&*grammar, &letters).0, letters.len() - 1);
}

#[test]
fn with_the_option_calls_of_all_tools_are_as_their_schemas_say() {
    let (_, vocabulary) = hermes();
    let all = AnswerRules { constrain_auto: true, ..rules("hermes", vec![free("any", number())], ToolChoice::Auto) };
    let grammar = made(&vocabulary, all).starting("");
    assert!(vocabulary.accepts(&*grammar, &format!("Look: {}", call("any", r#"{"id": 1}"#))));
    assert!(!vocabulary.accepts(&*grammar, &call("any", r#"{"id": 12}"#)));
}

#[test]
fn with_none_no_call_begins() {
    for format in formats() {
        let template = template(&format);
        let syntax = template.call_syntax().unwrap();
        let tools = vec![tool("get", number())];
        for markers in [Markers::Special, Markers::Plain, Markers::Letters] {
            let vocabulary = Vocabulary::bytes(&template, markers);
            let grammar = made(&vocabulary, rules(&format, tools.clone(), ToolChoice::None)).starting("");
            let text = writer::calls(syntax, &[("get", &json!({"id": 1}))]);
            let tokens = vocabulary.encode(&text);
            let (count, _) = vocabulary.accepted(&*grammar, &tokens);
            let parts = vocabulary.parts(&template, &tools, "", &tokens[..count], markers == Markers::Special);
            assert!(count < tokens.len(), "{format} {markers:?}: {text:?}");
            assert!(parts.iter().all(|part| part.kind != PartKind::Call), "{format} {markers:?}: {parts:?}");
            if syntax.messages.is_none() {
                assert!(vocabulary.accepts(&*grammar, "It is 7 o'clock."), "{format} {markers:?}");
            }
        }
    }
}

#[test]
fn a_required_call_may_follow_reasoning_and_nothing_else() {
    let (_, vocabulary) = hermes();
    let grammar = made(&vocabulary, rules("hermes", vec![tool("get", number())], ToolChoice::Required));
    let good = call("get", r#"{"id": 3}"#);
    let answer = grammar.starting("");
    for text in [good.clone(), format!("<think>so</think>\n\n{good}"), format!("<think>so\n</think>{good}")] {
        assert!(vocabulary.accepts(&*answer, &text), "{text:?}");
    }
    for text in ["", "No.", "<think>so</think>", "<think>so</think>No", "<think>so</think><think>again</think>"] {
        assert!(!vocabulary.accepts(&*answer, text), "{text:?}");
    }
    assert!(!vocabulary.accepts(&*answer, &format!("Yes: {good}")));
    // The prompt has begun the reasoning, or has ended it.
    let within = grammar.starting("<|im_start|>assistant\n<think>\n");
    assert!(vocabulary.accepts(&*within, &format!("so</think>\n{good}")));
    assert!(!vocabulary.begins(&*within, &format!("so</think>\n<think>{good}")));
    let without = grammar.starting("<|im_start|>assistant\n<think>\n\n</think>\n\n");
    assert!(vocabulary.accepts(&*without, &good));
    assert!(!vocabulary.begins(&*without, "<think>"));
}

#[test]
fn a_constraint_is_on_the_content_alone() {
    let (_, vocabulary) = hermes();
    let content = Some(content(&vocabulary));
    let rules = AnswerRules { content, ..rules("hermes", vec![tool("get", number())], ToolChoice::Auto) };
    let none = made(&vocabulary, AnswerRules { tools: Vec::new(), ..rules.clone() }).starting("");
    let calls = made(&vocabulary, rules).starting("");
    let good = call("get", r#"{"id": 3}"#);
    for text in [r#"{"a": true}"#, "<think>is a so? {{</think>\n\n{\"a\": false}"] {
        assert!(vocabulary.accepts(&*none, text) && vocabulary.accepts(&*calls, text), "{text:?}");
    }
    for text in ["", "Yes", "<think>so</think>", r#"{"a": 1}"#, "<think></think>\n\n\n\n\n\n\n\n{"] {
        assert!(!vocabulary.accepts(&*none, text) && !vocabulary.accepts(&*calls, text), "{text:?}");
    }
    assert!(vocabulary.accepts(&*calls, &good) && !vocabulary.accepts(&*none, &good));
    assert!(vocabulary.accepts(&*calls, &format!("<think>so</think>\n{good}")));
    assert!(!vocabulary.begins(&*calls, &format!("{{\"a\": true}}{good}")));
}

#[test]
fn reasoning_ends_after_its_tokens() {
    let mut tried = 0;
    for format in ResponseTemplate::names() {
        let template = template(&format);
        let messages = template.call_syntax().and_then(|syntax| syntax.messages.clone());
        let (open, close) = match (&messages, template.reasoning()) {
            (Some(messages), _) => (messages.reasoning.clone(), messages.close.clone()),
            (None, Some(found)) if !found.open.is_empty() && !found.close.is_empty() => {
                // The shortest, of which the others are no more than longer ones.
                (found.open.iter().min_by_key(|text| text.len()).unwrap().clone(), found.close[0].clone())
            }
            _ => continue,
        };
        tried += 1;
        for markers in [Markers::Special, Markers::Plain, Markers::Letters] {
            let vocabulary = Vocabulary::bytes(&template, markers);
            let budget = 5;
            let limited =
                AnswerRules { reasoning_tokens: Some(budget), ..rules(&format, Vec::new(), ToolChoice::Auto) };
            let grammar = made(&vocabulary, limited).starting("");
            let letters = vocabulary.encode("thoughts");
            let opened = vocabulary.encode(&open);
            let (mut matcher, mut mask) = (grammar.matcher().unwrap(), vocabulary.mask());
            let mut accept = |id: u32| {
                matcher.allowed(&mut mask).unwrap();
                let allowed = is_set(&mask, id);
                if allowed {
                    matcher.accept(id).unwrap();
                }
                allowed
            };
            assert!(opened.iter().all(|&id| accept(id)), "{format} {markers:?}");
            assert!(letters[..budget].iter().all(|&id| accept(id)), "{format} {markers:?}");
            assert!(!accept(letters[budget]), "{format} {markers:?}");
            // What closes it, and nothing else, may follow; then there is content, and no more reasoning.
            let mut closed = Vec::new();
            while !vocabulary.text(&closed).replace('\u{ff}', "").ends_with(&close) {
                let mut mask = vocabulary.mask();
                matcher.allowed(&mut mask).unwrap();
                let allowed: Vec<u32> =
                    (0..vocabulary.tokenizer.vocab_size() as u32).filter(|&id| is_set(&mask, id)).collect();
                assert_eq!(allowed.len(), 1, "{format} {markers:?}: after {:?}", vocabulary.text(&closed));
                matcher.accept(allowed[0]).unwrap();
                closed.extend(allowed);
                assert!(closed.len() < 100, "{format} {markers:?}: {:?}", vocabulary.text(&closed));
            }
            let tokens = [&opened[..], &letters[..budget], &closed].concat();
            let parts = vocabulary.parts(&template, &[], "", &tokens, markers == Markers::Special);
            assert_eq!(parts.len(), 1, "{format} {markers:?}: {parts:?}");
            assert_eq!(
                (parts[0].kind, parts[0].end),
                (PartKind::Reasoning, Some(PartEnd::Complete)),
                "{format} {markers:?}"
            );
            let again = messages.as_ref().map_or(String::new(), |messages| messages.next.clone()) + &open;
            let again = vocabulary.encode(&again);
            let opened_again = again.iter().all(|&id| {
                let mut mask = vocabulary.mask();
                matcher.allowed(&mut mask).unwrap();
                is_set(&mask, id) && matcher.accept(id).is_ok()
            });
            if messages.is_some() {
                assert!(!opened_again, "{format} {markers:?}");
            }
        }
    }
    assert!(tried >= 8, "{tried}");
}

#[test]
fn no_reasoning_at_all_is_a_budget_too() {
    let (_, vocabulary) = hermes();
    let none = AnswerRules { reasoning_tokens: Some(0), ..rules("hermes", Vec::new(), ToolChoice::Auto) };
    let grammar = made(&vocabulary, none);
    assert!(vocabulary.accepts(&*grammar.starting(""), "<think></think>Yes."));
    assert!(!vocabulary.begins(&*grammar.starting(""), "<think>a"));
    let within = grammar.starting("<|im_start|>assistant\n<think>\n");
    assert!(vocabulary.accepts(&*within, "</think>Yes."));
    assert!(!vocabulary.begins(&*within, "so"));
}

#[test]
fn messages_of_their_own_hold_reasoning_content_and_calls() {
    let template = template("gpt-oss");
    let vocabulary = Vocabulary::bytes(&template, Markers::Special);
    let thought = "<|channel|>analysis<|message|>so<|end|><|start|>assistant";
    let call = "<|channel|>commentary to=functions.get <|constrain|>json<|message|>{\"id\":3}<|call|>";
    let said = "<|channel|>final<|message|>Yes.<|end|>";
    let required = made(&vocabulary, rules("gpt-oss", vec![tool("get", number())], ToolChoice::Required)).starting("");
    assert!(vocabulary.accepts(&*required, call));
    assert!(vocabulary.accepts(&*required, &format!("{thought}{call}")));
    assert!(!vocabulary.begins(&*required, said) && !vocabulary.begins(&*required, &format!("{thought}{said}")));
    let auto = made(&vocabulary, rules("gpt-oss", vec![tool("get", number())], ToolChoice::Auto)).starting("");
    for text in [call.to_owned(), said.to_owned(), format!("{thought}{call}"), format!("{thought}{said}")] {
        assert!(vocabulary.accepts(&*auto, &text), "{text:?}");
    }
    let wrong = call.replace('3', "12");
    assert!(!vocabulary.begins(&*auto, &wrong) && !vocabulary.begins(&*auto, &format!("{thought}{wrong}")));
    let ruled = AnswerRules { content: Some(content(&vocabulary)), ..rules("gpt-oss", Vec::new(), ToolChoice::Auto) };
    let ruled = made(&vocabulary, ruled).starting("");
    assert!(vocabulary.accepts(&*ruled, &format!("{thought}<|channel|>final<|message|>{{\"a\": true}}")));
    assert!(!vocabulary.begins(&*ruled, &format!("{thought}{said}")));
}

#[test]
fn requests_with_one_grammar_have_states_of_their_own() {
    let (_, vocabulary) = hermes();
    let grammar = made(&vocabulary, rules("hermes", vec![tool("get", number())], ToolChoice::Required)).starting("");
    let tokens = vocabulary.encode(&call("get", r#"{"id": 3}"#));
    let (mut a, mut b, mut mask) = (grammar.matcher().unwrap(), grammar.matcher().unwrap(), vocabulary.mask());
    for &id in &tokens {
        for matcher in [&mut a, &mut b] {
            matcher.allowed(&mut mask).unwrap();
            assert!(is_set(&mask, id));
        }
        a.accept(id).unwrap();
        a.allowed(&mut mask).unwrap();
        b.accept(id).unwrap();
    }
    assert!(a.allowed(&mut mask).unwrap() && b.allowed(&mut mask).unwrap());
    assert!(a.accept(tokens[0]).is_err() || tokens.len() > 1);
}
