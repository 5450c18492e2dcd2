//! The report for a terminal: at most [`WIDTH`] columns, no colours, charts as rows of blocks. Called by `render`.

use comfy_table::{CellAlignment, ContentArrangement, Row, Table as Grid, TableComponent};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::chart::Chart;
use crate::clean::{self, Sql};
use crate::format::Unit;
use crate::series;
use crate::view::{Advice, Block, Notice, Section, Table, Tile, View};

/// How many columns a line has at most.
pub(crate) const WIDTH: usize = 100;
/// The most lines of a row of a table.
const ROW_LINES: usize = 3;

/// The report as text.
pub(crate) fn render(view: &View) -> String {
    let mut out = String::new();
    heading(&mut out, &view.title, '═');
    let widest = view.facts.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    for (what, value) in &view.facts {
        paragraph(&mut out, value, &format!("{what:widest$}  "), &" ".repeat(widest + 2));
    }
    for section in &view.sections {
        out.push('\n');
        tell(&mut out, section);
    }
    out.push_str("\nAll times are UTC. A dash stands for what was not measured.\n");
    out
}

fn tell(out: &mut String, section: &Section) {
    heading(out, section.title, '─');
    paragraph(out, &section.takeaway, "", "");
    for block in &section.blocks {
        out.push('\n');
        match block {
            Block::Tiles(tiles) => self::tiles(out, tiles),
            Block::Notices(notices) => notices.iter().for_each(|n| notice(out, n)),
            Block::Charts(charts) => charts.iter().for_each(|c| chart(out, c)),
            Block::Advice(all) => {
                for (at, advice) in all.iter().enumerate() {
                    if at > 0 {
                        out.push('\n');
                    }
                    self::advice(out, at + 1, advice);
                }
            }
            Block::Table(table) => self::table(out, table),
        }
    }
}

fn heading(out: &mut String, title: &str, rule: char) {
    let title = wrap(title, WIDTH).into_iter().next().unwrap_or_default();
    out.push_str(&title);
    out.push('\n');
    out.extend(std::iter::repeat_n(rule, title.width()));
    out.push('\n');
}

/// A paragraph whose first line begins with `first` and whose others begin with `rest`.
fn paragraph(out: &mut String, text: &str, first: &str, rest: &str) {
    let room = WIDTH - first.width().max(rest.width());
    for (at, line) in wrap(text, room).into_iter().enumerate() {
        out.push_str(if at == 0 { first } else { rest });
        out.push_str(&line);
        out.push('\n');
    }
}

/// The lines of a text of at most `width` columns, broken at blanks where there are any.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut line, mut used) = (String::new(), 0);
    for word in text.split_whitespace() {
        if used > 0 && used + 1 + word.width() > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        } else if used > 0 {
            line.push(' ');
            used += 1;
        }
        for c in word.chars() {
            let columns = c.width().unwrap_or(0);
            if used + columns > width {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push(c);
            used += columns;
        }
    }
    lines.push(line);
    lines
}

fn tiles(out: &mut String, tiles: &[Tile]) {
    let label = tiles.iter().map(|t| t.label.width()).max().unwrap_or(0);
    let value = tiles.iter().map(|t| t.value.width()).max().unwrap_or(0);
    for tile in tiles {
        let pad = |text: &str, width: usize| " ".repeat(width - text.width());
        let line = format!("{}{}  {}{}  ", tile.label, pad(&tile.label, label), pad(&tile.value, value), tile.value);
        paragraph(out, &tile.note, &line, &" ".repeat(label + value + 4));
    }
}

fn notice(out: &mut String, notice: &Notice) {
    paragraph(out, &format!("{}: {}", notice.word, notice.message), "! ", "  ");
    if !notice.action.is_empty() {
        paragraph(out, &notice.action, "  ", "  ");
    }
    sql(out, "", &notice.sql);
}

fn chart(out: &mut String, chart: &Chart) {
    paragraph(out, &chart.summary, "", "");
    let unit = Unit::of(&chart.unit);
    for line in &chart.lines {
        // One line alone is what the sentence above it tells of.
        let name = if chart.lines.len() > 1 { clean::line(&line.name, 12) } else { String::new() };
        let blocks = series::blocks(&line.points, 60);
        let highest = series::extent(line.points.iter().filter_map(|p| p.1)).map(|e| e.1);
        if !blocks.is_empty() {
            let room = " ".repeat(if name.is_empty() { 0 } else { 14_usize.saturating_sub(name.width()).max(1) });
            let end = format!("▏0 to {}", unit.short().show(highest));
            let line = format!("  {name}{room}{blocks}{end}");
            // Names of wide letters and long units leave less room.
            out.push_str(if line.width() <= WIDTH { &line } else { blocks.as_str() });
            out.push('\n');
        }
    }
}

fn advice(out: &mut String, number: usize, advice: &Advice) {
    let lead = format!("{number:>2}. ");
    let gain = match advice.gain.as_str() {
        "" => String::new(),
        gain => format!(": {gain} {}", advice.gain_basis),
    };
    paragraph(out, &format!("{}{gain}", advice.title), &lead, "    ");
    let chips: Vec<&str> = advice.chips.iter().map(|(text, _)| text.as_str()).collect();
    let facts = advice.facts.iter().map(|(what, value)| format!("{}: {value}", what.to_lowercase()));
    let facts: Vec<String> = chips.into_iter().map(str::to_owned).chain(facts).collect();
    paragraph(out, &facts.join(", "), "    ", "    ");
    if !advice.reason.is_empty() {
        paragraph(out, &advice.reason, "    ", "    ");
    }
    sql(out, "  ", &advice.sql);
    if !advice.undo.text.is_empty() {
        out.push_str("    To undo:\n");
        sql(out, "  ", &advice.undo);
    }
    if !advice.id.is_empty() {
        paragraph(out, &format!("id {}", advice.id), "    ", "    ");
    }
}

/// SQL, whose lines are broken only where that changes nothing.
fn sql(out: &mut String, indent: &str, sql: &Sql) {
    let indent = format!("{indent}  | ");
    for line in sql.text.lines() {
        match break_sql(line, WIDTH - indent.width()) {
            Some(lines) => lines.iter().for_each(|line| out.push_str(&format!("{indent}{line}\n"))),
            None => {
                let words = format!("(a line of {} characters, which the report as JSON has)", line.chars().count());
                out.push_str(&format!("{indent}{words}\n"));
            }
        }
    }
    if !sql.exact {
        out.push_str(&format!("{indent}(not to be run as shown: too long, or with characters that cannot be seen)\n"));
    }
}

/// A line of SQL in lines of at most `width` columns, broken at blanks outside of quotes only. None: it cannot be.
fn break_sql(line: &str, width: usize) -> Option<Vec<String>> {
    let line = line.replace('\t', "    ");
    if line.width() <= width {
        return Some(vec![line]);
    }
    // What a quote is depends on more than this line: better not shown than broken.
    if line.contains(['\\', '$']) || line.contains("--") || line.contains("/*") {
        return None;
    }
    let mut pieces = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        match (c, quote) {
            (' ', None) => pieces.push(String::new()),
            _ => pieces.last_mut()?.push(c),
        }
    }
    let mut lines = vec![String::new()];
    for piece in pieces {
        let last = lines.last_mut()?;
        if last.width() + 1 + piece.width() > width && !last.is_empty() {
            lines.push(format!("  {piece}"));
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(&piece);
        }
    }
    lines.iter().all(|line| line.width() <= width).then_some(lines)
}

fn table(out: &mut String, table: &Table) {
    paragraph(out, &table.caption, "", "");
    let shown: Vec<usize> = (0..table.columns.len()).filter(|at| !table.columns[*at].wide).collect();
    let mut grid = Grid::new();
    grid.load_preset(comfy_table::presets::NOTHING)
        .set_style(TableComponent::HeaderLines, '─')
        .set_style(TableComponent::MiddleHeaderIntersections, '─')
        .set_truncation_indicator("…")
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH as u16);
    grid.set_header(shown.iter().filter_map(|at| table.columns.get(*at)).map(|column| column.title));
    for cells in &table.rows {
        let mut row = Row::from(shown.iter().filter_map(|at| cells.get(*at)).map(|cell| cell.text.as_str()));
        row.max_height(ROW_LINES);
        grid.add_row(row);
    }
    for (at, column) in shown.iter().filter_map(|at| table.columns.get(*at)).enumerate() {
        if let Some(drawn) = grid.column_mut(at) {
            drawn.set_padding((0, 1));
            if column.right {
                drawn.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    for line in grid.to_string().lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    if table.left_out > 0 {
        paragraph(out, &table.remark(), "", "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sql_is_broken_between_words_only() {
        let sql = "CREATE INDEX \"a b\" ON t (x) WHERE y = 'p q r s t u v wx'";
        let lines = break_sql(sql, 28).unwrap();
        assert_eq!(lines, ["CREATE INDEX \"a b\" ON t (x)", "  WHERE y =", "  'p q r s t u v wx'"]);
        assert_eq!(break_sql("SELECT $$a b c d$$", 10), None);
        assert_eq!(break_sql("SELECT 'a b c d e f g h i'", 10), None);
    }

    proptest! {
        #[test]
        fn lines_fit(text in "\\PC{0,300}", width in 4_usize..100) {
            for line in wrap(&text, width) {
                prop_assert!(line.width() <= width, "{line:?}");
            }
        }
    }
}
