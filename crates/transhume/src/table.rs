//! Plain tables: columns as wide as they must be, numbers to the right.

/// A table under construction.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Self {
        Self {
            rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()],
        }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, one line per row. A column whose cells all begin with a digit or `-` is a
    /// number's.
    pub fn text(&self) -> String {
        let mut columns: Vec<Column> = self.rows[0].iter().map(|head| Column::headed(head)).collect();
        for row in &self.rows[1..] {
            for (column, cell) in columns.iter_mut().zip(row) {
                column.add(cell);
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().map(String::as_str).chain(std::iter::repeat(""));
            let line: Vec<String> = columns
                .iter()
                .zip(cells)
                .map(|(column, cell)| column.pad(cell))
                .collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// What the cells of a column have in common; found in one pass, so that long tables stay linear.
struct Column {
    width: usize,
    cells: usize,
    numbers: usize,
}

impl Column {
    fn headed(head: &str) -> Self {
        Self {
            width: head.chars().count(),
            cells: 0,
            numbers: 0,
        }
    }

    fn add(&mut self, cell: &str) {
        let number = cell.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        self.width = self.width.max(cell.chars().count());
        self.cells += 1;
        self.numbers += usize::from(number);
    }

    fn pad(&self, cell: &str) -> String {
        let pad = " ".repeat(self.width.saturating_sub(cell.chars().count()));
        if self.cells > 0 && self.numbers == self.cells {
            format!("{pad}{cell}")
        } else {
            format!("{cell}{pad}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right() {
        let mut table = Table::new(&["vm", "ms"]);
        table.row(["vm1".to_owned(), "7".to_owned()]);
        table.row(["vm10".to_owned(), "-".to_owned()]);
        table.row(["v".to_owned(), "123.4".to_owned()]);
        assert_eq!(
            table.text(),
            "vm       ms\nvm1       7\nvm10      -\nv     123.4\n"
        );
    }

    #[test]
    fn short_rows_and_heads_alone_keep_their_shape() {
        let mut table = Table::new(&["vm", "ms"]);
        assert_eq!(table.text(), "vm  ms\n");
        table.row(["vm1".to_owned()]);
        table.row(["v".to_owned(), "7".to_owned()]);
        assert_eq!(table.text(), "vm   ms\nvm1\nv     7\n");
    }

    #[test]
    fn every_cell_is_looked_at_once_for_the_widths() {
        let mut column = Column::headed("ms");
        ["1", "-", "1234"].iter().for_each(|cell| column.add(cell));
        assert_eq!((column.width, column.cells, column.numbers), (4, 3, 3));
        column.add("n/a");
        assert_eq!(column.pad("7"), "7   ", "one word makes it a column of words");
    }
}
