//! Aligned tables, cut to the width of a terminal.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Color, ColumnConstraint, ContentArrangement, Row, Table, Width};
use gaffer_protocol::output::Stream;

use crate::out::Out;
use crate::style::{self, Colour};

/// One field of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    colour: Colour,
}

impl Cell {
    /// Text from wherever.
    pub fn text(text: impl AsRef<str>) -> Cell {
        Cell { text: style::visible(text.as_ref()).into_owned(), colour: Colour::Plain }
    }

    /// Text, or a dash for none.
    pub fn maybe(text: Option<impl AsRef<str>>) -> Cell {
        text.map_or_else(|| Cell { text: "-".to_owned(), colour: Colour::Dim }, Cell::text)
    }

    /// A state with its sign.
    pub fn state(state: &str) -> Cell {
        Cell { colour: style::colour(state), ..Cell::text(format!("{} {state}", style::glyph(state))) }
    }

    /// Whether there is nothing to see.
    pub fn is_blank(&self) -> bool {
        self.text.is_empty()
    }

    /// Dimmed text.
    pub fn dim(text: impl AsRef<str>) -> Cell {
        Cell { colour: Colour::Dim, ..Cell::text(text) }
    }
}

impl From<Cell> for comfy_table::Cell {
    fn from(cell: Cell) -> comfy_table::Cell {
        let shown = comfy_table::Cell::new_owned(cell.text);
        match cell.colour {
            Colour::Plain => shown,
            Colour::Green => shown.fg(Color::DarkGreen),
            Colour::Red => shown.fg(Color::DarkRed),
            Colour::Yellow => shown.fg(Color::DarkYellow),
            Colour::Blue => shown.fg(Color::DarkBlue),
            Colour::Dim => shown.add_attribute(Attribute::Dim),
        }
    }
}

/// The table as text with a line end; for standard output.
pub fn render(out: &Out, head: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let columns = if out.is_terminal(Stream::Stdout) { out.columns() } else { None };
    rendered(head, rows, columns, out.has_colours(Stream::Stdout))
}

fn rendered(head: &[&str], rows: Vec<Vec<Cell>>, columns: Option<u16>, colours: bool) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_truncation_indicator("…");
    if colours {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(head.iter().map(|title| comfy_table::Cell::from(Cell::dim(title))));
    table.add_rows(rows.into_iter().map(|cells| {
        let mut row = Row::from(cells.into_iter().map(comfy_table::Cell::from).collect::<Vec<_>>());
        row.max_height(1);
        row
    }));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    match columns {
        Some(columns) => {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
            // Numbers and states come first and are short: what gives way is the long text behind them.
            if let Some(first) = table.column_mut(0) {
                first.set_constraint(ColumnConstraint::ContentWidth);
            }
            if let Some(second) = table.column_mut(1) {
                second.set_constraint(ColumnConstraint::UpperBoundary(Width::Percentage(40)));
            }
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec![Cell::text("7"), Cell::text("short"), Cell::state("running")],
            vec![Cell::text("12"), Cell::text("日本語 name"), Cell::state("failed")],
        ]
    }

    #[test]
    fn columns_stand_under_their_titles() {
        let text = rendered(&["JOB", "NAME", "STATE"], rows(), None, false);
        assert_eq!(
            text,
            "JOB  NAME         STATE\n7    short        ● running\n12   日本語 name  ✗ failed\n"
        );
    }

    #[test]
    fn a_row_is_one_line_however_long() {
        let long = vec![vec![Cell::text("1"), Cell::text("word ".repeat(50)), Cell::state("pending")]];
        let text = rendered(&["JOB", "NAME", "STATE"], long, Some(40), false);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert!(text.contains('…') && text.contains("pending"), "{text}");
    }

    #[test]
    fn what_others_wrote_stays_in_its_cell() {
        let rows = vec![vec![Cell::text("a\nb\x1b[31m"), Cell::maybe(None::<&str>)]];
        assert_eq!(rendered(&["A", "B"], rows, None, false), "A         B\na\u{fffd}b\u{fffd}[31m  -\n");
    }
}
