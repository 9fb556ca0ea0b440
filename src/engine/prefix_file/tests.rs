//! Prefix files of another model, damaged files, and hostile files, tested against a hand-made identity.

use super::*;
use crate::backend::NUMERICS_VERSION;
use crate::cache::Keep;
use crate::engine::identity::{GroupShape, PrefixLayout, hex};
use std::io::Write;
use std::path::PathBuf;

const PAGE: usize = 4;
const FRAMES: [usize; 2] = [96, 40];

fn identity() -> Identity {
    let group = |dim| GroupShape { layers: 2, kv_heads: 1, k_dim: dim, v_dim: dim };
    let description = Description {
        model_type: "toy".into(),
        config_hash: hex(1),
        weights_hash: hex(2),
        tokenizer_hash: hex(3),
        numerics_version: NUMERICS_VERSION,
        platform: "here".into(),
        device: "cpu".into(),
        arch: "portable".into(),
        compute: "bf16".into(),
        weights: "auto".into(),
        kv: "bf16".into(),
        page_tokens: PAGE as u64,
        rotary_context: 0,
        groups: vec![group(3), group(1)],
        tokens: 0,
    };
    by_hand(description)
}

fn by_hand(description: Description) -> Identity {
    Identity::by_hand(
        description,
        PrefixLayout {
            frames: FRAMES.map(|bytes| (bytes, Keep::All)).to_vec(),
            page_tokens: PAGE,
            vocab: 50,
            context: 64,
            longest: Default::default(),
        },
    )
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("prefix");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The error of opening a file with these bytes.
    fn refused(&self, bytes: &[u8]) -> Error {
        Reader::open(&self.file(bytes), &identity()).map(|_| ()).expect_err("the file is not sound")
    }
}

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| i * 7 % 50).collect()
}

fn pages(count: usize) -> Vec<u8> {
    let mut random = Random(9);
    (0..count * FRAMES.iter().sum::<usize>()).map(|_| random.below(256) as u8).collect()
}

/// The bytes of the file that [`Writer`] makes for this identity.
fn written(identity: &Identity, tokens: &[u32], pages: &[u8]) -> Vec<u8> {
    let mut file = tempfile::tempfile().unwrap();
    let mut writer = Writer::begin(&mut file, "test", identity.description().unwrap(), tokens).unwrap();
    pages.chunks(100).for_each(|part| writer.data(part).unwrap());
    writer.end().unwrap();
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn sound() -> Vec<u8> {
    written(&identity(), &tokens(12), &pages(3))
}

/// A file with an arbitrary description and data, and valid checksums.
fn forged(version: u32, json: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = header(version, json.as_bytes()).unwrap();
    let seed = xxh3_64(&bytes);
    bytes.extend(seed.to_le_bytes());
    bytes.extend(data);
    let mut sum = Xxh3::with_seed(seed);
    sum.update(data);
    bytes.extend(sum.digest().to_le_bytes());
    bytes
}

fn data(tokens: &[u32], pages: &[u8]) -> Vec<u8> {
    tokens.iter().flat_map(|id| id.to_le_bytes()).chain(pages.iter().copied()).collect()
}

fn description_of(tokens: u64) -> Description {
    Description { tokens, ..identity().description().unwrap() }
}

#[test]
fn what_was_written_is_read() {
    let folder = Folder::new();
    for count in [0, 1, 3, 16] {
        let (tokens, pages) = (tokens(count * PAGE), pages(count));
        let path = folder.file(&written(&identity(), &tokens, &pages));
        let mut reader = Reader::open(&path, &identity()).unwrap();
        assert_eq!(reader.tokens, tokens);
        let mut read = vec![0; pages.len()];
        read.chunks_mut(33).for_each(|part| reader.data(part).unwrap());
        reader.end().unwrap();
        assert_eq!(read, pages);
    }
}

#[test]
fn every_single_damaged_byte_is_found() {
    let (folder, whole) = (Folder::new(), sound());
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let error = folder.refused(&bytes);
            assert_eq!(error.status, Status::Format, "byte {at} ^ {flip:#x}: {error}");
            assert!(error.subject.ends_with("prefix"));
        }
    }
}

#[test]
fn every_length_but_the_right_one_is_found() {
    let (folder, whole) = (Folder::new(), sound());
    for len in 0..whole.len() {
        assert_eq!(folder.refused(&whole[..len]).status, Status::Format, "{len} of {} bytes", whole.len());
    }
    for more in [1, 8, 136, 1000] {
        let mut bytes = whole.clone();
        bytes.resize(whole.len() + more, 0);
        assert_eq!(folder.refused(&bytes).status, Status::Format);
    }
}

#[test]
fn random_damage_is_found() {
    let seed = std::env::var("ASTRAI_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
    let (folder, whole, mut random) = (Folder::new(), sound(), Random(seed));
    for round in 0..2000 {
        let mut bytes = whole.clone();
        match random.below(4) {
            // Flipped bits.
            0 => (0..1 + random.below(20)).for_each(|_| {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }),
            // A range overwritten by another range of the file.
            1 => {
                let (from, to, len) = (random.below(bytes.len()), random.below(bytes.len()), random.below(64));
                let part: Vec<u8> = whole.iter().skip(from).take(len).copied().collect();
                bytes.iter_mut().skip(to).zip(part).for_each(|(byte, new)| *byte = new);
            }
            // A range of zeros, as after a power failure.
            2 => {
                let (at, len) = (random.below(bytes.len()), random.below(300));
                bytes.iter_mut().skip(at).take(len).for_each(|byte| *byte = 0);
            }
            // A range removed.
            _ => {
                let at = random.below(bytes.len());
                bytes.drain(at..(at + 1 + random.below(50)).min(whole.len()));
            }
        }
        if bytes != whole {
            assert_eq!(folder.refused(&bytes).status, Status::Format, "ASTRAI_TEST_SEED={seed}, round {round}");
        }
    }
}

#[test]
fn a_sound_file_of_something_else_is_a_mismatch_with_both_values() {
    type Change = fn(&mut Description);
    let changes: [(&str, &str, Change); 14] = [
        ("model_type", "\"other\"", |d| d.model_type = "other".into()),
        ("config_hash", "\"0000000000000009\"", |d| d.config_hash = hex(9)),
        ("weights_hash", "\"0000000000000009\"", |d| d.weights_hash = hex(9)),
        ("tokenizer_hash", "\"none\"", |d| d.tokenizer_hash = "none".into()),
        ("numerics_version", "77", |d| d.numerics_version = 77),
        ("platform", "\"there\"", |d| d.platform = "there".into()),
        ("device", "\"gpu\"", |d| d.device = "gpu".into()),
        ("arch", "\"avx2\"", |d| d.arch = "avx2".into()),
        ("compute", "\"f32\"", |d| d.compute = "f32".into()),
        ("weights", "\"q8\"", |d| d.weights = "q8".into()),
        ("kv", "\"f32\"", |d| d.kv = "f32".into()),
        ("page_tokens", "2", |d| d.page_tokens = 2),
        ("rotary_context", "512", |d| d.rotary_context = 512),
        ("groups", "\"layers\":7", |d| d.groups[1].layers = 7),
    ];
    let folder = Folder::new();
    for (name, there, change) in changes {
        let mut other = identity().description().unwrap();
        change(&mut other);
        let other = by_hand(other);
        let error = folder.refused(&written(&other, &tokens(12), &pages(3)));
        assert_eq!(error.status, Status::Mismatch, "{name}: {error}");
        let here = serde_json::to_value(identity().description().unwrap()).unwrap()[name].to_string();
        for part in [name, there, here.as_str()] {
            assert!(error.message.contains(part), "{part} is not in: {error}");
        }
    }
    let json = serde_json::to_string(&description_of(12)).unwrap();
    let error = folder.refused(&forged(9, &json, &data(&tokens(12), &pages(3))));
    assert_eq!((error.status, error.needed, error.available), (Status::Mismatch, 9, 1));
}

#[test]
fn lies_with_right_checksums_are_found_before_memory_is_asked_for() {
    let folder = Folder::new();
    let sound = data(&tokens(12), &pages(3));
    let describe = |tokens| serde_json::to_string(&description_of(tokens)).unwrap();
    let refused = |json: &str, data: &[u8]| folder.refused(&forged(VERSION, json, data));
    for count in [0, 4, 8, 16, 64] {
        let error = refused(&describe(count), &sound);
        assert_eq!((error.status, error.unit), (Status::Format, Unit::Bytes), "{count}: {error}");
    }
    assert_eq!(refused(&describe(13), &sound).status, Status::Format);
    let error = refused(&describe(68), &sound);
    assert_eq!((error.status, error.needed, error.available), (Status::Context, 68, 64));
    for huge in [1 << 40, u64::MAX - 3, u64::MAX] {
        assert!(matches!(refused(&describe(huge), &sound).status, Status::Context | Status::Format));
    }
    let mut strange = tokens(12);
    strange[5] = 50;
    let error = refused(&describe(12), &data(&strange, &pages(3)));
    assert!(error.status == Status::Format && error.message.contains("token 50 at index 5"), "{error}");
    let json = describe(12);
    for wrong in [
        "",
        "{}",
        "[]",
        "null",
        "\u{0}",
        &json.replace(":12}", ":-12}"),
        &json.replace(":12}", ":12.5}"),
        &json.replace(":12}", ":1e400}"),
        &json.replace(":12}", ":12,\"more\":1}"),
        &json.replace(":12}", ":12,\"tokens\":12}"),
        &json.replace("\"cpu\"", "7"),
        &"[".repeat(100_000),
    ] {
        let error = refused(wrong, &sound);
        assert_eq!(error.status, Status::Format, "{wrong:.80}: {error}");
    }
    // A description length beyond the end of the file, and beyond the limit.
    for len in [1u32 << 17, 1 << 20, u32::MAX] {
        let mut bytes = forged(VERSION, &json, &sound);
        bytes[12..16].copy_from_slice(&len.to_le_bytes());
        assert_eq!(folder.refused(&bytes).status, Status::Format);
    }
}

#[test]
fn a_file_that_changes_after_it_was_checked_is_noticed() {
    let folder = Folder::new();
    let path = folder.file(&sound());
    let mut reader = Reader::open(&path, &identity()).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(reader.pages_start + 5)).unwrap();
    file.write_all(b"other").unwrap();
    reader.data(&mut vec![0; pages(3).len()]).unwrap();
    assert_eq!(reader.end().unwrap_err().status, Status::Format);
}

#[test]
fn what_is_no_file_is_an_io_error() {
    let folder = Folder::new();
    let open = |path: &Path| Reader::open(path, &identity()).map(|_| ()).unwrap_err();
    assert_eq!(open(folder.0.path()).status, Status::Io);
    let missing = open(&folder.0.path().join("missing"));
    assert_eq!((missing.status, missing.os_code), (Status::Io, 2));
}
