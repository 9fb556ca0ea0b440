//! Answers among the messages of a chat: where the chat template writes one as the model did, the tokens that the model generated
//! stand for it, and not those that the tokenizer would make of its text. So the prefix cache has it to its end, however the model
//! cut it into tokens.

use crate::text::{MarkedText, Tokenizer};
use std::ops::Range;
use std::sync::Arc;

/// The answer to an earlier prompt of a chat.
#[derive(Clone, Debug)]
pub struct PriorAnswer(Arc<Written>);

/// What a model wrote.
#[derive(Debug)]
struct Written {
    /// What came before it in the prompt.
    lead: String,
    text: String,
    tokens: Vec<u32>,
}

impl PriorAnswer {
    /// `lead`: the end of the prompt's text. `tokens` have exactly `text`.
    pub(super) fn new(lead: &str, text: &str, tokens: &[u32]) -> PriorAnswer {
        PriorAnswer(Arc::new(Written { lead: lead.to_owned(), text: text.to_owned(), tokens: tokens.to_vec() }))
    }

    /// The tokens.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.0.tokens
    }

    /// Where in a rendered chat it stands, at or after `from`.
    fn find(&self, chat: &MarkedText, from: usize) -> Option<Range<usize>> {
        let Written { lead, text, .. } = &*self.0;
        // What leads to it may begin within the answer before.
        let mut search = from.saturating_sub(lead.len());
        while !chat.text.is_char_boundary(search) {
            search -= 1;
        }
        while let Some(found) = chat.text.get(search..)?.find(lead.as_str()) {
            let begin = search + found + lead.len();
            let end = begin + text.len();
            // What somebody wrote as a message is no turn of the conversation.
            let before = begin.checked_sub(1)?;
            let content = chat.content.iter().any(|range| range.contains(&before));
            if !content && begin >= from && chat.text.get(begin..end) == Some(text.as_str()) {
                return Some(begin..end);
            }
            search += found + 1;
            while !chat.text.is_char_boundary(search) {
                search += 1;
            }
        }
        None
    }
}

/// The answers that stand in a rendered chat as they were written, in order, with their places. Behind each a special token follows,
/// or nothing: there the tokenizer makes of the rest what it makes of it as a part of the whole.
pub(super) fn places<'a>(
    answers: &'a [(usize, PriorAnswer)],
    chat: &MarkedText,
    tokenizer: &Tokenizer,
) -> Vec<(Range<usize>, &'a [u32])> {
    let mut from = 0;
    let mut places = Vec::new();
    for (_, answer) in answers {
        let Some(place) = answer.find(chat, from) else { continue };
        let rest = chat.text.get(place.end..).unwrap_or_default();
        if rest.is_empty() || tokenizer.special_tokens().any(|(_, name)| rest.starts_with(name)) {
            from = place.end;
            places.push((place, answer.tokens()));
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> PriorAnswer {
        PriorAnswer::new("<|assistant|>", "yes", &[7])
    }

    #[test]
    fn an_answer_is_found_behind_its_lead_alone() {
        let chat = MarkedText::from("<|user|>yes<|assistant|>yes<|end|><|assistant|>yes".to_owned());
        assert_eq!(answer().find(&chat, 0), Some(24..27));
        assert_eq!(answer().find(&chat, 25), Some(47..50));
        assert_eq!(answer().find(&chat, 48), None);
        let next = PriorAnswer::new("yes<|end|><|assistant|>", "yes", &[8]);
        assert_eq!(next.find(&chat, 27), Some(47..50));
    }

    #[test]
    fn what_a_user_wrote_is_no_answer() {
        let text = "<|user|><|assistant|>yes<|end|><|assistant|>no".to_owned();
        let chat = MarkedText { text, content: vec![8..20, 20..24] };
        assert_eq!(answer().find(&chat, 0), None);
    }
}
