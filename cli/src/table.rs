//! Text tables.

/// Where a column's cells stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    /// For numbers.
    Right,
}

/// Columns of text, as wide as they need to be.
pub(crate) struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a heading for each column. A heading that starts with `>` puts its column to the right.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let align =
            headings.iter().map(|h| if h.starts_with('>') { Align::Right } else { Align::Left }).collect();
        let heading = headings.iter().map(|h| h.trim_start_matches('>').to_owned()).collect();
        Self { align, rows: vec![heading] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The table, or `nothing` when it has no rows.
    pub(crate) fn text(&self, nothing: &str) -> String {
        if self.rows.len() == 1 {
            return format!("{nothing}\n");
        }
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.align.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, align), width) in row.iter().zip(&self.align).zip(&widths) {
                let gap = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line.extend([cell, gap.as_str(), "  "]),
                    Align::Right => line.extend([gap.as_str(), cell, "  "]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A number with a comma every three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count and its noun: `1 pod`, `1,200 pods`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{} {}", grouped(number), plural(noun)),
    }
}

fn plural(noun: &str) -> String {
    match noun.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{noun}s"),
    }
}

/// Cells of a list: `-` stands for an empty one.
pub(crate) fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_numbers_stand_right() {
        let mut table = Table::new(&["NAME", ">ENTRIES", "NOTE"]);
        table.row(["a".to_owned(), "12,345,678".to_owned(), String::new()]);
        table.row(["longer".to_owned(), "7".to_owned(), "é".to_owned()]);
        assert_eq!(
            table.text("none"),
            "NAME       ENTRIES  NOTE\na       12,345,678\nlonger           7  é\n"
        );
    }

    #[test]
    fn an_empty_table_says_what_there_is_none_of() {
        assert_eq!(Table::new(&["A", "B"]).text("no pods on this node"), "no pods on this node\n");
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let texts = [0, 12, 999, 1_000, 65_536, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "12", "999", "1,000", "65,536", "1,234,567"]);
    }

    #[test]
    fn a_count_agrees_with_its_noun() {
        assert_eq!(counted(1, "policy"), "1 policy");
        assert_eq!(counted(2_000, "policy"), "2,000 policies");
        assert_eq!(counted(0, "pod"), "0 pods");
    }
}
