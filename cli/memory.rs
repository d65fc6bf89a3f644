//! Memory that cannot be had: one line and exit status 3, where Rust would abort.
//!
//! What is large and can be done without, or with less, is asked for in ways that say no: a guest's memory most of all. For
//! all else there is nothing to do but to end, and to say so.

#![allow(unsafe_code)] // An allocator is unsafe to write. This one hands everything to the system's.

use super::fail::{Status, say_the_end};
use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, which ends the program where there is no memory.
pub struct OrEnd;

// SAFETY: all is the system's allocator's own answer, or there is none.
unsafe impl GlobalAlloc for OrEnd {
    // SAFETY: what the caller must keep to is the system's allocator's to say.
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps to the same contract.
        there(unsafe { System.alloc(layout) }, layout.size())
    }

    // SAFETY: what the caller must keep to is the system's allocator's to say.
    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps to the same contract.
        there(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    // SAFETY: what the caller must keep to is the system's allocator's to say.
    #[inline]
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps to the same contract.
        there(unsafe { System.realloc(at, layout, size) }, size)
    }

    // SAFETY: what the caller must keep to is the system's allocator's to say.
    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[inline]
fn there(at: *mut u8, size: usize) -> *mut u8 {
    if at.is_null() { end(size) } else { at }
}

#[cold]
fn end(size: usize) -> ! {
    end_for_want_of(format_args!("{size} bytes more"))
}

/// Gives the terminal back, says what there is no memory for and ends. What was recorded is in its file up to the last whole
/// block.
pub fn end_for_want_of(what: std::fmt::Arguments<'_>) -> ! {
    #[cfg(feature = "analysis")]
    tui::give_back();
    let _ = crossterm::terminal::disable_raw_mode();
    say_the_end(format_args!(
        "there is no memory for {what}: raise the limit (`ulimit -v`), end other programs, or do it with less (--mem, fewer \
         traces at once)"
    ));
    std::process::exit(Status::Failed as i32)
}
