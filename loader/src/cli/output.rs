//! Tables for people, JSON for programs: one description of a list gives both.

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

use super::EXIT_OK;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    Table,
    /// JSON for programs
    Json,
}

/// A row of a list: its cells for people, and by `Serialize` its fields for programs.
pub trait Row: Serialize {
    /// The heads of the columns.
    const HEAD: &'static [&'static str];
    /// The cells, as many as there are heads.
    fn cells(&self) -> Vec<String>;
}

/// Prints a list.
///
/// # Errors
/// JSON could not be made.
pub fn list<R: Row>(rows: &[R], format: Format) -> Result<u8> {
    match format {
        Format::Json => json(&rows)?,
        Format::Table if rows.is_empty() => println!("none"),
        Format::Table => println!("{}", table(R::HEAD, rows.iter().map(Row::cells))),
    }
    Ok(EXIT_OK)
}

/// Prints anything as JSON.
///
/// # Errors
/// JSON could not be made.
pub fn json(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Columns without lines, as kubectl has them.
pub fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(head.iter().map(|h| h.to_uppercase()));
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let trimmed: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    trimmed.join("\n")
}

/// Prints what `uninstall` removed.
///
/// # Errors
/// JSON could not be made.
pub fn uninstalled(removed: &[String], format: Format) -> Result<u8> {
    match format {
        Format::Json => json(&removed)?,
        Format::Table if removed.is_empty() => println!("there was nothing to remove"),
        Format::Table => removed.iter().for_each(|what| println!("removed {what}")),
    }
    Ok(EXIT_OK)
}
