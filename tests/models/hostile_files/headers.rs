//! The header of a safetensors file: everything it says is checked before any of it is believed.

use super::{TENSOR, file, says, weights_error};
use astrai::source::safetensors::{Stored, parse_header};
use astrai::{Status, Unit, limits};

#[test]
fn lengths_that_lie() {
    says(&weights_error(b""), Status::Format, &["model.safetensors", "has 0 bytes", "8 bytes of header length"]);
    says(&weights_error(&[0; 7]), Status::Format, &["has 7 bytes"]);
    let cut = weights_error(&[&100u64.to_le_bytes()[..], b"{}"].concat());
    says(&cut, Status::Format, &["should have 100 bytes but only 2 follow"]);
    assert_eq!((cut.unit, cut.needed, cut.available), (Unit::Bytes, 100, 2));
    for huge in [limits::SAFETENSORS_HEADER_BYTES_MAX + 1, 4 << 30, u64::MAX, u64::MAX - 7] {
        let error = weights_error(&[&huge.to_le_bytes()[..], b"{}"].concat());
        says(&error, Status::Format, &[&format!("a header of {huge} bytes"), "more than the 100000000"]);
    }
    // Every cut of a good file is an error.
    let good = file(TENSOR, &[1; 8]);
    for len in 0..good.len() {
        weights_error(&good[..len]);
    }
    says(
        &weights_error(&good[..good.len() - 1]),
        Status::Format,
        &["\"t\" ends at byte 8", "only 7 follow", "cut off"],
    );
    let longer = weights_error(&file(TENSOR, &[1; 9]));
    says(&longer, Status::Format, &["cover 8 bytes", "holds 9"]);
}

#[test]
fn headers_that_are_no_headers() {
    let error = |header: &str| weights_error(&file(header, &[0; 8]));
    let bytes = [&4u64.to_le_bytes()[..], b"{\"\xff\""].concat();
    says(&weights_error(&bytes), Status::Format, &["header is not UTF-8 from its byte 2"]);
    let deep = "[".repeat(1 << 20);
    for bad in ["", "{", "[]", "7", "null", "{\"t\":1}", "{} {}", deep.as_str()] {
        says(&error(bad), Status::Format, &["header is not what safetensors demands"]);
    }
    let entry = |text: &str| error(&format!("{{\"the.tensor\":{text}}}"));
    for (bad, part) in [
        ("{}", "missing field `dtype`"),
        (r#"{"dtype":"F32","shape":[2]}"#, "missing field `data_offsets`"),
        (r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#, "integer `-2`"),
        (r#"{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}"#, "2.5"),
        (r#"{"dtype":"F32","shape":[1e2],"data_offsets":[0,8]}"#, "100"),
        (r#"{"dtype":"F32","shape":2,"data_offsets":[0,8]}"#, "expected a sequence"),
        (r#"{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}"#, "more than 8 dimensions"),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[0]}"#, "tuple of size 2"),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}"#, ""),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[-1,8]}"#, "integer `-1`"),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551616]}"#, ""),
        (r#"{"dtype":7,"shape":[2],"data_offsets":[0,8]}"#, "line 1 column 24"),
    ] {
        says(&entry(bad), Status::Format, &["header is not what", "tensor \"the.tensor\"", part]);
    }
    says(&error(r#"{"__metadata__":{"a":1}}"#), Status::Format, &["__metadata__", "integer `1`"]);
    says(
        &error(r#"{"__metadata__":{},"__metadata__":{}}"#),
        Status::Format,
        &["__metadata__ stands in the header twice"],
    );
    let name = "n".repeat(100_000);
    let long = error(&format!("{{\"{name}\":1}}"));
    assert!(long.message.len() < 1000, "a long name is cut: {} bytes", long.message.len());
}

#[test]
fn tensors_that_lie() {
    let error = |header: &str| weights_error(&file(header, &[0; 16]));
    let t = |dtype: &str, shape: &str, offsets: &str| {
        error(&format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#))
    };
    says(&t("F33", "[4]", "[0,16]"), Status::Format, &["tensor \"t\": unknown variant `F33`", "`BF16`"]);
    says(&t("f32", "[4]", "[0,16]"), Status::Format, &["unknown variant `f32`"]);
    for shape in ["[4294967296,4294967296]", "[18446744073709551615]", "[18446744073709551615,2,0]"] {
        says(&t("F32", shape, "[0,16]"), Status::Format, &["tensor \"t\" has shape", "too large"]);
    }
    says(&t("F32", "[3]", "[0,16]"), Status::Format, &["[3] and type F32 needs 12 bytes, its offsets hold 16"]);
    says(&t("BF16", "[4]", "[0,16]"), Status::Format, &["type BF16 needs 8 bytes, its offsets hold 16"]);
    says(&t("F4", "[3]", "[0,2]"), Status::Format, &["12 bits, which are no whole bytes"]);
    says(&t("F32", "[4]", "[16,0]"), Status::Format, &["ends at byte 0, before it begins at 16"]);
    let beyond = t("F32", "[8]", "[0,32]");
    says(&beyond, Status::Format, &["\"t\" ends at byte 32 of the data but only 16 follow"]);
    assert_eq!((beyond.needed, beyond.available), (32, 16));
    let far = "[18446744073709551600,18446744073709551604]";
    says(&t("F32", "[1]", far), Status::Format, &["leaves a gap before it: it begins at byte 18446744073709551600"]);
    says(
        &t("F32", "[2]", "[8,16]"),
        Status::Format,
        &["\"t\" leaves a gap before it", "begins at byte 8", "expected 0"],
    );

    let two = |a: &str, b: &str| {
        let entry = |offsets: &str| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
        error(&format!(r#"{{"a":{},"b":{}}}"#, entry(a), entry(b)))
    };
    says(&two("[0,8]", "[4,12]"), Status::Format, &["\"b\" overlaps the tensor before it", "byte 4", "expected 8"]);
    says(&two("[0,8]", "[0,8]"), Status::Format, &["overlaps"]);
    let twice = error(
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
    );
    says(&twice, Status::Format, &["tensor \"a\" stands in the header twice"]);
}

/// A header of more tensors than allowed is refused while it is read.
#[test]
fn too_many_tensors() {
    let mut header = String::from("{");
    for i in 0..=limits::TENSORS_MAX {
        header.push_str(&format!("\"{i}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}},"));
    }
    header.pop();
    header.push('}');
    let error = parse_header(header.as_bytes(), 0, "f").expect_err("too many");
    says(&error, Status::Format, &["more than 1048576 tensors"]);
}

/// Free-form strings are anybody's, and as many as a header has room for: all are read, few are kept.
#[test]
fn too_much_metadata() {
    let entries: Vec<String> = (0..300_000).map(|i| format!("\"key {i}\":\"{i}\"")).collect();
    let with = |last: &str| format!("{{\"__metadata__\":{{{},{last}}}}}", entries.join(","));
    let header = parse_header(with("\"last\":\"1\"").as_bytes(), 0, "f").expect("it is allowed");
    let bytes: usize = header.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(bytes <= limits::METADATA_BYTES_MAX && bytes > limits::METADATA_BYTES_MAX - 32, "{bytes} bytes");
    assert_eq!(header.metadata.get("key 1").map(String::as_str), Some("1"));
    assert!(!header.metadata.contains_key("last"));
    let error = parse_header(with("\"last\":1").as_bytes(), 0, "f").expect_err("a number");
    says(&error, Status::Format, &["__metadata__"]);
}

/// Whatever the header reader accepts, the crate accepts and reads the same: over random damage to a sound file.
#[test]
fn damage_is_never_read_otherwise_than_by_the_crate() {
    const SEED: u64 = 42;
    let header = concat!(
        r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"#,
        r#""y":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},"z":{"dtype":"U8","shape":[0],"data_offsets":[14,14]}}"#
    );
    let good = file(header, &[7; 14]);
    let mut state = SEED;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let alphabet = b"0123456789,:[]{}\"-. xyFBU\\e";
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..60_000 {
        let mut bytes = good.clone();
        for _ in 0..1 + next(2) {
            let at = 8 + next(header.len());
            match next(3) {
                0 => bytes[at] = alphabet[next(alphabet.len())],
                1 => bytes[at] ^= 1 << next(8),
                _ => bytes.swap(at, 8 + next(header.len())),
            }
        }
        let Some((prefix, rest)) = bytes.split_first_chunk::<8>() else { unreachable!() };
        let len = u64::from_le_bytes(*prefix) as usize;
        let Ok(ours) = parse_header(&rest[..len], (rest.len() - len) as u64, "f") else {
            refused += 1;
            continue;
        };
        accepted += 1;
        let context = || format!("seed {SEED} round {round}: {}", String::from_utf8_lossy(&rest[..len]));
        let (_, theirs) =
            safetensors::SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| panic!("{e}: {}", context()));
        assert_eq!(ours.tensors.len(), theirs.tensors().len(), "{}", context());
        for Stored { info, begin, end } in ours.tensors {
            let other = theirs.info(&info.name).unwrap_or_else(|| panic!("{}", context()));
            assert_eq!((info.shape, (begin as usize, end as usize)), (other.shape.clone(), other.data_offsets));
            assert_eq!(info.dtype.bits(), other.dtype.bitsize());
        }
    }
    println!("seed {SEED}: {accepted} accepted, {refused} refused");
    assert!(accepted > 500 && refused > 5000, "{accepted} {refused}");
}
