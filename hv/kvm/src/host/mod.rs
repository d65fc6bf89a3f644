//! A virtual machine on the host's KVM whose guest may be a hypervisor: the kernel's KVM is L0, and this is its user.
//!
//! The guest, its memory and its board are those of the software machine ([`hv::machine`]). Its interrupt controllers and
//! its timer are the kernel's, for the kernel delivers interrupts to L2 or to L1; the other devices are ours. Each vCPU has a
//! thread. What L0 does is the kernel's to know: here is seen which exits reach its user, and at each of them what
//! KVM_GET_NESTED_STATE says. An [`Ear`] on each thread hears the rest.
//!
//! Nothing here can be replayed: instructions are not counted, and stamps are nanoseconds since the run began.

mod cpu;
mod exits;
mod merge;
mod nested;
mod ram;
mod start;
mod vmcs12;

pub use exits::clock;

use core::time::Duration;
use cpu::{Cpu, Shared};
use hv::device::Board;
use hv::machine::{Image, MachineError, load, world_stop};
use hv::world::World;
use hv_defs::config::{Config, Log};
use hv_defs::event::{Event, Input, InputKind, Stamp, Stop, StopKind, What};
use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use merge::Merge;
use ram::Pages;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};

/// A guest that has run for as long without an exit is interrupted, for the world may want something.
const BEAT: Duration = Duration::from_millis(20);

/// Tellings of vCPUs that may wait; where the world is slower, they do.
const TELLINGS: usize = 64;

/// Hears what the kernel says of the thread that it was made on.
pub trait Ear {
    /// What has happened on this thread, as far as it does not change any more: what the kernel says, and behind it `own`,
    /// what the thread saw itself since the last call. Stamps count from where the machine's do.
    fn hear(&mut self, own: &[Event]) -> Vec<Event>;

    /// The time before which nothing more will be told, which at the latest is `now`.
    fn settled(&self, now: u64) -> u64;

    /// What is left at the end.
    fn end(self: Box<Self>) -> Vec<Event>;
}

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// KVM is not there, or refused.
    #[error(transparent)]
    Kvm(#[from] crate::Error),
    /// The guest cannot be loaded.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// This host has not the memory.
    #[error("this host cannot give the machine {needed} bytes of memory: {source}")]
    Memory {
        /// Bytes that it needs.
        needed: u64,
        /// Why not.
        source: io::Error,
    },
    /// The host's KVM shows its guests no VMX after all.
    #[error("this host's KVM gives guests no VMX: load kvm_intel with nested=1")]
    Vmx,
    /// What was asked for is L0's to do, and L0 is not ours.
    #[error("{0} cannot be had where the host's kernel is L0")]
    NotOurs(&'static str),
}

fn refused(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> HostError {
    move |errno| crate::Error::Refused { what, source: io::Error::from_raw_os_error(errno.errno()) }.into()
}

/// Whether this host's KVM lets guests be hypervisors, and says what it knows of theirs.
///
/// # Errors
/// There is no /dev/kvm, or it may not be opened.
pub fn available() -> Result<bool, HostError> {
    let kvm = open()?;
    Ok(kvm.check_extension_int(Cap::NestedState) > 0 && start::offers_vmx(&kvm)?)
}

fn open() -> Result<Kvm, HostError> {
    Ok(Kvm::new().map_err(|errno| crate::Error::Open(io::Error::from_raw_os_error(errno.errno())))?)
}

/// A machine.
pub struct Host {
    vcpus: Vec<VcpuFd>,
    shared: Arc<Shared>,
}

impl Host {
    /// Makes the machine of a configuration, and loads its guest.
    ///
    /// # Errors
    /// KVM is not there or refuses, the configuration asks for what the kernel as L0 does not do, or an image cannot be
    /// booted.
    pub fn new(config: &Config, images: &[Image]) -> Result<Self, HostError> {
        check(config)?;
        let mut loaded = load(config, images)?;
        let kvm = open()?;
        let vm = kvm.create_vm().map_err(refused("make a VM"))?;
        let mut ram = Pages::new(config.memory)?;
        // What KVM needs pages of the guest's for where a CPU has no unrestricted guests.
        vm.set_identity_map_address(0xfffb_c000).map_err(refused("place the identity map"))?;
        vm.set_tss_address(0xfffb_d000).map_err(refused("place the task state segment"))?;
        vm.create_irq_chip().map_err(refused("make interrupt controllers"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
        vm.create_pit2(pit).map_err(refused("make a timer"))?;
        ram.give(&vm)?;
        for (at, bytes) in &loaded.memory {
            hv::l0::Ram::write(&mut ram, *at, bytes);
        }
        let mut vcpus = Vec::new();
        for number in 0..config.vcpus {
            let vcpu = vm.create_vcpu(number.into()).map_err(refused("make a vCPU"))?;
            start::show_cpuid(&kvm, &vcpu, number)?;
            start::firmware(&vcpu)?;
            vcpus.push(vcpu);
        }
        if let Some(first) = vcpus.first() {
            start::begin(first, &loaded.start)?;
        }
        let board = Board::with_kernel(config.memory, config.vcpus, core::mem::take(&mut loaded.items));
        Ok(Self { vcpus, shared: Arc::new(Shared::new(vm, board, ram, config)) })
    }

    /// When the run began, from where the stamps of its events count: nanoseconds of CLOCK_MONOTONIC.
    pub fn began(&self) -> u64 {
        self.shared.began
    }

    /// Runs to the end. `ear` is called on each vCPU's thread; where it gives none, the exits that reach us are told from what
    /// is seen of them. The last event that the world sees says why it ended.
    pub fn run(self, world: &mut dyn World, ear: &(dyn Fn() -> Option<Box<dyn Ear>> + Sync)) -> Stop {
        let Self { vcpus, shared } = self;
        let mut merge = Merge::new(vcpus.len());
        let mut stop = None;
        let mut ready = Vec::new();
        let over = &shared.over;
        let (out, told) = sync_channel(TELLINGS);
        std::thread::scope(|threads| {
            for (number, vcpu) in vcpus.into_iter().enumerate() {
                let (shared, out) = (shared.clone(), out.clone());
                let run = move || Cpu::new(number, vcpu, shared).run(ear(), &out);
                let thread = std::thread::Builder::new().name(format!("vcpu {number}"));
                if let Err(error) = thread.spawn_scoped(threads, run) {
                    let text = crate::Error::Thread(error).to_string();
                    stop = Some(Stop { kind: StopKind::Unsupported, code: 0, text });
                    over.store(true, Ordering::SeqCst);
                    break;
                }
            }
            drop(out);
            let (mut asked, mut polls) = (0, 0);
            loop {
                match told.recv_timeout(BEAT) {
                    Ok(mut told) => {
                        if !told.console.is_empty() {
                            world.console(&told.console);
                        }
                        merge.take(&mut told);
                        stop = stop.take().or(told.stop);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                merge.give(&mut ready);
                let now = shared.now();
                if stop.is_none() && now.saturating_sub(asked) >= BEAT.as_nanos() as u64 {
                    asked = now;
                    stop = ask(world, &shared, &mut polls, &mut ready);
                }
                if !ready.is_empty() && stop.is_none() && world.events(&ready).is_break() {
                    stop = Some(world_stop());
                }
                if stop.is_none() {
                    ready.clear();
                } else {
                    shared.over.store(true, Ordering::SeqCst);
                }
            }
        });
        merge.give_all(&mut ready);
        let text = "its vCPUs have ended".to_owned();
        let stop = stop.unwrap_or(Stop { kind: StopKind::Unsupported, code: 0, text });
        let instruction = ready.last().map_or(shared.now(), |last| shared.now().max(last.at.instruction));
        ready.push(Event { at: Stamp { instruction, vcpu: 0, pcpu: 0 }, what: What::Stop(stop.clone()) });
        // Nothing comes after this: whether the world wants more does not matter.
        let _ = world.events(&ready);
        stop
    }
}

/// Asks the world for input. Returns why the run is over, if it is.
fn ask(world: &mut dyn World, shared: &Shared, polls: &mut u64, events: &mut Vec<Event>) -> Option<Stop> {
    let now = shared.now();
    while let Some((kind, value)) = world.input(*polls, now, None) {
        let instruction = events.last().map_or(0, |last| last.at.instruction);
        let at = Stamp { instruction, vcpu: 0, pcpu: 0 };
        events.push(Event { at, what: What::Input(Input { poll: *polls, kind, value }) });
        *polls += 1;
        if kind == InputKind::Stop {
            return Some(world_stop());
        }
        let devices = &mut shared.devices();
        devices.board.key(value as u8);
        if let Err(error) = shared.raise(devices) {
            return Some(Stop { kind: StopKind::Unsupported, code: 0, text: error.to_string() });
        }
    }
    None
}

/// Refuses what only an L0 of ours can do.
fn check(config: &Config) -> Result<(), HostError> {
    let asked = [
        (config.pcpus > 1, "a number of physical CPUs"),
        (config.max_instructions.is_some(), "a limit of instructions"),
        (config.log == Log::L0, "--log l0"),
        (config.la57, "5-level paging"),
        (config.slips.iter().next().is_some(), "--fault"),
    ];
    match asked.into_iter().find(|(is, _)| *is) {
        Some((_, what)) => Err(HostError::NotOurs(what)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::config::Guest;

    #[test]
    fn what_no_machine_can_be_is_refused() {
        let check = |change: fn(&mut Config), what: &str| {
            let mut config = Config::new(Guest::BuiltIn("demo".into()));
            change(&mut config);
            match Host::new(&config, &[]).map(|_| "a machine") {
                Err(HostError::Machine(error)) => assert!(error.to_string().contains(what), "{error}"),
                other => panic!("{other:?}, not {what}"),
            }
        };
        check(|config| config.vcpus = 0, "the number of vCPUs is 0");
        check(|config| config.vcpus = 257, "the number of vCPUs is 257");
        check(|config| config.memory = 4096, "bytes of memory");
        check(|config| config.guest = Guest::BuiltIn("none".into()), "no built-in guest 'none'");
    }

    #[test]
    fn what_only_our_l0_does_is_refused() {
        let check = |change: fn(&mut Config), what: Option<&str>| {
            let mut config = Config::new(Guest::BuiltIn("demo".into()));
            change(&mut config);
            match (super::check(&config), what) {
                (Ok(()), None) => {}
                (Err(HostError::NotOurs(found)), Some(what)) => assert_eq!(found, what),
                (found, what) => panic!("{found:?}, not {what:?}"),
            }
        };
        check(|_| {}, None);
        check(|config| config.log = Log::Exits, None);
        check(|config| config.log = Log::L0, Some("--log l0"));
        check(|config| config.vcpus = 2, None);
        check(|config| config.max_instructions = Some(1), Some("a limit of instructions"));
        check(|config| config.slips = hv_defs::slip::Slip::ALL.iter().copied().collect(), Some("--fault"));
    }
}
