//! A line of output of `astrai score`. Numbers are printed with the digits that bring back the same f32; what is not
//! a number in JSON (NaN, infinities) is null.

use crate::stream::finish_name;
use astrai::engine::{AnswerFormat, Event, Part, PartEnd, PartKind};
use serde::Serialize;
use serde_json::{Value, json};

#[derive(Serialize)]
struct Scored<'a> {
    id: &'a Value,
    prompt_tokens: &'a [u32],
    tokens: &'a [u32],
    text: &'a str,
    token_logprobs: &'a [f32],
    top_logprobs: Vec<Vec<(u32, f32)>>,
    prompt_logprobs: Option<&'a [f32]>,
    finish_reason: String,
    /// The parts of an answer to messages whose format is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<Vec<Value>>,
    /// Of a line with a constraint.
    #[serde(skip_serializing_if = "Option::is_none")]
    complete: Option<bool>,
}

/// The line of a request that ran to its end.
pub fn scored(id: &Value, prompt_tokens: &[u32], wants_prompt_logprobs: bool, event: &Event) -> String {
    let line = Scored {
        id,
        prompt_tokens,
        tokens: &event.tokens,
        text: &event.text,
        token_logprobs: &event.logprobs,
        top_logprobs: top_logprobs(event),
        prompt_logprobs: wants_prompt_logprobs.then_some(&event.prompt_logprobs),
        finish_reason: finish_name(event.finish),
        parts: (event.format == AnswerFormat::Known).then(|| parts(event)),
        complete: event.complete,
    };
    serde_json::to_string(&line).unwrap_or_else(|error| bad(id, &error.to_string()))
}

/// The line of a request that failed, or never was one.
pub fn bad(id: &Value, message: &str) -> String {
    json!({"id": id, "error": message}).to_string()
}

/// The parts of the answer, in order.
fn parts(event: &Event) -> Vec<Value> {
    let shown = |part: Part| {
        let kind = match part.kind {
            PartKind::Content => "content",
            PartKind::Reasoning => "reasoning",
            PartKind::Call => "call",
        };
        let whole = part.end == Some(PartEnd::Complete);
        match part.kind {
            PartKind::Call => {
                json!({"kind": kind, "name": part.name, "id": part.id, "arguments": part.text, "complete": whole})
            }
            _ => json!({"kind": kind, "text": part.text, "complete": whole}),
        }
    };
    (0..event.part_count()).filter_map(|index| event.part(index)).map(shown).collect()
}

/// One list for each token, best first; empty lists when no alternatives were asked for.
fn top_logprobs(event: &Event) -> Vec<Vec<(u32, f32)>> {
    let count = event.top_count as usize;
    if count == 0 {
        return vec![Vec::new(); event.tokens.len()];
    }
    let ids = event.top_tokens.chunks(count);
    let logprobs = event.top_logprobs.chunks(count);
    ids.zip(logprobs).map(|(ids, logprobs)| ids.iter().copied().zip(logprobs.iter().copied()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use astrai::engine::{EventKind, FinishReason};

    fn event() -> Event {
        let mut event = Event::empty(1, 0);
        (event.kind, event.finish) = (EventKind::Finished, FinishReason::Length);
        event.text = "a\"\u{1}é".into();
        event.tokens = vec![5, 6];
        event.logprobs = vec![-0.0, -0.1];
        event.top_count = 2;
        event.top_tokens = vec![5, 1, 6, 2];
        event.top_logprobs = vec![-0.0, f32::NEG_INFINITY, -0.1, -1e-10];
        event.prompt_logprobs = vec![f32::NAN, -16777216.0];
        event
    }

    #[test]
    fn the_line_is_exact() {
        let line = scored(&json!("x"), &[1, 2], true, &event());
        assert_eq!(
            line,
            r#"{"id":"x","prompt_tokens":[1,2],"tokens":[5,6],"text":"a\"\u0001é","token_logprobs":[-0.0,-0.1],"top_logprobs":[[[5,-0.0],[1,null]],[[6,-0.1],[2,-1e-10]]],"prompt_logprobs":[null,-16777216.0],"finish_reason":"length"}"#
        );
    }

    #[test]
    fn what_was_not_asked_for_is_empty_or_null() {
        let mut event = event();
        event.top_count = 0;
        (event.top_tokens, event.top_logprobs) = (Vec::new(), Vec::new());
        let line: Value = serde_json::from_str(&scored(&Value::Null, &[], false, &event)).unwrap();
        assert_eq!(line["top_logprobs"], json!([[], []]));
        assert_eq!(line["prompt_logprobs"], Value::Null);
        assert_eq!(line["id"], Value::Null);
    }

    #[test]
    fn numbers_come_back_as_the_same_f32() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = f32::from_bits((state >> 32) as u32);
            let text = serde_json::to_string(&value).unwrap();
            let back: Option<f32> = serde_json::from_str(&text).unwrap();
            assert_eq!(back.map(f32::to_bits), value.is_finite().then_some(value.to_bits()), "{text}");
        }
    }
}
