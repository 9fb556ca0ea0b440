//! From the rules of an answer to what its phases need.

use super::calls;
use super::check;
use super::free::{Action, FreeText};
use super::spelling::{self, spelled};
use super::watch::Literal;
use super::{AnswerRules, Tool, ToolChoice};
use crate::constrain::answer::{CallSyntax, Pattern, ResponseTemplate};
use crate::constrain::guided::{Answer, Guided};
use crate::constrain::{Grammar, Kind, TokenTrie, compile, mask_words};
use crate::error::{Error, Result};
use crate::limits;
use crate::os::shortage;
use astrai_guidance::api::TopLevelGrammar;
use astrai_guidance::toktrie::TokTrie;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What an answer goes through.
pub(super) struct Plan {
    pub(super) vocabulary: Arc<TokenTrie>,
    /// Bits of all tokens that stand for something.
    pub(super) named: Vec<u32>,
    pub(super) reasoning: Option<Reasoning>,
    pub(super) body: Body,
    /// Where each part stands in a message of its own.
    pub(super) messages: Option<Messages>,
}

/// How reasoning is written.
pub(super) struct Reasoning {
    /// What opens it, as bytes of the vocabulary's tree.
    pub(super) open: Vec<Vec<u8>>,
    /// What closes it; none: it ends with the answer.
    pub(super) close: Vec<Vec<u8>>,
    /// Texts that close it, for prompts.
    close_texts: Vec<String>,
    pub(super) text: Arc<FreeText>,
    /// Tokens of it that there may be.
    pub(super) budget: Option<usize>,
}

/// What follows the reasoning, or has none.
pub(super) enum Body {
    /// Text in which calls may begin.
    Free(Arc<FreeText>),
    /// Content and calls as grammars say. Neither: content is free, in messages of its own.
    Strict { content: Option<Arc<dyn Grammar>>, calls: Option<Box<Guided>> },
}

/// How messages are written.
pub(super) struct Messages {
    /// Between two of them.
    pub(super) next: Vec<u8>,
    /// What opens content.
    pub(super) content: Vec<Vec<u8>>,
    /// Their text, where it is free; none: it is not.
    pub(super) text: Option<Arc<FreeText>>,
    /// Calls that begin the answer; those in [`Body`] begin later.
    pub(super) first_calls: Option<Guided>,
}

impl Plan {
    /// Whether an answer may end where no grammar has begun.
    pub(super) fn is_free(&self) -> bool {
        match &self.messages {
            Some(messages) => messages.text.is_some(),
            None => matches!(self.body, Body::Free(_)),
        }
    }

    /// Whether reasoning has ended in a text, which is not within reasoning.
    pub(super) fn closes_reasoning(&self, text: &str) -> bool {
        self.reasoning.as_ref().is_some_and(|reasoning| reasoning.close_texts.iter().any(|close| text.contains(close)))
    }
}

/// Tools whose calls a grammar has, and those of them whose arguments may be any.
struct Callable<'a> {
    tools: Vec<&'a Tool>,
    free: bool,
}

/// The calls that need a grammar.
fn callable(rules: &AnswerRules) -> Option<Callable<'_>> {
    let all = || rules.tools.iter().collect::<Vec<_>>();
    match &rules.choice {
        ToolChoice::None => None,
        ToolChoice::Named(name) => {
            Some(Callable { tools: rules.tools.iter().filter(|tool| tool.name == *name).collect(), free: false })
        }
        ToolChoice::Required => Some(Callable { tools: all(), free: false }),
        ToolChoice::Auto if rules.tools.is_empty() => None,
        ToolChoice::Auto if rules.constrain_auto => Some(Callable { tools: all(), free: false }),
        ToolChoice::Auto if rules.content.is_some() || rules.tools.iter().any(|tool| tool.strict) => {
            Some(Callable { tools: all(), free: true })
        }
        ToolChoice::Auto => None,
    }
}

/// `None`: nothing is to be constrained.
pub(super) fn plan(vocabulary: &Arc<TokenTrie>, rules: AnswerRules) -> Result<Option<Plan>> {
    let template = &rules.template;
    let callable = callable(&rules);
    let forbids = rules.choice == ToolChoice::None && !rules.tools.is_empty() && template.call_opening().is_some();
    let budget = rules.reasoning_tokens.filter(|_| template.reasoning().is_some() || messages_of(template).is_some());
    if callable.is_none() && !forbids && budget.is_none() && rules.content.is_none() {
        return Ok(None);
    }
    let required = matches!(rules.choice, ToolChoice::Required | ToolChoice::Named(_));
    let compiled = match &callable {
        Some(callable) => Some(compiled(vocabulary, template, callable, rules.parallel)?),
        None => None,
    };
    let named = named(vocabulary);
    let (reasoning, messages) = match messages_of(template) {
        Some(syntax) => in_messages(vocabulary, syntax, rules.reasoning_tokens)?,
        None if template.has_plain_content() => (plain_reasoning(vocabulary, template, rules.reasoning_tokens)?, None),
        None => {
            let message =
                "the model's response template has no content outside of fields; it is not known how to write answers";
            return Err(Error::unsupported(message).about("response_template"));
        }
    };
    if let (Some(reasoning), Some(_)) = (&reasoning, budget) {
        check_closing(vocabulary, reasoning)?;
    }
    let content = if required { None } else { rules.content.clone() };
    let strict = required || content.is_some();
    let Some(syntax) = messages else {
        let body = match (strict, compiled) {
            (true, compiled) => Body::Strict { content, calls: compiled.map(Box::new) },
            (false, compiled) => {
                Body::Free(Arc::new(outside(vocabulary, &rules, compiled, forbids, reasoning.as_ref())?))
            }
        };
        return Ok(Some(Plan { vocabulary: vocabulary.clone(), named, reasoning, body, messages: None }));
    };
    let next = spelling::pieces(vocabulary, &syntax.next);
    let opens = if required {
        0
    } else if content.is_some() {
        1
    } else {
        syntax.content.len()
    };
    let text = FreeText::new(vocabulary, closing(vocabulary, std::slice::from_ref(&syntax.close)), None, Vec::new())?;
    let first_calls = match &compiled {
        Some(calls) => {
            let mut answer = calls.answer();
            spelling::write(&mut answer, &next)?;
            Some(Guided::following(answer))
        }
        None => None,
    };
    let messages = Messages {
        next: spelling::bytes(&next),
        content: syntax.content.iter().take(opens).map(|text| spelled(vocabulary, text)).collect(),
        text: (!strict).then(|| Arc::new(text)),
        first_calls,
    };
    let body = Body::Strict { content, calls: compiled.map(Box::new) };
    Ok(Some(Plan { vocabulary: vocabulary.clone(), named, reasoning, body, messages: Some(messages) }))
}

fn messages_of(template: &ResponseTemplate) -> Option<&crate::constrain::answer::MessageSyntax> {
    template.call_syntax()?.messages.as_ref()
}

/// Bits of the tokens that stand for text or are special.
fn named(vocabulary: &TokenTrie) -> Vec<u32> {
    let trie = vocabulary.trie();
    let mut mask = vec![0; mask_words(trie.vocab_size())];
    for id in 0..trie.vocab_size() as u32 {
        let bytes = trie.token(id);
        // The marker is in no text.
        if !bytes.is_empty()
            && (trie.is_special_token(id) && bytes.len() > 1 || !bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER))
        {
            crate::constrain::set(&mut mask, id);
        }
    }
    mask
}

/// A delimiter, and the same text in letters, which must not be written where a special token is meant.
fn delimiter(vocabulary: &TokenTrie, text: &str, at_start: bool, action: Action) -> Vec<Literal<Action>> {
    let bytes = spelled(vocabulary, text);
    let letters = (bytes != text.as_bytes()).then(|| Literal {
        bytes: text.as_bytes().to_vec(),
        at_start: false,
        action: Action::Never,
    });
    std::iter::once(Literal { bytes, at_start, action }).chain(letters).collect()
}

fn closing(vocabulary: &TokenTrie, texts: &[String]) -> Vec<Literal<Action>> {
    texts.iter().flat_map(|text| delimiter(vocabulary, text, false, Action::Close)).collect()
}

fn plain_reasoning(
    vocabulary: &Arc<TokenTrie>,
    template: &ResponseTemplate,
    budget: Option<usize>,
) -> Result<Option<Reasoning>> {
    let Some(delimiters) = template.reasoning() else { return Ok(None) };
    let spell = |texts: &[String]| texts.iter().map(|text| spelled(vocabulary, text)).collect();
    let text = FreeText::new(vocabulary, closing(vocabulary, &delimiters.close), None, Vec::new())?;
    Ok(Some(Reasoning {
        open: spell(&delimiters.open),
        close: spell(&delimiters.close),
        close_texts: delimiters.close,
        text: Arc::new(text),
        budget,
    }))
}

type InMessages<'a> = (Option<Reasoning>, Option<&'a crate::constrain::answer::MessageSyntax>);

fn in_messages<'a>(
    vocabulary: &Arc<TokenTrie>,
    syntax: &'a crate::constrain::answer::MessageSyntax,
    budget: Option<usize>,
) -> Result<InMessages<'a>> {
    let close = std::slice::from_ref(&syntax.close);
    let text = FreeText::new(vocabulary, closing(vocabulary, close), None, Vec::new())?;
    let reasoning = Reasoning {
        open: vec![spelled(vocabulary, &syntax.reasoning)],
        close: vec![spelled(vocabulary, &syntax.close)],
        close_texts: Vec::new(),
        text: Arc::new(text),
        budget,
    };
    Ok((Some(reasoning), Some(syntax)))
}

/// That the end of reasoning can be written.
fn check_closing(vocabulary: &TokenTrie, reasoning: &Reasoning) -> Result<()> {
    let mut rest = reasoning.close.first().map(Vec::as_slice).unwrap_or(&[]);
    if rest.is_empty() {
        let message = "the model's reasoning ends with its answer, so that it cannot have a number of tokens";
        return Err(Error::unsupported(message).about("reasoning_tokens"));
    }
    while !rest.is_empty() {
        let Some((_, len)) = longest_token(vocabulary, rest) else {
            let message = "the model's vocabulary cannot write what ends its reasoning";
            return Err(Error::unsupported(message).about("reasoning_tokens"));
        };
        rest = rest.get(len..).unwrap_or(&[]);
    }
    Ok(())
}

/// The longest token that some bytes begin with, and its length.
pub(super) fn longest_token(vocabulary: &TokenTrie, bytes: &[u8]) -> Option<(u32, usize)> {
    let trie = vocabulary.trie();
    let (mut node, mut found) = (trie.root(), None);
    for (index, &byte) in bytes.iter().enumerate() {
        let Some(child) = trie.child_at_byte(node, byte) else { break };
        node = child;
        found = node.token_id().map(|id| (id, index + 1)).or(found);
    }
    found
}

/// The text outside of reasoning and calls.
fn outside(
    vocabulary: &Arc<TokenTrie>,
    rules: &AnswerRules,
    compiled: Option<Guided>,
    forbids: bool,
    reasoning: Option<&Reasoning>,
) -> Result<FreeText> {
    let mut literals: Vec<Literal<Action>> = Vec::new();
    for open in reasoning.into_iter().flat_map(|reasoning| &reasoning.open) {
        literals.push(Literal { bytes: open.clone(), at_start: false, action: Action::Reasoning });
    }
    let syntax = rules.template.call_syntax();
    let (mut net, mut begun) = (None, Vec::new());
    if let (Some(calls), Some(syntax)) = (&compiled, syntax) {
        for opening in &syntax.openings {
            let action = match &opening.stands_for {
                Some(written) => {
                    let mut answer: Answer = calls.answer();
                    spelling::write(&mut answer, &spelling::pieces(vocabulary, written))?;
                    begun.push(Guided::following(answer));
                    Action::Call(begun.len() - 1)
                }
                None => Action::Never,
            };
            literals.extend(delimiter(vocabulary, &opening.text, opening.at_start, action));
        }
    } else if forbids {
        let openings = syntax.into_iter().flat_map(|syntax| &syntax.openings).filter(|opening| !opening.at_start);
        literals.extend(openings.flat_map(|opening| delimiter(vocabulary, &opening.text, false, Action::Never)));
        let all =
            rules.template.calls().unwrap_or(crate::constrain::answer::Delimiters { open: vec![], close: vec![] });
        literals.extend(all.open.iter().flat_map(|text| delimiter(vocabulary, text, false, Action::Never)));
    }
    if compiled.is_some() || forbids {
        let begins = rules.template.call_opening();
        net = begins.map(|begins| Pattern::search("the opening of calls", begins)).transpose()?;
    }
    let text = FreeText::new(vocabulary, literals, net, begun)?;
    Ok(text.with_reasoning(reasoning.map(|reasoning| &reasoning.text)))
}

/// The grammar of calls, compiled.
fn compiled(
    vocabulary: &Arc<TokenTrie>,
    template: &Arc<ResponseTemplate>,
    callable: &Callable,
    parallel: bool,
) -> Result<Guided> {
    let Some(syntax) = template.call_syntax() else {
        let name = template.name().unwrap_or("the model's own response template");
        let message = format!("{name} says how calls are read, not how they are written; they cannot be constrained");
        return Err(Error::unsupported(message).about("tools"));
    };
    let free = |tool: &Tool| callable.free && !tool.strict;
    for tool in &callable.tools {
        check::readable(template, syntax, tool)?;
    }
    let lark = calls::grammar(vocabulary, syntax, &callable.tools, free, parallel)?;
    let estimate =
        lark.len().saturating_mul(limits::CONSTRAINT_MEMORY_FACTOR).saturating_add(limits::CONSTRAINT_MEMORY_BYTES);
    let made = shortage::backed("a grammar of calls", estimate, || {
        catch_unwind(AssertUnwindSafe(|| Guided::compile(vocabulary, TopLevelGrammar::from_lark(lark))))
    })?;
    match made {
        Ok(Ok(grammar)) => Ok(grammar),
        Ok(Err(message)) => Err(refusal(vocabulary, syntax, callable, &message)),
        Err(_) => Err(Error::internal("the parser of constraints panicked; please report the tools").about("tools")),
    }
}

/// The error for what the parser refused: that of the tool whose parameters it is about.
fn refusal(vocabulary: &Arc<TokenTrie>, syntax: &CallSyntax, callable: &Callable, message: &str) -> Error {
    for tool in callable.tools.iter().filter(|tool| !callable.free || tool.strict) {
        let schema = calls::parameters(tool).to_string();
        let is_json = matches!(syntax.arguments, crate::constrain::answer::ArgumentSyntax::Json);
        let alone = match is_json {
            true => compile(vocabulary, Kind::JsonSchema, &schema).err().map(|error| error.message),
            false => {
                let lark = calls::grammar(vocabulary, syntax, &[tool], |_| false, false);
                lark.ok().and_then(|lark| Guided::compile(vocabulary, TopLevelGrammar::from_lark(lark)).err())
            }
        };
        if let Some(alone) = alone {
            let alone: String = alone.chars().take(limits::CONSTRAINT_MESSAGE_CHARS_MAX).collect();
            return Error::unsupported(format!("tool {:?}: {alone}", tool.name)).about("tools");
        }
    }
    let message: String = message.chars().take(limits::CONSTRAINT_MESSAGE_CHARS_MAX).collect();
    Error::unsupported(format!("the calls of the tools cannot be constrained: {message}")).about("tools")
}
