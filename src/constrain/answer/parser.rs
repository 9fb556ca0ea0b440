//! Reads one answer while it is written.
//!
//! Every character goes three ways: to the automata that look for delimiters ([`Scanner`]), to the reader of calls if a call
//! is being read, and, once it can belong to no delimiter, to the region it stands in.

use std::collections::VecDeque;
use std::sync::Arc;

use super::parts::Parts;
use super::region::{Progress, Region};
use super::scanner::{Found, Scanner, Watched};
use super::template::Field;
use super::{PartDelta, PartEnd, PartKind, ResponseTemplate, Tools};
use crate::limits::CALL_BYTES_MAX;

/// Reads one answer. Made for each request, and used by one thread at a time.
#[derive(Debug)]
pub struct AnswerParser {
    /// None: the format is not known, and all is content.
    template: Option<Arc<ResponseTemplate>>,
    tools: Arc<Tools>,
    /// Delimiters that count only as special tokens.
    special_texts: Arc<[String]>,
    /// The end of the text, and where it begins.
    held: String,
    held_from: usize,
    /// Place up to which the text was given to regions or was part of a delimiter.
    given: usize,
    /// What was scanned, as a place in the whole text.
    at: usize,
    /// Special tokens in the text that is held: where they begin, and their length.
    specials: VecDeque<(usize, usize)>,
    scanner: Scanner,
    region: Region,
    /// The field whose opening began the region; None: the region is the one outside.
    field: Option<usize>,
    /// Where the text of a region of calls stopped to be what it should be.
    refused_at: Option<usize>,
    parts: Parts,
}

impl AnswerParser {
    /// A parser for the answer to a prompt. `template`: None where the format is not known, so that all is content.
    /// `prompt`: the prompt, or as much of its end as the caller has; what follows its last anchor belongs to the answer, for
    /// templates write `<think>` ahead, and is read without giving parts.
    pub fn new(template: Option<Arc<ResponseTemplate>>, prompt: &str, tools: Arc<Tools>) -> AnswerParser {
        let implicit = template.as_ref().and_then(|template| template.fields.get(template.implicit?));
        let region = match &template {
            Some(_) => Region::implicit(implicit, false),
            None => Region::plain(),
        };
        let mut parser = AnswerParser {
            template,
            tools,
            special_texts: Arc::new([]),
            held: String::new(),
            held_from: 0,
            given: 0,
            at: 0,
            specials: VecDeque::new(),
            scanner: Scanner::default(),
            region,
            field: None,
            refused_at: None,
            parts: Parts::muted(),
        };
        if let Some(template) = parser.template.clone() {
            parser.feed(template.tail(prompt), false);
        }
        parser.parts.unmute();
        if let Region::Text(region) = &mut parser.region {
            region.answer_begins();
        }
        parser
    }

    /// With texts that are delimiters only where they come by [`AnswerParser::push_special`]: those of the special tokens of
    /// the model's tokenizer, if the answer is pushed token by token. A model may then write about `<tool_call>` in letters.
    pub fn with_special_texts(mut self, texts: Arc<[String]>) -> AnswerParser {
        self.special_texts = texts;
        self
    }

    /// More of the answer: any whole characters, cut anywhere. What is known of the parts now is appended to `out`.
    pub fn push(&mut self, text: &str, out: &mut Vec<PartDelta>) {
        self.feed(text, false);
        self.parts.take(out);
    }

    /// One special token of the answer. Within strings of JSON only such a one is a delimiter.
    pub fn push_special(&mut self, text: &str, out: &mut Vec<PartDelta>) {
        self.feed(text, true);
        self.parts.take(out);
    }

    /// The answer has ended. Every part ends.
    pub fn finish(&mut self, out: &mut Vec<PartDelta>) {
        while let Some(template) = self.template.clone() {
            self.scan(&template);
            let Some(found) = self.scanner.found_at_end(self.watched(&template)) else { break };
            if self.genuine(found) {
                self.commit(&template, found);
            } else {
                let watched = self.watched(&template);
                self.scanner.reject(found, watched);
            }
        }
        self.scanner.clear();
        self.give_to_region(self.at);
        self.end_region(None, false);
        self.parts.end(PartEnd::Complete, None);
        self.parts.take(out);
    }

    /// What the text stands in: a field with an opening that was not closed. None: outside of them, or in one that is no part.
    pub fn inside(&self) -> Option<PartKind> {
        self.template.as_ref()?.fields.get(self.field?)?.kind
    }

    /// Bytes of text that are kept: held back, or part of a call that is not whole.
    pub fn held_bytes(&self) -> usize {
        let kept = match &self.region {
            Region::Call(region) => region.kept(),
            Region::Text(_) => 0,
        };
        self.held.len() + kept
    }

    /// Steps of automata so far.
    #[cfg(test)]
    pub(super) fn steps(&self) -> u64 {
        self.scanner.steps()
    }

    fn feed(&mut self, text: &str, special: bool) {
        let Some(template) = self.template.clone() else {
            return self.parts.text(PartKind::Content, text);
        };
        if special && !text.is_empty() {
            self.specials.push_back((self.held_from + self.held.len(), text.len()));
        }
        self.held.push_str(text);
        self.scan(&template);
        self.give_to_region(self.scanner.held_from().unwrap_or(self.at));
        let given = self.given.saturating_sub(self.held_from).min(self.held.len());
        self.held.drain(..given);
        self.held_from += given;
    }

    /// The text from a place on that is held.
    fn from(&self, at: usize) -> &str {
        at.checked_sub(self.held_from).and_then(|at| self.held.get(at..)).unwrap_or("")
    }

    fn watched<'a>(&self, template: &'a ResponseTemplate) -> &'a Watched {
        match self.field.and_then(|index| template.fields.get(index)) {
            Some(field) => &field.inside,
            None => &template.outside,
        }
    }

    /// Goes through all text that was not scanned.
    fn scan(&mut self, template: &ResponseTemplate) {
        while let Some(c) = self.from(self.at).chars().next() {
            let may_begin = self.step_region(template, c);
            let watched = self.watched(template);
            for (index, byte) in c.encode_utf8(&mut [0; 4]).bytes().enumerate() {
                let at = self.at + index;
                self.scanner.step(watched, &template.patterns, byte, at, may_begin && index == 0);
            }
            self.at += c.len_utf8();
            while let Some(found) = self.scanner.found(self.watched(template)) {
                if self.genuine(found) {
                    self.commit(template, found);
                } else {
                    let watched = self.watched(template);
                    self.scanner.reject(found, watched);
                }
            }
            self.after_step(template);
        }
    }

    /// Shows the next character to the region. Gives whether a delimiter may begin with it.
    fn step_region(&mut self, template: &ResponseTemplate, c: char) -> bool {
        let special = self.specials.iter().find(|(at, _)| *at == self.at).copied();
        let marker = special.is_some_and(|(_, len)| self.closes_with(template, len));
        let Region::Call(region) = &mut self.region else { return true };
        if marker && region.in_string() {
            region.interrupt();
        }
        let may_close = region.may_close();
        match region.step(c, &mut self.parts) {
            Progress::Kept => may_close || marker,
            Progress::Given => {
                let end = self.at + c.len_utf8();
                self.drop_until(end);
                may_close
            }
            Progress::Refused => {
                self.refused_at.get_or_insert(self.at);
                true
            }
        }
    }

    /// Whether the special token of `len` bytes that comes next is a closing delimiter or begins one.
    fn closes_with(&self, template: &ResponseTemplate, len: usize) -> bool {
        let close = self.field.and_then(|index| template.fields.get(index)?.close);
        let Some(pattern) = close.and_then(|index| template.patterns.get(index)) else { return false };
        self.from(self.at).get(..len).is_some_and(|text| pattern.may_begin_with(text))
    }

    /// Whether every text in a delimiter that must be a special token came as one.
    fn genuine(&self, found: Found) -> bool {
        let text = self.from(found.start).get(..found.end - found.start).unwrap_or("");
        let special = |at: usize| self.specials.iter().any(|(begin, _)| *begin == found.start + at);
        self.special_texts.iter().all(|marker| text.match_indices(marker.as_str()).all(|(at, _)| special(at)))
    }

    /// Acts on a delimiter.
    fn commit(&mut self, template: &ResponseTemplate, found: Found) {
        self.give_to_region(found.start);
        let text = self.from(found.start).get(..found.end - found.start).unwrap_or("").to_owned();
        let opened = template.fields.iter().position(|field| field.open == Some(found.pattern));
        if let (None, Some((index, field))) = (self.field, opened.and_then(|at| Some((at, template.fields.get(at)?)))) {
            // Content goes on if what seems to be a call is none.
            let before = match &mut self.region {
                Region::Text(region) if field.kind == Some(PartKind::Call) => region.call_may_begin(),
                region => {
                    region.end_text(&mut self.parts);
                    String::new()
                }
            };
            let groups = template.patterns.get(found.pattern).map(|pattern| pattern.captured(&text));
            self.region = Region::opened(field, &(before + &text), groups.unwrap_or_default(), &mut self.parts);
            self.field = Some(index);
        } else {
            self.end_region(Some(&text), true);
            self.go_outside(template);
        }
        self.go_on_from(found.end);
    }

    /// What the region itself asks for after a character.
    fn after_step(&mut self, template: &ResponseTemplate) {
        let (Region::Call(region), Some(index)) = (&mut self.region, self.field) else { return };
        let closes = template.fields.get(index).is_some_and(|field| field.close.is_some());
        let waits = |place: usize| self.scanner.held_from().is_some_and(|from| from <= place);
        match self.refused_at {
            Some(place) if !waits(place) && closes && region.goes_on_unread(&mut self.parts) => {}
            Some(place) if (region.hopeless() || !closes) && !waits(place) => {
                self.give_to_region(place);
                self.end_region(None, false);
                self.go_outside(template);
                self.go_on_from(place);
            }
            None if region.complete() && !closes => {
                self.give_to_region(self.at);
                self.end_region(Some(""), true);
                self.go_outside(template);
                self.go_on_from(self.at);
            }
            _ if region.kept() > CALL_BYTES_MAX => {
                self.give_to_region(self.at);
                if let Region::Call(region) = &self.region {
                    region.give_up(&mut self.parts);
                }
                self.go_outside(template);
                self.go_on_from(self.at);
            }
            _ => {}
        }
    }

    /// Ends the region. `closing`: the text of the delimiter. `closed`: the answer goes on.
    fn end_region(&mut self, closing: Option<&str>, closed: bool) {
        let field = self.field.and_then(|index| self.template.as_ref()?.fields.get(index));
        match std::mem::replace(&mut self.region, Region::plain()) {
            Region::Text(mut region) => region.end(closed, &mut self.parts),
            Region::Call(region) => {
                if let Some(field) = field {
                    region.end(field, closing, &self.tools, &mut self.parts);
                }
            }
        }
    }

    fn go_outside(&mut self, template: &ResponseTemplate) {
        let implicit: Option<&Field> = template.implicit.and_then(|index| template.fields.get(index));
        self.region = Region::implicit(implicit, self.parts.is_open(PartKind::Content));
        self.field = None;
    }

    /// Goes on from a place in the text that is held, with nothing before it.
    fn go_on_from(&mut self, place: usize) {
        self.drop_until(place);
        self.at = place;
        self.scanner.clear();
        self.refused_at = None;
    }

    /// Gives the region the text up to a place.
    fn give_to_region(&mut self, place: usize) {
        let text = self.given.checked_sub(self.held_from).zip(place.checked_sub(self.held_from));
        if let Some(text) = text.and_then(|(from, to)| self.held.get(from..to)) {
            match &mut self.region {
                Region::Text(region) => region.take(text, &mut self.parts),
                Region::Call(region) => region.take(text, &mut self.parts),
            }
            self.drop_until(place);
        }
    }

    /// Nothing before a place is needed any more.
    fn drop_until(&mut self, place: usize) {
        self.given = place;
        while self.specials.front().is_some_and(|(at, _)| *at < place) {
            self.specials.pop_front();
        }
    }
}
