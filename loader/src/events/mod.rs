//! What the programs tell of as it happens, and who listens.

pub mod ring;
