//! Random texts, cut at random: the same parts; and work and memory that grow no faster than the text.

use super::*;

/// Pieces of which texts are made that are hard to read: delimiters of all formats, and what stands in calls.
fn hard_pieces() -> Vec<String> {
    let mut pieces: Vec<String> = [
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\",
        ",",
        ":",
        " ",
        "\n",
        "x",
        "é",
        "😀",
        "'",
        "(",
        ")",
        "=",
        "<",
        ">",
        "|",
        "1",
        "true",
        "{\"name\": \"f\", \"arguments\": {\"a\": 1}}",
        "\"name\":\"f\"",
        "\"arguments\":",
        "[{\"name\":\"f\",\"arguments\":{}}]",
        "f(a='x')",
        "[f(a=1), g()]",
        "<parameter=a>\n1\n</parameter>",
        "a:<|\"|>x<|\"|>",
        "```",
        "```json\n",
        ";",
        "<param name=\"a\">1</param>",
        "<parameter name=\"a\">1</parameter>",
        "<arg_key>a</arg_key>\n<arg_value>1</arg_value>",
        "[TOOL_CALLS]f[ARGS]{}",
        "[CALL_ID]a1",
        "<function=f>",
        "<invoke name=\"f\">",
        "<function name=\"f\">",
        "{\"name\": \"f\", \"parameters\": ",
        "<|channel|>final<|message|>",
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>",
        "call:f",
        "<｜DSML｜invoke name=\"f\">",
        "functions.f:0",
        "f<｜tool▁sep｜>",
    ]
    .map(str::to_owned)
    .into();
    for (_, fixture) in fixtures() {
        pieces.extend(
            fixture["markers"].as_array().into_iter().flatten().filter_map(|marker| marker.as_str().map(str::to_owned)),
        );
    }
    pieces
}

fn random_text(pieces: &[String], random: &mut Random) -> Vec<Piece> {
    let count = 1 + random.below(24);
    (0..count)
        .map(|_| {
            let text = pieces[random.below(pieces.len())].clone();
            let special = text.len() > 3 && random.below(4) == 0;
            (text, special)
        })
        .collect()
}

#[test]
fn random_texts_have_the_same_parts_however_they_are_cut() {
    let pieces = hard_pieces();
    for (number, name) in ResponseTemplate::names().into_iter().enumerate() {
        let template = Arc::new(ResponseTemplate::by_name(&name).unwrap());
        let specials: Arc<[String]> =
            ["<tool_call>", "</tool_call>", "<|channel|>", "</think>"].map(str::to_owned).into();
        for seed in 0..1500u64 {
            let random = &mut Random(seed.wrapping_mul(131) + number as u64);
            let text = random_text(&pieces, random);
            let parser = || {
                let parser = AnswerParser::new(Some(template.clone()), "", Arc::default());
                if seed % 3 == 0 { parser.with_special_texts(specials.clone()) } else { parser }
            };
            let whole = parse(parser(), &text);
            for cut in [characters(&text), cut(&text, random)] {
                let parts = parse(parser(), &cut);
                assert_eq!(parts, whole, "{name}, seed {seed}: {text:?} cut as {cut:?}");
            }
        }
    }
}

#[test]
fn work_grows_with_the_text() {
    let pieces = hard_pieces();
    for name in ResponseTemplate::names() {
        let template = Arc::new(ResponseTemplate::by_name(&name).unwrap());
        for piece in &pieces {
            let steps = |bytes: usize| {
                let mut parser = AnswerParser::new(Some(template.clone()), "", Arc::default());
                let text = piece.repeat(bytes / piece.len());
                let mut out = Vec::new();
                for chunk in text.as_bytes().chunks(4096) {
                    parser.push(&String::from_utf8_lossy(chunk), &mut out);
                }
                let steps = parser.steps();
                parser.finish(&mut out);
                steps
            };
            let (short, long) = (steps(5_000), steps(20_000));
            assert!(long < 5 * short + 50_000 && long < 20 * 20_000, "{name}, {piece:?}: {short} steps, then {long}");
        }
    }
}

#[test]
fn what_is_held_back_is_bounded() {
    let template = Arc::new(ResponseTemplate::by_name("hermes").unwrap());
    for (text, most) in [("word ", 8), ("<tool_", 8), (" ", DELIMITER_BYTES_MAX + 8)] {
        let mut parser = AnswerParser::new(Some(template.clone()), "", Arc::default());
        let mut out = Vec::new();
        for _ in 0..10_000 {
            parser.push(text, &mut out);
            assert!(parser.held_bytes() <= most, "{text:?}: {}", parser.held_bytes());
        }
    }
    // Arguments leave while they are written.
    let mut parser = AnswerParser::new(Some(template), "", Arc::default());
    let mut out = Vec::new();
    parser.push("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"", &mut out);
    for _ in 0..1000 {
        out.clear();
        parser.push("text ", &mut out);
        assert_eq!((out.len(), out[0].text.as_str(), parser.held_bytes()), (1, "text ", 0));
    }
}

#[test]
fn only_what_may_be_a_delimiter_is_held_back() {
    let template = Arc::new(ResponseTemplate::by_name("hermes").unwrap());
    let mut parser = AnswerParser::new(Some(template), "", Arc::default());
    let mut released = |text: &str| {
        let mut out = Vec::new();
        parser.push(text, &mut out);
        out.iter().map(|delta| delta.text.as_str()).collect::<String>()
    };
    assert_eq!(released("a < b <"), "a < b");
    assert_eq!(released("tool_cal"), "");
    assert_eq!(released("x"), " <tool_calx");
    assert_eq!(released(" y<<think"), " y<");
}

#[test]
fn a_call_that_is_too_long_ends() {
    let template = Arc::new(ResponseTemplate::by_name("qwen-xml").unwrap());
    let mut parser = AnswerParser::new(Some(template), "", Arc::default());
    let mut out = Vec::new();
    parser.push("<function=f><parameter=a>", &mut out);
    let piece = "x".repeat(1 << 16);
    for _ in 0..(crate::limits::CALL_BYTES_MAX >> 16) + 2 {
        parser.push(&piece, &mut out);
        assert!(parser.held_bytes() <= crate::limits::CALL_BYTES_MAX + piece.len());
    }
    parser.finish(&mut out);
    let parts = assembled(&out);
    assert_eq!(
        parts.iter().map(|part| (part.kind, part.end)).collect::<Vec<_>>(),
        [(PartKind::Call, PartEnd::Malformed), (PartKind::Content, PartEnd::Complete)]
    );
}
