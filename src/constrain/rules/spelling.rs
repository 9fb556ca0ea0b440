//! The texts of a format as the tokens of a vocabulary write them: a special token in a delimiter is written as that token.

use astrai_guidance::toktrie::TokTrie;

use crate::constrain::Matcher;
use crate::constrain::TokenTrie;
use crate::constrain::guided::Answer;
use crate::error::Result;

/// A part of a text of the format.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// Text of ordinary tokens.
    Text(String),
    /// A special token: its id and its name.
    Special(u32, String),
}

/// A text cut into special tokens and what stands between them. Where two could begin, the longer one is taken.
pub(super) fn pieces(vocabulary: &TokenTrie, text: &str) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let special = vocabulary.specials().iter().find(|(name, _)| rest.starts_with(name.as_str()));
        let taken = match special {
            Some((name, id)) => {
                pieces.push(Piece::Special(*id, name.clone()));
                name.len()
            }
            None => {
                push_text(&mut pieces, c.encode_utf8(&mut [0; 4]));
                c.len_utf8()
            }
        };
        rest = rest.get(taken..).unwrap_or("");
    }
    pieces
}

/// Appends a piece; text is joined to text.
pub(super) fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    match piece {
        Piece::Text(text) => push_text(pieces, &text),
        special => pieces.push(special),
    }
}

/// Appends text of ordinary tokens.
pub(super) fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Text(last)) => last.push_str(text),
        _ if text.is_empty() => {}
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

/// The bytes of a text in the tree of the vocabulary, where special tokens begin with a marker that no text has.
pub(super) fn bytes(pieces: &[Piece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => bytes.extend_from_slice(text.as_bytes()),
            Piece::Special(_, name) => {
                bytes.push(TokTrie::SPECIAL_TOKEN_MARKER);
                bytes.extend_from_slice(name.as_bytes());
            }
        }
    }
    bytes
}

/// As [`bytes()`], of a text.
pub(super) fn spelled(vocabulary: &TokenTrie, text: &str) -> Vec<u8> {
    bytes(&pieces(vocabulary, text))
}

/// Pieces as symbols of a Lark grammar.
pub(super) fn symbols(pieces: &[Piece]) -> String {
    let symbol = |piece: &Piece| match piece {
        Piece::Text(text) => quoted(text),
        Piece::Special(id, _) => format!("<[{id}]>"),
    };
    pieces.iter().map(symbol).collect::<Vec<_>>().join(" ")
}

/// A text as a string of a Lark grammar.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default().replace('\u{7f}', "\\u007f")
}

/// Appends pieces to an answer.
pub(super) fn write(answer: &mut Answer, pieces: &[Piece]) -> Result<()> {
    for piece in pieces {
        match piece {
            Piece::Text(text) => answer.accept_bytes(text.as_bytes())?,
            Piece::Special(id, _) => answer.accept(*id)?,
        }
    }
    Ok(())
}
