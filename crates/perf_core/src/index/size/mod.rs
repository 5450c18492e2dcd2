//! How many pages an index takes right after CREATE INDEX, by access method: 8 kB pages, laid out as the server's own build
//! lays them out. Pure arithmetic over what statistics or a sample say of the keys.

pub mod brin;
pub mod btree;
pub mod gin;
pub mod hash;

pub use brin::{brin, Brin};
pub use btree::{btree, Btree};
pub use gin::{gin, Gin};
pub use hash::{hash, Hash};

const PAGE_BYTES: f64 = 8192.0;
const LINE_POINTER_BYTES: f64 = 4.0;
const TID_BYTES: f64 = 6.0;
/// Tuple header without and with a null bitmap.
const HEADER_BYTES: f64 = 8.0;
const HEADER_WITH_NULLS_BYTES: f64 = 16.0;
/// Beyond this many columns the null variants are not enumerated; the rest counts as never null.
const NULLABLE_COLUMNS_MAX: usize = 8;

/// What the statistics say of one index column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Mean width of a value that is not NULL, its own length header included.
    pub width: f64,
    /// Alignment in bytes; 1 for short variable-length values.
    pub align: f64,
    /// Widths of sampled values with their weights, when values differ in width; empty when they do not.
    pub widths: Vec<(u32, f64)>,
    /// Share of NULLs, 0 to 1.
    pub null_fraction: f64,
    /// Distinct values that are not NULL.
    pub distinct: f64,
    /// Shares of the most common values, of all rows.
    pub common: Vec<f64>,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// All pages, meta page included.
    pub pages: f64,
    /// Pages that hold keys and lead to them: of a B-tree the leaves, of GIN the tree of keys; otherwise all.
    pub key_pages: f64,
    /// Levels above the leaves of a B-tree.
    pub height: u32,
}

impl Estimate {
    /// Size on disk.
    pub fn bytes(&self) -> f64 {
        self.pages * PAGE_BYTES
    }
}

fn align_up(value: f64, align: f64) -> f64 {
    (value / align).ceil() * align
}

/// Mean bytes of one index tuple without posting list and line pointer, over the mix of NULLs.
fn mean_tuple_bytes(columns: &[Column]) -> f64 {
    let nullable: Vec<usize> =
        (0..columns.len()).filter(|at| columns[*at].null_fraction > 0.0).take(NULLABLE_COLUMNS_MAX).collect();
    let mut mean = 0.0;
    for variant in 0u32..1 << nullable.len() {
        let mut probability = 1.0;
        let mut is_null = vec![false; columns.len()];
        for (bit, at) in nullable.iter().enumerate() {
            let fraction = columns[*at].null_fraction.clamp(0.0, 1.0);
            is_null[*at] = variant >> bit & 1 == 1;
            probability *= if is_null[*at] { fraction } else { 1.0 - fraction };
        }
        let mut layout = Layout::after(if variant == 0 { HEADER_BYTES } else { HEADER_WITH_NULLS_BYTES });
        for (column, _) in columns.iter().zip(&is_null).filter(|(_, null)| !**null) {
            layout.add(column);
        }
        mean += probability * layout.end().max(HEADER_WITH_NULLS_BYTES);
    }
    mean
}

/// The expected length of a tuple under construction, and how likely it ends at each offset from a multiple of eight.
struct Layout {
    bytes: f64,
    residues: [f64; 8],
}

impl Layout {
    fn after(header: f64) -> Self {
        let mut residues = [0.0; 8];
        residues[header as usize % 8] = 1.0;
        Layout { bytes: header, residues }
    }

    fn align(&mut self, align: usize) {
        let mut aligned = [0.0; 8];
        for (residue, probability) in self.residues.iter().enumerate() {
            let padding = (align - residue % align) % align;
            self.bytes += probability * padding as f64;
            aligned[(residue + padding) % 8] += probability;
        }
        self.residues = aligned;
    }

    fn add(&mut self, column: &Column) {
        self.align((column.align as usize).clamp(1, 8));
        let fallback = [(column.width.max(0.0).round() as u32, 1.0)];
        let widths = if column.widths.is_empty() { &fallback[..] } else { &column.widths };
        let total: f64 = widths.iter().map(|(_, weight)| weight).sum();
        let mut moved = [0.0; 8];
        for (width, weight) in widths {
            let share = weight / total.max(f64::MIN_POSITIVE);
            self.bytes += f64::from(*width) * share;
            for (residue, probability) in self.residues.iter().enumerate() {
                moved[(residue + *width as usize) % 8] += probability * share;
            }
        }
        self.residues = moved;
    }

    fn end(mut self) -> f64 {
        self.align(8);
        self.bytes
    }
}
