//! The first rows by an order, without all others in memory.

use polars::prelude::{DataFrame, DslPlan, Expr, IntoLazy, LazyFrame, OptFlags};
use std::sync::Arc;

/// Rows that are worth looking for in each part of a table; of more, a part has most.
const MOST: usize = 1 << 14;

/// A plan that ends in the first rows by several columns, changed so that each part of the table gives the rows that are
/// its own first ones, before those of all parts are found. The streaming engine would keep every part until its end, also
/// those of which no row is among the first. `None`: the plan is another.
pub(super) fn cut(plan: &DslPlan, rows: Option<usize>) -> Option<DslPlan> {
    match (plan, rows) {
        (DslPlan::IR { dsl, .. }, _) => cut(dsl, rows),
        (DslPlan::Slice { input, offset, len }, None) => {
            let rows = usize::try_from(*offset).ok()?.checked_add(*len as usize).filter(|rows| *rows <= MOST)?;
            Some(DslPlan::Slice { input: Arc::new(cut(input, Some(rows))?), offset: *offset, len: *len })
        }
        // Columns that are left out or called otherwise change no row.
        (DslPlan::Select { expr, input, options }, Some(_)) if expr.iter().all(is_column) => {
            Some(DslPlan::Select { expr: expr.clone(), input: Arc::new(cut(input, rows)?), options: *options })
        }
        (DslPlan::Sort { input, by_column, slice: None, sort_options }, Some(rows)) if by_column.len() > 1 => {
            let (by, order) = (by_column.clone(), sort_options.clone());
            let own = move |part: DataFrame| {
                if part.height() <= rows {
                    return Ok(part);
                }
                part.lazy().sort_by_exprs(by.clone(), order.clone()).limit(rows as u32).collect()
            };
            let parts = LazyFrame::from(DslPlan::clone(input)).map(own, OptFlags::STREAMING, None, Some("first rows"));
            Some(DslPlan::Sort {
                input: Arc::new(parts.logical_plan),
                by_column: by_column.clone(),
                slice: None,
                sort_options: sort_options.clone(),
            })
        }
        _ => None,
    }
}

fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) => true,
        Expr::Alias(of, _) => is_column(of),
        _ => false,
    }
}
