//! Grammars of whole answers, kept for the next requests with the same rules.

use super::lock;
use crate::constrain::{AnswerGrammar, AnswerRules, TokenTrie, compile_answer};
use crate::error::Result;
use crate::limits;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// The rules of a request, and what its guide is made with.
pub(super) struct Rules {
    pub rules: AnswerRules,
    /// Tokens that end the answer.
    pub ends: Vec<u32>,
    pub vocab: usize,
    pub fingerprint: u64,
}

/// Grammars of answers, those that were used last in front.
#[derive(Default)]
pub(super) struct AnswerGrammars(Mutex<VecDeque<(AnswerRules, Option<Arc<AnswerGrammar>>)>>);

impl AnswerGrammars {
    /// The grammar of these rules, made if it is not there.
    pub fn get(&self, trie: &Arc<TokenTrie>, rules: &AnswerRules) -> Result<Option<Arc<AnswerGrammar>>> {
        {
            let mut kept = lock(&self.0);
            if let Some(at) = kept.iter().position(|(known, _)| same(known, rules))
                && let Some(found) = kept.remove(at)
            {
                let grammar = found.1.clone();
                kept.push_front(found);
                return Ok(grammar);
            }
        }
        let grammar = compile_answer(trie, rules.clone())?;
        let mut kept = lock(&self.0);
        kept.push_front((rules.clone(), grammar.clone()));
        kept.truncate(limits::ANSWER_GRAMMARS_KEPT);
        Ok(grammar)
    }
}

/// Whether two rules make the same grammar.
fn same(a: &AnswerRules, b: &AnswerRules) -> bool {
    let content = match (&a.content, &b.content) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    };
    content
        && Arc::ptr_eq(&a.template, &b.template)
        && (&a.tools, &a.choice, a.parallel, a.constrain_auto, a.reasoning_tokens)
            == (&b.tools, &b.choice, b.parallel, b.constrain_auto, b.reasoning_tokens)
}
