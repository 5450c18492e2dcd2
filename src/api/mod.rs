//! The SQL surface: argument checks and rows out; no logic.

mod index;
