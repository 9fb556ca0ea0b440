//! Attention on the CPU: the arguments of a task, and how a batch is cut into tasks.

use super::kv::{PageView, SendPages};
use super::*;

/// Attention of some adjacent rows of one sequence for the query heads of one KV head.
pub struct AttentionArgs<'a> {
    /// All queries; row `r`, head `h` at `r * q_row_stride + h * q_head_stride`.
    pub q: &'a [f32],
    /// Elements from a query row to the next.
    pub q_row_stride: usize,
    /// Elements from a query head to the next.
    pub q_head_stride: usize,
    /// Output `[rows, heads, v_dim]`.
    pub out: *mut f32,
    /// Elements from an output row to the next.
    pub out_stride: usize,
    /// Rows of this task.
    pub rows: Range<usize>,
    /// Position of the first of them.
    pub first_position: usize,
    /// Query heads that share the KV head.
    pub q_heads: Range<usize>,
    /// The KV head.
    pub kv_head: usize,
    /// Page table of the sequence.
    pub table: &'a [u32],
    /// The layer's pages.
    pub pages: PageView<'a>,
    /// Factor on the scores.
    pub scale: f32,
    /// Keys visible to a query.
    pub window: Option<u32>,
}

impl AttentionArgs<'_> {
    /// Positions visible to the row at `position`.
    #[inline(always)]
    pub fn visible(&self, position: usize) -> Range<usize> {
        let first = self.window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
        first..position + 1
    }

    /// The query of a row and head.
    #[inline(always)]
    pub fn query(&self, row: usize, head: usize) -> &[f32] {
        let start = row * self.q_row_stride + head * self.q_head_stride;
        &self.q[start..start + self.pages.shape.k_dim]
    }

    /// Where the result of a row and head goes.
    ///
    /// # Safety
    /// The row and head are this task's, `out` covers them, and nobody else uses them meanwhile.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the output is disjoint from everything the arguments borrow")]
    pub unsafe fn result(&self, row: usize, head: usize) -> &mut [f32] {
        let v_dim = self.pages.shape.v_dim;
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.out_stride + head * v_dim), v_dim) }
    }
}

impl CpuBackend {
    /// See [`Backend::attention`].
    pub(super) fn attend(&mut self, attention: Attention, ragged: Ragged) {
        let group = &self.groups[attention.pages.0 as usize];
        let (shape, q) = (group.shape, attention.q);
        let rows = ragged.positions.len();
        let pages = PageView { bytes: group.buffer.bytes(), shape, layer: attention.layer };
        let pages = SendPages(pages.bytes.as_ptr(), pages.bytes.len(), pages.layer);
        let q_data = Shared(self.floats(q.tensor, rows * q.row_stride).as_ptr().cast_mut());
        let out_stride = q.heads * shape.v_dim;
        let out = self.shared(attention.out, rows * out_stride);
        let blocks = query_blocks(ragged);
        let per_kv = q.heads / shape.kv_heads;
        let kernels = self.kernels;
        let keys: usize = ragged.positions.iter().map(|&p| p as usize + 1).sum();
        let tasks = blocks.len() * shape.kv_heads;
        let work = keys * q.heads * (shape.k_dim + shape.v_dim) / tasks.max(1);
        self.ranges(tasks, 1, work, &|range, scratch| {
            for task in range {
                let (rows_of_block, kv_head) = (blocks[task / shape.kv_heads].clone(), task % shape.kv_heads);
                let start = ragged.table_starts[ragged.sequences[rows_of_block.start] as usize] as usize;
                let args = AttentionArgs {
                    // SAFETY: checked above; no task writes queries.
                    q: unsafe { q_data.slice(0..rows * q.row_stride) },
                    q_row_stride: q.row_stride,
                    q_head_stride: q.head_stride,
                    out: out.start(),
                    out_stride,
                    first_position: ragged.positions[rows_of_block.start] as usize,
                    rows: rows_of_block,
                    q_heads: kv_head * per_kv..(kv_head + 1) * per_kv,
                    kv_head,
                    table: &ragged.tables[start..],
                    // SAFETY: the group's buffer outlives the call and is only read here.
                    pages: unsafe { pages.view(shape) },
                    scale: attention.scale,
                    window: attention.window,
                };
                // SAFETY: `out` covers all rows; rows and heads of a task are its own; the tier was checked.
                unsafe { (kernels.attention)(&args, scratch) };
            }
        });
    }
}

/// Cuts the rows into runs of one sequence, at most [`portable::QUERY_ROWS`] long.
fn query_blocks(ragged: Ragged) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    for row in 0..ragged.positions.len() {
        match blocks.last_mut() {
            Some(b) if b.len() < portable::QUERY_ROWS && ragged.sequences[b.start] == ragged.sequences[row] => {
                b.end += 1
            }
            _ => blocks.push(row..row + 1),
        }
    }
    blocks
}
