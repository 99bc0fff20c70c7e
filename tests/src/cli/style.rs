//! Colours on a terminal, plain text anywhere else, and with `NO_COLOR` set (no-color.org).

use std::{
    env,
    fmt::Display,
    io::{IsTerminal, stdout},
    sync::OnceLock,
};

/// Whether standard output is a terminal that may be coloured.
pub(super) fn is_colourful() -> bool {
    static COLOURFUL: OnceLock<bool> = OnceLock::new();
    *COLOURFUL.get_or_init(|| {
        let refused =
            env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) || env::var("TERM").is_ok_and(|t| t == "dumb");
        stdout().is_terminal() && !refused
    })
}

/// Wraps text in a select-graphic-rendition code (ECMA-48, 8.3.117).
fn sgr(code: u8, text: impl Display) -> String {
    if is_colourful() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
}

/// Good.
pub(super) fn green(text: impl Display) -> String {
    sgr(32, text)
}

/// Bad.
pub(super) fn red(text: impl Display) -> String {
    sgr(31, text)
}

/// A heading.
pub(super) fn bold(text: impl Display) -> String {
    sgr(1, text)
}

/// What one may skip.
pub(super) fn dim(text: impl Display) -> String {
    sgr(2, text)
}
