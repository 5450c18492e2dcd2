//! The SQL surface: argument checks, rows out, no logic.

mod health;
mod observe;
