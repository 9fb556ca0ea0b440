//! Jinja's language, one small template at a time, against what the environment of transformers renders.

use super::fixtures;
use astrai::text::{ChatTemplate, TemplateInput, exact};
use serde_json::Value;

/// Templates that may fail where transformers renders them, and why.
const REFUSED: [(&str, &str); 8] = [
    ("{{ huge | round(-1) }}", "127 bits"),
    ("{{ huge is divisibleby(3) }}{{ huge is not divisibleby(3) }}", "127 bits"),
    ("{{ huge.bit_length() }}", "no method"),
    ("{{ huge.conjugate() }}", "no method"),
    ("{{ neg ** f }}", "complex"),
    ("{{ big ** n }}", "127 bits"),
    ("{{ 'abc'.encode('utf-8') }}", "not available"),
    ("{{ 'abc'.translate({}) }}", "not available"),
];

#[test]
fn every_part_of_the_language_is_as_in_jinja() {
    let text = std::fs::read_to_string(fixtures().join("language.json")).unwrap();
    let file: Value = serde_json::from_str(&exact::keep(&text)).unwrap();
    let (cases, variables) = (file["cases"].as_array().unwrap(), file["data"].as_object().unwrap());
    assert!(cases.len() > 4000, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let input = TemplateInput { exact: true, ..TemplateInput::new(&[], variables) };
        let got = ChatTemplate::new(source, "t").and_then(|t| t.render(&input)).map_err(|e| e.message);
        let fine = match (&got, case["expected"].as_str()) {
            (Ok(got), Some(expected)) => got.text == expected,
            (Err(message), Some(_)) => REFUSED.iter().any(|(t, why)| *t == source && message.contains(why)),
            (Err(_), None) => true,
            (Ok(_), None) => false,
        };
        if !fine {
            wrong.push(format!("{source}\n  got      {got:?}\n  expected {}", case["expected"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
