//! The names of tokens by id, to be looked at: the crate gives copies only, and decoding a token must not take memory.

use crate::error::{Error, Result};

/// Names, one behind the other.
#[derive(Debug)]
pub(crate) struct NameTable {
    names: String,
    /// By id: where its name ends. It begins where the one before ends.
    ends: Vec<u32>,
}

impl NameTable {
    /// The names of so many ids; those without one have none.
    ///
    /// # Errors
    /// `Memory`; `Format` for more than 4 GiB of names.
    pub(crate) fn new(count: usize, name: impl Fn(u32) -> Option<String>) -> Result<NameTable> {
        let (mut names, mut ends) = (String::new(), Vec::new());
        let refused = |_| Error::memory("the names of tokens", count as u64 * 16);
        ends.try_reserve_exact(count).map_err(refused)?;
        for id in (0..=u32::MAX).take(count) {
            if let Some(name) = name(id) {
                names.try_reserve(name.len()).map_err(refused)?;
                names.push_str(&name);
            }
            let end = u32::try_from(names.len());
            ends.push(end.map_err(|_| Error::format("the names of its tokens are longer than 4 GiB"))?);
        }
        names.shrink_to_fit();
        Ok(NameTable { names, ends })
    }

    /// The name of an id; empty when it has none.
    pub(crate) fn get(&self, id: u32) -> Option<&str> {
        let at = usize::try_from(id).ok()?;
        let start = match at.checked_sub(1) {
            Some(before) => *self.ends.get(before)? as usize,
            None => 0,
        };
        self.names.get(start..*self.ends.get(at)? as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_id() {
        let names = [Some("a"), None, Some(""), Some("\u{2581}bc")];
        let table = NameTable::new(4, |id| names[id as usize].map(str::to_owned)).unwrap();
        assert_eq!([0, 1, 2, 3, 4].map(|id| table.get(id)), [Some("a"), Some(""), Some(""), Some("\u{2581}bc"), None]);
    }
}
