//! Blocks that are as large as a caller's text are asked for so that a refusal is an error: an allocator that refuses every block
//! beyond a size, as the C libraries' reserve does. What is asked for in the other way ends the process, and so this test. It
//! refuses to all threads, in a process of its own.

use crate::allocator;
use crate::support::models::storyteller;
use crate::support::own_process::alone;
use astrai::Status;
use astrai::engine::{Engine, EngineOptions, MessageFlags, Prompt, PromptPart, TextOptions};
use astrai::text::Tokenizer;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::fs;

/// What the work ends with while larger blocks are refused.
fn refusing<R: Debug>(largest: usize, what: &str, work: impl FnOnce() -> astrai::Result<R>) {
    let result = allocator::refusing(largest, work);
    let error = result.map(|_| "it was done").expect_err(what);
    assert_eq!(error.status, Status::Memory, "{what}: {error}");
}

fn raw(parts: Vec<PromptPart>) -> Prompt {
    Prompt { parts, ..Prompt::default() }
}

fn text(text: &str) -> PromptPart {
    PromptPart::Text { text: text.into(), special: false }
}

/// A message in a list as deep as JSON may be, which nothing may follow on a caller's stack.
fn chat(content: Value) -> Prompt {
    Prompt {
        messages: vec![json!({"role": "user", "content": "Hi"}), json!({"role": "assistant", "content": content})],
        message_flags: vec![MessageFlags::default(), MessageFlags { continued: true, ..MessageFlags::default() }],
        ..Prompt::default()
    }
}

#[test]
fn a_block_of_a_callers_size_that_is_refused_is_an_error() {
    if !alone(a_block_of_a_callers_size_that_is_refused_is_an_error) {
        return;
    }
    let folder = storyteller();
    let engine = Engine::open(&folder, EngineOptions { text_only: true, ..EngineOptions::default() }).unwrap();
    let long = "once upon a time ".repeat(200_000);
    let options = TextOptions::default;
    for largest in [1 << 20, 3 << 20] {
        let one = raw(vec![text(&long)]);
        refusing(largest, "raw text", || engine.render(&one, options()));
        let two = raw(vec![text(&long), text(&long)]);
        refusing(largest, "joined text", || engine.tokenize(&two, options()));
        let ids = vec![300u32; 3_000_000];
        refusing(largest, "the text of tokens", || engine.detokenize(&ids, options()));
        let tokens = raw(vec![PromptPart::Tokens(ids.clone())]);
        refusing(largest, "tokens as text", || engine.render(&tokens, options()));
        let many =
            raw((0..120_000).map(|at| if at % 2 == 0 { text("a") } else { PromptPart::Tokens(vec![7]) }).collect());
        refusing(largest, "many parts", || engine.tokenize(&many, options()));
        for content in [json!(long.as_str()), json!([{"type": "text", "text": long.as_str()}])] {
            let begun = chat(content);
            refusing(largest, "a message that is continued", || engine.render(&begun, options()));
        }
    }
    // A decoder that keeps all names to the end.
    let mut file: Value = serde_json::from_str(&fs::read_to_string(folder.join("tokenizer.json")).unwrap()).unwrap();
    file["decoder"] = json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true});
    let tokenizer = Tokenizer::from_json(file.to_string().as_bytes(), "tokenizer.json").unwrap();
    let ids = vec![60u32; 100_000];
    refusing(1 << 20, "names that are kept", || tokenizer.decode(&ids, true));
}
