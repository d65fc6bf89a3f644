//! The instructions: for each, in architectural order, who may run it, when it exits, and what it does.
//!
//! A family is added by a file in [`super::ops`] with its builders, and rows here. SSE, x87 and the other families with
//! rows of their own are asked last.

use super::decode::Form;
use super::guard::{Guard, Intercept, Legal};
use super::op::Run;
use super::ops::alu::*;
use super::ops::bits::*;
use super::ops::shift::*;
use super::ops::{
    branch, data, decimal, far, fast, flag, io, msr, muldiv, stack, string, system, table, vector, vmx, x87,
};
use hv_defs::controls::{PrimaryControls, SecondaryControls};
use hv_defs::exit::Reason;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// An instruction's row.
pub(super) struct Row {
    /// Who may run it, and when it exits.
    pub(super) guard: Guard,
    /// What it does, for the form at hand; `None` if that form is not there.
    pub(super) build: fn(&mut Form) -> Option<Run>,
    /// Whether it ends a block.
    pub(super) ends: bool,
}

fn make(legal: Legal, intercept: Intercept, build: fn(&mut Form) -> Option<Run>) -> Option<Row> {
    // What is guarded is rare, and may change what the next instruction's bytes mean.
    let ends = legal != Legal::Any || intercept != Intercept::Never;
    Some(Row { guard: Guard { legal, intercept }, build, ends })
}

/// A row of an instruction that anyone may run, that never exits and that ends no block.
fn plain(build: fn(&mut Form) -> Option<Run>) -> Option<Row> {
    make(Legal::Any, Intercept::Never, build)
}

/// A row of an instruction that anyone may run, that never exits and that ends a block.
fn ends(build: fn(&mut Form) -> Option<Run>) -> Option<Row> {
    Some(Row { guard: Guard::NONE, build, ends: true })
}

/// The row of an instruction, if it is there.
pub(super) fn row(i: &Instruction) -> Option<Row> {
    system_row(i).or_else(|| integer_row(i)).or_else(|| vector::row(i)).or_else(|| x87::row(i))
}

fn is_string(i: &Instruction) -> bool {
    i.is_string_instruction()
}

fn integer_row(i: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Add => plain(alu::<Add>),
        M::Or => plain(alu::<Or>),
        M::Adc => plain(alu::<Adc>),
        M::Sbb => plain(alu::<Sbb>),
        M::And => plain(alu::<And>),
        M::Sub => plain(alu::<Sub>),
        M::Xor => plain(alu::<Xor>),
        M::Cmp => plain(compare::<Cmp, false>),
        M::Test => plain(compare::<Test, true>),
        M::Inc => plain(unary::<Inc>),
        M::Dec => plain(unary::<Dec>),
        M::Neg => plain(unary::<Neg>),
        M::Not => plain(not),
        M::Xadd => plain(xadd),
        M::Cmpxchg => plain(cmpxchg),
        M::Cmpxchg8b | M::Cmpxchg16b => plain(data::cmpxchg_pair),
        M::Adcx => plain(add_with::<false>),
        M::Adox => plain(add_with::<true>),

        M::Shl | M::Sal => plain(shift::<Shl>),
        M::Shr => plain(shift::<Shr>),
        M::Sar => plain(shift::<Sar>),
        M::Rol => plain(shift::<Rol>),
        M::Ror => plain(shift::<Ror>),
        M::Rcl => plain(shift::<Rcl>),
        M::Rcr => plain(shift::<Rcr>),
        M::Shld => plain(shift_double::<true>),
        M::Shrd => plain(shift_double::<false>),
        M::Shlx => plain(flagless::<Shlx>),
        M::Shrx => plain(flagless::<Shrx>),
        M::Sarx => plain(flagless::<Sarx>),
        M::Rorx => plain(flagless::<Rorx>),

        M::Bt => plain(bt::<0>),
        M::Bts => plain(bt::<1>),
        M::Btr => plain(bt::<2>),
        M::Btc => plain(bt::<3>),
        M::Bsf => plain(scan::<Bsf>),
        M::Bsr => plain(scan::<Bsr>),
        M::Popcnt => plain(scan::<Popcnt>),
        M::Lzcnt => plain(scan::<Lzcnt>),
        M::Tzcnt => plain(scan::<Tzcnt>),
        M::Blsr => plain(blsr),
        M::Blsmsk => plain(blsmsk),
        M::Blsi => plain(blsi),
        M::Andn => plain(pick::<Andn, 1>),
        M::Pdep => plain(pick::<Pdep, 1>),
        M::Pext => plain(pick::<Pext, 1>),
        M::Bextr => plain(pick::<Bextr, 2>),
        M::Bzhi => plain(pick::<Bzhi, 2>),
        M::Mulx => plain(multiply_x),
        M::Crc32 => plain(crc32),

        M::Mul => plain(muldiv::mul),
        M::Imul => plain(muldiv::imul),
        M::Div => plain(muldiv::div),
        M::Idiv => plain(muldiv::idiv),
        M::Aaa => plain(decimal::aaa),
        M::Aas => plain(decimal::aas),
        M::Aam => plain(decimal::aam),
        M::Aad => plain(decimal::aad),
        M::Daa => plain(decimal::daa),
        M::Das => plain(decimal::das),

        M::Mov => plain(data::mov),
        M::Movzx => plain(data::extend::<false>),
        M::Movsx | M::Movsxd => plain(data::extend::<true>),
        M::Lea => plain(data::lea),
        M::Xchg => plain(data::xchg),
        M::Bswap => plain(data::byte_swap),
        M::Movbe => plain(data::movbe),
        M::Movnti => plain(data::mov),
        M::Xlatb => plain(data::xlatb),
        M::Cbw => plain(data::cbw),
        M::Cwde => plain(data::cwde),
        M::Cdqe => plain(data::cdqe),
        M::Cwd => plain(data::cwd),
        M::Cdq => plain(data::cdq),
        M::Cqo => plain(data::cqo),
        M::Seta
        | M::Setae
        | M::Setb
        | M::Setbe
        | M::Sete
        | M::Setg
        | M::Setge
        | M::Setl
        | M::Setle
        | M::Setne
        | M::Setno
        | M::Setnp
        | M::Setns
        | M::Seto
        | M::Setp
        | M::Sets => plain(data::setcc),
        M::Cmova
        | M::Cmovae
        | M::Cmovb
        | M::Cmovbe
        | M::Cmove
        | M::Cmovg
        | M::Cmovge
        | M::Cmovl
        | M::Cmovle
        | M::Cmovne
        | M::Cmovno
        | M::Cmovnp
        | M::Cmovns
        | M::Cmovo
        | M::Cmovp
        | M::Cmovs => plain(data::cmov),
        M::Nop
        | M::Prefetchit0
        | M::Prefetchit1
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Prefetchwt1
        | M::Prefetch
        | M::Rdsspd
        | M::Rdsspq
        | M::Reservednop
        | M::Endbr64
        | M::Endbr32
        | M::Lfence
        | M::Mfence
        | M::Sfence
        | M::Cldemote => plain(data::nop),
        M::Clflush | M::Clflushopt | M::Clwb => plain(data::clflush),
        M::Serialize => ends(data::serialize),

        M::Clc => plain(flag::clc),
        M::Stc => plain(flag::stc),
        M::Cmc => plain(flag::cmc),
        M::Cld => plain(flag::cld),
        M::Std => plain(flag::std),
        M::Lahf => plain(flag::lahf),
        M::Sahf => plain(flag::sahf),
        M::Salc => plain(flag::salc),

        M::Push => plain(stack::push),
        M::Pop => plain(stack::pop),
        M::Pusha | M::Pushad => plain(stack::pusha),
        M::Popa | M::Popad => plain(stack::popa),
        M::Pushf | M::Pushfd | M::Pushfq => plain(stack::pushf),
        M::Popf | M::Popfd | M::Popfq => plain(stack::popf),
        M::Enter => plain(stack::enter),
        M::Leave => plain(stack::leave),
        M::Bound => plain(data::bound),

        M::Ja
        | M::Jae
        | M::Jb
        | M::Jbe
        | M::Je
        | M::Jg
        | M::Jge
        | M::Jl
        | M::Jle
        | M::Jne
        | M::Jno
        | M::Jnp
        | M::Jns
        | M::Jo
        | M::Jp
        | M::Js => ends(branch::jcc),
        M::Jmp if is_far(i) => ends(far::jmp),
        M::Call if is_far(i) => ends(far::call),
        M::Jmp => ends(branch::jmp),
        M::Call => ends(branch::call),
        M::Ret => ends(branch::ret),
        M::Retf => ends(far::ret),
        M::Iret | M::Iretd | M::Iretq => ends(far::iret),
        M::Loop => ends(branch::count::<0>),
        M::Loope => ends(branch::count::<1>),
        M::Loopne => ends(branch::count::<2>),
        M::Jcxz | M::Jecxz | M::Jrcxz => ends(branch::count::<3>),
        M::Int => ends(far::int),
        M::Int3 => ends(far::int3),
        M::Int1 => ends(far::int1),
        M::Into => ends(far::into),
        M::Ud0 | M::Ud1 | M::Ud2 => ends(far::ud),

        // SSE has a MOVSD and a CMPSD too.
        M::Movsb | M::Movsw | M::Movsq => plain(string::movs),
        M::Movsd if is_string(i) => plain(string::movs),
        M::Cmpsb | M::Cmpsw | M::Cmpsq => plain(string::cmps),
        M::Cmpsd if is_string(i) => plain(string::cmps),
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => plain(string::stos),
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => plain(string::lods),
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => plain(string::scas),
        _ => None,
    }
}

fn is_far(i: &Instruction) -> bool {
    i.is_jmp_far() || i.is_jmp_far_indirect() || i.is_call_far() || i.is_call_far_indirect()
}

fn system_row(i: &Instruction) -> Option<Row> {
    use Intercept::{Always, Enabled, Never, Primary, Secondary};
    use Legal as L;
    use Mnemonic as M;
    use PrimaryControls as P;
    use SecondaryControls as S;
    let info = system::gone;
    match i.mnemonic() {
        M::Mov => {
            let special = |operand| {
                i.op_kind(operand) == OpKind::Register && {
                    let register = i.op_register(operand);
                    register.is_cr() || register.is_dr() || register.is_tr() || register.is_segment_register()
                }
            };
            if !special(0) && !special(1) {
                return None;
            }
            let (to, register) = if special(0) { (true, i.op_register(0)) } else { (false, i.op_register(1)) };
            match (to, register) {
                (true, r) if r.is_cr() => make(L::Cpl0, Never, system::mov_to_cr),
                (false, r) if r.is_cr() => make(L::Cpl0, Never, system::mov_from_cr),
                (_, r) if r.is_dr() => make(L::Any, Never, system::mov_dr).map(|row| Row { ends: true, ..row }),
                (true, r) if r.is_segment_register() => plain(data::mov_to_seg),
                (false, r) if r.is_segment_register() => plain(data::mov_from_seg),
                _ => make(L::Any, Never, far::ud),
            }
        }
        M::Clts => make(L::Cpl0, Never, system::clts),
        M::Lmsw => make(L::Cpl0, Never, system::lmsw),
        M::Smsw => make(L::Umip, Never, system::smsw),
        M::Cli => plain(system::cli),
        M::Sti => ends(system::sti),
        M::Hlt => make(L::Cpl0, Primary(P::HLT_EXITING, Reason::HLT), system::hlt),
        M::Pause => plain(system::pause),
        M::Cpuid => make(L::Any, Always(Reason::CPUID), info),
        M::Invd => make(L::Cpl0, Always(Reason::INVD), info),
        M::Wbinvd | M::Wbnoinvd => make(L::Cpl0, Secondary(S::WBINVD_EXITING, Reason::WBINVD), data::nop),
        M::Rdtsc => make(L::TimeStamp, Primary(P::RDTSC_EXITING, Reason::RDTSC), msr::rdtsc),
        M::Rdtscp => make(L::TimeStamp, Enabled(S::RDTSCP, P::RDTSC_EXITING, Reason::RDTSCP), msr::rdtscp),
        M::Rdpid => plain(msr::rdpid),
        M::Rdpmc => make(L::Counter, Primary(P::RDPMC_EXITING, Reason::RDPMC), msr::rdpmc),
        M::Rdmsr => make(L::Cpl0, Never, msr::rdmsr),
        M::Wrmsr => make(L::Cpl0, Never, msr::wrmsr),
        M::Rdrand => ends(msr::random::<false>),
        M::Rdseed => ends(msr::random::<true>),
        M::Xgetbv => make(L::Xsave, Never, system::xgetbv),
        M::Xsetbv => make(L::XsaveCpl0, Always(Reason::XSETBV), info),
        M::Rdpkru => make(L::Pku, Never, system::rdpkru),
        M::Wrpkru => make(L::Pku, Never, system::wrpkru),
        M::Clac => ends(system::clac),
        M::Stac => ends(system::stac),
        M::Monitor => make(L::Supervisor, Primary(P::MONITOR_EXITING, Reason::MONITOR), system::monitor),
        M::Mwait => make(L::Supervisor, Primary(P::MWAIT_EXITING, Reason::MWAIT), system::mwait),
        M::Rsm => make(L::Any, Never, far::ud),
        M::Getsec | M::Getsecq => make(L::Smx, Always(Reason::GETSEC), info),

        M::Invlpg => make(L::Cpl0, Never, system::invlpg),
        M::Invpcid => make(L::Any, Never, system::invpcid).map(|row| Row { ends: true, ..row }),
        M::Lgdt => make(L::Cpl0, Never, table::lgdt),
        M::Lidt => make(L::Cpl0, Never, table::lidt),
        M::Sgdt => make(L::Umip, Never, table::sgdt),
        M::Sidt => make(L::Umip, Never, table::sidt),
        M::Lldt => make(L::ProtectedCpl0, Never, table::lldt),
        M::Ltr => make(L::ProtectedCpl0, Never, table::ltr),
        M::Sldt => make(L::ProtectedUmip, Never, table::sldt),
        M::Str => make(L::ProtectedUmip, Never, table::str),
        M::Lar => make(L::Protected, Never, table::lar),
        M::Lsl => make(L::Protected, Never, table::lsl),
        M::Verr => make(L::Protected, Never, table::verr),
        M::Verw => make(L::Protected, Never, table::verw),
        M::Arpl => make(L::Protected, Never, table::arpl),
        M::Lds => plain(table::load_far::<3>),
        M::Les => plain(table::load_far::<0>),
        M::Lfs => plain(table::load_far::<4>),
        M::Lgs => plain(table::load_far::<5>),
        M::Lss => plain(table::load_far::<2>),

        M::Syscall => ends(fast::syscall),
        M::Sysret | M::Sysretq => make(L::LongCpl0, Never, fast::sysret),
        M::Sysenter => ends(fast::sysenter),
        M::Sysexit | M::Sysexitq => make(L::ProtectedCpl0, Never, fast::sysexit),
        M::Swapgs => make(L::LongCpl0, Never, system::swapgs),
        M::Rdfsbase => make(L::FsGsBase, Never, system::read_base::<4>),
        M::Rdgsbase => make(L::FsGsBase, Never, system::read_base::<5>),
        M::Wrfsbase => make(L::FsGsBase, Never, system::write_base::<4>),
        M::Wrgsbase => make(L::FsGsBase, Never, system::write_base::<5>),

        M::In => ends(io::input),
        M::Out => ends(io::output),
        M::Insb | M::Insw | M::Insd => ends(io::ins),
        M::Outsb | M::Outsw | M::Outsd => ends(io::outs),

        M::Vmcall => ends(vmx::vmcall),
        M::Vmxoff => make(L::Vmx, Always(Reason::VMXOFF), info),
        M::Vmlaunch => make(L::Vmx, Always(Reason::VMLAUNCH), info),
        M::Vmresume => make(L::Vmx, Always(Reason::VMRESUME), info),
        M::Vmxon => make(L::Vmx, Never, vmx::vmxon),
        M::Vmclear => make(L::Vmx, Never, vmx::vmclear),
        M::Vmptrld => make(L::Vmx, Never, vmx::vmptrld),
        M::Vmptrst => make(L::Vmx, Never, vmx::vmptrst),
        M::Vmread => make(L::Vmx, Never, vmx::vmread),
        M::Vmwrite => make(L::Vmx, Never, vmx::vmwrite),
        M::Invept => make(L::Vmx, Never, vmx::invept),
        M::Invvpid => make(L::Vmx, Never, vmx::invvpid),
        M::Vmfunc => ends(vmx::vmfunc),
        _ => None,
    }
}
