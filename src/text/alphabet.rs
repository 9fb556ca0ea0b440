//! The byte-level alphabet: one printable character for each byte, so that a vocabulary of text spells every byte.
//!
//! From GPT-2's `bytes_to_unicode`: a printable Latin-1 byte is written as itself, the others as the characters from
//! U+0100 on, in their order. The decoder reads it; the pre-tokenizer and the normalizer write it.

use tokenizers::NormalizedString;

use crate::error::{Error, Result};

/// The character of each byte.
const LETTER_OF: [char; 256] = {
    let mut table = ['\0'; 256];
    let (mut byte, mut next) = (0u32, 0x100u32);
    while byte < 256 {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        if let Some(letter) = char::from_u32(if printable { byte } else { next }) {
            table[byte as usize] = letter;
        }
        next += !printable as u32;
        byte += 1;
    }
    table
};

const NO_BYTE: u16 = u16::MAX;

/// The byte of each character, by its code.
const BYTE_OF: [u16; 0x144] = {
    let mut table = [NO_BYTE; 0x144];
    let mut byte = 0u16;
    while byte < 256 {
        table[LETTER_OF[byte as usize] as usize] = byte;
        byte += 1;
    }
    table
};

/// The character that stands for a byte.
pub(super) fn letter(byte: u8) -> char {
    LETTER_OF[usize::from(byte)]
}

/// Writes a text in the alphabet.
///
/// # Errors
/// [`crate::error::Status::Memory`].
pub(super) fn spelled(text: &str) -> Result<String> {
    let mut spelled = String::new();
    let bytes = text.len().saturating_mul(2);
    spelled.try_reserve_exact(bytes).map_err(|_| Error::memory("a part of the text", bytes as u64))?;
    spelled.extend(text.bytes().map(letter));
    Ok(spelled)
}

/// Writes a text in the alphabet, in its place.
pub(super) fn spell(text: &mut NormalizedString) {
    // The number says how a character relates to those that were there: 0 is in the place of one, 1 is new after it.
    let follows = |byte: u8| isize::from(byte & 0xC0 == 0x80);
    let letters: Vec<_> = text.get().bytes().map(|byte| (letter(byte), follows(byte))).collect();
    text.transform(letters, 0);
}

/// The byte that a character stands for; `None`: it is not of the alphabet.
pub(super) fn byte(letter: char) -> Option<u8> {
    let entry = usize::try_from(u32::from(letter)).ok().and_then(|at| BYTE_OF.get(at));
    entry.and_then(|&byte| u8::try_from(byte).ok())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    #[test]
    fn every_byte_has_its_character_and_no_other_character_has_a_byte() {
        for b in 0..=255u8 {
            assert_eq!(letter(b), fixtures::letter(b), "{b:#04x}");
            assert_eq!(byte(letter(b)), Some(b));
        }
        assert_eq!(('\0'..=char::MAX).filter(|&c| byte(c).is_some()).count(), 256);
    }
}
