//! What a device keeps of the tokens that were computed: frames with pages of keys and values, or with states.

use crate::dtype::DType;
use crate::error::Result;

/// What a frame holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FrameContent {
    /// A page of keys and values.
    #[default]
    KeysValues,
    /// A page of keys, whose beginnings are the values.
    Latent,
    /// The state of a recurrence after all tokens: for each layer one f32 vector of `k_dim` elements.
    State,
}

/// Shape of the frames of one layer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers in the group.
    pub layers: usize,
    /// Page frames in the pool.
    pub frames: usize,
    /// Tokens per page.
    pub page_tokens: usize,
    /// KV heads per layer.
    pub kv_heads: usize,
    /// Elements of a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// What a frame holds.
    pub content: FrameContent,
    /// Element type of keys and values; with `i8`, each key and each value vector has an f32 scale.
    pub dtype: DType,
}

impl KvShape {
    /// States of `layers` layers, of so many elements each.
    pub fn states(layers: usize, frames: usize, elements: usize) -> KvShape {
        let (content, dtype) = (FrameContent::State, DType::F32);
        KvShape { layers, frames, page_tokens: 1, kv_heads: 1, k_dim: elements, v_dim: 0, content, dtype }
    }

    /// A value is the beginning of its key, and not stored again.
    pub fn latent(&self) -> bool {
        self.content == FrameContent::Latent
    }

    /// Stored elements of one token of one KV head, and the vectors they make up.
    pub fn stored(&self) -> (usize, usize) {
        match self.content {
            FrameContent::KeysValues => (self.k_dim + self.v_dim, 2),
            FrameContent::Latent | FrameContent::State => (self.k_dim, 1),
        }
    }

    /// Bytes of one token of one KV head: key, value and their scales. Does not overflow, since the sizes were checked
    /// against limits.
    pub fn token_bytes(&self) -> usize {
        let (elements, vectors) = self.stored();
        elements * self.dtype.size() + if self.dtype == DType::I8 { 4 * vectors } else { 0 }
    }

    /// Bytes of one page frame, over all layers of the group; `None` on overflow.
    pub fn frame_bytes(&self) -> Option<usize> {
        self.token_bytes().checked_mul(self.kv_heads)?.checked_mul(self.page_tokens)?.checked_mul(self.layers)
    }
}

/// Handle of the frames of one layer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvPages(pub u32);

/// The frames of a device.
pub trait Cache {
    /// Allocates the frames of a layer group. Groups are made in the order of [`super::Step::tables`].
    fn kv_pages(&mut self, shape: KvShape) -> Result<KvPages>;

    /// Writes every byte of the KV pages, so that an operating system that overcommits memory fails now instead of
    /// later. `may` is called before each piece with its size in bytes; an error from it ends the loop and is returned.
    /// Does nothing on devices whose allocations are backed by memory at once.
    fn touch_kv(&mut self, may: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let _ = may;
        Ok(())
    }

    /// Copies one page frame, over all layers of the group, to the host after all work submitted so far. `out.len()`
    /// must be the size of a frame. The format is private to the backend: the bytes are only valid for
    /// [`Cache::write_page`] on the same kind of device, tier and shape.
    fn read_page(&mut self, pages: KvPages, frame: u32, out: &mut [u8]) -> Result<()>;

    /// Overwrites one page frame with bytes from [`Cache::read_page`].
    fn write_page(&mut self, pages: KvPages, frame: u32, bytes: &[u8]) -> Result<()>;
}
