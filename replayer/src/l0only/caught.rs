//! The one place where a panic of L0's is caught: L0 alone is run to see whether it has any.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// What the last panic said, on a thread that listens.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
    static LISTENS: RefCell<bool> = const { RefCell::new(false) };
}

/// Does `work`. `Err` is what its panic said, and where.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !LISTENS.with_borrow(|listens| *listens) {
                return before(info);
            }
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
            let at = info.location().map_or_else(String::new, |at| format!(", at {}:{}", at.file(), at.line()));
            SAID.set(Some(format!("{}{at}", text.replace('\n', " "))));
        }));
    });
    let before = LISTENS.replace(true);
    // What `work` had in its hands is looked at no more, but for lists of what happened before.
    let done = catch_unwind(AssertUnwindSafe(work));
    LISTENS.set(before);
    done.map_err(|_| SAID.take().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::caught;

    #[test]
    fn a_panic_is_a_sentence() {
        assert_eq!(caught(|| 7), Ok(7));
        let said = caught(|| assert_eq!(1 + 1, 3, "sums")).expect_err("it panics");
        assert!(said.contains("sums") && said.contains("caught.rs:"), "{said}");
        assert_eq!(caught(|| 8), Ok(8));
    }
}
