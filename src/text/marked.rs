//! Text that remembers which of its parts somebody wrote as content.
//!
//! A chat template writes markers such as `<|im_start|>`, which are special tokens; what a user wrote into a message may spell
//! the same characters and must stay ordinary text. [`MarkedText`] goes from the template, which knows where each character
//! came from, to the tokenizer, which makes no special token that touches a content range.

use std::ops::Range;

/// Text and the ranges of it that are content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkedText {
    /// The whole text.
    pub text: String,
    /// Byte ranges of `text` in which names of special tokens are ordinary characters. Sorted, disjoint, not empty, each
    /// beginning and ending at a character.
    pub content: Vec<Range<usize>>,
}

impl From<String> for MarkedText {
    /// Text without content: every name of a special token in it is one.
    fn from(text: String) -> MarkedText {
        MarkedText { text, content: Vec::new() }
    }
}
