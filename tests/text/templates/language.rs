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

/// Python complains of the type of an undefined value here; we say that it is undefined.
const OF_UNDEFINED: [&str; 4] =
    ["{{ missing | abs }}", "{{ missing | round }}", "{{ missing | round(1) }}", "{{ missing | round(-1) }}"];

/// What went wrong in a rendering, as the fixture names it.
fn kind(message: &str) -> &'static str {
    match message {
        "boom" => "raised",
        // To Jinja a method that is not there is an undefined value that is called.
        m if ["a value that is undefined is used", "has no method named", "unknown function"]
            .iter()
            .any(|w| m.contains(w)) =>
        {
            "undefined"
        }
        m if m.contains("by zero") || m.contains("negative power") => "zero",
        m if m.contains("recursion") => "depth",
        _ => "value",
    }
}

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
        let compiled = ChatTemplate::new(source, "t").map_err(|e| ("syntax", e.message));
        let got = compiled.and_then(|t| t.render(&input).map_err(|e| (kind(&e.message), e.message)));
        let fine = match (&got, case["expected"].as_str()) {
            (Ok(got), Some(expected)) => got.text == expected,
            (Err((_, message)), Some(_)) => REFUSED.iter().any(|(t, why)| *t == source && message.contains(why)),
            (Err((kind, _)), None) => case["error"].as_str() == Some(*kind) || OF_UNDEFINED.contains(&source),
            (Ok(_), None) => false,
        };
        if !fine {
            wrong.push(format!("{source}\n  got      {got:?}\n  expected {} {}", case["expected"], case["error"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
