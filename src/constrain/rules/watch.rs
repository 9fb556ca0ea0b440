//! Looks for literals in text that is still being written, token by token: an automaton over the bytes of tokens.

use std::collections::{BTreeMap, VecDeque};

/// A state of a [`Watch`].
pub(super) type State = u16;

/// What is looked for.
#[derive(Clone, Debug)]
pub(super) struct Literal<T> {
    pub(super) bytes: Vec<u8>,
    /// Whether it counts at the beginning of the answer alone.
    pub(super) at_start: bool,
    /// What it means.
    pub(super) action: T,
}

/// The automaton of Aho and Corasick over some literals. Those at the beginning are literals after a symbol that comes before
/// any byte.
#[derive(Debug)]
pub(super) struct Watch<T> {
    /// The next state, by state and byte.
    table: Vec<State>,
    /// By state: the literal that ends there, the longest of several.
    fires: Vec<Option<usize>>,
    literals: Vec<Literal<T>>,
    /// Bytes that each state stands for, without the symbol of the beginning.
    texts: Vec<Vec<u8>>,
    at_start: State,
}

/// The state in which nothing has begun.
pub(super) const NOTHING: State = 0;
/// The symbol of the beginning.
const BEGINNING: u16 = 256;

impl<T> Watch<T> {
    /// `None`: more states than there are numbers.
    pub(super) fn new(literals: Vec<Literal<T>>) -> Option<Watch<T>> {
        let mut children: Vec<BTreeMap<u16, usize>> = vec![BTreeMap::new()];
        let (mut fires, mut texts) = (vec![None], vec![Vec::new()]);
        for (index, literal) in literals.iter().enumerate() {
            let start = literal.at_start.then_some(BEGINNING);
            let mut node = 0;
            for symbol in start.into_iter().chain(literal.bytes.iter().map(|&byte| u16::from(byte))) {
                let next = children.get(node)?.get(&symbol).copied();
                node = match next {
                    Some(next) => next,
                    None => {
                        let made = children.len();
                        let mut text: Vec<u8> = texts.get(node)?.clone();
                        text.extend(u8::try_from(symbol).ok());
                        children.get_mut(node)?.insert(symbol, made);
                        children.push(BTreeMap::new());
                        fires.push(None);
                        texts.push(text);
                        made
                    }
                };
            }
            let fire = fires.get_mut(node)?;
            *fire = fire.or(Some(index));
        }
        State::try_from(children.len()).ok()?;
        // Breadth first: each state has the transitions of the longest of its ends that is a state, but for its own.
        let mut table = vec![0; children.len() * 256];
        let mut longest_end = vec![0; children.len()];
        let mut queue = VecDeque::from([0]);
        let row = |state: usize| state * 256..state * 256 + 256;
        while let Some(node) = queue.pop_front() {
            let end: usize = longest_end[node];
            if node != 0 {
                table.copy_within(row(end), node * 256);
                fires[node] = fires[node].or(fires[end]);
            }
            for (&symbol, &child) in &children[node] {
                let byte = usize::from(symbol);
                if node != 0 && symbol != BEGINNING {
                    longest_end[child] = usize::from(table[end * 256 + byte]);
                }
                if symbol != BEGINNING {
                    table[node * 256 + byte] = child as State;
                }
                queue.push_back(child);
            }
        }
        let at_start = children.first()?.get(&BEGINNING).copied().unwrap_or(0) as State;
        Some(Watch { table, fires, literals, texts, at_start })
    }

    /// The state at the beginning of an answer.
    pub(super) fn at_start(&self) -> State {
        self.at_start
    }

    /// The state after a byte.
    pub(super) fn next(&self, state: State, byte: u8) -> State {
        self.table.get(usize::from(state) * 256 + usize::from(byte)).copied().unwrap_or(NOTHING)
    }

    /// The literal that ends in a state.
    pub(super) fn fired(&self, state: State) -> Option<&Literal<T>> {
        self.literals.get((*self.fires.get(usize::from(state))?)?)
    }

    /// The longest end of the text so far that begins a literal.
    pub(super) fn begun(&self, state: State) -> &[u8] {
        self.texts.get(usize::from(state)).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(watch: &Watch<u8>, text: &str) -> Vec<(usize, u8)> {
        let mut state = watch.at_start();
        let mut found = Vec::new();
        for (at, byte) in text.bytes().enumerate() {
            state = watch.next(state, byte);
            found.extend(watch.fired(state).map(|literal| (at + 1, literal.action)));
        }
        found
    }

    #[test]
    fn literals_are_found_wherever_they_end() {
        let literal = |text: &str, at_start, action| Literal { bytes: text.as_bytes().to_vec(), at_start, action };
        let all =
            vec![literal("<a>", false, 1), literal("a>b", false, 2), literal("[", true, 3), literal("<<x", false, 4)];
        let watch = Watch::new(all).unwrap();
        assert_eq!(found(&watch, "[<<a>b <<<x["), [(1, 3), (5, 1), (6, 2), (11, 4)]);
        assert_eq!(found(&watch, "<[x"), []);
        let state = "z<<".bytes().fold(watch.at_start(), |state, byte| watch.next(state, byte));
        assert_eq!(watch.begun(state), b"<<");
    }
}
