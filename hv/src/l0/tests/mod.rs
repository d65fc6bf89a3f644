//! Tests of L0 on a silicon that executes nothing.

mod apic;
mod controls;
mod depth;
mod entry_checks;
mod faults;
mod hostile;
mod instructions;
mod monitor;
mod offered;
mod round_trip;
mod script;
mod shadow;
mod signals;
mod without_ept;
