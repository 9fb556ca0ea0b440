//! JSON trees within a budget.
//!
//! A JSON text of two bytes for a value (`[[],[],…`) becomes a tree of fifty times its size. What may hold anything (chat
//! messages, configurations, parts of a tokenizer) is therefore read as [`Tree`], which counts what its values take while they
//! are made and ends with an error that names the limit; everything else is read into types.

use crate::error::{Error, Unit};
use crate::limits::JSON_DEPTH_MAX;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::cell::Cell;

/// A value whose tree takes at most so many bytes, as `cost` counts them.
#[derive(Debug)]
pub struct Tree<const BYTES: usize>(pub Value);

impl<'de, const BYTES: usize> Deserialize<'de> for Tree<BYTES> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let budget = Budget { left: Cell::new(BYTES), limit: BYTES };
        Node { budget: &budget, depth: 0 }.deserialize(deserializer).map(Tree)
    }
}

/// Adds the numbers to an error about a text that was read with a [`Tree`], if that was too large.
pub fn with_numbers(error: Error, cause: &serde_json::Error) -> Error {
    let cause = cause.to_string();
    let limit =
        cause.strip_prefix(TOO_LARGE).and_then(|rest| rest.split(' ').next()).and_then(|n| n.parse::<u64>().ok());
    match limit {
        Some(limit) => error.numbers(Unit::Bytes, limit.saturating_add(1), limit),
        None => error,
    }
}

/// The index after the quote that ends the string of JSON whose first character is at `at`; that of the end where none does.
pub fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// How the error begins; the limit follows.
const TOO_LARGE: &str = "its values take more than ";

struct Budget {
    left: Cell<usize>,
    limit: usize,
}

impl Budget {
    fn take<E: de::Error>(&self, bytes: usize) -> Result<(), E> {
        match self.left.get().checked_sub(bytes) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(E::custom(format_args!(
                "{TOO_LARGE}{} bytes of memory, which is the most for this JSON",
                self.limit
            ))),
        }
    }
}

/// Bytes of a value in a list, whose memory grows by doubling.
const ELEMENT: usize = 2 * size_of::<Value>();
/// Bytes of an entry of an object beside its key's text: hash, key, value and place in the table, by doubling.
const ENTRY: usize = 2 * (size_of::<(u64, String, Value)>() + size_of::<usize>());
/// Bytes that the allocator adds to a block, about.
const BLOCK: usize = 16;

/// One value of a tree.
#[derive(Clone, Copy)]
struct Node<'a> {
    budget: &'a Budget,
    depth: usize,
}

impl Node<'_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= JSON_DEPTH_MAX {
            return Err(E::custom(format_args!("lists and objects are nested more than {JSON_DEPTH_MAX} deep")));
        }
        Ok(Node { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// The part of a visitor that makes the same kind of value of every scalar but text.
macro_rules! scalars {
    () => {
        fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<Self::Value, E> {
            Ok(().into())
        }
        $crate::json::scalars! { visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64) }
    };
    ($($visit:ident($type:ty)),*) => {
        $(fn $visit<E: serde::de::Error>(self, value: $type) -> std::result::Result<Self::Value, E> {
            Ok(value.into())
        })*
    };
}

/// Makes a type readable by a visitor of its own, and the visitor's struct.
macro_rules! visited {
    ($type:ty, $visitor:ident) => {
        struct $visitor;

        impl<'de> serde::de::Deserialize<'de> for $type {
            fn deserialize<D: serde::de::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                deserializer.deserialize_any($visitor)
            }
        }
    };
}

/// The part of a visitor that says what it reads, for errors.
macro_rules! expects {
    ($what:literal) => {
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str($what)
        }
    };
}
pub(crate) use {expects, scalars, visited};

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    crate::json::expects!("any JSON value");

    crate::json::scalars! {}

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.budget.take(text.len() + BLOCK)?;
        Ok(Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        self.budget.take(BLOCK)?;
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            self.budget.take(ELEMENT)?;
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        self.budget.take(2 * BLOCK)?;
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.budget.take(ENTRY + key.len() + BLOCK)?;
            let value = map.next_value_seed(inner)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str =
        r#"{"a":[1,-2,3.5,1e300,18446744073709551615,true,null,"é\n"],"b":{"c":{},"d":[[],[[]]]},"a2":"","a":0}"#;

    /// Bytes of a tree, as they are counted.
    fn cost(value: &Value) -> usize {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len() + BLOCK,
            Value::Array(list) => BLOCK + list.iter().map(|value| ELEMENT + cost(value)).sum::<usize>(),
            Value::Object(map) => {
                2 * BLOCK + map.iter().map(|(key, value)| ENTRY + key.len() + BLOCK + cost(value)).sum::<usize>()
            }
        }
    }

    #[test]
    fn a_tree_is_what_serde_json_reads() {
        let ours: Tree<10_000> = serde_json::from_str(SAMPLE).unwrap();
        let theirs: Value = serde_json::from_str(SAMPLE).unwrap();
        assert_eq!(ours.0, theirs);
        assert_eq!(ours.0.to_string(), theirs.to_string());
        for text in ["", "{", "[1,]", "nul", "{\"a\" 1}", "1 2"] {
            assert!(serde_json::from_str::<Tree<10_000>>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_takes_more_than_its_budget_is_an_error_with_the_limit() {
        const LIMIT: usize = 100_000;
        let lists = format!("[{}[]]", "[],".repeat(100_000));
        let objects = format!("[{}{{}}]", "{\"a\":0},".repeat(100_000));
        let text = format!("\"{}\"", "x".repeat(LIMIT));
        for json in [&lists, &objects, &text] {
            let cause = serde_json::from_str::<Tree<LIMIT>>(json).unwrap_err();
            let error = with_numbers(Error::format(cause.to_string()), &cause);
            assert_eq!((error.unit, error.needed, error.available), (Unit::Bytes, 100_001, 100_000), "{error}");
        }
        // What fits is counted as what it is.
        let whole: Value = serde_json::from_str(SAMPLE).unwrap();
        assert!(cost(&whole) < 10_000 && cost(&whole) > 500, "{}", cost(&whole));
        let cause = serde_json::from_str::<Tree<LIMIT>>("[").unwrap_err();
        assert_eq!(with_numbers(Error::format("x"), &cause).unit, Unit::None);
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(serde_json::from_str::<Tree<100_000>>(&nested(JSON_DEPTH_MAX)).is_ok());
        assert!(serde_json::from_str::<Tree<100_000>>(&nested(JSON_DEPTH_MAX + 1)).is_err());
        assert!(serde_json::from_str::<Tree<100_000>>(&"[".repeat(1_000_000)).is_err());
    }
}
