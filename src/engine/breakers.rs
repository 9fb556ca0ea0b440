//! From the texts of sequence breakers to the tokens of a vocabulary.

use super::lock;
use crate::constrain::{is_set, set};
use crate::error::{Error, Result, filled};
use crate::limits;
use crate::sampling::{DryBreakers, mask_words};
use crate::text::Tokenizer;
use aho_corasick::AhoCorasick;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Lists of breakers and their tokens, those that were used last in front. The vocabulary is searched once for each list.
#[derive(Default)]
pub(super) struct Breakers(Mutex<VecDeque<(Vec<String>, Arc<DryBreakers>)>>);

impl Breakers {
    /// The breakers of a list of texts. May take tens of milliseconds the first time.
    ///
    /// # Errors
    /// `Argument` for a list that is too long, and for texts that are empty or too long; `Memory`.
    pub fn get(&self, texts: &[String], tokenizer: &Tokenizer, vocab: usize) -> Result<Arc<DryBreakers>> {
        check_breakers(texts)?;
        let front = |kept: &mut VecDeque<(Vec<String>, Arc<DryBreakers>)>| {
            let at = kept.iter().position(|(known, _)| known == texts)?;
            let found = kept.remove(at)?;
            kept.push_front(found.clone());
            Some(found.1)
        };
        if let Some(found) = front(&mut lock(&self.0)) {
            return Ok(found);
        }
        let made = Arc::new(search(texts, tokenizer, vocab)?);
        let mut kept = lock(&self.0);
        kept.push_front((texts.to_vec(), made.clone()));
        kept.truncate(limits::DRY_BREAKER_LISTS_KEPT);
        Ok(made)
    }
}

/// That a list of sequence breakers is one.
///
/// # Errors
/// `Argument` for one that is too long, and for texts that are empty or too long.
pub fn check_breakers(texts: &[String]) -> Result<()> {
    let most = limits::DRY_BREAKERS_MAX;
    if texts.len() > most {
        return Err(Error::argument(format!("{} sequence breakers; at most {most} are allowed", texts.len()))
            .about("dry_breakers"));
    }
    match texts.iter().position(|text| text.is_empty() || text.len() > limits::DRY_BREAKER_BYTES_MAX) {
        Some(at) => {
            let most = limits::DRY_BREAKER_BYTES_MAX;
            Err(Error::argument(format!("sequence breaker {at} is empty or has more than {most} bytes"))
                .about("dry_breakers"))
        }
        None => Ok(()),
    }
}

fn search(texts: &[String], tokenizer: &Tokenizer, vocab: usize) -> Result<DryBreakers> {
    let mut tokens = filled("the tokens of sequence breakers", mask_words(vocab), 0u32)?;
    let finder = AhoCorasick::new(texts)
        .map_err(|e| Error::argument(format!("sequence breakers: {e}")).about("dry_breakers"))?;
    for id in 0..vocab as u32 {
        // A marker of a turn ends what is repeated as well.
        if tokenizer.is_special(id) || finder.is_match(&tokenizer.token_bytes(id)?) {
            set(&mut tokens, id);
        }
    }
    // As tokens have it at the beginning of a text, and after a space.
    let spelled = texts.iter().flat_map(|text| [text.clone(), format!(" {text}")]);
    let mut sequences = Vec::new();
    for text in spelled {
        let ids = tokenizer.encode(&text, false, false)?;
        if ids.len() > 1 && !ids.iter().any(|&id| is_set(&tokens, id)) && !sequences.contains(&ids) {
            sequences.push(ids);
        }
    }
    Ok(DryBreakers::new(tokens, sequences))
}
