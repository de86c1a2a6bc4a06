//! Answers of the admin API as people read them.

use serde_json::Value;

/// How an answer is shown: as a table if it has a list under this name, else as a page.
pub struct Shown {
    pub list: &'static str,
    pub table: fn(&[Value]) -> String,
    pub page: fn(&Value) -> String,
}

impl Shown {
    pub fn of(&self, answer: &Value) -> String {
        match &answer[self.list] {
            Value::Array(list) => (self.table)(list),
            _ => (self.page)(answer),
        }
    }
}

/// Rows under a head, each column as wide as its widest cell.
pub fn columns<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}
