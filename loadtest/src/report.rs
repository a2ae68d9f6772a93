//! Results for people and for programs.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::fault::{Fault, Tried};
use crate::stats::Spread;

/// Writes a result as JSON, if a file is given.
pub(crate) fn write_json(file: Option<&Path>, result: &impl Serialize) -> Result<(), Fault> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(result)
        .map_err(std::io::Error::from)
        .tried("JSON")?;
    fs::write(file, text + "\n").tried(file.display().to_string())
}

/// Writes a result as JSON on a single line, for results with every sample.
pub(crate) fn write_json_compact(
    file: Option<&Path>,
    result: &impl Serialize,
) -> Result<(), Fault> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string(result)
        .map_err(std::io::Error::from)
        .tried("JSON")?;
    fs::write(file, text + "\n").tried(file.display().to_string())
}

/// Lines with columns of equal width: the first column to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|v| v.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (c, (value, width)) in row.iter().zip(&widths).enumerate() {
            let cell = if c == 0 {
                format!("{value:<width$}")
            } else {
                format!("  {value:>width$}")
            };
            out.push_str(&cell);
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

/// A row of a table from displayable values.
pub(crate) fn row(values: &[&dyn std::fmt::Display]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// A latency with two decimals, or "refused".
pub(crate) fn unless_refused(ms: Option<f64>) -> String {
    ms.map_or_else(|| "refused".into(), |ms| format!("{ms:.2}"))
}

/// Bytes as MiB with two decimals.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / (1024.0 * 1024.0))
}

/// A median with interval and range: `1.03 [1.01-1.05] (0.96-1.12)`.
pub(crate) fn spread_text(s: Option<Spread>) -> String {
    s.map_or_else(
        || "-".into(),
        |s| {
            format!(
                "{:.2} [{:.2}-{:.2}] ({:.2}-{:.2})",
                s.median, s.low, s.high, s.min, s.max
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [row(&[&"a", &1]), row(&[&"long", &1000]), row(&[&"b"])];
        assert_eq!(table(&rows), "a        1\nlong  1000\nb\n");
    }
}
