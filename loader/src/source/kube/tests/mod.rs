//! The parts that are functions of values as tables, and the whole against a server that does what it is told.

mod cursor;
mod fake;
mod report;
mod watching;
mod wire;
