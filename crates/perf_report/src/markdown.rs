//! The report in Markdown (CommonMark with GitHub's tables), for chats and tickets. Called by `render`.

use crate::clean::Sql;
use crate::series;
use crate::view::{Advice, Block, Cell, Column, Kind, Notice, Section, Table, View};

/// The most characters of a statement in a table.
const CODE: usize = 160;

/// The report as Markdown.
pub(crate) fn render(view: &View) -> String {
    let mut out = format!("# {}\n\n", prose(&view.title));
    for (what, value) in &view.facts {
        out.push_str(&format!("- {what}: {}\n", prose(value)));
    }
    for section in &view.sections {
        tell(&mut out, section);
    }
    gap(&mut out);
    out.push_str("All times are UTC. A dash stands for what was not measured.\n");
    out
}

fn tell(out: &mut String, section: &Section) {
    gap(out);
    out.push_str(&format!("## {}\n\n{}\n", section.title, prose(&section.takeaway)));
    for block in &section.blocks {
        gap(out);
        match block {
            Block::Tiles(tiles) => {
                for tile in tiles {
                    let note = if tile.note.is_empty() { String::new() } else { format!(" ({})", prose(&tile.note)) };
                    out.push_str(&format!("- {}: **{}**{note}\n", tile.label, prose(&tile.value)));
                }
            }
            Block::Notices(notices) => notices.iter().for_each(|n| notice(out, n)),
            Block::Charts(charts) => {
                for chart in charts {
                    out.push_str(&format!("- {}\n", prose(&chart.summary)));
                    for line in &chart.lines {
                        let blocks = series::blocks(&line.points, 48);
                        // A gap at an end would be cut off a code span.
                        let blocks = blocks.replace(' ', "·");
                        // One line alone is what the sentence tells of.
                        let name = if chart.lines.len() > 1 { prose(&line.name) + " " } else { String::new() };
                        if !blocks.is_empty() {
                            out.push_str(&format!("  - {name}{}\n", code(&blocks)));
                        }
                    }
                }
            }
            Block::Advice(all) => all.iter().for_each(|a| advice(out, a)),
            Block::Table(table) => self::table(out, table),
        }
    }
}

/// Ends a paragraph.
fn gap(out: &mut String) {
    while !out.ends_with("\n\n") {
        out.push('\n');
    }
}

fn notice(out: &mut String, notice: &Notice) {
    gap(out);
    out.push_str(&format!("> **{}:** {}\n", notice.word, prose(&notice.message)));
    if !notice.action.is_empty() {
        out.push_str(&format!(">\n> {}\n", prose(&notice.action)));
    }
    out.push('\n');
    fence(out, &notice.sql);
}

fn advice(out: &mut String, advice: &Advice) {
    gap(out);
    let gain = match advice.gain.as_str() {
        "" => String::new(),
        gain => format!(": {} {}", prose(gain), advice.gain_basis),
    };
    out.push_str(&format!("### {}{gain}\n\n", prose(&advice.title)));
    let chips = advice.chips.iter().map(|(text, _)| format!("**{}**", prose(text)));
    let facts = advice.facts.iter().map(|(what, value)| format!("{}: {}", what.to_lowercase(), prose(value)));
    let facts: Vec<String> = chips.chain(facts).collect();
    out.push_str(&facts.join(", "));
    out.push_str("\n\n");
    if !advice.reason.is_empty() {
        out.push_str(&format!("{}\n\n", prose(&advice.reason)));
    }
    fence(out, &advice.sql);
    if !advice.undo.text.is_empty() {
        out.push_str("To undo:\n\n");
        fence(out, &advice.undo);
    }
    if !advice.id.is_empty() {
        out.push_str(&format!("id {}\n", code(&advice.id)));
    }
}

fn table(out: &mut String, table: &Table) {
    // A line of blocks is for terminals: chats have room for numbers only.
    let spark = |at: usize| table.rows.iter().any(|row| matches!(row.get(at).map(|c| &c.kind), Some(Kind::Spark(_))));
    let shown: Vec<(usize, &Column)> = table.columns.iter().enumerate().filter(|(at, _)| !spark(*at)).collect();
    let caption = table.caption.trim();
    if !caption.is_empty() {
        out.push_str(&format!("**{}**\n\n", prose(caption)));
    }
    let titles: Vec<&str> = shown.iter().map(|(_, column)| column.title).collect();
    let rules: Vec<&str> = shown.iter().map(|(_, column)| if column.right { "---:" } else { "---" }).collect();
    out.push_str(&format!("| {} |\n| {} |\n", titles.join(" | "), rules.join(" | ")));
    for row in &table.rows {
        let cells: Vec<String> = shown.iter().filter_map(|(at, _)| row.get(*at)).map(cell).collect();
        out.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    if table.left_out > 0 {
        out.push_str(&format!("\n{}\n", prose(&table.remark())));
    }
}

/// A cell, without what would end it.
fn cell(cell: &Cell) -> String {
    match &cell.kind {
        // Of a backslash before a bar no reader of Markdown makes the same, but for prose.
        Kind::Code | Kind::Sql(_) if !cell.text.contains("\\|") => {
            code(&crate::clean::line(&cell.text, CODE)).replace('|', "\\|")
        }
        _ => prose(&cell.text),
    }
}

/// A text that Markdown is to leave as it is.
fn prose(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.chars().enumerate() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // A name with a colon behind it is an emoji to some chats, an address a link, a name behind an at a call.
            '@' => out.push_str("&#64;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '$' => {
                out.push('\\');
                out.push(c);
            }
            // What begins a list, at the beginning only.
            '-' | '+' | '=' if at == 0 && text.chars().nth(1).is_none_or(|next| next == ' ' || next == c) => {
                out.push('\\');
                out.push(c);
            }
            '.' | ')' if numbered(text, at) => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// Whether the character there makes an item of a numbered list of what begins the text.
fn numbered(text: &str, at: usize) -> bool {
    let (before, after) = text.split_at_checked(at).unwrap_or((text, ""));
    (1..10).contains(&at)
        && before.bytes().all(|b| b.is_ascii_digit())
        && matches!(after.as_bytes().get(1), None | Some(b' '))
}

/// The longest run of backticks.
fn backticks(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// A text as code within a line; nothing stays nothing.
fn code(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let fence = "`".repeat(backticks(text) + 1);
    // Blanks keep apart a backtick of the text and one of the fence, and are not shown.
    let blank = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{blank}{text}{blank}{fence}")
}

/// SQL as a block of code.
fn fence(out: &mut String, sql: &Sql) {
    if sql.text.is_empty() {
        return;
    }
    let fence = "`".repeat(backticks(&sql.text).max(2) + 1);
    out.push_str(&format!("{fence}sql\n{}\n{fence}\n\n", sql.text));
    if !sql.exact {
        out.push_str("Not to be run as shown: it is too long, or holds characters that cannot be seen.\n\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn markdown_of_data_stays_text() {
        assert_eq!(prose("a|b <img> *x* [y](z) `c`"), "a\\|b &lt;img&gt; \\*x\\* \\[y\\](z) \\`c\\`");
        assert_eq!(prose("- a"), "\\- a");
        assert_eq!(prose("12. a"), "12\\. a");
        assert_eq!(prose("12.5 ms"), "12.5 ms");
        assert_eq!(code("a `b`` c"), "```a `b`` c```");
        assert_eq!(code("`"), "`` ` ``");
    }

    proptest! {
        #[test]
        fn no_text_opens_a_tag_or_ends_a_cell(text in "[ a-z|<>`*\\\\_#\\-]{0,40}") {
            let prose = prose(&text);
            prop_assert!(!prose.contains('<'));
            let cell = cell(&Cell { text: text.clone(), kind: Kind::Code, ..Cell::default() });
            for text in [prose, cell] {
                for (at, _) in text.match_indices('|') {
                    let slashes = text[..at].chars().rev().take_while(|c| *c == '\\').count();
                    prop_assert!(slashes % 2 == 1, "{}", text);
                }
            }
        }
    }
}
