//! Text that a grammar leaves free but for some delimiters: which tokens may follow is all of them without a few, which are known for
//! each state of an automaton.
//!
//! The tokens that must not follow are found once for each state that any answer comes to, by a walk over those tokens alone that
//! differ from a text in which nothing has begun; then they are kept. No parser runs.

use super::watch::{Literal, NOTHING, State, Watch};
use crate::constrain::TokenTrie;
use crate::constrain::answer::{Pattern, PatternState};
use crate::constrain::guided::Guided;
use crate::error::{Error, Result};
use crate::limits::FREE_TEXT_STATES_MAX;
use astrai_guidance::toktrie::{TokTrie, TrieNode};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What a delimiter in free text does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Action {
    /// Reasoning begins.
    Reasoning,
    /// The text ends, and what follows it begins with the next token.
    Close,
    /// A call begins, which goes on as the grammar with this number says.
    Call(usize),
    /// It must not be written.
    Never,
}

/// Where a free text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    watch: State,
    net: PatternState,
}

/// Where a delimiter ended in a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fired {
    pub(super) action: Action,
    /// Bytes of the token up to the end of the delimiter.
    pub(super) len: usize,
}

/// One kind of free text.
pub(super) struct FreeText {
    vocabulary: Arc<TokenTrie>,
    watch: Watch<Action>,
    /// What must not be written and is no literal.
    net: Option<Pattern>,
    /// Grammars of calls that have begun.
    calls: Vec<Guided>,
    /// The text that begins where reasoning does.
    reasoning: Option<Arc<FreeText>>,
    /// Tokens that must not follow where nothing has begun.
    plain: OnceLock<Vec<u32>>,
    known: Mutex<HashMap<Place, Arc<[u32]>>>,
}

impl FreeText {
    /// # Errors
    /// `Unsupported` for delimiters that are too long.
    pub(super) fn new(
        vocabulary: &Arc<TokenTrie>,
        literals: Vec<Literal<Action>>,
        net: Option<Pattern>,
        calls: Vec<Guided>,
    ) -> Result<FreeText> {
        let watch = Watch::new(literals)
            .ok_or_else(|| Error::unsupported("the delimiters of the model's format are too long"))?;
        let vocabulary = vocabulary.clone();
        let (plain, known) = (OnceLock::new(), Mutex::default());
        Ok(FreeText { vocabulary, watch, net, calls, reasoning: None, plain, known })
    }

    /// With the text that begins where reasoning does.
    pub(super) fn with_reasoning(self, reasoning: Option<&Arc<FreeText>>) -> FreeText {
        FreeText { reasoning: reasoning.cloned(), ..self }
    }

    /// Where the text begins. `at_start`: with it the answer does.
    pub(super) fn begin(&self, at_start: bool) -> Place {
        let watch = if at_start { self.watch.at_start() } else { NOTHING };
        Place { watch, net: self.net.as_ref().map_or(0, |net| net.start(at_start)) }
    }

    /// The longest end of the text that begins a delimiter.
    pub(super) fn begun(&self, place: Place) -> &[u8] {
        self.watch.begun(place.watch)
    }

    /// The grammar of a call that has begun.
    pub(super) fn call(&self, index: usize) -> Option<&Guided> {
        self.calls.get(index)
    }

    fn step(&self, place: Place, byte: u8) -> Place {
        let net = match &self.net {
            // The marker of special tokens is no part of their text.
            Some(net) if byte != TokTrie::SPECIAL_TOKEN_MARKER => net.next(place.net, byte),
            _ => place.net,
        };
        Place { watch: self.watch.next(place.watch, byte), net }
    }

    fn fired(&self, place: Place) -> Option<Action> {
        let refused = || self.net.as_ref().is_some_and(|net| net.accepts(place.net)).then_some(Action::Never);
        self.watch.fired(place.watch).map(|literal| literal.action).or_else(refused)
    }

    /// Goes on by bytes, up to the end of the first delimiter.
    pub(super) fn run(&self, place: Place, bytes: &[u8]) -> (Place, Option<Fired>) {
        let mut place = place;
        for (index, &byte) in bytes.iter().enumerate() {
            place = self.step(place, byte);
            if let Some(action) = self.fired(place) {
                return (place, Some(Fired { action, len: index + 1 }));
            }
        }
        (place, None)
    }

    /// Whether bytes at its beginning end no part of it.
    pub(super) fn begins_quietly(&self, bytes: &[u8]) -> bool {
        self.run(self.begin(false), bytes).1.is_none()
    }

    /// The tokens that must not follow, in the order of their ids.
    pub(super) fn refused(&self, place: Place) -> Arc<[u32]> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&place) {
            return known.clone();
        }
        let nothing = self.begin(false);
        let plain = self.plain.get_or_init(|| {
            let mut found = Vec::new();
            self.walk(self.vocabulary.trie().root(), nothing, None, &mut Vec::new(), &mut found);
            found
        });
        let mut found = plain.clone();
        if place != nothing {
            self.walk(self.vocabulary.trie().root(), place, Some(nothing), &mut Vec::new(), &mut found);
        }
        found.sort_unstable();
        let doubles = self.vocabulary.doubles().iter();
        let more: Vec<u32> =
            doubles.filter(|(one, _)| found.binary_search(one).is_ok()).map(|(_, other)| *other).collect();
        found.extend(more);
        found.sort_unstable();
        found.dedup();
        let found: Arc<[u32]> = found.into();
        let mut known = lock();
        if known.len() < FREE_TEXT_STATES_MAX {
            known.insert(place, found.clone());
        }
        found
    }

    /// Collects the tokens below a node that must not follow. `plain`: where a text in which nothing had begun stands; tokens on
    /// which both come to the same place are left out.
    fn walk(&self, node: &TrieNode, place: Place, plain: Option<Place>, path: &mut Vec<u8>, out: &mut Vec<u32>) {
        for child in self.vocabulary.trie().node_children(node) {
            let byte = child.byte();
            let next = self.step(place, byte);
            let other = plain.map(|plain| self.step(plain, byte));
            if other == Some(next) {
                continue;
            }
            path.push(byte);
            match self.fired(next) {
                None => self.walk(child, next, other, path, out),
                Some(Action::Never) => {
                    out.extend(child.token_id());
                    self.below(child, &mut |id| out.push(id));
                }
                Some(action) => self.refuse_below(child, action, path, out),
            }
            path.pop();
        }
    }

    /// Collects the tokens that go on after a delimiter as they must not. `path`: their bytes up to its end.
    fn refuse_below(&self, node: &TrieNode, action: Action, path: &[u8], out: &mut Vec<u32>) {
        let mut all = Vec::new();
        self.below(node, &mut |id| all.push(id));
        if all.is_empty() {
            return;
        }
        let rest = |id: u32| self.vocabulary.trie().token(id).get(path.len()..).unwrap_or(&[]).to_vec();
        let quiet = |id: u32| self.reasoning.as_ref().is_some_and(|text| text.begins_quietly(&rest(id)));
        let goes_on = match action {
            Action::Call(index) => self.call(index).and_then(|call| call.answer().allowed_after(path).ok()),
            _ => None,
        };
        out.extend(all.into_iter().filter(|&id| match action {
            Action::Reasoning => !quiet(id),
            Action::Call(_) => !goes_on.as_ref().is_some_and(|set| crate::constrain::is_set(set, id)),
            Action::Close | Action::Never => true,
        }));
    }

    /// All tokens below a node.
    fn below(&self, node: &TrieNode, found: &mut impl FnMut(u32)) {
        let mut open = vec![node];
        while let Some(node) = open.pop() {
            for child in self.vocabulary.trie().node_children(node) {
                child.token_id().into_iter().for_each(&mut *found);
                open.push(child);
            }
        }
    }
}
