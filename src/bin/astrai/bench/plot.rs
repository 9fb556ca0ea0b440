//! Two pictures of a run, one above the other, over the same steps: what each request did, and who had which page.

use super::drive::{Record, Run};
use super::watch::{PageMap, Seen, Span};
use crate::failure::{Failure, Outcome};
use astrai::engine::PageUse;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

const WIDTH: u32 = 1400;
/// Height of the title, of the page map, and of what surrounds the timeline.
const TITLE: u32 = 44;
const PAGES: u32 = 420;
const FRAME: u32 = 100;
/// Most rows of the timeline that stand for one request each; with more requests, a row is a slot.
const REQUEST_ROWS_MAX: usize = 80;
/// Most rows of the page map; more pages share them.
const PAGE_ROWS_MAX: usize = 120;

/// Labels of an axis for which nobody wants fewer.
const Y_LABELS: usize = 11;

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 48);
const QUEUE: RGBColor = RGBColor(222, 222, 226);
const PREFILL: RGBColor = RGBColor(40, 40, 48);
const CACHED: RGBColor = RGBColor(196, 204, 214);
const SHARED: RGBColor = RGBColor(40, 40, 48);
const PADDING: RGBColor = RGBColor(240, 190, 190);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'b, 'a> = ChartContext<'b, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Plotted = Result<(), Box<dyn std::error::Error>>;

/// Makes the file, so that a path that cannot be written is told before the measurement and not after it.
pub fn check(path: &Path) -> Outcome {
    let made = std::fs::File::create(path);
    made.map(|_| ()).map_err(|e| Failure::Message(format!("cannot write {}: {e}", path.display())))
}

/// Draws the run into an SVG file.
pub fn plot(path: &Path, title: &str, run: &Run, seen: &Seen) -> Outcome {
    draw(path, title, run, seen).map_err(|e| Failure::Message(format!("cannot draw {}: {e}", path.display())))
}

fn draw(path: &Path, title: &str, run: &Run, seen: &Seen) -> Plotted {
    let rows = Rows::of(run, seen);
    let timeline = FRAME + (rows.count as u32 * 14).clamp(160, 620);
    let root = SVGBackend::new(path, (WIDTH, TITLE + timeline + PAGES)).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("{title}: {} requests, {} steps", run.records.len(), seen.steps);
    root.draw(&Text::new(title, (24, 14), (FONT, 22).into_font().color(&INK)))?;
    let (_, panels) = root.split_vertically(TITLE);
    let (upper, lower) = panels.split_vertically(timeline);
    let colours = colours(run);
    requests(&upper, &rows, seen, &colours)?;
    pages(&lower, seen, &colours)?;
    root.present()?;
    Ok(())
}

/// A colour for each request, far from that of its neighbours: hues a golden angle apart.
fn colours(run: &Run) -> HashMap<u64, RGBColor> {
    let mut ids: Vec<u64> = run.records.iter().map(|r| r.id).collect();
    ids.sort_unstable();
    let colour = |at: usize| {
        let hue = (at as f64 * 0.618_034).fract();
        let lightness = [0.52, 0.64, 0.44][at % 3];
        let (r, g, b) = HSLColor(hue, 0.62, lightness).rgb();
        RGBColor(r, g, b)
    };
    ids.into_iter().enumerate().map(|(at, id)| (id, colour(at))).collect()
}

/// Which row of the timeline each request is on.
struct Rows<'a> {
    count: usize,
    /// A row is a request, not a slot.
    by_request: bool,
    placed: Vec<(usize, &'a Record)>,
}

impl<'a> Rows<'a> {
    fn of(run: &'a Run, seen: &Seen) -> Rows<'a> {
        let mut records: Vec<&Record> = run.records.iter().collect();
        records.sort_by_key(|r| (r.step, r.id));
        if records.len() <= REQUEST_ROWS_MAX {
            return Rows { count: records.len(), by_request: true, placed: records.into_iter().enumerate().collect() };
        }
        let ends = |r: &Record| {
            let spans = seen.spans.get(&r.id)?;
            Some((spans.first()?.first, spans.last()?.last))
        };
        records.sort_by_key(|r| ends(r).map(|e| e.0));
        // The first row that is free when a request begins.
        let mut busy_until: Vec<u64> = Vec::new();
        let mut placed = Vec::new();
        for record in records {
            let Some((first, last)) = ends(record) else { continue };
            let row = busy_until.iter().position(|&busy| busy < first).unwrap_or(busy_until.len());
            busy_until.resize(busy_until.len().max(row + 1), 0);
            busy_until[row] = last;
            placed.push((row, record));
        }
        Rows { count: busy_until.len(), by_request: false, placed }
    }
}

/// An empty picture over the steps, and what stands at its sides: the name of the rows and how many of them have a label.
fn axes<'a, 'b>(
    area: &'b Area<'a>,
    margin_bottom: u32,
    seen: &Seen,
    rows: Range<f64>,
    (name, labels): (&str, usize),
) -> Result<Chart<'b, 'a>, Box<dyn std::error::Error>> {
    let mut chart = ChartBuilder::on(area)
        .margin_left(14)
        .margin_right(24)
        .margin_top(34)
        .margin_bottom(margin_bottom)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..seen.steps.max(1) as f64, rows)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_desc("step")
        .y_desc(name)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{:.0}", y.abs()))
        .y_labels(labels)
        .label_style((FONT, 15).into_font().color(&INK))
        .axis_desc_style((FONT, 16).into_font().color(&INK))
        .draw()?;
    Ok(chart)
}

/// The timeline.
fn requests(area: &Area, rows: &Rows, seen: &Seen, colours: &HashMap<u64, RGBColor>) -> Plotted {
    let count = rows.count.max(1) as f64;
    let name = if rows.by_request { "request" } else { "slot" };
    let mut chart = axes(area, 0, seen, -count..0.0, (name, rows.count.clamp(2, 9)))?;
    let mut bars: Vec<(Span, usize, RGBColor)> = Vec::new();
    for &(row, record) in &rows.placed {
        let spans = seen.spans.get(&record.id).map_or(&[][..], Vec::as_slice);
        if let Some(last) = spans.last() {
            // Whatever is not computed over it is waiting: for a slot, for pages, for its reader.
            let begin = if rows.by_request { record.step + 1 } else { spans[0].first };
            bars.push((Span { first: begin, last: last.last, prefill: false }, row, QUEUE));
        }
        let decode = colours.get(&record.id).copied().unwrap_or(INK);
        bars.extend(spans.iter().map(|span| (*span, row, if span.prefill { PREFILL } else { decode })));
    }
    chart.draw_series(bars.into_iter().map(|(span, row, colour)| {
        let (top, bottom) = (-(row as f64) - 0.1, -(row as f64) - 0.9);
        Rectangle::new([((span.first - 1) as f64, top), (span.last as f64, bottom)], colour.filled())
    }))?;
    let queue = if rows.by_request { "waiting" } else { "paused or preempted" };
    legend(
        area,
        &[(queue, QUEUE), ("prefill", PREFILL), ("decode, each request in its colour", RGBColor(66, 133, 200))],
    )
}

/// The page map.
fn pages(area: &Area, seen: &Seen, colours: &HashMap<u64, RGBColor>) -> Plotted {
    let frames = seen.maps.iter().map(|map| map.pages.len()).max().unwrap_or(0).max(1);
    let mut chart = axes(area, 10, seen, 0.0..frames as f64, ("page frame", Y_LABELS))?;
    let per_row = frames.div_ceil(PAGE_ROWS_MAX);
    let mut cells = Vec::new();
    for row in 0..frames.div_ceil(per_row) {
        let range = row * per_row..((row + 1) * per_row).min(frames);
        let mut open: Option<(u64, PageUse)> = None;
        for map in &seen.maps {
            let owner = most(map, range.clone());
            if open.is_some_and(|(_, before)| before == owner) {
                continue;
            }
            cells.extend(open.map(|(from, before)| (from, map.step, before, range.clone())));
            open = Some((map.step, owner));
        }
        cells.extend(open.map(|(from, before)| (from, seen.steps + 1, before, range.clone())));
    }
    let padded = cells.iter().any(|(_, _, owner, _)| *owner == PageUse::Used(0));
    let colour = |owner: PageUse| match owner {
        PageUse::Free => None,
        PageUse::Cached => Some(CACHED),
        PageUse::Shared => Some(SHARED),
        PageUse::Used(id) => Some(colours.get(&id).copied().unwrap_or(PADDING)),
    };
    chart.draw_series(cells.into_iter().filter_map(|(from, to, owner, range)| {
        let corners = [((from - 1) as f64, range.end as f64), ((to - 1) as f64, range.start as f64)];
        Some(Rectangle::new(corners, colour(owner)?.filled()))
    }))?;
    let shown = format!("free (of {} frames, {frames} were ever used)", seen.pages);
    let mut entries = vec![
        ("used, in the colour of its request", RGBColor(66, 133, 200)),
        ("shared by several requests", SHARED),
        ("cached", CACHED),
        (&shown, WHITE),
    ];
    // Only of static batches: what ended stays until the batch does.
    entries.extend(padded.then_some(("held by a request that has ended", PADDING)));
    legend(area, &entries)
}

/// Who has most of a few frames.
fn most(map: &PageMap, range: Range<usize>) -> PageUse {
    let owner = |at: usize| map.pages.get(at).copied().unwrap_or_default();
    let times = |who: PageUse| range.clone().filter(|&at| owner(at) == who).count();
    range.clone().map(owner).max_by_key(|&who| times(who)).unwrap_or_default()
}

/// Names of colours, above the picture.
fn legend(area: &Area, entries: &[(&str, RGBColor)]) -> Plotted {
    let mut x = 80;
    for (name, colour) in entries {
        area.draw(&Rectangle::new([(x, 10), (x + 16, 24)], colour.filled()))?;
        area.draw(&Rectangle::new([(x, 10), (x + 16, 24)], INK.mix(0.4)))?;
        area.draw(&Text::new((*name).to_owned(), (x + 23, 9), (FONT, 15).into_font().color(&INK)))?;
        x += 60 + 8 * name.len() as i32;
    }
    Ok(())
}
