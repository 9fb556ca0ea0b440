//! A fixed number of places for values, handed out by bitmask. A handle carries the generation of its place, so one
//! kept too long is refused, never misread.

use super::bitset::BitSet;

/// Names a value in [`Slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceHandle {
    index: u32,
    generation: u32,
}

impl SequenceHandle {
    /// The place, below the capacity; distinct for values that live at the same time.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// Values of type `T` in a fixed number of places.
#[derive(Debug)]
pub struct Slots<T> {
    free: BitSet,
    places: Vec<(u32, Option<T>)>,
    capacity: usize,
}

impl<T> Slots<T> {
    /// `capacity` free places; storage grows with use.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(capacity: usize) -> crate::error::Result<Slots<T>> {
        Ok(Slots { free: BitSet::full(capacity)?, places: Vec::new(), capacity })
    }

    /// Places in use.
    pub fn len(&self) -> usize {
        self.capacity - self.free.len()
    }

    /// Whether no place is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether every place is in use.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Puts a value into the lowest free place, or gives it back.
    pub fn insert(&mut self, value: T) -> Result<SequenceHandle, T> {
        let Some(index) = self.free.take_first() else { return Err(value) };
        if index >= self.places.len() {
            self.places.resize_with(index + 1, || (0, None));
        }
        let place = &mut self.places[index];
        place.1 = Some(value);
        Ok(SequenceHandle { index: index as u32, generation: place.0 })
    }

    /// The value, unless the handle is stale.
    pub fn get(&self, handle: SequenceHandle) -> Option<&T> {
        let (generation, value) = self.places.get(handle.index())?;
        value.as_ref().filter(|_| *generation == handle.generation)
    }

    /// The value, unless the handle is stale.
    pub fn get_mut(&mut self, handle: SequenceHandle) -> Option<&mut T> {
        let (generation, value) = self.places.get_mut(handle.index())?;
        value.as_mut().filter(|_| *generation == handle.generation)
    }

    /// Takes the value out; the handle and its copies are stale from now on.
    pub fn remove(&mut self, handle: SequenceHandle) -> Option<T> {
        self.get(handle)?;
        let place = &mut self.places[handle.index()];
        place.0 = place.0.wrapping_add(1);
        self.free.insert(handle.index());
        place.1.take()
    }

    /// All values, by place, for changing.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().filter_map(|(_, value)| value.as_mut())
    }

    /// All values with their handles, by place.
    pub fn iter(&self) -> impl Iterator<Item = (SequenceHandle, &T)> {
        self.places.iter().enumerate().filter_map(|(index, (generation, value))| {
            Some((SequenceHandle { index: index as u32, generation: *generation }, value.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_handle_is_refused() {
        let mut slots = Slots::new(2).unwrap();
        let a = slots.insert("a").unwrap();
        let b = slots.insert("b").unwrap();
        assert_eq!(slots.insert("c"), Err("c"));
        assert_eq!(slots.remove(a), Some("a"));
        assert_eq!(slots.get(a), None);
        assert_eq!(slots.remove(a), None);
        let c = slots.insert("c").unwrap();
        assert_eq!(c.index(), a.index());
        assert_eq!((slots.get(a), slots.get(c), slots.get(b)), (None, Some(&"c"), Some(&"b")));
        assert!(slots.is_full());
        assert_eq!(slots.iter().map(|(_, v)| *v).collect::<Vec<_>>(), ["c", "b"]);
    }
}
