//! Answers under rules, for every format that is built in.

use super::*;
use crate::constrain::answer::{CallSyntax, PartDelta, PartEnd, Tools};
use crate::constrain::{Kind, compile, is_set, mask_words};
use crate::text::Tokenizer;
use serde_json::{Map, json};
use std::collections::BTreeSet;
use std::path::Path;

mod calls;
mod phases;
mod refusals;
mod schemas;
mod walks;
mod writer;

/// Seeded numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// A tokenizer, and the tree of its vocabulary.
struct Vocabulary {
    tokenizer: Tokenizer,
    trie: Arc<TokenTrie>,
}

/// How the delimiters of a format are tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Markers {
    /// Special ones.
    Special,
    /// Tokens of their own that are not special.
    Plain,
    /// Text like any other.
    Letters,
}

impl Vocabulary {
    fn new(json: &[u8]) -> Vocabulary {
        let tokenizer = Tokenizer::from_json(json, "a test's").unwrap();
        let trie = Arc::new(TokenTrie::new(&tokenizer, tokenizer.vocab_size()).unwrap());
        Vocabulary { tokenizer, trie }
    }

    fn storyteller() -> Vocabulary {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller/tokenizer.json");
        Vocabulary::new(&std::fs::read(path).unwrap())
    }

    /// All bytes, and some words and marks; the delimiters of a format as it is said, and an end token.
    fn bytes(template: &ResponseTemplate, markers: Markers) -> Vocabulary {
        let mut names: Vec<String> = ('!'..='~').map(String::from).collect();
        names.extend(('¡'..='¬').chain('®'..='ÿ').chain('Ā'..='ń').map(String::from));
        let mut merges = Vec::new();
        for word in [
            "name",
            "arguments",
            "get",
            "{\"",
            "\":",
            "Ġ\"",
            "\"}",
            "\",",
            "},",
            "Ġthe",
            "</",
            "think",
            ">Ċ",
            "ĊĊ",
            "par",
            "[{",
            "='",
        ] {
            let mut begun = String::new();
            for c in word.chars() {
                let longer = format!("{begun}{c}");
                if !begun.is_empty() && !names.contains(&longer) {
                    merges.push(format!("{begun} {c}"));
                    names.push(longer.clone());
                }
                begun = longer;
            }
        }
        let count = names.len();
        let vocab: Map<String, Value> = names.into_iter().enumerate().map(|(id, name)| (name, id.into())).collect();
        let delimiters = if markers == Markers::Letters { BTreeSet::new() } else { delimiters(template) };
        let added = |(index, content): (usize, &String)| {
            json!({"id": count + index, "content": content, "special": markers == Markers::Special, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false})
        };
        let mut all: Vec<Value> = delimiters.iter().enumerate().map(added).collect();
        all.push(
            json!({"id": count + all.len(), "content": "<END>", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}),
        );
        let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let file = json!({
            "version": "1.0", "added_tokens": all, "pre_tokenizer": level, "decoder": level,
            "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        });
        Vocabulary::new(file.to_string().as_bytes())
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, false, true).unwrap()
    }

    /// Tokens of a text in which all that is not special is cut anywhere.
    fn cut(&self, text: &str, random: &mut Random) -> Vec<u32> {
        let trie = self.trie.trie();
        let mut out = Vec::new();
        for piece in spelling::pieces(&self.trie, text) {
            match piece {
                spelling::Piece::Special(id, _) => out.push(id),
                spelling::Piece::Text(text) => {
                    let mut rest = text.as_bytes();
                    while !rest.is_empty() {
                        let all = trie.all_prefixes(rest);
                        let id = all[random.below(all.len())];
                        out.push(id);
                        rest = &rest[trie.token(id).len()..];
                    }
                }
            }
        }
        out
    }

    fn mask(&self) -> Vec<u32> {
        vec![0; mask_words(self.tokenizer.vocab_size())]
    }

    /// How many of the tokens are accepted, and whether the answer may end after the last of them.
    fn accepted(&self, grammar: &dyn Grammar, tokens: &[u32]) -> (usize, bool) {
        let (mut matcher, mut mask) = (grammar.matcher().unwrap(), self.mask());
        for (index, &id) in tokens.iter().enumerate() {
            matcher.allowed(&mut mask).unwrap();
            if !is_set(&mask, id) {
                return (index, false);
            }
            matcher.accept(id).unwrap();
        }
        (tokens.len(), matcher.allowed(&mut mask).unwrap())
    }

    fn accepts(&self, grammar: &dyn Grammar, text: &str) -> bool {
        let tokens = self.encode(text);
        self.accepted(grammar, &tokens) == (tokens.len(), true)
    }

    /// Whether a text can begin an answer.
    fn begins(&self, grammar: &dyn Grammar, text: &str) -> bool {
        let tokens = self.encode(text);
        self.accepted(grammar, &tokens).0 == tokens.len()
    }

    /// Parts of an answer in tokens.
    fn parts(
        &self,
        template: &Arc<ResponseTemplate>,
        tools: &[Tool],
        prompt: &str,
        tokens: &[u32],
        specials: bool,
    ) -> Vec<Part> {
        let list: Vec<Value> =
            tools.iter().map(|tool| json!({"name": tool.name, "parameters": tool.parameters})).collect();
        let tools = Arc::new(Tools::new(&Value::Array(list)));
        let mut parser = AnswerParser::new(Some(template.clone()), prompt, tools);
        if specials {
            let names: Vec<String> = self.trie.specials().iter().map(|(name, _)| name.clone()).collect();
            parser = parser.with_special_texts(names.into());
        }
        let (mut out, mut bytes) = (Vec::new(), Vec::new());
        let flush = |bytes: &mut Vec<u8>, parser: &mut AnswerParser, out: &mut Vec<PartDelta>| {
            parser.push(&String::from_utf8_lossy(bytes), out);
            bytes.clear();
        };
        for &id in tokens {
            if self.tokenizer.is_special(id) {
                flush(&mut bytes, &mut parser, &mut out);
                parser.push_special(&self.tokenizer.token(id).unwrap(), &mut out);
            } else {
                bytes.extend(self.trie.trie().token(id));
                if std::str::from_utf8(&bytes).is_ok() {
                    flush(&mut bytes, &mut parser, &mut out);
                }
            }
        }
        flush(&mut bytes, &mut parser, &mut out);
        parser.finish(&mut out);
        assembled(&out)
    }

    fn text(&self, tokens: &[u32]) -> String {
        String::from_utf8_lossy(&self.trie.trie().decode(tokens)).into_owned()
    }
}

/// The delimiters in what a format writes.
fn delimiters(template: &ResponseTemplate) -> BTreeSet<String> {
    let mut texts = Vec::new();
    if let Some(syntax) = template.call_syntax() {
        texts.extend([syntax.open.clone(), syntax.call.clone(), syntax.close.clone()]);
        texts.extend(syntax.openings.iter().map(|opening| opening.text.clone()));
        if let super::super::answer::ArgumentSyntax::Tagged { argument, .. } = &syntax.arguments {
            texts.push(argument.clone());
        }
        if let super::super::answer::ArgumentSyntax::BareJson { quote } = &syntax.arguments {
            texts.push(quote.clone());
        }
        if let Some(messages) = &syntax.messages {
            texts.extend([messages.next.clone(), messages.reasoning.clone(), messages.close.clone()]);
        }
    }
    if let Some(found) = template.reasoning() {
        texts.extend(found.open.into_iter().chain(found.close));
    }
    let marker = fancy_regex::Regex::new(r#"<\|"\|>|<[^<>\s="{}]+>|\[/?[A-Z_]+\]"#).unwrap();
    texts.iter().flat_map(|text| marker.find_iter(text).map(|found| found.unwrap().as_str().to_owned())).collect()
}

/// A part that has ended.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    kind: PartKind,
    name: Option<String>,
    text: String,
    end: Option<PartEnd>,
}

fn assembled(deltas: &[PartDelta]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for delta in deltas {
        if delta.begins {
            parts.push(Part { kind: delta.kind, name: delta.name.clone(), text: String::new(), end: None });
        }
        let part = parts.last_mut().unwrap();
        part.text.push_str(&delta.text);
        part.end = delta.end.or(part.end);
    }
    parts
}

fn template(name: &str) -> Arc<ResponseTemplate> {
    Arc::new(ResponseTemplate::by_name(name).unwrap())
}

/// Formats that have calls.
fn formats() -> Vec<String> {
    ResponseTemplate::names().into_iter().filter(|name| template(name).call_syntax().is_some()).collect()
}

fn tool(name: &str, parameters: Value) -> Tool {
    Tool { name: name.to_owned(), parameters, strict: true }
}

fn rules(name: &str, tools: Vec<Tool>, choice: ToolChoice) -> AnswerRules {
    AnswerRules {
        template: template(name),
        tools,
        choice,
        parallel: true,
        constrain_auto: false,
        reasoning_tokens: None,
        content: None,
    }
}

fn made(vocabulary: &Vocabulary, rules: AnswerRules) -> Arc<AnswerGrammar> {
    let name = rules.template.name().unwrap().to_owned();
    compile_answer(&vocabulary.trie, rules).unwrap_or_else(|e| panic!("{name}: {e}")).expect(&name)
}
