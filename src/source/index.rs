//! `model.safetensors.index.json`: which file has which tensor. Read into a list, not a tree: that of a model with many experts
//! is long. Where two files have a tensor, the one the index names counts.

use super::files::{self, quoted};
use super::safetensors::{Budget, Stored};
use super::shard::Shard;
use crate::error::{Error, Result, Status, Unit, reserved};
use crate::limits;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// The file's name.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Opens the files that the index of a folder names, and checks that they hold what it says; `None` when there is no index.
/// `warn` gets a line when a tensor is in several files.
pub(super) fn open_indexed(dir: &Path, warn: &mut dyn FnMut(String)) -> Result<Option<Vec<Shard>>> {
    let path = dir.join(INDEX);
    let shown = path.to_string_lossy().into_owned();
    let bad = |what: String| Error::format(format!("{shown}: {what}")).about(shown.as_str());
    let map = match files::read_json(&path, limits::INDEX_BYTES_MAX)? {
        None => return Ok(None),
        Some(Top::Other(kind)) => return Err(bad(format!("holds {kind}; a JSON object is expected"))),
        Some(Top::Object(None)) => return Err(bad("has no weight_map; it names each tensor's file".into())),
        Some(Top::Object(Some(WeightMap::Other(kind)))) => {
            return Err(bad(format!("weight_map is {kind}; an object is expected")));
        }
        Some(Top::Object(Some(WeightMap::Named(map)))) => map,
    };
    let (names, tensors) = map.sorted();
    if names.is_empty() {
        return Err(bad("weight_map is empty; it names each tensor's file".into()));
    }
    if names.len() > limits::SHARDS_MAX {
        let error = bad(format!("names {} files, more than {}", names.len(), limits::SHARDS_MAX));
        return Err(error.numbers(Unit::Count, names.len() as u64, limits::SHARDS_MAX as u64));
    }
    for name in &names {
        check_shard_name(name).map_err(|what| bad(format!("names the file {}, {what}", quoted(name))))?;
    }
    check_present(dir, &names, &shown)?;
    let mut counts = vec![0usize; names.len()];
    for (_, file) in &tensors {
        if let Some(count) = counts.get_mut(*file) {
            *count += 1;
        }
    }
    let (mut shards, mut budget, mut twice) = (Vec::with_capacity(names.len()), Budget::default(), Twice::default());
    for (file, name) in names.iter().enumerate() {
        let mut shard = Shard::open(&dir.join(name), &mut budget)?;
        let place = |name: &str| tensors.binary_search_by(|(tensor, _)| tensor.as_str().cmp(name)).ok();
        let of = |stored: &Stored| place(&stored.info.name).and_then(|at| tensors.get(at)).map(|(_, file)| *file);
        let held = shard.tensors.iter().filter(|stored| of(stored) == Some(file)).count();
        if held < counts.get(file).copied().unwrap_or_default() {
            let missing = missing(&tensors, file, &shard)?.map_or_else(String::new, quoted);
            return Err(bad(format!("says tensor {missing} is in {}, which does not hold it", quoted(name))));
        }
        shard.tensors.retain(|stored| match of(stored).filter(|&other| other != file) {
            Some(other) => twice.note(&stored.info.name, name, names.get(other)),
            None => true,
        });
        shards.push(shard);
    }
    twice.report(warn);
    check_unlisted(&shards)?;
    Ok(Some(shards))
}

/// The first tensor that the index places in a file and the file does not have.
fn missing<'a>(tensors: &'a [(String, usize)], file: usize, shard: &Shard) -> Result<Option<&'a str>> {
    let mut held: Vec<&str> = reserved("the list of tensors", shard.tensors.len())?;
    held.extend(shard.tensors.iter().map(|stored| stored.info.name.as_str()));
    held.sort_unstable();
    let mut placed = tensors.iter().filter(|(_, of)| *of == file).map(|(tensor, _)| tensor.as_str());
    Ok(placed.find(|tensor| held.binary_search(tensor).is_err()))
}

/// Tensors in a file other than the one the index names.
#[derive(Default)]
struct Twice {
    count: usize,
    first: String,
}

impl Twice {
    /// Counts one; never kept.
    fn note(&mut self, tensor: &str, file: &str, other: Option<&String>) -> bool {
        self.count += 1;
        if self.count == 1 {
            let other = other.map_or_else(String::new, |other| quoted(other));
            self.first = format!("tensor {} is in {} too, but the index names {other}", quoted(tensor), quoted(file));
        }
        false
    }

    fn report(self, warn: &mut dyn FnMut(String)) {
        match self.count {
            0 => {}
            1 => warn(format!("{INDEX}: {}, which is the one that counts", self.first)),
            n => warn(format!("{INDEX}: {}, which is the one that counts; so do {} others", self.first, n - 1)),
        }
    }
}

/// Every file must be there.
fn check_present(dir: &Path, names: &[String], index: &str) -> Result<()> {
    let absent: Vec<&String> = names.iter().filter(|name| dir.join(name).symlink_metadata().is_err()).collect();
    let Some(first) = absent.first() else { return Ok(()) };
    let (shown, more) = some_of(absent.iter().map(|name| name.as_str()));
    let what = match absent.len() {
        1 => format!("{index} names the file {shown}, which is not there"),
        n => format!("{index} names {} files, of which {n} are not there: {shown}{more}", names.len()),
    };
    let message = format!("{what}; the download is incomplete, download the model again");
    let numbers = (names.len() as u64, (names.len() - absent.len()) as u64);
    let error = Error::new(Status::Io, message).about(dir.join(first).to_string_lossy());
    Err(error.numbers(Unit::Count, numbers.0, numbers.1))
}

/// Some names for a message, and whether there are more.
fn some_of<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> (String, &'static str) {
    let more = if names.len() > limits::NAMED_TENSORS_MAX { ", …" } else { "" };
    (names.take(limits::NAMED_TENSORS_MAX).map(quoted).collect::<Vec<_>>().join(", "), more)
}

/// A file name from an index stays within the folder: plain names only, on every system. (Links are followed: the
/// folder's owner made them.)
fn check_shard_name(name: &str) -> std::result::Result<(), &'static str> {
    if name.contains(['\\', ':', '\0']) {
        return Err("whose name has a character that is not allowed here");
    }
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || name.starts_with('/') || !plain {
        return Err("which is not a file name within the folder");
    }
    if !name.ends_with(".safetensors") {
        return Err("which is not a safetensors file");
    }
    Ok(())
}

/// Refuses a name that several files hold and the index does not have.
fn check_unlisted(shards: &[Shard]) -> Result<()> {
    let mut names: Vec<(&str, &str)> = reserved("the list of tensors", shards.iter().map(|s| s.tensors.len()).sum())?;
    for shard in shards {
        names.extend(shard.tensors.iter().map(|stored| (stored.info.name.as_str(), shard.shown.as_str())));
    }
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        None => Ok(()),
        Some(pair) => {
            let ((name, first), (_, second)) = (pair[0], pair[1]);
            let message = format!(
                "tensor {} is in both {first} and {second}, and {INDEX} does not say which counts; download the model again",
                quoted(name)
            );
            Err(Error::format(message).about(second))
        }
    }
}

/// The file as written: its `weight_map`, or what stands in the place of an object.
enum Top {
    Object(Option<WeightMap>),
    Other(&'static str),
}

enum WeightMap {
    Named(Map),
    Other(&'static str),
}

/// Tensors and the files they are in; each file's name stands once.
#[derive(Default)]
struct Map {
    files: BTreeMap<String, usize>,
    tensors: Vec<(String, usize)>,
}

impl Map {
    /// Returns the number of a file.
    fn file(&mut self, name: String) -> usize {
        let next = self.files.len();
        *self.files.entry(name).or_insert(next)
    }

    /// The files by name, and the tensors by name with the place of their file among those. Of two of a name the last counts,
    /// as in Python.
    fn sorted(mut self) -> (Vec<String>, Vec<(String, usize)>) {
        let mut places = vec![0; self.files.len()];
        for (place, number) in self.files.values().enumerate() {
            if let Some(slot) = places.get_mut(*number) {
                *slot = place;
            }
        }
        self.tensors.reverse();
        self.tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.tensors.dedup_by(|later, kept| later.0 == kept.0);
        for (_, file) in &mut self.tensors {
            *file = places.get(*file).copied().unwrap_or_default();
        }
        (self.files.into_keys().collect(), self.tensors)
    }
}

/// A value of JSON that should be of one kind: what it is, when it is of another.
macro_rules! other_kinds {
    ($value:ident => $other:expr; $($visit:ident($type:ty) = $kind:literal),*) => {
        $(fn $visit<E: de::Error>(self, _: $type) -> std::result::Result<Self::Value, E> {
            let $value = $kind;
            Ok($other)
        })*
        fn visit_unit<E: de::Error>(self) -> std::result::Result<Self::Value, E> {
            let $value = "null";
            Ok($other)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            let $value = "an array";
            Ok($other)
        }
    };
}

crate::json::visited!(Top, TopVisitor);

impl<'de> Visitor<'de> for TopVisitor {
    type Value = Top;

    crate::json::expects!("an object with a weight_map");

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Top, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "weight_map" => found = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Top::Object(found))
    }

    other_kinds! { kind => Top::Other(kind); visit_bool(bool) = "a boolean", visit_u64(u64) = "a number",
    visit_i64(i64) = "a number", visit_f64(f64) = "a number", visit_str(&str) = "a string" }
}

crate::json::visited!(WeightMap, WeightMapVisitor);

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;

    crate::json::expects!("an object of file names");

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<WeightMap, A::Error> {
        let mut named = Map::default();
        while let Some((tensor, file)) = map.next_entry::<String, FileName>()? {
            let file = match file {
                FileName::Name(name) => named.file(name),
                FileName::Other(kind) => {
                    let tensor = quoted(&tensor);
                    let what = format!("the file of tensor {tensor} is {kind}; a string is expected");
                    return Err(de::Error::custom(what));
                }
            };
            if named.tensors.len() == limits::TENSORS_MAX {
                return Err(de::Error::custom(format!("it names more than {} tensors", limits::TENSORS_MAX)));
            }
            named.tensors.push((tensor, file));
        }
        Ok(WeightMap::Named(named))
    }

    other_kinds! { kind => WeightMap::Other(kind); visit_bool(bool) = "a boolean", visit_u64(u64) = "a number",
    visit_i64(i64) = "a number", visit_f64(f64) = "a number", visit_str(&str) = "a string" }
}

enum FileName {
    Name(String),
    Other(&'static str),
}

crate::json::visited!(FileName, FileNameVisitor);

impl<'de> Visitor<'de> for FileNameVisitor {
    type Value = FileName;

    crate::json::expects!("a file's name");

    fn visit_str<E: de::Error>(self, name: &str) -> std::result::Result<FileName, E> {
        Ok(FileName::Name(name.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<FileName, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(FileName::Other("an object"))
    }

    other_kinds! { kind => FileName::Other(kind); visit_bool(bool) = "a boolean", visit_u64(u64) = "a number",
    visit_i64(i64) = "a number", visit_f64(f64) = "a number" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_entries_the_last_counts_and_files_are_named_once() {
        let text = r#"{"weight_map":{"b":"y","a":"x","b":"x","c":"w"},"metadata":{"total_size":1}}"#;
        let Ok(Top::Object(Some(WeightMap::Named(map)))) = serde_json::from_str(text) else { panic!("an index") };
        let (names, tensors) = map.sorted();
        assert_eq!(names, ["w", "x", "y"]);
        let tensors: Vec<(&str, usize)> = tensors.iter().map(|(t, f)| (t.as_str(), *f)).collect();
        assert_eq!(tensors, [("a", 1), ("b", 1), ("c", 0)]);
    }

    #[test]
    fn more_tensors_than_a_checkpoint_may_have_are_refused_while_they_are_read() {
        let mut text = String::from("{\"weight_map\":{");
        for i in 0..=limits::TENSORS_MAX {
            text.push_str(&format!("\"{i}\":\"x\","));
        }
        text.pop();
        text.push_str("}}");
        let error = serde_json::from_str::<Top>(&text).err().expect("too many");
        assert!(error.to_string().contains("more than 1048576 tensors"), "{error}");
    }
}
