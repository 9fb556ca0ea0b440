//! Text on its way in and out: the tokenizer, the incremental detokenizer of a running request, and its stop strings.
//!
//! Called by the engine: `encode` on the caller's thread, [`TextStream`] and [`StopFilter`] by whoever delivers a
//! request's tokens. What holds everywhere in this room:
//!
//! - Text that leaves is whole UTF-8 and final: nothing released is ever taken back.
//! - No state of a request grows with the length of its answer (but for decoders that need all of it, which no
//!   published language model has).
//! - No thread is started, and nothing outlives the [`Tokenizer`] in the thread that called it.
//!
//! The `tokenizers` crate reads `tokenizer.json` and encodes, but for the steps that it would keep in statics, and so
//! leave behind when the library is unloaded ([`mod@pre_tokenizer`]). Decoding is ours ([`mod@decoder`]), because the
//! crate's can only decode a whole answer at once; one implementation serves [`Tokenizer::decode`] and [`TextStream`],
//! so the two cannot disagree.

mod added;
mod alphabet;
mod automaton;
pub mod continued;
mod decoder;
pub mod exact;
mod expression;
#[cfg(test)]
mod fixtures;
mod long_word;
mod marked;
mod name_table;
mod normalizer;
mod output;
mod possessive;
mod post_processor;
mod pre_tokenizer;
pub mod stops;
pub mod stream;
pub mod template;
pub mod tokenizer;
mod vocabulary;
#[cfg(test)]
mod whole_text_tests;

pub use marked::MarkedText;
pub use output::EncodeLimits;
pub use stops::StopFilter;
pub use stream::TextStream;
pub use template::{ChatTemplate, LocalTime, TemplateInput};
pub use tokenizer::Tokenizer;

/// The last boundary of a character at or before `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// The first boundary of a character at or after `at`.
fn ceil_boundary(text: &str, at: usize) -> usize {
    (at..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len())
}
