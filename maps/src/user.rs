//! Userspace's side of the contract, behind the feature `user`: text and JSON ([`text`]), bpf(2) ([`sys`]) and typed handles
//! ([`handles`]).

pub mod handles;
pub mod service;
pub mod sys;
pub mod text;

pub use handles::{BATCH, Batch, HandleError, MapHandle, Maps, PerCpuHandle, Plain};
