//! How many pages a BRIN index takes right after CREATE INDEX: a meta page, the map from block ranges to summaries (1,360
//! entries a page, `REVMAP_PAGE_MAXITEMS`), and the summaries, one for each range of blocks, packed without a fillfactor.

use super::{align_up, Estimate, LINE_POINTER_BYTES, PAGE_BYTES};

/// Page header and special space.
const PAGE_OVERHEAD_BYTES: f64 = 24.0 + 8.0;
/// Summaries that a page of the map points to.
const PER_MAP_PAGE: f64 = 1_360.0;
/// A summary's header with up to twelve columns, NULL flags included, rounded up to 8 bytes.
const HEADER_BYTES: f64 = 8.0;

/// An index to price.
#[derive(Clone, Debug)]
pub struct Brin {
    /// Blocks of the table.
    pub heap_pages: f64,
    /// Blocks summarized together, 128 by default.
    pub pages_per_range: f64,
    /// Width and alignment of every value that one summary holds.
    pub values: Vec<(f64, f64)>,
}

/// Prices a BRIN index.
pub fn brin(index: &Brin) -> Estimate {
    let ranges = (index.heap_pages / index.pages_per_range.max(1.0)).ceil().max(1.0);
    let data = index.values.iter().fold(0.0, |bytes, (width, align)| align_up(bytes, align.max(1.0)) + width);
    let summary = align_up(HEADER_BYTES + data, 8.0) + LINE_POINTER_BYTES;
    let per_page = ((PAGE_BYTES - PAGE_OVERHEAD_BYTES) / summary).floor().max(1.0);
    let pages = 1.0 + (ranges / PER_MAP_PAGE).ceil() + (ranges / per_page).ceil();
    Estimate { pages, key_pages: pages, height: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_table_takes_three_pages() {
        let small = Brin { heap_pages: 0.0, pages_per_range: 128.0, values: vec![(8.0, 8.0); 2] };
        assert_eq!(brin(&small).pages, 3.0);
        assert_eq!(brin(&Brin { heap_pages: 30_000.0, ..small }).pages, 3.0);
    }

    /// A million blocks in ranges of one: 736 map pages, and 291 summaries of 28 bytes a page.
    #[test]
    fn narrow_ranges() {
        let narrow = Brin { heap_pages: 1e6, pages_per_range: 1.0, values: vec![(8.0, 8.0); 2] };
        assert_eq!(brin(&narrow).pages, 1.0 + 736.0 + (1e6f64 / 291.0).ceil());
    }
}
