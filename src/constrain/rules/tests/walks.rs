//! Answers that a model without any sense would write: tokens drawn from those that are allowed.

use super::*;

/// Draws tokens until the answer ends, with a taste for delimiters, for what begins a call and for the end. `None`: it did not end
/// in time.
fn walk(
    vocabulary: &Vocabulary,
    grammar: &dyn Grammar,
    openings: &[Vec<u32>],
    random: &mut Random,
) -> Option<Vec<u32>> {
    let (mut matcher, mut mask) = (grammar.matcher().unwrap(), vocabulary.mask());
    let mut tokens = Vec::new();
    while tokens.len() < 1500 {
        if random.below(20) == 0 && !openings.is_empty() {
            for &id in &openings[random.below(openings.len())] {
                matcher.allowed(&mut mask).unwrap();
                if !is_set(&mask, id) {
                    break;
                }
                matcher.accept(id).unwrap();
                tokens.push(id);
            }
        }
        let ends = matcher.allowed(&mut mask).unwrap();
        let allowed: Vec<u32> = (0..vocabulary.tokenizer.vocab_size() as u32).filter(|&id| is_set(&mask, id)).collect();
        if ends && (allowed.is_empty() || random.below(30) == 0) {
            return Some(tokens);
        }
        assert!(!allowed.is_empty(), "nothing may follow {:?}", vocabulary.text(&tokens));
        let marks: Vec<u32> =
            allowed.iter().copied().filter(|&id| vocabulary.trie.trie().token(id).len() > 3).collect();
        let from = if random.below(4) == 0 && !marks.is_empty() { &marks } else { &allowed };
        let id = from[random.below(from.len())];
        matcher.accept(id).unwrap_or_else(|e| panic!("{e}: {id} after {:?}", vocabulary.text(&tokens)));
        tokens.push(id);
    }
    None
}

/// That what was written is read as calls of the tools with arguments that their schemas accept. Returns how many.
fn check(about: &str, parts: &[Part], tools: &[Tool]) -> usize {
    let calls: Vec<&Part> = parts.iter().filter(|part| part.kind == PartKind::Call).collect();
    for part in &calls {
        assert_eq!(part.end, Some(PartEnd::Complete), "{about}: {parts:?}");
        let tool = tools.iter().find(|tool| Some(&tool.name) == part.name.as_ref());
        let tool = tool.unwrap_or_else(|| panic!("{about}: no such tool: {part:?}"));
        let value: Value = serde_json::from_str(&part.text).unwrap_or_else(|e| panic!("{about}: {e}: {part:?}"));
        let schema = super::super::calls::parameters(tool);
        assert!(writer::valid(&schema, &schema, &value), "{about}: {part:?}");
    }
    calls.len()
}

#[test]
fn required_calls_are_valid_whatever_is_drawn() {
    let tools = schemas::tools();
    for format in formats() {
        let template = template(&format);
        let (mut ended, mut calls) = (0, 0);
        for markers in [Markers::Special, Markers::Plain, Markers::Letters] {
            let vocabulary = Vocabulary::bytes(&template, markers);
            let openings: Vec<Vec<u32>> = Vec::new();
            let required = rules(&format, tools.clone(), ToolChoice::Required);
            let grammar = made(&vocabulary, AnswerRules { reasoning_tokens: Some(20), ..required }).starting("");
            for seed in 0..12 {
                let Some(tokens) = walk(&vocabulary, &*grammar, &openings, &mut Random(seed)) else { continue };
                let parts = vocabulary.parts(&template, &tools, "", &tokens, markers == Markers::Special);
                let about = format!("{format} {markers:?} {seed}: {:?}", vocabulary.text(&tokens));
                let count = check(&about, &parts, &tools);
                assert!(count > 0, "{about}: {parts:?}");
                assert!(
                    parts.iter().all(|part| part.kind != PartKind::Content || part.text.trim().is_empty()),
                    "{about}: {parts:?}"
                );
                ended += 1;
                calls += count;
            }
        }
        assert!(ended >= 12 && calls >= ended, "{format}: {ended} answers ended, with {calls} calls");
    }
}

#[test]
fn strict_calls_within_free_text_are_valid_whatever_is_drawn() {
    let tools = schemas::tools();
    for format in formats() {
        let template = template(&format);
        let mut calls = 0;
        for markers in [Markers::Special, Markers::Plain, Markers::Letters] {
            let vocabulary = Vocabulary::bytes(&template, markers);
            let syntax = template.call_syntax().unwrap();
            let openings: Vec<Vec<u32>> =
                syntax.openings.iter().map(|opening| vocabulary.encode(&opening.text)).collect();
            let grammar = made(&vocabulary, rules(&format, tools.clone(), ToolChoice::Auto)).starting("");
            for seed in 0..15 {
                let Some(tokens) = walk(&vocabulary, &*grammar, &openings, &mut Random(seed)) else { continue };
                let parts = vocabulary.parts(&template, &tools, "", &tokens, markers == Markers::Special);
                let about = format!("{format} {markers:?} {seed}: {:?}", vocabulary.text(&tokens));
                calls += check(&about, &parts, &tools);
            }
        }
        // What begins a call at the beginning alone is hardly ever drawn.
        let at_start = template.call_syntax().unwrap().openings.iter().all(|opening| opening.at_start);
        assert!(calls > 0 || at_start, "{format}: no call was drawn");
    }
}
