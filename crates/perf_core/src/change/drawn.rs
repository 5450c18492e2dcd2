//! Executions drawn at random, for tests of judgements.

use super::{Observed, Part};
use crate::baseline::Side;

pub struct Draw(pub u64);

impl Draw {
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    pub fn side(&mut self, calls: u64, mean_ms: f64) -> Side {
        let mut side = Side::default();
        for _ in 0..calls {
            let ms = mean_ms * (0.6 + 0.8 * self.uniform());
            side.calls += 1;
            side.total_ms += ms;
            side.latency.record_ns((ms * 1e6) as u64);
        }
        side
    }

    /// Two hundred executions before and after, with these mean times and blocks.
    pub fn observed(&mut self, part: Part, ms: (f64, f64), blocks: (f64, f64)) -> Observed {
        let (before, after) = (self.side(200, ms.0), self.side(200, ms.1));
        Observed {
            queryid: 7,
            part,
            promised_ratio: (part == Part::Promised).then_some(0.1),
            weight_ms: before.total_ms,
            before,
            after,
            blocks_before: blocks.0,
            blocks_after: blocks.1,
        }
    }
}
