//! Trace to dataframes to findings to reports.
