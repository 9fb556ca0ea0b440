//! Answers of every format, however they are cut.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{AnswerParser, PartDelta, PartEnd, PartKind, ResponseTemplate, Tools};
use crate::limits::DELIMITER_BYTES_MAX;

mod cuts;
mod special;
mod templates;

/// A part that has ended, put together.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    kind: PartKind,
    name: Option<String>,
    id: Option<String>,
    text: String,
    end: PartEnd,
}

/// Puts deltas together, and checks that they are in order.
fn assembled(deltas: &[PartDelta]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let (mut open, mut calls) = (false, 0);
    for delta in deltas {
        if delta.begins {
            assert!(!open, "a part begins within another: {deltas:#?}");
            calls += usize::from(delta.kind == PartKind::Call);
            let PartDelta { kind, name, id, .. } = delta.clone();
            parts.push(Part { kind, name, id, text: String::new(), end: PartEnd::Unclosed });
        }
        let index = parts.len() - 1;
        assert!(open || delta.begins, "text outside of a part: {deltas:#?}");
        assert_eq!((delta.part, delta.call), (index, (delta.kind == PartKind::Call).then(|| calls - 1)));
        let part = &mut parts[index];
        assert_eq!(part.kind, delta.kind);
        part.text.push_str(&delta.text);
        part.id = delta.id.clone().or(part.id.take());
        part.end = delta.end.unwrap_or(part.end);
        open = delta.end.is_none();
    }
    assert!(!open, "the last part did not end: {deltas:#?}");
    parts
}

/// One piece of an answer: text, or a special token.
type Piece = (String, bool);

fn parse(parser: AnswerParser, pieces: &[Piece]) -> Vec<Part> {
    let mut parser = parser;
    let mut deltas = Vec::new();
    for (text, special) in pieces {
        if *special {
            parser.push_special(text, &mut deltas);
        } else {
            parser.push(text, &mut deltas);
        }
    }
    parser.finish(&mut deltas);
    assembled(&deltas)
}

/// Seeded numbers: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

/// The pieces with their texts cut at random places; special tokens stay whole.
fn cut(pieces: &[Piece], random: &mut Random) -> Vec<Piece> {
    let longest = 1 + random.below(12);
    let mut out = Vec::new();
    for (text, special) in pieces {
        if *special {
            out.push((text.clone(), true));
            continue;
        }
        let chars: Vec<char> = text.chars().collect();
        let mut rest = chars.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((1 + random.below(longest)).min(rest.len()));
            out.push((piece.iter().collect(), false));
            rest = after;
        }
    }
    out
}

/// The pieces cut into their characters.
fn characters(pieces: &[Piece]) -> Vec<Piece> {
    let each = |(text, special): &Piece| -> Vec<Piece> {
        if *special { vec![(text.clone(), true)] } else { text.chars().map(|c| (c.to_string(), false)).collect() }
    };
    pieces.iter().flat_map(each).collect()
}

fn fixtures() -> Vec<(PathBuf, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/answers");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    let read = |path: PathBuf| {
        let value = serde_json::from_str(&fs::read_to_string(&path).unwrap());
        (path.clone(), value.unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    };
    files.into_iter().map(read).collect()
}

fn template(value: &Value) -> Arc<ResponseTemplate> {
    Arc::new(match value.as_str() {
        Some(name) => ResponseTemplate::by_name(name).unwrap_or_else(|| panic!("{name} is not built in")),
        None => ResponseTemplate::parse(value).unwrap(),
    })
}

/// The parser of a case, and the pieces of its answer.
fn case(template: &Arc<ResponseTemplate>, case: &Value) -> (AnswerParser, Vec<Piece>) {
    let tools = Arc::new(Tools::new(&case["tools"]));
    let parser = AnswerParser::new(Some(template.clone()), case["prompt"].as_str().unwrap_or(""), tools);
    let pieces = match &case["text"] {
        Value::String(text) => vec![(text.clone(), false)],
        Value::Array(pieces) => pieces
            .iter()
            .map(|piece| match piece {
                Value::String(text) => (text.clone(), false),
                special => (special["special"].as_str().unwrap().to_owned(), true),
            })
            .collect(),
        other => panic!("text: {other}"),
    };
    (parser, pieces)
}

/// Whether a part is what a fixture says. Whole arguments are compared as JSON, unless the fixture gives their text.
fn is_expected(part: &Part, expected: &Value) -> bool {
    let kind = match part.kind {
        PartKind::Content => "content",
        PartKind::Reasoning => "reasoning",
        PartKind::Call => "call",
    };
    let end = match part.end {
        PartEnd::Complete => "complete",
        PartEnd::Unclosed => "unclosed",
        PartEnd::Malformed => "malformed",
    };
    let text = match expected.get("arguments") {
        Some(arguments) => serde_json::from_str::<Value>(&part.text).is_ok_and(|value| value == *arguments),
        None => expected["text"] == json!(part.text),
    };
    text && expected["kind"] == kind
        && expected.get("end").unwrap_or(&json!("complete")) == end
        && expected["name"].as_str() == part.name.as_deref()
        && (expected.get("id").is_none() || expected["id"].as_str() == part.id.as_deref())
}

#[test]
fn every_answer_has_its_parts_however_it_is_cut() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, fixture) in fixtures() {
        let template = template(&fixture["template"]);
        for (index, value) in fixture["cases"].as_array().unwrap().iter().enumerate() {
            count += 1;
            let label = format!("{} {index} {}", path.file_name().unwrap().display(), value["about"]);
            let pieces = case(&template, value).1;
            let whole = parse(case(&template, value).0, &pieces);
            let expected = value["parts"].as_array().unwrap();
            if whole.len() != expected.len()
                || !whole.iter().zip(expected).all(|(part, wanted)| is_expected(part, wanted))
            {
                wrong.push(format!(
                    "{label}\n  text {}\n  expected {}\n  got {whole:#?}",
                    value["text"], value["parts"]
                ));
                continue;
            }
            assert_eq!(parse(case(&template, value).0, &characters(&pieces)), whole, "{label}, character by character");
            for seed in 0..20 {
                let pieces = cut(&pieces, &mut Random(seed));
                assert_eq!(parse(case(&template, value).0, &pieces), whole, "{label}, seed {seed}: {pieces:?}");
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} answers:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 180, "only {count} answers");
}

#[test]
fn every_built_in_format_has_ten_answers() {
    let fixtures = fixtures();
    for name in ResponseTemplate::names() {
        let cases: usize = fixtures
            .iter()
            .filter(|(_, fixture)| fixture["template"] == name.as_str())
            .map(|(_, fixture)| fixture["cases"].as_array().map_or(0, Vec::len))
            .sum();
        assert!(cases >= 10, "{name}: {cases}");
    }
}

#[test]
fn text_of_no_known_format_is_content() {
    let parser = || AnswerParser::new(None, "<think>", Arc::default());
    let text = "  <think>x</think> <tool_call>{}\n".to_owned();
    let parts = parse(parser(), &[(text.clone(), false)]);
    assert_eq!(parts.len(), 1);
    assert_eq!((&parts[0].kind, &parts[0].text, parts[0].end), (&PartKind::Content, &text, PartEnd::Complete));
    assert!(parse(parser(), &[]).is_empty());
}
