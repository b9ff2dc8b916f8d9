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

    /// The text, one line per row. A column whose cells all begin with a digit or `-` is a number's.
    pub fn text(&self) -> String {
        let columns = self.rows[0].len();
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let width = |column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let number = |column| {
            cells(column)
                .skip(1)
                .all(|cell| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-'))
                && self.rows.len() > 1
        };
        let mut text = String::new();
        for row in &self.rows {
            let line: Vec<String> = (0..columns)
                .map(|column| {
                    let cell = row.get(column).map_or("", String::as_str);
                    let pad = " ".repeat(width(column) - cell.chars().count());
                    if number(column) {
                        format!("{pad}{cell}")
                    } else {
                        format!("{cell}{pad}")
                    }
                })
                .collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
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
}
