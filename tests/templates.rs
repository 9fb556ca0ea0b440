//! Chat templates: every fixture renders byte for byte what transformers made of it, and hostile templates end in
//! errors.

use astrai::Status;
use astrai::text::{ChatTemplate, LocalTime, TemplateInput};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates")
}

/// `2024-07-26T09:05:03`
fn time(text: &str) -> LocalTime {
    let n: Vec<u32> = text.split(['-', 'T', ':']).map(|p| p.parse().unwrap()).collect();
    LocalTime { year: n[0] as i32, month: n[1], day: n[2], hour: n[3], minute: n[4], second: n[5] }
}

/// Renders a fixture case; the error's message on failure.
fn render_case(case: &Value) -> Result<String, String> {
    let file = case["template"].as_str().unwrap();
    let source = std::fs::read_to_string(fixtures().join(file)).unwrap();
    let template = ChatTemplate::new(&source, file).map_err(|e| e.message)?;
    let input = TemplateInput {
        messages: case["messages"].as_array().unwrap(),
        tools: Some(&case["tools"]).filter(|t| !t.is_null()),
        variables: case["variables"].as_object().unwrap(),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
        now: case["now"].as_str().map(time),
    };
    template.render(&input).map_err(|e| {
        assert_eq!(e.status, Status::Template, "{e:?}");
        e.message
    })
}

#[test]
fn every_fixture_renders_as_transformers_does() {
    let text = std::fs::read_to_string(fixtures().join("cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() >= 100, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let got = render_case(case);
        let fine = match (&got, case["expected"].as_str(), case["error_from"].as_str()) {
            (Ok(got), Some(expected), _) => got == expected,
            (Err(got), None, Some("template")) => Some(got.as_str()) == case["expected_error"].as_str(),
            (Err(_), None, Some("engine")) => true,
            _ => false,
        };
        if !fine {
            let expected = case["expected"].as_str().or(case["expected_error"].as_str()).unwrap();
            wrong.push(match &got {
                Ok(got) => format!("{name}:\n{}", first_difference(got, expected)),
                Err(e) => format!("{name}: failed: {e}"),
            });
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases differ\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// The first line that differs, of both.
fn first_difference(got: &str, expected: &str) -> String {
    let mut expected_lines = expected.split('\n');
    for (n, line) in got.split('\n').enumerate() {
        match expected_lines.next() {
            Some(other) if other == line => {}
            other => return format!("  line {}: got      {line:?}\n  line {}: expected {other:?}", n + 1, n + 1),
        }
    }
    format!("  missing: {:?}", expected_lines.next())
}

fn render(source: &str) -> Result<String, String> {
    render_with(source, &[], &Map::new())
}

fn render_with(source: &str, messages: &[Value], variables: &Map<String, Value>) -> Result<String, String> {
    let input = TemplateInput { messages, tools: None, variables, add_generation_prompt: false, now: None };
    let template = ChatTemplate::new(source, "test").map_err(|e| e.message)?;
    template.render(&input).map_err(|e| {
        assert_eq!(e.status, Status::Template);
        e.message
    })
}
