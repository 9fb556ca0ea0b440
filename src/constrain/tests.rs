use super::*;
use crate::text::Tokenizer;
use std::path::Path;
use std::sync::{Arc, OnceLock};

fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller/tokenizer.json");
        Tokenizer::from_json(&std::fs::read(path).unwrap(), "storyteller").unwrap()
    })
}

fn trie() -> &'static Arc<TokenTrie> {
    static TRIE: OnceLock<Arc<TokenTrie>> = OnceLock::new();
    TRIE.get_or_init(|| Arc::new(TokenTrie::new(tokenizer(), tokenizer().vocab_size()).unwrap()))
}

fn made(kind: Kind, text: &str) -> Arc<dyn Grammar> {
    compile(trie(), kind, text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn refused(kind: Kind, text: &str) -> String {
    match compile(trie(), kind, text) {
        Ok(_) => panic!("{text} was accepted"),
        Err(error) => error.message,
    }
}

fn mask() -> Vec<u32> {
    vec![0; mask_words(trie().trie().vocab_size())]
}

/// Whether a text is accepted whole, token by token.
fn accepts(grammar: &dyn Grammar, text: &str) -> bool {
    let (mut matcher, mut mask) = (grammar.matcher().unwrap(), mask());
    for id in tokenizer().encode(text, false, false).unwrap() {
        matcher.allowed(&mut mask).unwrap();
        if !is_set(&mask, id) {
            return false;
        }
        matcher.accept(id).unwrap();
    }
    matcher.allowed(&mut mask).unwrap()
}

#[test]
fn every_kind_accepts_what_it_says_and_nothing_else() {
    let schema = r#"{"type": "object", "properties": {"mood": {"enum": ["glad", "cross"]}, "gold": {"type": "integer", "minimum": 0,
        "maximum": 99}}, "required": ["mood", "gold"], "additionalProperties": false}"#;
    let cases: [(Kind, &str, &[&str], &[&str]); 5] = [
        (
            Kind::JsonSchema,
            schema,
            &[
                r#"{"mood":"glad","gold":7}"#,
                r#"{"mood": "cross", "gold": 99}"#,
                "{\n  \"mood\": \"glad\",\n  \"gold\": 0\n}",
            ],
            &[
                r#"{"mood":"sad","gold":7}"#,
                r#"{"mood":"glad","gold":100}"#,
                r#"{"mood":"glad"}"#,
                r#"{"mood":   "glad","gold":1}"#,
                "",
            ],
        ),
        (Kind::Json, "", &["[1, 2.5, null]", r#"{"a": {"b": []}}"#, r#""text""#, "true"], &["[1,", "{a: 1}", "nul"]),
        (Kind::Regex, "[A-Z][a-z]{2,4}|no", &["Abc", "Abcde", "no"], &["abc", "Ab", "Abcdef", "noo"]),
        (
            Kind::Lark,
            "start: \"say \" WORD (\", \" WORD)*\nWORD: /[a-z]+/",
            &["say a", "say a, b"],
            &["say", "say a,b", "say A"],
        ),
        (Kind::Texts, r#"["yes", "no", "say \"when\""]"#, &["yes", "no", "say \"when\""], &["y", "yesno", "maybe"]),
    ];
    for (kind, text, good, bad) in cases {
        let grammar = made(kind, text);
        for answer in good {
            assert!(accepts(&*grammar, answer), "{kind:?}: {answer:?}");
        }
        for answer in bad {
            assert!(!accepts(&*grammar, answer), "{kind:?}: {answer:?}");
        }
    }
}

#[test]
fn what_cannot_be_expressed_is_refused_by_name_and_position() {
    for (kind, text, words) in [
        (Kind::JsonSchema, r#"{"properties": {"x": {"not": {"type": "string"}}}}"#, &["not", "/properties/x/not"][..]),
        (Kind::JsonSchema, r#"{"type": "array", "uniqueItems": true}"#, &["uniqueItems", "/uniqueItems"]),
        (
            Kind::JsonSchema,
            r#"{"properties": {"x": {"type": "string", "format": "colour"}}}"#,
            &["colour", "/properties/x/format"],
        ),
        (Kind::JsonSchema, r##"{"items": {"$ref": "#/$defs/none"}}"##, &["none"]),
        (Kind::JsonSchema, r#"{"$ref": "https://example.com/schema.json"}"#, &["example.com"]),
        (Kind::JsonSchema, "[1]", &["neither an object"]),
        (Kind::JsonSchema, "{", &["JSON", "line 1"]),
        (Kind::JsonSchema, "false", &["JSON schema"]),
        (Kind::Regex, "a(?=b)", &["look"]),
        (Kind::Regex, r"(a)\1", &["1"]),
        (Kind::Regex, "a{", &["a{"]),
        (Kind::Lark, "root ::= \"a\"", &["GBNF", "Lark"]),
        (Kind::Lark, "start: missing", &["missing"]),
        (Kind::Lark, "begin: \"a\"", &["start"]),
        (Kind::Texts, "[]", &["empty"]),
        (Kind::Texts, "[1]", &["strings"]),
    ] {
        let message = refused(kind, text);
        assert!(words.iter().all(|word| message.contains(word)), "{text}: {message}");
        assert!(message.len() < 1000, "{message}");
    }
}

/// A request's limits count its own answer: neither a neighbour nor a request before it changes what it gets.
#[test]
fn matchers_know_nothing_of_each_other() {
    let grammar = made(
        Kind::JsonSchema,
        r#"{"type": "array", "minItems": 4, "items": {"type": "string", "pattern": "^[a-f0-9]{1,12}$"}}"#,
    );
    let walk = |steps: usize| {
        let (mut matcher, mut mask, mut seen) = (grammar.matcher().unwrap(), mask(), Vec::new());
        for step in 0..steps {
            seen.push((matcher.allowed(&mut mask).unwrap(), mask.clone()));
            let ids: Vec<u32> = (0..mask.len() as u32 * 32).filter(|id| is_set(&mask, *id)).collect();
            let Some(id) = ids.get(step * 7 % ids.len().max(1)) else { break };
            matcher.accept(*id).unwrap();
        }
        seen
    };
    let alone = walk(20);
    assert!(alone.len() > 5);
    let (mut busy, mut other) = (grammar.matcher().unwrap(), mask());
    for id in tokenizer().encode(r#"["abc","0123456789","ffffffffffff","a"]"#, false, false).unwrap() {
        busy.allowed(&mut other).unwrap();
        busy.accept(id).unwrap();
        assert!(walk(20) == alone);
    }
}

#[test]
fn hostile_constraints_cost_little() {
    let nested = |depth: usize| format!("{}{}", "{\"items\":".repeat(depth), "{}") + &"}".repeat(depth);
    let many = serde_json::to_string(&(0..10_000).map(|i| format!("value {i}")).collect::<Vec<_>>()).unwrap();
    let enums = format!(r#"{{"enum": {many}}}"#);
    assert!(accepts(&*made(Kind::JsonSchema, &enums), "\"value 9999\""));
    assert!(accepts(&*made(Kind::Texts, &many), "value 77"));
    for (kind, text) in [
        (Kind::JsonSchema, nested(50_000)),
        (Kind::JsonSchema, r##"{"$ref": "#"}"##.to_owned()),
        (
            Kind::JsonSchema,
            r##"{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}"##.to_owned(),
        ),
        (Kind::JsonSchema, " ".repeat(2 << 20)),
        (Kind::JsonSchema, r#"{"type": "string", "maxLength": 0, "minLength": 5}"#.to_owned()),
        (Kind::Regex, "(".repeat(100_000)),
        (Kind::Lark, "start: start".to_owned()),
        (Kind::Lark, format!("start: {}\"a\"{}", "(".repeat(5_000), ")".repeat(5_000))),
    ] {
        let message = refused(kind, &text);
        assert!(message.len() < 2000, "{message}");
    }
    // Chains of references and definitions, expressions whose intersection is huge, long ones.
    let defs: Vec<String> = (0..6000).map(|i| format!(r##""a{i}": {{"$ref": "#/$defs/a{}"}}"##, i + 1)).collect();
    let chain = format!(r##"{{"$defs": {{{}, "a6000": {{}}}}, "$ref": "#/$defs/a0"}}"##, defs.join(", "));
    assert!(refused(Kind::JsonSchema, &chain).contains("200 deep"));
    for name in ["A", "a"] {
        let rules: Vec<String> = (0..4000).map(|i| format!("{name}{i}: {name}{}", i + 1)).collect();
        let chain = format!("start: {name}0\n{}\n{name}4000: \"x\"\n", rules.join("\n"));
        assert!(refused(Kind::Lark, &chain).contains("200 deep"), "{name}");
    }
    let terms = [7, 11, 13, 17, 19, 23, 29, 31].map(|n| format!("/(.{{{n}}})*/")).join(" & ");
    assert!(refused(Kind::Lark, &format!("start: A\nA: {terms}")).contains("complex"));
    assert!(refused(Kind::Regex, &"a?".repeat(100_000)).contains("at most"));
    // Expressions that other engines search for ever are only large here.
    let grammar = made(Kind::Regex, "(a*)*b|(x+x+)+y");
    assert!(
        accepts(&*grammar, "aaaaaaaab") && accepts(&*grammar, "xxxxxxxxxxxxxxxxxxxy") && !accepts(&*grammar, "xxxx")
    );
    // What becomes too large while it is used says so.
    let grammar = made(Kind::Regex, "((((a{1,1000}){1,1000}){1,1000}){1,1000})");
    let (mut matcher, mut mask) = (grammar.matcher().unwrap(), mask());
    let id = tokenizer().encode("a", false, false).unwrap()[0];
    let end = (0..1000).find_map(|_| matcher.allowed(&mut mask).and_then(|_| matcher.accept(id)).err());
    assert!(end.is_some_and(|error| error.message.contains("too complex")));
}

/// No token stands for the end of a text within it, whatever its id.
#[test]
fn the_first_token_is_no_end_token() {
    let grammar = made(Kind::Lark, "start: body\nbody[stop=\"\"]: /[0-9]+/");
    let (mut matcher, mut mask) = (grammar.matcher().unwrap(), mask());
    for text in ["1", "2", "3"] {
        matcher.allowed(&mut mask).unwrap();
        assert!(!is_set(&mask, 0));
        matcher.accept(tokenizer().encode(text, false, false).unwrap()[0]).unwrap();
    }
}

#[test]
fn texts_may_hold_any_character() {
    let texts: Vec<String> = (0..0x100u32).filter_map(char::from_u32).map(|c| format!("x{c}")).collect();
    let grammar = made(Kind::Texts, &serde_json::to_string(&texts).unwrap());
    assert!(
        accepts(&*grammar, "x\u{7f}")
            && accepts(&*grammar, "x\n")
            && accepts(&*grammar, "xé")
            && !accepts(&*grammar, "x")
    );
}
