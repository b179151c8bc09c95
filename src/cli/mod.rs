//! One file per verb.

pub mod check;
pub mod render;
