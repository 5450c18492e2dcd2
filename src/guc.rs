//! Every setting of perf_opt: type, unit, default and why.
