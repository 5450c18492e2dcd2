//! The SQL surface: checks arguments, hands out rows, decides nothing.

mod capacity;
