//! Constraints by the parser of llguidance.

use super::{Grammar, Matcher, TokenTrie};
use crate::error::{Error, Result};
use crate::limits;
use astrai_guidance::Logger;
use astrai_guidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use astrai_guidance::earley::{Parser, perf::ParserPerfCounters};
use astrai_guidance::toktrie::INVALID_TOKEN;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};

/// The limits of [`crate::limits`], as the parser takes them.
fn parser_limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: limits::CONSTRAINT_ITEMS_IN_ROW_MAX,
        initial_lexer_fuel: limits::CONSTRAINT_COMPILE_FUEL,
        step_lexer_fuel: limits::CONSTRAINT_STEP_FUEL,
        step_max_items: limits::CONSTRAINT_STEP_ITEMS_MAX,
        max_lexer_states: limits::CONSTRAINT_LEXER_STATES_MAX,
        max_grammar_size: limits::CONSTRAINT_SYMBOLS_MAX,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// A compiled grammar: a parser that is never used itself.
pub(super) struct Guided {
    vocabulary: Arc<TokenTrie>,
    /// Cloned with all that it refers to, so that no request's history reaches another. The lock is held for the clone alone.
    pristine: Mutex<Parser>,
}

impl Guided {
    /// Compiles a grammar, and finds what may begin an answer, by which mistakes come out that compiling does not see. The text of an
    /// error is the parser's.
    pub fn compile(vocabulary: &Arc<TokenTrie>, grammar: TopLevelGrammar) -> std::result::Result<Guided, String> {
        let text = |error: astrai_guidance::Fault| format!("{error:#}");
        let env = vocabulary.env.clone();
        let mut silent = Logger::new(0, 0);
        let extra = vocabulary.slices.extra_lexemes();
        let init = GrammarInit::Serialized(grammar);
        let compiled = init.to_cgrammar(Some(env.clone()), &mut silent, parser_limits(), extra).map_err(text)?;
        let counters = Arc::new(ParserPerfCounters::default());
        let mut parser = Parser::new(env, compiled, parser_limits(), counters).map_err(text)?;
        if let Some(warning) = parser.grammar_warnings().first() {
            return Err(warning.clone());
        }
        let mut first = Answer { vocabulary: vocabulary.clone(), parser: parser.deep_clone() };
        let mut mask = vec![0; super::mask_words(vocabulary.trie().vocab_size())];
        let empty = first.allowed(&mut mask).map_err(|error| error.message)?;
        if !empty && mask.iter().all(|word| *word == 0) {
            return Err("no answer meets it".to_owned());
        }
        Ok(Guided { vocabulary: vocabulary.clone(), pristine: Mutex::new(parser) })
    }

    /// A new answer.
    pub fn answer(&self) -> Answer {
        let pristine = self.pristine.lock().unwrap_or_else(PoisonError::into_inner);
        Answer { vocabulary: self.vocabulary.clone(), parser: pristine.deep_clone() }
    }

    /// The grammar of what follows this much of an answer.
    pub fn following(answer: Answer) -> Guided {
        Guided { vocabulary: answer.vocabulary, pristine: Mutex::new(answer.parser) }
    }
}

impl Grammar for Guided {
    fn matcher(&self) -> Result<Box<dyn Matcher>> {
        Ok(Box::new(self.answer()))
    }
}

/// An answer under a compiled grammar.
pub(super) struct Answer {
    vocabulary: Arc<TokenTrie>,
    parser: Parser,
}

impl Answer {
    /// An answer that goes on by itself, with all that the parser refers to.
    pub fn copy(&self) -> Answer {
        Answer { vocabulary: self.vocabulary.clone(), parser: self.parser.deep_clone() }
    }

    /// Why the parser gave up, if it did.
    fn check(&self) -> Result<()> {
        match self.parser.get_error() {
            None => Ok(()),
            Some(error) => {
                let message = format!("the constraint is too complex to go on with: {}", error.message());
                Err(Error::unsupported(message).about("constraint"))
            }
        }
    }

    /// Appends bytes that are no whole token: the end of one, or a text of any tokens.
    pub fn accept_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        // The number of no token, so that the bytes count alone.
        let applied = self.parser.apply_token(bytes, INVALID_TOKEN);
        self.check()?;
        applied
            .map(|_| ())
            .map_err(|e| Error::internal(format!("text against its constraint: {e}")).about("constraint"))
    }

    /// The tokens that begin with `start` and go on as the grammar says after it; others may be among them.
    pub fn allowed_after(&mut self, start: &[u8]) -> Result<Vec<u32>> {
        let set = self.parser.compute_bias(&*self.vocabulary.slices, start);
        self.check()?;
        Ok(set.as_slice().to_vec())
    }
}

impl Matcher for Answer {
    fn allowed(&mut self, mask: &mut [u32]) -> Result<bool> {
        let set = self.parser.compute_bias(&*self.vocabulary.slices, &[]);
        self.check()?;
        let complete = self.parser.is_accepting();
        self.check()?;
        let words = set.as_slice();
        let common = words.len().min(mask.len());
        mask[..common].copy_from_slice(&words[..common]);
        mask[common..].fill(0);
        Ok(complete)
    }

    fn accept(&mut self, token: u32) -> Result<()> {
        let bytes = self.vocabulary.trie().decode_raw(&[token]);
        match self.parser.apply_token(&bytes, token) {
            Ok(_) => self.check(),
            Err(error) => {
                self.check()?;
                let message = format!("the constraint is too complex to go on with: {error}");
                Err(Error::unsupported(message).about("constraint"))
            }
        }
    }

    fn fork(&self) -> Option<Box<dyn Matcher>> {
        Some(Box::new(self.copy()))
    }
}
