//! One answer under its rules: the phases that it goes through, token by token.

use super::build::{Body, Plan, longest_token};
use super::free::{Action, FreeText, Place};
use crate::constrain::guided::Answer;
use crate::constrain::{Matcher, clear, is_set, set};
use crate::error::{Error, Result, filled};
use crate::limits::SPACE_AFTER_REASONING_BYTES;
use astrai_guidance::toktrie::TrieNode;
use std::sync::Arc;

/// Where an answer begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Begin {
    /// With nothing of it written.
    Answer,
    /// Within reasoning.
    Reasoning,
    /// After reasoning.
    AfterReasoning,
    /// Within content that has an opening.
    Content,
}

/// What an opening leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    Reasoning,
    Content,
}

/// An opening that may be written, or is being written.
#[derive(Clone, Debug)]
struct Opening {
    /// What is left of it.
    rest: Vec<u8>,
    target: Target,
}

/// Several ways to go on, of which one or more are still possible.
#[derive(Default)]
struct Choice {
    openings: Vec<Opening>,
    /// Bytes of space that may come before.
    space: usize,
    content: Option<Way<dyn Matcher>>,
    calls: Option<Way<Answer>>,
    /// Whether the answer may end here.
    may_end: bool,
}

/// A grammar, and the tokens that it allowed last.
struct Way<T: ?Sized> {
    mask: Vec<u32>,
    matcher: Box<T>,
    /// Whether it was told of a token.
    begun: bool,
}

impl<T: ?Sized> Way<T> {
    /// A copy, with a copy of its matcher.
    fn with(&self, matcher: Box<T>) -> Way<T> {
        Way { mask: self.mask.clone(), matcher, begun: self.begun }
    }
}

/// A way after a token, if it goes on. `space`: the token is space that may come before it.
fn after<T: Matcher + ?Sized>(way: Option<Way<T>>, space: bool, token: u32) -> Result<Option<Way<T>>> {
    match way {
        Some(mut way) if is_set(&way.mask, token) => {
            way.matcher.accept(token)?;
            Ok(Some(Way { begun: true, ..way }))
        }
        Some(way) if space && !way.begun => Ok(Some(way)),
        _ => Ok(None),
    }
}

enum Phase {
    /// Text that goes on until a delimiter. `reasoning`: it is reasoning.
    Free {
        text: Arc<FreeText>,
        place: Place,
        reasoning: bool,
    },
    /// The end of the reasoning is being written.
    Closing {
        rest: Vec<u8>,
    },
    Choice(Choice),
    Content(Box<dyn Matcher>),
    Calls(Box<Answer>),
}

impl Phase {
    /// A copy; `None` where a grammar has none.
    fn fork(&self) -> Option<Phase> {
        Some(match self {
            Phase::Free { text, place, reasoning } => {
                Phase::Free { text: text.clone(), place: *place, reasoning: *reasoning }
            }
            Phase::Closing { rest } => Phase::Closing { rest: rest.clone() },
            Phase::Choice(choice) => Phase::Choice(Choice {
                openings: choice.openings.clone(),
                space: choice.space,
                content: match &choice.content {
                    Some(way) => Some(way.with(way.matcher.fork()?)),
                    None => None,
                },
                calls: choice.calls.as_ref().map(|way| way.with(Box::new(way.matcher.copy()))),
                may_end: choice.may_end,
            }),
            Phase::Content(matcher) => Phase::Content(matcher.fork()?),
            Phase::Calls(answer) => Phase::Calls(Box::new(answer.copy())),
        })
    }
}

/// The state of one answer.
pub(super) struct AnswerMatcher {
    plan: Arc<Plan>,
    phase: Phase,
    /// Tokens of reasoning that are left; `None`: any number.
    left: Option<usize>,
}

impl AnswerMatcher {
    pub(super) fn new(plan: Arc<Plan>, begin: Begin) -> Result<AnswerMatcher> {
        let left = plan.reasoning.as_ref().and_then(|reasoning| reasoning.budget);
        let phase = Phase::Choice(Choice::default());
        let mut answer = AnswerMatcher { plan, phase, left };
        answer.phase = match begin {
            Begin::Answer => answer.outside(true, false)?,
            Begin::AfterReasoning => answer.outside(true, true)?,
            Begin::Reasoning => answer.reasoning(&[])?,
            Begin::Content => answer.opened(Target::Content)?,
        };
        Ok(answer)
    }

    /// What may come outside of reasoning. `first`: the answer begins. `reasoned`: there was reasoning.
    fn outside(&self, first: bool, reasoned: bool) -> Result<Phase> {
        let (content, calls) = match &self.plan.body {
            Body::Free(text) => {
                return Ok(Phase::Free { text: text.clone(), place: text.begin(first && !reasoned), reasoning: false });
            }
            Body::Strict { content, calls } => (content, calls),
        };
        let mask = || filled("the mask of an answer", self.plan.named.len(), 0);
        let mut choice = Choice::default();
        let next = match &self.plan.messages {
            Some(messages) if !first => messages.next.as_slice(),
            _ => &[],
        };
        let mut may_open = |text: &[u8], target| choice.openings.push(Opening { rest: [next, text].concat(), target });
        let again = self.plan.messages.is_some() && self.left != Some(0);
        if let Some(reasoning) = self.plan.reasoning.as_ref().filter(|_| !reasoned || again) {
            reasoning.open.iter().for_each(|text| may_open(text, Target::Reasoning));
        }
        let calls = match &self.plan.messages {
            Some(messages) => {
                messages.content.iter().for_each(|text| may_open(text, Target::Content));
                choice.may_end = self.plan.is_free();
                if first { messages.first_calls.as_ref() } else { calls.as_deref() }
            }
            None => {
                choice.space = if reasoned { SPACE_AFTER_REASONING_BYTES } else { 0 };
                choice.content = match content {
                    Some(content) => Some(Way { mask: mask()?, matcher: content.matcher()?, begun: false }),
                    None => None,
                };
                calls.as_deref()
            }
        };
        choice.calls = match calls {
            Some(calls) => Some(Way { mask: mask()?, matcher: Box::new(calls.answer()), begun: false }),
            None => None,
        };
        Ok(Phase::Choice(choice))
    }

    /// Reasoning that has begun, with this much of it written.
    fn reasoning(&self, written: &[u8]) -> Result<Phase> {
        let Some(reasoning) = &self.plan.reasoning else { return self.outside(false, true) };
        let text = reasoning.text.clone();
        let (place, fired) = text.run(text.begin(false), written);
        if fired.is_some() {
            return Err(not_allowed());
        }
        let phase = Phase::Free { text, place, reasoning: true };
        Ok(if self.left == Some(0) { self.closing(place) } else { phase })
    }

    /// The end of the reasoning, of which the text may have written a part.
    fn closing(&self, place: Place) -> Phase {
        let reasoning = self.plan.reasoning.as_ref();
        let begun = reasoning.map_or(&[][..], |reasoning| reasoning.text.begun(place));
        let close: &[Vec<u8>] = reasoning.map_or(&[], |reasoning| &reasoning.close);
        // The longest end of the text that begins what closes it.
        let ends = (0..begun.len()).filter_map(|from| begun.get(from..));
        let rest = ends
            .flat_map(|end| close.iter().filter_map(move |close| close.strip_prefix(end)))
            .find(|rest| !rest.is_empty());
        let rest = rest.or(close.first().map(Vec::as_slice)).unwrap_or(&[]);
        Phase::Closing { rest: rest.to_vec() }
    }

    /// What an opening leads to.
    fn opened(&self, target: Target) -> Result<Phase> {
        match (target, &self.plan.body, &self.plan.messages) {
            (Target::Reasoning, ..) => self.reasoning(&[]),
            (Target::Content, Body::Strict { content: Some(content), .. }, _) => Ok(Phase::Content(content.matcher()?)),
            (Target::Content, _, Some(messages)) => {
                match &messages.text {
                    Some(text) => Ok(Phase::Free { text: text.clone(), place: text.begin(false), reasoning: false }),
                    None => Err(Error::unsupported("the prompt has begun content, and the answer must be a call")
                        .about("tools")),
                }
            }
            (Target::Content, ..) => self.outside(true, true),
        }
    }

    /// The phase after a token in free text.
    fn after_free(&mut self, text: &Arc<FreeText>, place: Place, reasoning: bool, token: u32) -> Result<Phase> {
        let plan = self.plan.clone();
        let bytes = plan.vocabulary.trie().token(token);
        if bytes.is_empty() || text.refused(place).binary_search(&token).is_ok() {
            return Err(not_allowed());
        }
        let (place, fired) = text.run(place, bytes);
        let Some(fired) = fired else {
            if reasoning && let Some(left) = &mut self.left {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    return Ok(self.closing(place));
                }
            }
            return Ok(Phase::Free { text: text.clone(), place, reasoning });
        };
        let rest = bytes.get(fired.len..).unwrap_or(&[]);
        match fired.action {
            Action::Close => self.outside(false, reasoning),
            Action::Reasoning => self.reasoning(rest),
            Action::Call(index) => {
                let mut answer = text.call(index).ok_or_else(not_allowed)?.answer();
                answer.accept_bytes(rest)?;
                Ok(Phase::Calls(Box::new(answer)))
            }
            Action::Never => Err(not_allowed()),
        }
    }

    /// The phase after a token where several ways go on.
    fn after_choice(&self, mut choice: Choice, token: u32) -> Result<Phase> {
        let bytes = self.plan.vocabulary.trie().token(token);
        if bytes.is_empty() {
            return Err(not_allowed());
        }
        choice.may_end = false;
        let openings = std::mem::take(&mut choice.openings);
        for opening in openings {
            if opening.rest == bytes {
                return self.opened(opening.target);
            }
            if let Some(rest) = opening.rest.strip_prefix(bytes) {
                choice.openings.push(Opening { rest: rest.to_vec(), ..opening });
            } else if let Some(begun) = bytes.strip_prefix(opening.rest.as_slice())
                && self.may_begin_with(opening.target, begun)
            {
                return self.reasoning(begun);
            }
        }
        // Space before what follows leaves what has not begun as it is.
        let space = choice.space.checked_sub(bytes.len()).filter(|_| is_space(bytes));
        choice.content = after(choice.content, space.is_some(), token)?;
        choice.calls = after(choice.calls, space.is_some(), token)?;
        choice.space = space.unwrap_or(0);
        if space.is_some() {
            return Ok(Phase::Choice(choice));
        }
        match (choice.openings.is_empty(), choice.content, choice.calls) {
            (true, None, None) => Err(not_allowed()),
            (true, Some(way), None) => Ok(Phase::Content(way.matcher)),
            (true, None, Some(way)) => Ok(Phase::Calls(way.matcher)),
            (_, content, calls) => Ok(Phase::Choice(Choice { content, calls, ..choice })),
        }
    }

    /// Whether what an opening opens may begin with the end of its last token.
    fn may_begin_with(&self, target: Target, begun: &[u8]) -> bool {
        let reasoning = self.plan.reasoning.as_ref().filter(|_| target == Target::Reasoning);
        reasoning.is_some_and(|reasoning| reasoning.text.begins_quietly(begun))
    }
}

impl Matcher for AnswerMatcher {
    fn allowed(&mut self, mask: &mut [u32]) -> Result<bool> {
        let plan = &self.plan;
        match &mut self.phase {
            Phase::Free { text, place, .. } => {
                let common = plan.named.len().min(mask.len());
                mask.fill(0);
                mask[..common].copy_from_slice(&plan.named[..common]);
                text.refused(*place).iter().for_each(|&token| clear(mask, token));
                Ok(plan.is_free())
            }
            Phase::Closing { rest } => {
                mask.fill(0);
                longest_token(&plan.vocabulary, rest).into_iter().for_each(|(token, _)| set(mask, token));
                Ok(false)
            }
            Phase::Content(matcher) => matcher.allowed(mask),
            Phase::Calls(answer) => answer.allowed(mask),
            Phase::Choice(choice) => {
                mask.fill(0);
                let mut complete = choice.may_end;
                choice.openings.iter().for_each(|opening| allow_opening(plan, opening, mask));
                if choice.space > 0 {
                    allow_space(plan, plan.vocabulary.trie().root(), choice.space, mask);
                }
                // Only one of the tokens that stand for the same is in the tree.
                for &(one, other) in plan.vocabulary.doubles() {
                    if is_set(mask, one) {
                        set(mask, other);
                    }
                }
                if let Some(way) = &mut choice.content {
                    complete |= way.matcher.allowed(&mut way.mask)?;
                    join(mask, &way.mask);
                }
                if let Some(way) = &mut choice.calls {
                    complete |= way.matcher.allowed(&mut way.mask)?;
                    join(mask, &way.mask);
                }
                Ok(complete)
            }
        }
    }

    fn accept(&mut self, token: u32) -> Result<()> {
        let phase = std::mem::replace(&mut self.phase, Phase::Choice(Choice::default()));
        self.phase = match phase {
            Phase::Free { text, place, reasoning } => self.after_free(&text, place, reasoning, token)?,
            Phase::Closing { rest } => {
                let bytes = self.plan.vocabulary.trie().token(token);
                match rest.strip_prefix(bytes).filter(|_| !bytes.is_empty()) {
                    Some([]) => self.outside(false, true)?,
                    Some(rest) => Phase::Closing { rest: rest.to_vec() },
                    None => return Err(not_allowed()),
                }
            }
            Phase::Choice(choice) => self.after_choice(choice, token)?,
            Phase::Content(mut matcher) => {
                matcher.accept(token)?;
                Phase::Content(matcher)
            }
            Phase::Calls(mut answer) => {
                answer.accept(token)?;
                Phase::Calls(answer)
            }
        };
        Ok(())
    }

    fn fork(&self) -> Option<Box<dyn Matcher>> {
        let (plan, left, phase) = (self.plan.clone(), self.left, self.phase.fork()?);
        Some(Box::new(AnswerMatcher { plan, phase, left }))
    }
}

fn not_allowed() -> Error {
    Error::internal("a token that the rules of the answer did not allow").about("tools")
}

fn is_space(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

fn join(mask: &mut [u32], other: &[u32]) {
    mask.iter_mut().zip(other).for_each(|(word, other)| *word |= other);
}

/// Sets the tokens that write more of an opening, and those that go on after it.
fn allow_opening(plan: &Plan, opening: &Opening, mask: &mut [u32]) {
    let trie = plan.vocabulary.trie();
    let mut node = trie.root();
    for &byte in &opening.rest {
        let Some(child) = trie.child_at_byte(node, byte) else { return };
        node = child;
        // The marker of special tokens is a token of some vocabularies, too, and begins none of the others.
        node.token_id().into_iter().filter(|&token| is_set(&plan.named, token)).for_each(|token| set(mask, token));
    }
    let Some(reasoning) = plan.reasoning.as_ref().filter(|_| opening.target == Target::Reasoning) else { return };
    let mut below: Vec<&TrieNode> = trie.node_children(node).collect();
    while let Some(node) = below.pop() {
        if let Some(token) = node.token_id() {
            let begun = trie.token(token).get(opening.rest.len()..).unwrap_or(&[]);
            if reasoning.text.begins_quietly(begun) {
                set(mask, token);
            }
        }
        below.extend(trie.node_children(node));
    }
}

/// Sets the tokens of at most so many bytes of space.
fn allow_space(plan: &Plan, node: &TrieNode, bytes: usize, mask: &mut [u32]) {
    if bytes == 0 {
        return;
    }
    for child in plan.vocabulary.trie().node_children(node).filter(|child| is_space(&[child.byte()])) {
        child.token_id().into_iter().for_each(|token| set(mask, token));
        allow_space(plan, child, bytes - 1, mask);
    }
}
