//! The decoder of a `tokenizer.json` as a chain of stages that token names run through one at a time.
//!
//! Every stage needs only a few bytes of memory ([`Memory`]): an unfinished character, how much of a strip is done,
//! whether anything came before. So decoding a stream costs the same for every token, and an answer decoded piece by
//! piece is the answer decoded whole: it is the same code.
//!
//! The result is the `tokenizers` crate's, with one exception. In a run of byte tokens (`<0xE2>` and the like) with an
//! invalid byte anywhere, the crate turns every byte of the run into U+FFFD, also the good characters before it; no
//! stream could show such a character before the run is over. Here good characters stay, and each byte that belongs
//! to none becomes one U+FFFD.
//!
//! A stage that lengthens its text is bounded: when the chain is made, by what its `Replace`s can make of the longest name, and
//! when it runs, after each of them. A token is decoded on the engine's thread, where nothing may take long.
//!
//! Decoders that no published language model uses, or in an order that none uses ([`Stage::Whole`]), are run by the
//! crate when the answer is complete: correct, but the text comes all at once.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::Decoder as _;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;

use super::alphabet;
use super::normalizer::{Replace, check_decoded};
use crate::error::{Error, Result, Status};
use crate::limits::{
    DECODE_MEMORY_BYTES, DECODED_BYTES_MAX, DECODED_NAME_MEMORY_BYTES, DECODER_BACKTRACKS_MAX, DECODER_STAGES_MAX,
};

/// One step from token names to text. "Fused": the steps before have made one text of the tokens, so that their
/// borders no longer count.
pub(crate) enum Stage {
    /// No decoder: names with a space between.
    Join,
    /// Replaces in one name at a time.
    Replace(Replace),
    /// WordPiece: one name at a time, but the first is another case.
    WordPiece(DecoderWrapper),
    /// `<0xE2>` and the like to the bytes' text.
    ByteFallback,
    /// The byte-level alphabet to bytes to text; fuses.
    ByteLevel,
    /// Cuts up to `start` and `stop` characters `content` off the ends, of each name or of the whole text.
    Strip { content: char, start: usize, stop: usize, fused: bool },
    /// `replacement` to spaces; dropped in the first name (all of the text when fused) if `drop_first`.
    Metaspace { replacement: char, drop_first: bool, fused: bool },
    /// Anything else: everything is kept until the end.
    Whole { decoder: Whole, fused: bool },
}

/// A decoder that needs the whole answer.
pub(crate) enum Whole {
    Replace(Replace),
    Other(DecoderWrapper),
}

/// What a stage remembers of one stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Bytes of an unfinished character, at most three.
    bytes: Vec<u8>,
    /// Something came before; for a strip: its start is done.
    begun: bool,
    /// Strip: characters cut off the start so far.
    cut: usize,
    /// Strip: characters at the end held back.
    held: usize,
    /// Whole: all there is, and its length.
    names: Vec<String>,
    names_bytes: usize,
    /// What the stage makes of one name, kept for its memory.
    made: String,
}

impl Memory {
    /// Something came before.
    pub(crate) fn begin(&mut self) {
        self.begun = true;
    }
}

/// The chain of a tokenizer file.
pub(crate) struct Chain {
    stages: Vec<Stage>,
    /// Bytes of the longest name of a token.
    longest: usize,
}

impl Chain {
    /// The stages of a decoder; `None` is a file without one. `longest`: bytes of the longest name of a token.
    ///
    /// # Errors
    /// [`Status::Format`] for too many stages, and for stages that could make more than [`DECODED_BYTES_MAX`] of one name.
    pub(crate) fn new(decoder: Option<DecoderWrapper>, longest: usize) -> Result<Chain> {
        let Some(decoder) = decoder else { return Ok(Chain { stages: vec![Stage::Join], longest }) };
        let mut chain = Chain { stages: Vec::new(), longest };
        let mut fused = false;
        chain.add(decoder, &mut fused)?;
        let grown = chain.stages.iter().fold(longest, |bytes, stage| bytes.saturating_mul(stage.grows()));
        check_decoded(grown, DECODED_BYTES_MAX.max(longest))?;
        Ok(chain)
    }

    fn add(&mut self, decoder: DecoderWrapper, fused: &mut bool) -> Result<()> {
        if self.stages.len() >= DECODER_STAGES_MAX {
            return Err(Error::format(format!("the decoder has more than {DECODER_STAGES_MAX} steps")));
        }
        let was_fused = *fused;
        let stage = match decoder {
            DecoderWrapper::Sequence(sequence) => {
                for decoder in sequence.get_decoders() {
                    self.add(decoder.clone(), fused)?;
                }
                return Ok(());
            }
            DecoderWrapper::Fuse(_) => {
                *fused = true;
                return Ok(());
            }
            DecoderWrapper::ByteLevel(_) if !was_fused => {
                *fused = true;
                Stage::ByteLevel
            }
            DecoderWrapper::ByteFallback(_) if !was_fused => Stage::ByteFallback,
            DecoderWrapper::Replace(step) => {
                let file = serde_json::to_value(&step).map_err(|e| Error::format(e.to_string()))?;
                let step = Replace::new(&file, "decoder", DECODER_BACKTRACKS_MAX)?;
                match was_fused {
                    true => Stage::Whole { decoder: Whole::Replace(step), fused: true },
                    false => Stage::Replace(step),
                }
            }
            DecoderWrapper::WordPiece(_) if !was_fused => Stage::WordPiece(decoder),
            DecoderWrapper::Strip(s) => {
                Stage::Strip { content: s.content, start: s.start, stop: s.stop, fused: was_fused }
            }
            DecoderWrapper::Metaspace(m) => Stage::Metaspace {
                replacement: m.get_replacement(),
                drop_first: m.get_prepend_scheme() != PrependScheme::Never,
                fused: was_fused,
            },
            decoder => Stage::Whole { decoder: Whole::Other(decoder), fused: was_fused },
        };
        self.stages.push(stage);
        Ok(())
    }

    /// Bytes that decoding so many tokens takes beside their text.
    pub(crate) fn estimate(&self, tokens: usize) -> usize {
        let whole = self.stages.iter().filter(|stage| matches!(stage, Stage::Whole { .. })).count();
        let bytes = tokens.saturating_mul(self.longest).min(DECODED_BYTES_MAX);
        let names = tokens.min(DECODED_BYTES_MAX).saturating_mul(DECODED_NAME_MEMORY_BYTES);
        DECODE_MEMORY_BYTES.saturating_add(whole.saturating_mul(names.saturating_add(4 * bytes)))
    }

    /// Memory of a fresh stream, one for each stage.
    pub(crate) fn memory(&self) -> Vec<Memory> {
        vec![Memory::default(); self.stages.len()]
    }

    /// Makes room for names, and for what becomes of them, of so many bytes.
    ///
    /// # Errors
    /// [`Status::Memory`].
    pub(crate) fn reserve(memory: &mut [Memory], bytes: usize) -> Result<()> {
        let refused = |_| Error::memory("the text of a request", bytes as u64);
        for own in memory {
            own.bytes.try_reserve(bytes).map_err(refused)?;
            own.made.try_reserve(bytes).map_err(refused)?;
        }
        Ok(())
    }

    /// The bytes of one name inside a text, which need not be whole characters.
    ///
    /// # Errors
    /// [`Status::Unsupported`] when there is no text before all names are known.
    pub(crate) fn bytes_of(&self, name: &str) -> Result<Vec<u8>> {
        let bytes_first = self.stages.iter().position(|stage| matches!(stage, Stage::ByteLevel));
        if self.stages.iter().any(|stage| matches!(stage, Stage::Whole { .. } | Stage::Join))
            || bytes_first.is_some_and(|at| at > 0)
        {
            let message = "the tokenizer's decoder gives no text for single tokens";
            return Err(Error::unsupported(message).about("tokenizer.json"));
        }
        if bytes_first.is_some() {
            let mut bytes = Vec::new();
            byte_level(name, &mut bytes);
            return Ok(bytes);
        }
        if let Some(byte) =
            byte_token(name).filter(|_| self.stages.iter().any(|stage| matches!(stage, Stage::ByteFallback)))
        {
            return Ok(vec![byte]);
        }
        let (mut memory, mut text) = (self.memory(), String::new());
        memory.iter_mut().for_each(Memory::begin);
        self.push(&mut memory, name, &mut text)?;
        self.finish(&mut memory, &mut text)?;
        Ok(text.into_bytes())
    }

    /// Takes a token's name and appends to `out` the text that became certain. In memory that it has, but for
    /// [`Stage::WordPiece`], [`Stage::Whole`], and a [`Stage::Replace`] whose pattern is a regular expression: its automaton is
    /// made while it runs.
    pub(crate) fn push(&self, memory: &mut [Memory], name: &str, out: &mut String) -> Result<()> {
        feed(&self.stages, memory, name, out)
    }

    /// The stream is over: appends the rest, and leaves `memory` fresh.
    pub(crate) fn finish(&self, memory: &mut [Memory], out: &mut String) -> Result<()> {
        let (mut stages, mut memory) = (self.stages.as_slice(), memory);
        while let (Some((stage, rest)), Some((own, later))) = (stages.split_first(), memory.split_first_mut()) {
            for text in stage.finish(std::mem::take(own))? {
                feed(rest, later, &text, out)?;
            }
            (stages, memory) = (rest, later);
        }
        Ok(())
    }
}

/// Sends one name or piece of text through `stages`. As deep as the chain is long.
fn feed(stages: &[Stage], memory: &mut [Memory], text: &str, out: &mut String) -> Result<()> {
    let (Some((stage, rest)), Some((own, later))) = (stages.split_first(), memory.split_first_mut()) else {
        out.push_str(text);
        return Ok(());
    };
    // Out of its place while the stages behind use theirs.
    let mut made = std::mem::take(&mut own.made);
    made.clear();
    match stage {
        Stage::ByteFallback => {
            let byte = byte_token(text);
            if let Some(byte) = byte {
                own.bytes.push(byte);
                take_certain(&mut own.bytes, InvalidAs::EachByte, &mut made);
            } else {
                push_replacements(own.bytes.len(), &mut made);
                own.bytes.clear();
            }
            if !made.is_empty() {
                feed(rest, later, &made, out)?;
            }
            if byte.is_none() {
                feed(rest, later, text, out)?;
            }
        }
        Stage::Whole { .. } => {
            // An empty name takes memory, too.
            own.names_bytes = own.names_bytes.saturating_add(text.len().max(1));
            check_decoded(own.names_bytes, DECODED_BYTES_MAX)?;
            own.names.push(text.to_owned());
        }
        _ => {
            stage.step(own, text, &mut made)?;
            feed(rest, later, &made, out)?;
        }
    }
    own.made = made;
    Ok(())
}

impl Stage {
    /// Appends to `made` what becomes of one name, for the stages that give one text for each.
    fn step(&self, memory: &mut Memory, text: &str, made: &mut String) -> Result<()> {
        let begun = std::mem::replace(&mut memory.begun, true);
        match self {
            Stage::Join if begun => {
                made.push(' ');
                made.push_str(text);
            }
            Stage::Replace(step) => step.replace_into(text, DECODED_BYTES_MAX.max(text.len()), made)?,
            Stage::WordPiece(decoder) => {
                let names = if begun { vec![String::new(), text.to_owned()] } else { vec![text.to_owned()] };
                run(decoder, names)?.iter().for_each(|part| made.push_str(part));
            }
            Stage::ByteLevel => {
                byte_level(text, &mut memory.bytes);
                take_certain(&mut memory.bytes, InvalidAs::EachPart, made);
            }
            Stage::Strip { content, start, stop, fused } => {
                if *fused {
                    memory.begun = begun;
                    strip(memory, text, *content, *start, *stop, made);
                } else {
                    strip(&mut Memory::default(), text, *content, *start, *stop, made);
                }
            }
            Stage::Metaspace { replacement, drop_first, fused } => {
                let dropped = *drop_first && (*fused || !begun);
                let kept = |c: char| if c == *replacement { (!dropped).then_some(' ') } else { Some(c) };
                made.extend(text.chars().filter_map(kept));
            }
            Stage::Join | Stage::ByteFallback | Stage::Whole { .. } => made.push_str(text),
        }
        Ok(())
    }

    /// What a stage still holds when the stream is over.
    fn finish(&self, memory: Memory) -> Result<Vec<String>> {
        match self {
            Stage::ByteFallback if !memory.bytes.is_empty() => Ok(vec![replacements(memory.bytes.len())]),
            // An unfinished character is one invalid part, however many bytes of it there are.
            Stage::ByteLevel if !memory.bytes.is_empty() => Ok(vec![replacements(1)]),
            Stage::Whole { decoder, fused } if !memory.names.is_empty() => {
                let names = if *fused { vec![memory.names.concat()] } else { memory.names };
                match decoder {
                    Whole::Other(decoder) => run(decoder, names),
                    Whole::Replace(step) => names.iter().map(|name| step.replaced(name)).collect(),
                }
            }
            _ => Ok(Vec::new()),
        }
    }

    /// How many times longer a name can become.
    fn grows(&self) -> usize {
        match self {
            Stage::Replace(step) | Stage::Whole { decoder: Whole::Replace(step), .. } => step.grows(),
            // An invalid byte becomes the three of U+FFFD.
            Stage::ByteLevel => 3,
            // Spaces between names, and what stands for one.
            _ => 1,
        }
    }
}

/// A decoder of the crate, its panics turned into errors: some index into what a hostile file made empty.
fn run(decoder: &DecoderWrapper, names: Vec<String>) -> Result<Vec<String>> {
    match catch_unwind(AssertUnwindSafe(|| decoder.decode_chain(names))) {
        Ok(Ok(names)) => Ok(names),
        Ok(Err(e)) => Err(Error::new(Status::Format, format!("the tokenizer's decoder failed: {e}; check `decoder`"))),
        Err(_) => Err(Error::format("the tokenizer's decoder cannot decode this answer; check `decoder`")),
    }
}

fn replacements(count: usize) -> String {
    "\u{FFFD}".repeat(count)
}

fn push_replacements(count: usize, out: &mut String) {
    out.extend(std::iter::repeat_n('\u{FFFD}', count));
}

/// `<0xE2>` is the byte E2.
fn byte_token(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

#[derive(Clone, Copy)]
enum InvalidAs {
    /// One U+FFFD for each byte, as ByteFallback does.
    EachByte,
    /// One U+FFFD for each longest beginning of a character, as `String::from_utf8_lossy` does.
    EachPart,
}

/// Moves all text that is certain out of `bytes` to the end of `text`; what stays could still become a character, at most three
/// bytes.
fn take_certain(bytes: &mut Vec<u8>, invalid: InvalidAs, text: &mut String) {
    let mut chunks = bytes.utf8_chunks().peekable();
    let mut pending = 0;
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        let broken = chunk.invalid();
        let unfinished = std::str::from_utf8(broken).is_err_and(|e| e.error_len().is_none());
        if broken.is_empty() {
        } else if chunks.peek().is_none() && unfinished {
            pending = broken.len();
        } else {
            let count = match invalid {
                InvalidAs::EachByte => broken.len(),
                InvalidAs::EachPart => 1,
            };
            push_replacements(count, text);
        }
    }
    let certain = bytes.len() - pending;
    bytes.drain(..certain);
}

/// Cuts `content` off both ends of a text that comes in pieces; what may be its end is only counted.
fn strip(memory: &mut Memory, text: &str, content: char, start: usize, stop: usize, kept: &mut String) {
    for c in text.chars() {
        if !memory.begun && c == content && memory.cut < start {
            memory.cut += 1;
            continue;
        }
        memory.begun = true;
        if c == content && memory.held < stop {
            memory.held += 1;
        } else if c == content {
            kept.push(c);
        } else {
            kept.extend(std::iter::repeat_n(content, memory.held));
            memory.held = 0;
            kept.push(c);
        }
    }
}

/// Appends the bytes that a name of the byte-level alphabet stands for; any other name is taken literally.
fn byte_level(name: &str, bytes: &mut Vec<u8>) {
    let before = bytes.len();
    for c in name.chars() {
        match alphabet::byte(c) {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(before);
                bytes.extend_from_slice(name.as_bytes());
                return;
            }
        }
    }
}
