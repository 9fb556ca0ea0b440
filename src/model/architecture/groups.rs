//! Which layers share the shape and the lifetime of what they keep of the tokens that were computed.

use super::{Architecture, Attention, Block, KvProjection, Operation};
use crate::backend::{FrameContent, KvShape};
use crate::dtype::DType;

/// Layers whose frames have one shape and one lifetime. Every kind of cache is a group of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerGroup {
    /// Layers of the group, ascending.
    pub layers: Vec<usize>,
    /// What a frame holds.
    pub content: FrameContent,
    /// KV heads.
    pub kv_heads: usize,
    /// Elements of a key, or of a state.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Keys that a query sees; pages beyond them are let go. `None` = all are kept.
    pub window: Option<u32>,
}

impl LayerGroup {
    /// The group of a block that keeps something of the tokens it has computed, with its layer alone.
    fn of(block: &Block, layer: usize, context_max: usize) -> Option<LayerGroup> {
        let layers = vec![layer];
        let state = |k_dim| {
            Some(LayerGroup {
                layers: vec![layer],
                content: FrameContent::State,
                kv_heads: 1,
                k_dim,
                v_dim: 0,
                window: None,
            })
        };
        match &block.operation {
            Operation::Attention(Attention { kv: KvProjection::Shared { .. }, .. }) => None,
            Operation::Attention(a) => {
                // A window that no context exceeds lets nothing go; of a step that has all rows nothing goes before its end.
                let window = a.window.filter(|&window| (window as usize) < context_max && !a.bidirectional);
                let (content, kv_heads, k_dim, v_dim) = (FrameContent::KeysValues, a.kv_heads, a.head_dim, a.head_dim);
                Some(LayerGroup { layers, content, kv_heads, k_dim, v_dim, window })
            }
            Operation::Latent(a) => {
                let (content, k_dim, v_dim) = (FrameContent::Latent, a.rank + a.rope, a.rank);
                Some(LayerGroup { layers, content, kv_heads: 1, k_dim, v_dim, window: None })
            }
            Operation::ShortConv(conv) => state(conv.state()),
            Operation::Recurrence(recurrence) => state(recurrence.state()),
            Operation::Dense(_)
            | Operation::Experts(_)
            | Operation::DenseAndExperts(_)
            | Operation::PerLayerInput(_) => None,
        }
    }

    /// The group's frames on a device.
    pub fn shape(&self, frames: usize, page_tokens: usize, dtype: DType) -> KvShape {
        let &LayerGroup { content, kv_heads, k_dim, v_dim, .. } = self;
        match content {
            FrameContent::State => KvShape::states(self.layers.len(), frames, k_dim),
            _ => KvShape { layers: self.layers.len(), frames, page_tokens, kv_heads, k_dim, v_dim, content, dtype },
        }
    }
}

impl Architecture {
    /// The layer groups, in order of their first layer.
    pub fn groups(&self) -> Vec<LayerGroup> {
        self.places().0
    }

    /// The layer groups, and for each block that has one its group and its place among those of the group.
    pub fn places(&self) -> (Vec<LayerGroup>, Vec<Vec<(usize, usize)>>) {
        let mut groups: Vec<LayerGroup> = Vec::new();
        let mut places: Vec<Vec<(usize, usize)>> = self.layers.iter().map(|layer| vec![(0, 0); layer.len()]).collect();
        // Of each layer that attends.
        let mut attended = vec![(0, 0); self.layers.len()];
        for (layer, blocks) in self.layers.iter().enumerate() {
            for (block, place) in blocks.iter().zip(&mut places[layer]) {
                if let Operation::Attention(Attention { kv: KvProjection::Shared { layer: other }, .. }) =
                    &block.operation
                {
                    *place = attended.get(*other).copied().unwrap_or_default();
                    continue;
                }
                let Some(own) = LayerGroup::of(block, layer, self.context_max) else { continue };
                let shape = |g: &LayerGroup| LayerGroup { layers: Vec::new(), ..g.clone() };
                let at = groups.iter().position(|g| shape(g) == shape(&own)).unwrap_or(groups.len());
                match groups.get_mut(at) {
                    Some(group) => group.layers.push(layer),
                    None => groups.push(own),
                }
                *place = (at, groups[at].layers.len() - 1);
                if matches!(block.operation, Operation::Attention(_)) {
                    attended[layer] = *place;
                }
            }
        }
        (groups, places)
    }
}
