"""The results as a bar chart in SVG, without any library: one panel for each weight precision, in it a group of bars for
each column. Bars of a group are drawn against the longest of that group, as prefill and decoding differ a hundredfold;
the figure stands beside each."""

import html

import report

WIDTH, MARGIN, GAP = 1120, 16, 24
TITLE, GROUP_LABEL, BAR, BAR_GAP, GROUP_GAP = 64, 15, 13, 3, 10
# Room right of the longest bar for its figure.
FIGURE = 46
OURS_COLOUR = "#d9480f"
COLOURS = ["#74808d", "#a5b0bb", "#4d7ea8", "#8f7aa8", "#7a9e7e", "#b0956b"]


def text(x, y, content, size=11, weight="normal", colour="#1c2127", anchor="start"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
            f'text-anchor="{anchor}">{html.escape(content)}</text>')


def bar(x, y, width, colour, hint):
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{BAR}" rx="1.5" fill="{colour}">'
            f"<title>{html.escape(hint)}</title></rect>")


def engines(results):
    """(name, label, colour), ours first."""
    names = sorted(results["peers"], key=lambda name: name != report.OURS)
    colours = iter(COLOURS * (1 + len(names) // len(COLOURS)))
    return [(name, results["peers"][name]["label"], OURS_COLOUR if name == report.OURS else next(colours)) for name in names]


def panel(results, found, precision, left, width):
    """The panel's elements and the height they take."""
    out = [text(left, TITLE, report.PRECISION_LABELS[precision], 13, "bold")]
    y = TITLE + 14
    for column in results["columns"]:
        group = [(label, colour, found[(name, precision, column["name"])]) for name, label, colour in engines(results)
                 if (name, precision, column["name"]) in found]
        if not group:
            continue
        longest = max(cell.median for _, _, cell in group)
        out.append(text(left, y + GROUP_LABEL - 4, column["label"], 11, colour="#4a525a"))
        y += GROUP_LABEL
        for label, colour, cell in group:
            length = (width - FIGURE) * cell.median / longest
            hint = f"{label}: {cell.text()} tokens/s"
            out.append(bar(left, y, length, colour, hint))
            out.append(text(left + length + 4, y + BAR - 3, report.number(cell.median), 10))
            y += BAR + BAR_GAP
        y += GROUP_GAP
    return out, y


def svg(results):
    """The chart."""
    found = report.cells(results)
    precisions = [p for p in results["precisions"] if any(key[1] == p for key in found)]
    count = max(1, len(precisions))
    width = (WIDTH - 2 * MARGIN - GAP * (count - 1)) / count
    body, height = [], TITLE
    for i, precision in enumerate(precisions):
        elements, bottom = panel(results, found, precision, MARGIN + i * (width + GAP), width)
        body.extend(elements)
        height = max(height, bottom)
    machine = results["machine"]
    title = f"Tokens per second, {results['shape']}: {machine['cpu']}, {results['threads']} threads"
    body.insert(0, text(MARGIN, 20, title, 14, "bold"))
    x = MARGIN
    for _, label, colour in engines(results):
        body.append(f'<rect x="{x}" y="32" width="11" height="11" rx="1.5" fill="{colour}"/>')
        body.append(text(x + 16, 42, label, 11))
        x += 30 + 6.6 * len(label)
    body.append(text(MARGIN, height + 6, f"Medians of {results['rounds']} rounds in turns, {results['date']}; bars are to "
                     "scale within a group.", 10, colour="#4a525a"))
    height += MARGIN
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}" '
        'font-family="system-ui, sans-serif">',
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>', *body, "</svg>", ""])
