//! Metric names, histograms, log set-up.
