//! Attention on the CPU: the arguments of a task, and how a batch is split into tasks.
//!
//! Order of accumulation (law 1 of [`crate::backend`]): the keys of a sequence are processed in blocks of [`BLOCK`] and
//! spans of [`SPAN`] keys, at fixed positions counted from 0, and the partial results of the spans are added in
//! ascending order, whether one task computed them or several. Which keys of a block a query sees is decided for each
//! query alone.

#[cfg(target_arch = "x86_64")]
pub(super) mod lanes;
pub mod running;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub(super) mod tile;

use super::kv::{PageLayout, PageView, SendPages, StoreGroup};
use super::reserve::grow;
use super::*;
use crate::limits;

/// Keys processed at a time.
pub const BLOCK: usize = 64;
/// Keys covered by one partial result.
pub const SPAN: usize = 512;
/// Most queries (rows times heads) that share the loads of keys and values; a row with more heads is not split.
const QUERIES: usize = 64;

/// The attention functions of a tier.
#[derive(Clone, Copy)]
pub struct AttentionKernels {
    /// The page layout that the tier uses for a shape.
    pub layout: fn(&KvShape) -> PageLayout,
    /// Runs one task; see [`AttentionArgs`].
    ///
    /// # Safety
    /// The output pointers cover the rows; no other task accesses the results of these rows and heads (or the part);
    /// the pages have the layout that the tier uses, and the processor supports the tier's instructions.
    pub attend: unsafe fn(args: &AttentionArgs, scratch: &mut Vec<f32>),
    /// As `attend`, for [`Compute::F32`].
    ///
    /// # Safety
    /// As `attend`.
    pub attend_f32: unsafe fn(args: &AttentionArgs, scratch: &mut Vec<f32>),
    /// Stores the keys or values of a group of tokens in pages of [`PageLayout::Lanes`].
    pub store_group: StoreGroup,
    /// Adds the partial results of all spans of an item, concatenated in `parts`, and writes the final results.
    ///
    /// # Safety
    /// As `attend`; all parts have been written.
    pub combine: unsafe fn(args: &AttentionArgs, parts: &[f32], scratch: &mut Vec<f32>),
}

/// A partial result: the running softmax over one span of keys, to be combined with those of other spans.
#[derive(Clone, Copy)]
pub struct Part {
    /// Index of the span, which covers the keys from `span * SPAN` on.
    pub span: usize,
    /// Output: [`running::part_floats`] floats per query.
    pub out: *mut f32,
}

/// One attention task: adjacent rows of one sequence, for the query heads that share one KV head.
pub struct AttentionArgs<'a> {
    /// Queries of the whole batch; row `r`, head `h` starts at `r * q_row_stride + h * q_head_stride`.
    pub q: &'a [f32],
    /// Elements between the starts of consecutive query rows.
    pub q_row_stride: usize,
    /// Elements between the starts of consecutive query heads.
    pub q_head_stride: usize,
    /// Output `[rows, heads, v_dim]`.
    pub out: *mut f32,
    /// Elements between the starts of consecutive output rows.
    pub out_stride: usize,
    /// Rows of this task, as indices into the batch.
    pub rows: Range<usize>,
    /// Position of the first of these rows; the others follow consecutively.
    pub first_position: usize,
    /// Query heads that share the KV head.
    pub q_heads: Range<usize>,
    /// The KV head.
    pub kv_head: usize,
    /// Page table of the sequence, from its first entry on.
    pub table: &'a [u32],
    /// The layer's pages.
    pub pages: PageView<'a>,
    /// Factor applied to the scores before the softmax.
    pub scale: f32,
    /// Sliding window: number of keys visible to a query, its own included; `None` = all.
    pub window: Option<u32>,
    /// Of bidirectional attention: one past the last position of the sequence. The window reaches as far after a query as
    /// before it.
    pub end: Option<usize>,
    /// A score `s` becomes `softcap * tanh(s / softcap)`.
    pub softcap: Option<f32>,
    /// `[heads]`: the score of a key without a value.
    pub sinks: Option<Elements<'a>>,
    /// Compute only this partial result; `None` = process all spans and write the final results.
    pub part: Option<Part>,
}

impl AttentionArgs<'_> {
    /// Positions visible to the row at `position`.
    #[inline(always)]
    pub fn visible(&self, position: usize) -> Range<usize> {
        visible(position, self.window, self.end)
    }

    /// Positions visible to any of the rows.
    #[inline(always)]
    pub fn visible_to_any(&self) -> Range<usize> {
        let last = self.first_position + self.rows.len().saturating_sub(1);
        self.visible(self.first_position).start..self.visible(last).end
    }

    /// Range of the keys visible to row `index` of the task in the block that starts at position `block`, relative to
    /// its start; empty when it sees none of them.
    #[inline(always)]
    pub fn visible_in(&self, index: usize, block: usize) -> Range<usize> {
        let visible = self.visible(self.first_position + index);
        visible.start.clamp(block, block + BLOCK) - block..visible.end.clamp(block, block + BLOCK) - block
    }

    /// Number of queries of the task; they are ordered by row, then head.
    #[inline(always)]
    pub fn queries(&self) -> usize {
        self.rows.len() * self.q_heads.len()
    }

    /// Query `index` of the task.
    #[inline(always)]
    pub fn query(&self, index: usize) -> &[f32] {
        let (row, head) = self.place(index);
        let start = row * self.q_row_stride + head * self.q_head_stride;
        &self.q[start..start + self.pages.shape.k_dim]
    }

    /// Output of query `index`.
    ///
    /// # Safety
    /// `out` covers the task's rows and heads, and no other task accesses them while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the output is disjoint from everything the arguments borrow")]
    pub unsafe fn result(&self, index: usize) -> &mut [f32] {
        let (row, head) = self.place(index);
        let v_dim = self.pages.shape.v_dim;
        // SAFETY: guaranteed by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.out_stride + head * v_dim), v_dim) }
    }

    /// The sink of query `index`.
    #[inline(always)]
    pub fn sink(&self, index: usize) -> Option<f32> {
        self.sinks.as_ref().map(|sinks| sinks.get(self.place(index).1))
    }

    fn place(&self, index: usize) -> (usize, usize) {
        let heads = self.q_heads.len();
        (self.rows.start + index / heads, self.q_heads.start + index % heads)
    }
}

fn visible(position: usize, window: Option<u32>, end: Option<usize>) -> Range<usize> {
    let first = window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
    let behind = |end: usize| window.map_or(end, |w| position.saturating_add(w as usize).min(end));
    first..end.map_or(position + 1, behind)
}

/// One past the last position of the sequence of `row`, whose rows are adjacent.
fn end_of(ragged: Ragged, row: usize) -> usize {
    let more = &ragged.sequences[row..];
    let rows = more.iter().take_while(|&&sequence| sequence == more[0]).count();
    ragged.positions[row] as usize + rows
}

/// Adjacent rows of one sequence that are processed together to share the loads of its pages.
struct Rows {
    rows: Range<usize>,
    /// Spans visible to any of the rows.
    spans: Range<usize>,
    /// Multiply-adds per KV head.
    work: usize,
}

/// One task: either several whole items (rows, KV head), or some spans of a single item.
#[derive(Clone)]
struct Task {
    /// Item `i` is entry `i / kv_heads` of `Cut::rows` with KV head `i % kv_heads`.
    items: Range<usize>,
    spans: Option<Range<usize>>,
    /// Index in `Cut::parts` of the first float of the item's partial results.
    parts: usize,
}

/// The split of one step's attention into tasks, in memory reserved by [`Cut::reserve`].
#[derive(Default)]
pub(super) struct Cut {
    rows: Vec<Rows>,
    tasks: Vec<Task>,
    /// Items that were split into spans, whose partial results must be combined.
    combined: Vec<Task>,
    /// Memory for partial results. An item that does not fit is not split; without a reservation none is.
    parts: Option<Buffer>,
}

/// Sizes reserved by [`Cut::reserve`].
pub(super) struct CutSizes {
    rows: usize,
    tasks: usize,
    combined: usize,
    part_bytes: usize,
}

impl CutSizes {
    pub fn of(threads: usize, max_shape: &MaxBatchShape) -> CutSizes {
        let wanted = threads * TASKS_PER_THREAD;
        // A split item has the work of at least two tasks, so there are at most half as many. A task of whole items
        // either has at least a full task's work, or precedes a split item, or is the remainder.
        let combined = wanted / 2 + 1;
        let queries = queries_max(max_shape.heads_per_kv);
        let part = queries.saturating_mul(running::part_floats(max_shape.v_dim)).saturating_mul(4);
        let spans = max_shape.positions.div_ceil(SPAN);
        let every = combined.saturating_mul(spans).saturating_mul(part);
        let can_cut = threads > 1 && spans > 1;
        let part_bytes = if can_cut { every.min(threads.saturating_mul(limits::ATTENTION_PARTS_BYTES)) } else { 0 };
        CutSizes { rows: max_shape.rows, tasks: 2 * (wanted + 1) + combined + 1, combined, part_bytes }
    }

    pub fn bytes(&self) -> u64 {
        let lists = self.rows * size_of::<Rows>() + (self.tasks + self.combined) * size_of::<Task>();
        (lists + self.part_bytes) as u64
    }
}

/// Most queries of an item.
pub(super) fn queries_max(heads_per_kv: usize) -> usize {
    QUERIES.max(heads_per_kv)
}

impl Cut {
    pub fn reserve(&mut self, sizes: &CutSizes) -> Result<()> {
        grow("the tasks of attention", &mut self.rows, sizes.rows)?;
        grow("the tasks of attention", &mut self.tasks, sizes.tasks)?;
        grow("the tasks of attention", &mut self.combined, sizes.combined)?;
        self.parts = match sizes.part_bytes {
            0 => None,
            bytes => Some(Buffer::zeroed(bytes, "partial results of attention")?),
        };
        Ok(())
    }

    /// Groups the rows into runs of one sequence that share loads.
    fn rows(&mut self, ragged: Ragged, per_kv: usize, attention: &Attention, work_per_key: usize) {
        self.rows.clear();
        let longest = (QUERIES / per_kv).max(1);
        let mut ends = None;
        for (row, &position) in ragged.positions.iter().enumerate() {
            if attention.bidirectional && (row == 0 || ragged.sequences[row] != ragged.sequences[row - 1]) {
                ends = Some(end_of(ragged, row));
            }
            let seen = visible(position as usize, attention.window, ends);
            let (work, end) = (seen.len() * work_per_key, seen.end.div_ceil(SPAN));
            match self.rows.last_mut() {
                Some(r) if r.rows.len() < longest && ragged.sequences[r.rows.start] == ragged.sequences[row] => {
                    r.rows.end += 1;
                    r.spans.end = end;
                    r.work += work;
                }
                _ => self.rows.push(Rows { rows: row..row + 1, spans: seen.start / SPAN..end, work }),
            }
        }
    }

    /// Makes tasks of about equal work: light items are gathered into one task, heavy ones are split into spans while
    /// there is room for their partial results. The result bits of an item do not depend on whether it is split.
    fn tasks(&mut self, threads: usize, kv_heads: usize, part_floats: impl Fn(&Rows) -> usize, may_split: bool) {
        self.tasks.clear();
        self.combined.clear();
        let total = self.rows.iter().map(|r| r.work).sum::<usize>() * kv_heads;
        let wanted = (total / (threads * TASKS_PER_THREAD)).max(TASK_WORK_MIN);
        let room = self.parts.as_ref().map_or(0, |parts| parts.floats().len());
        let (mut parts, mut first, mut gathered) = (0, 0, 0);
        for item in 0..self.rows.len() * kv_heads {
            let rows = &self.rows[item / kv_heads];
            let pieces = (rows.work / wanted).min(rows.spans.len());
            let floats = rows.spans.len() * part_floats(rows);
            if may_split && threads > 1 && pieces > 1 && floats <= room - parts {
                if first < item {
                    self.tasks.push(Task { items: first..item, spans: None, parts: 0 });
                }
                (first, gathered) = (item + 1, 0);
                let step = rows.spans.len().div_ceil(pieces);
                let task = Task { items: item..item + 1, spans: None, parts };
                self.combined.push(task.clone());
                self.tasks.extend(
                    rows.spans
                        .clone()
                        .step_by(step)
                        .map(|s| Task { spans: Some(s..rows.spans.end.min(s + step)), ..task.clone() }),
                );
                parts += floats;
                continue;
            }
            gathered += rows.work;
            if gathered >= wanted && threads > 1 {
                self.tasks.push(Task { items: first..item + 1, spans: None, parts: 0 });
                (first, gathered) = (item + 1, 0);
            }
        }
        let items = self.rows.len() * kv_heads;
        if first < items {
            self.tasks.push(Task { items: first..items, spans: None, parts: 0 });
        }
    }
}

impl CpuBackend {
    /// See [`super::Operations::attention`].
    pub(super) fn attend(&mut self, attention: Attention, ragged: Ragged) {
        let (q, rows) = (attention.q, ragged.positions.len());
        let group = &self.groups[attention.pages.0 as usize];
        let (shape, pages) = (group.shape, SendPages::new(group, attention.layer));
        let q_data = Shared(self.floats(q.tensor, rows * q.row_stride).as_ptr().cast_mut());
        let out_stride = q.heads * shape.v_dim;
        let out = self.shared(attention.out, rows * out_stride);
        let per_kv = q.heads / shape.kv_heads;
        let sinks = attention.sinks.map(|sinks| self.weights[sinks.id as usize].clone());
        let functions = self.kernels.attention;
        let attend = if self.compute == Compute::F32 { functions.attend_f32 } else { functions.attend };
        let part_floats = |rows: &Rows| rows.rows.len() * per_kv * running::part_floats(shape.v_dim);

        let mut cut = std::mem::take(&mut self.cut);
        cut.rows(ragged, per_kv, &attention, per_kv * (shape.k_dim + shape.v_dim));
        cut.tasks(self.pool.threads(), shape.kv_heads, part_floats, self.kernels.tier != Tier::Reference);
        let parts = Shared(cut.parts.as_mut().map_or(std::ptr::null_mut(), |parts| parts.floats_mut().as_mut_ptr()));
        let of_item = |item: usize| {
            let block = &cut.rows[item / shape.kv_heads];
            let kv_head = item % shape.kv_heads;
            let start = ragged.table_starts[ragged.sequences[block.rows.start] as usize] as usize;
            let args = AttentionArgs {
                // SAFETY: checked above; no task writes queries.
                q: unsafe { q_data.read(0..rows * q.row_stride) },
                q_row_stride: q.row_stride,
                q_head_stride: q.head_stride,
                out: out.start(),
                out_stride,
                first_position: ragged.positions[block.rows.start] as usize,
                rows: block.rows.clone(),
                q_heads: kv_head * per_kv..(kv_head + 1) * per_kv,
                kv_head,
                table: &ragged.tables[start..],
                // SAFETY: the group's buffer outlives the call and is only read here.
                pages: unsafe { pages.view() },
                scale: attention.scale,
                window: attention.window,
                end: attention.bidirectional.then(|| end_of(ragged, block.rows.start)),
                softcap: attention.softcap,
                sinks: sinks.as_ref().map(StoredWeight::elements),
                part: None,
            };
            (args, block)
        };
        self.each_task(&cut.tasks, &|task, scratch| {
            for item in task.items.clone() {
                let (mut args, block) = of_item(item);
                let Some(spans) = &task.spans else {
                    // SAFETY: `out` covers all rows; no other task has these rows and heads; `new` checked the tier.
                    unsafe { attend(&args, scratch) };
                    continue;
                };
                for span in spans.clone() {
                    let at = task.parts + (span - block.spans.start) * part_floats(block);
                    // SAFETY: `Cut::tasks` reserved room for every span of the item, and no other task has this span.
                    args.part = Some(Part { span, out: unsafe { parts.start().add(at) } });
                    // SAFETY: as above.
                    unsafe { attend(&args, scratch) };
                }
            }
        });
        self.each_task(&cut.combined, &|task, scratch| {
            let (args, block) = of_item(task.items.start);
            // SAFETY: all parts of the item were written above; the rest as above.
            unsafe {
                let parts = parts.slice(task.parts..task.parts + block.spans.len() * part_floats(block));
                (functions.combine)(&args, parts, scratch);
            }
        });
        self.cut = cut;
    }

    fn each_task(&mut self, tasks: &[Task], run: &(dyn Fn(&Task, &mut Vec<f32>) + Sync)) {
        let scratch = &self.scratch;
        self.pool.run(tasks.len(), &|index, thread| {
            // SAFETY: `thread` is unique among running tasks, so no other task uses this scratch.
            run(&tasks[index], unsafe { &mut *scratch[thread].0.get() });
        });
    }
}
