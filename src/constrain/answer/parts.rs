//! Writes the parts of an answer: numbers them, and puts together what belongs to one.

use super::{PartDelta, PartEnd, PartKind};

/// The parts that leave a parser.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// What has not been taken.
    deltas: Vec<PartDelta>,
    /// Parts and calls that have begun.
    parts: usize,
    calls: usize,
    /// Kind of the part that has not ended.
    open: Option<PartKind>,
    /// Nothing is written: the text is the prompt's.
    muted: bool,
}

impl Parts {
    /// Parts that are not written until [`Parts::unmute`].
    pub(super) fn muted() -> Parts {
        Parts { muted: true, ..Parts::default() }
    }

    pub(super) fn unmute(&mut self) {
        *self = Parts::default();
    }

    /// Whether a part of this kind has not ended.
    pub(super) fn is_open(&self, kind: PartKind) -> bool {
        self.open == Some(kind)
    }

    /// Appends what was written to `out`.
    pub(super) fn take(&mut self, out: &mut Vec<PartDelta>) {
        out.append(&mut self.deltas);
    }

    /// More text of the part that is open if it is of this kind, else of a new one.
    pub(super) fn text(&mut self, kind: PartKind, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.open != Some(kind) {
            self.begin(kind, None, None);
        }
        self.last(kind, |delta| delta.text.push_str(text));
    }

    /// A part begins; one that is open ends before.
    pub(super) fn begin(&mut self, kind: PartKind, name: Option<String>, id: Option<String>) {
        self.end(PartEnd::Complete, None);
        self.open = Some(kind);
        if self.muted {
            return;
        }
        self.parts += 1;
        self.calls += usize::from(kind == PartKind::Call);
        let delta = self.delta(kind);
        self.deltas.push(PartDelta { begins: true, name, id, ..delta });
    }

    /// The part that is open ends.
    pub(super) fn end(&mut self, end: PartEnd, id: Option<String>) {
        let Some(kind) = self.open.take() else { return };
        self.last(kind, |delta| {
            delta.end = Some(end);
            delta.id = id.or(delta.id.take());
        });
    }

    fn delta(&self, kind: PartKind) -> PartDelta {
        PartDelta {
            kind,
            part: self.parts.saturating_sub(1),
            call: (kind == PartKind::Call).then(|| self.calls.saturating_sub(1)),
            begins: false,
            name: None,
            id: None,
            text: String::new(),
            end: None,
        }
    }

    /// Changes the last delta, which is one of the part that is open.
    fn last(&mut self, kind: PartKind, change: impl FnOnce(&mut PartDelta)) {
        if self.muted {
            return;
        }
        let part = self.parts.saturating_sub(1);
        if self.deltas.last().is_none_or(|delta| delta.part != part || delta.end.is_some()) {
            let delta = self.delta(kind);
            self.deltas.push(delta);
        }
        if let Some(delta) = self.deltas.last_mut() {
            change(delta);
        }
    }
}
