//! Random changes of JSON and of bytes, for tests of parsers.

use super::random::Random;
use serde_json::{Map, Value, json};

/// Values of every kind.
fn value(random: &mut Random) -> Value {
    let text = || json!("x".repeat(300));
    match random.below(16) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(0),
        3 => json!(-1),
        4 => json!(u64::MAX),
        5 => json!(1.5),
        6 => json!(-1e300),
        7 => json!(""),
        8 => json!("x-anthropic-billing-header: cch=1;"),
        9 => json!("\u{0}\u{fffd}\u{1F3B2} <|end|><think></think><tool_call>"),
        10 => text(),
        11 => json!([]),
        12 => json!({}),
        13 => json!([[], {}, null, "text", 7]),
        14 => json!({"type": "text", "text": "x", "role": "assistant", "content": []}),
        _ => (0..random.below(40)).fold(json!(1), |inner, _| json!([inner])),
    }
}

/// Changes one place of a value. `names`: keys that mean something somewhere.
pub fn change(tree: &mut Value, names: &[String], random: &mut Random) {
    // Goes down by chance.
    let down = random.below(4) > 0;
    match tree {
        Value::Array(list) if down && !list.is_empty() => {
            let at = random.below(list.len());
            match random.below(8) {
                0 => drop(list.remove(at)),
                1 => {
                    let copies = 1 + random.below(20);
                    let one = list[at].clone();
                    list.extend(std::iter::repeat_n(one, copies));
                }
                _ => change(&mut list[at], names, random),
            }
        }
        Value::Object(map) if down && !map.is_empty() => {
            let key = map.keys().nth(random.below(map.len())).unwrap().clone();
            match random.below(10) {
                0 => drop(map.remove(&key)),
                1 => {
                    let value = map.remove(&key).unwrap();
                    map.insert(random.pick(names), value);
                }
                2 => drop(map.insert(random.pick(names), value(random))),
                _ => change(&mut map[&key], names, random),
            }
        }
        Value::String(text) if down => match random.below(3) {
            0 => text.push('\u{1F3B2}'),
            1 => text.clear(),
            _ => *text = random.pick(names),
        },
        other => *other = value(random),
    }
}

/// Changes some bytes: flips, drops, doubles, puts in, cuts off.
pub fn change_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    const PIECES: [&[u8]; 10] =
        [b"\"", b"{", b"[", b"\\u", b"\xff", b"\r\n", b"\0", b"1e999", b":", b"\r\nContent-Length: 3\r\n"];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 => drop(bytes.splice(at..at, random.pick(&PIECES).iter().copied())),
            1 => bytes.truncate(at),
            _ if at == bytes.len() => bytes.push(random.below(256) as u8),
            2 => bytes[at] ^= 1 << random.below(8),
            3 => drop(bytes.remove(at)),
            4 => bytes[at] = random.below(256) as u8,
            _ => {
                let end = (at + random.below(30)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

/// All keys of values, and the texts that stand where words do.
pub fn names(values: &[Value]) -> Vec<String> {
    fn add(value: &Value, names: &mut Map<String, Value>) {
        match value {
            Value::Array(list) => list.iter().for_each(|value| add(value, names)),
            Value::Object(map) => map.iter().for_each(|(key, value)| {
                names.insert(key.clone(), Value::Null);
                add(value, names);
            }),
            Value::String(text) if text.len() < 30 => drop(names.insert(text.clone(), Value::Null)),
            _ => {}
        }
    }
    let mut names = Map::new();
    values.iter().for_each(|value| add(value, &mut names));
    names.keys().cloned().collect()
}
