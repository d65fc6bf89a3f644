//! Packed integer instructions, shuffles, blends and cryptography.

use super::{Binary, Immediate, packed, plain};
use crate::cpu::lanes;
use crate::cpu::rows::Row;
use iced_x86::{Instruction, Mnemonic};

macro_rules! binaries {
    ($($name:ident = $f:expr $(, mmx $mmx:expr)?;)*) => {
        $(
            enum $name {}
            impl Binary for $name {
                #[inline(always)]
                fn eval(a: u128, b: u128) -> u128 {
                    $f(a, b)
                }
                $(
                    #[inline(always)]
                    fn mmx(a: u64, b: u64) -> u64 {
                        $mmx(a, b)
                    }
                )?
            }
        )*
    };
}

macro_rules! immediates {
    ($($name:ident = $f:expr $(, mmx $mmx:expr)?;)*) => {
        $(
            enum $name {}
            impl Immediate for $name {
                #[inline(always)]
                fn eval(a: u128, b: u128, immediate: u8) -> u128 {
                    $f(a, b, immediate)
                }
                $(
                    #[inline(always)]
                    fn mmx(a: u64, b: u64, immediate: u8) -> u64 {
                        $mmx(a, b, immediate)
                    }
                )?
            }
        )*
    };
}

/// The MMX form of an operation that puts the destination's results below the source's.
fn halves(f: fn(u128, u128) -> u128) -> impl Fn(u64, u64) -> u64 {
    move |a, b| lanes::mmx_pack(f, a, b)
}

fn upper(f: fn(u128, u128) -> u128) -> impl Fn(u64, u64) -> u64 {
    move |a, b| lanes::mmx_unpack_high(f, a, b)
}

binaries! {
    Paddb = lanes::paddb;
    Paddw = lanes::paddw;
    Paddd = lanes::paddd;
    Paddq = lanes::paddq;
    Paddsb = lanes::paddsb;
    Paddsw = lanes::paddsw;
    Paddusb = lanes::paddusb;
    Paddusw = lanes::paddusw;
    Psubb = lanes::psubb;
    Psubw = lanes::psubw;
    Psubd = lanes::psubd;
    Psubq = lanes::psubq;
    Psubsb = lanes::psubsb;
    Psubsw = lanes::psubsw;
    Psubusb = lanes::psubusb;
    Psubusw = lanes::psubusw;
    Pavgb = lanes::pavgb;
    Pavgw = lanes::pavgw;
    Pminub = lanes::pminub;
    Pminuw = lanes::pminuw;
    Pminud = lanes::pminud;
    Pminsb = lanes::pminsb;
    Pminsw = lanes::pminsw;
    Pminsd = lanes::pminsd;
    Pmaxub = lanes::pmaxub;
    Pmaxuw = lanes::pmaxuw;
    Pmaxud = lanes::pmaxud;
    Pmaxsb = lanes::pmaxsb;
    Pmaxsw = lanes::pmaxsw;
    Pmaxsd = lanes::pmaxsd;
    Pcmpeqb = lanes::pcmpeqb;
    Pcmpeqw = lanes::pcmpeqw;
    Pcmpeqd = lanes::pcmpeqd;
    Pcmpeqq = lanes::pcmpeqq;
    Pcmpgtb = lanes::pcmpgtb;
    Pcmpgtw = lanes::pcmpgtw;
    Pcmpgtd = lanes::pcmpgtd;
    Pcmpgtq = lanes::pcmpgtq;
    Pmullw = lanes::pmullw;
    Pmulld = lanes::pmulld;
    Pmulhw = lanes::pmulhw;
    Pmulhuw = lanes::pmulhuw;
    Pmulhrsw = lanes::pmulhrsw;
    Pmuludq = lanes::pmuludq;
    Pmuldq = lanes::pmuldq;
    Pmaddwd = lanes::pmaddwd;
    Pmaddubsw = lanes::pmaddubsw;
    Psignb = lanes::psignb;
    Psignw = lanes::psignw;
    Psignd = lanes::psignd;
    Psadbw = lanes::psadbw;
    Pand = lanes::pand;
    Pandn = lanes::pandn;
    Por = lanes::por;
    Pxor = lanes::pxor;
    Phaddw = lanes::phaddw, mmx halves(lanes::phaddw);
    Phaddd = lanes::phaddd, mmx halves(lanes::phaddd);
    Phaddsw = lanes::phaddsw, mmx halves(lanes::phaddsw);
    Phsubw = lanes::phsubw, mmx halves(lanes::phsubw);
    Phsubd = lanes::phsubd, mmx halves(lanes::phsubd);
    Phsubsw = lanes::phsubsw, mmx halves(lanes::phsubsw);
    Packsswb = lanes::packsswb, mmx halves(lanes::packsswb);
    Packssdw = lanes::packssdw, mmx halves(lanes::packssdw);
    Packuswb = lanes::packuswb, mmx halves(lanes::packuswb);
    Packusdw = lanes::packusdw;
    Punpcklbw = lanes::punpcklbw;
    Punpcklwd = lanes::punpcklwd;
    Punpckldq = lanes::punpckldq;
    Punpcklqdq = lanes::punpcklqdq;
    Punpckhbw = lanes::punpckhbw, mmx upper(lanes::punpcklbw);
    Punpckhwd = lanes::punpckhwd, mmx upper(lanes::punpcklwd);
    Punpckhdq = lanes::punpckhdq, mmx upper(lanes::punpckldq);
    Punpckhqdq = lanes::punpckhqdq;
    Pshufb = lanes::pshufb, mmx lanes::mmx_pshufb;
    Pabsb = |_, b| lanes::pabsb(b);
    Pabsw = |_, b| lanes::pabsw(b);
    Pabsd = |_, b| lanes::pabsd(b);
    Phminposuw = |_, b| lanes::phminposuw(b);
    Aesenc = lanes::aesenc;
    Aesenclast = lanes::aesenclast;
    Aesdec = lanes::aesdec;
    Aesdeclast = lanes::aesdeclast;
    Aesimc = |_, b| lanes::aesimc(b);
    Sha1msg1 = lanes::sha1msg1;
    Sha1msg2 = lanes::sha1msg2;
    Sha1nexte = lanes::sha1nexte;
    Sha256msg1 = lanes::sha256msg1;
    Sha256msg2 = lanes::sha256msg2;
    Psllvd = lanes::psllvd;
    Psllvq = lanes::psllvq;
    Psrlvd = lanes::psrlvd;
    Psrlvq = lanes::psrlvq;
    Psravd = lanes::psravd;
    Movshdup = |_, b| lanes::pshufd(b, 0xf5);
    Movsldup = |_, b| lanes::pshufd(b, 0xa0);
}

immediates! {
    Pshufd = |_, b, i| lanes::pshufd(b, i);
    Pshuflw = |_, b, i| lanes::pshuflw(b, i);
    Pshufhw = |_, b, i| lanes::pshufhw(b, i);
    Shufps = lanes::shufps;
    Shufpd = lanes::shufpd;
    Palignr = lanes::palignr, mmx lanes::mmx_palignr;
    Pblendw = lanes::pblendw;
    Blendps = lanes::blendps;
    Blendpd = lanes::blendpd;
    Mpsadbw = lanes::mpsadbw;
    Pclmulqdq = lanes::pclmulqdq;
    Aeskeygenassist = |_, b, i| lanes::aeskeygenassist(b, i);
    Sha1rnds4 = lanes::sha1rnds4;
}

pub(super) fn row(i: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    let build = match i.mnemonic() {
        M::Paddb | M::Vpaddb => packed::<Paddb>,
        M::Paddw | M::Vpaddw => packed::<Paddw>,
        M::Paddd | M::Vpaddd => packed::<Paddd>,
        M::Paddq | M::Vpaddq => packed::<Paddq>,
        M::Paddsb | M::Vpaddsb => packed::<Paddsb>,
        M::Paddsw | M::Vpaddsw => packed::<Paddsw>,
        M::Paddusb | M::Vpaddusb => packed::<Paddusb>,
        M::Paddusw | M::Vpaddusw => packed::<Paddusw>,
        M::Psubb | M::Vpsubb => packed::<Psubb>,
        M::Psubw | M::Vpsubw => packed::<Psubw>,
        M::Psubd | M::Vpsubd => packed::<Psubd>,
        M::Psubq | M::Vpsubq => packed::<Psubq>,
        M::Psubsb | M::Vpsubsb => packed::<Psubsb>,
        M::Psubsw | M::Vpsubsw => packed::<Psubsw>,
        M::Psubusb | M::Vpsubusb => packed::<Psubusb>,
        M::Psubusw | M::Vpsubusw => packed::<Psubusw>,
        M::Pavgb | M::Vpavgb => packed::<Pavgb>,
        M::Pavgw | M::Vpavgw => packed::<Pavgw>,
        M::Pminub | M::Vpminub => packed::<Pminub>,
        M::Pminuw | M::Vpminuw => packed::<Pminuw>,
        M::Pminud | M::Vpminud => packed::<Pminud>,
        M::Pminsb | M::Vpminsb => packed::<Pminsb>,
        M::Pminsw | M::Vpminsw => packed::<Pminsw>,
        M::Pminsd | M::Vpminsd => packed::<Pminsd>,
        M::Pmaxub | M::Vpmaxub => packed::<Pmaxub>,
        M::Pmaxuw | M::Vpmaxuw => packed::<Pmaxuw>,
        M::Pmaxud | M::Vpmaxud => packed::<Pmaxud>,
        M::Pmaxsb | M::Vpmaxsb => packed::<Pmaxsb>,
        M::Pmaxsw | M::Vpmaxsw => packed::<Pmaxsw>,
        M::Pmaxsd | M::Vpmaxsd => packed::<Pmaxsd>,
        M::Pcmpeqb | M::Vpcmpeqb => packed::<Pcmpeqb>,
        M::Pcmpeqw | M::Vpcmpeqw => packed::<Pcmpeqw>,
        M::Pcmpeqd | M::Vpcmpeqd => packed::<Pcmpeqd>,
        M::Pcmpeqq | M::Vpcmpeqq => packed::<Pcmpeqq>,
        M::Pcmpgtb | M::Vpcmpgtb => packed::<Pcmpgtb>,
        M::Pcmpgtw | M::Vpcmpgtw => packed::<Pcmpgtw>,
        M::Pcmpgtd | M::Vpcmpgtd => packed::<Pcmpgtd>,
        M::Pcmpgtq | M::Vpcmpgtq => packed::<Pcmpgtq>,
        M::Pmullw | M::Vpmullw => packed::<Pmullw>,
        M::Pmulld | M::Vpmulld => packed::<Pmulld>,
        M::Pmulhw | M::Vpmulhw => packed::<Pmulhw>,
        M::Pmulhuw | M::Vpmulhuw => packed::<Pmulhuw>,
        M::Pmulhrsw | M::Vpmulhrsw => packed::<Pmulhrsw>,
        M::Pmuludq | M::Vpmuludq => packed::<Pmuludq>,
        M::Pmuldq | M::Vpmuldq => packed::<Pmuldq>,
        M::Pmaddwd | M::Vpmaddwd => packed::<Pmaddwd>,
        M::Pmaddubsw | M::Vpmaddubsw => packed::<Pmaddubsw>,
        M::Psignb | M::Vpsignb => packed::<Psignb>,
        M::Psignw | M::Vpsignw => packed::<Psignw>,
        M::Psignd | M::Vpsignd => packed::<Psignd>,
        M::Psadbw | M::Vpsadbw => packed::<Psadbw>,
        M::Pand | M::Vpand | M::Andps | M::Andpd | M::Vandps | M::Vandpd => packed::<Pand>,
        M::Pandn | M::Vpandn | M::Andnps | M::Andnpd | M::Vandnps | M::Vandnpd => packed::<Pandn>,
        M::Por | M::Vpor | M::Orps | M::Orpd | M::Vorps | M::Vorpd => packed::<Por>,
        M::Pxor | M::Vpxor | M::Xorps | M::Xorpd | M::Vxorps | M::Vxorpd => packed::<Pxor>,
        M::Phaddw | M::Vphaddw => packed::<Phaddw>,
        M::Phaddd | M::Vphaddd => packed::<Phaddd>,
        M::Phaddsw | M::Vphaddsw => packed::<Phaddsw>,
        M::Phsubw | M::Vphsubw => packed::<Phsubw>,
        M::Phsubd | M::Vphsubd => packed::<Phsubd>,
        M::Phsubsw | M::Vphsubsw => packed::<Phsubsw>,
        M::Packsswb | M::Vpacksswb => packed::<Packsswb>,
        M::Packssdw | M::Vpackssdw => packed::<Packssdw>,
        M::Packuswb | M::Vpackuswb => packed::<Packuswb>,
        M::Packusdw | M::Vpackusdw => packed::<Packusdw>,
        M::Punpcklbw | M::Vpunpcklbw => packed::<Punpcklbw>,
        M::Punpcklwd | M::Vpunpcklwd => packed::<Punpcklwd>,
        M::Punpckldq | M::Vpunpckldq | M::Unpcklps | M::Vunpcklps => packed::<Punpckldq>,
        M::Punpcklqdq | M::Vpunpcklqdq | M::Unpcklpd | M::Vunpcklpd => packed::<Punpcklqdq>,
        M::Punpckhbw | M::Vpunpckhbw => packed::<Punpckhbw>,
        M::Punpckhwd | M::Vpunpckhwd => packed::<Punpckhwd>,
        M::Punpckhdq | M::Vpunpckhdq | M::Unpckhps | M::Vunpckhps => packed::<Punpckhdq>,
        M::Punpckhqdq | M::Vpunpckhqdq | M::Unpckhpd | M::Vunpckhpd => packed::<Punpckhqdq>,
        M::Pshufb | M::Vpshufb => packed::<Pshufb>,
        M::Pabsb | M::Vpabsb => packed::<Pabsb>,
        M::Pabsw | M::Vpabsw => packed::<Pabsw>,
        M::Pabsd | M::Vpabsd => packed::<Pabsd>,
        M::Phminposuw | M::Vphminposuw => packed::<Phminposuw>,
        M::Aesenc | M::Vaesenc => packed::<Aesenc>,
        M::Aesenclast | M::Vaesenclast => packed::<Aesenclast>,
        M::Aesdec | M::Vaesdec => packed::<Aesdec>,
        M::Aesdeclast | M::Vaesdeclast => packed::<Aesdeclast>,
        M::Aesimc | M::Vaesimc => packed::<Aesimc>,
        M::Sha1msg1 => packed::<Sha1msg1>,
        M::Sha1msg2 => packed::<Sha1msg2>,
        M::Sha1nexte => packed::<Sha1nexte>,
        M::Sha256msg1 => packed::<Sha256msg1>,
        M::Sha256msg2 => packed::<Sha256msg2>,
        M::Vpsllvd => packed::<Psllvd>,
        M::Vpsllvq => packed::<Psllvq>,
        M::Vpsrlvd => packed::<Psrlvd>,
        M::Vpsrlvq => packed::<Psrlvq>,
        M::Vpsravd => packed::<Psravd>,
        M::Movshdup | M::Vmovshdup => packed::<Movshdup>,
        M::Movsldup | M::Vmovsldup => packed::<Movsldup>,

        M::Pshufd | M::Vpshufd => packed::<Pshufd>,
        M::Pshuflw | M::Vpshuflw | M::Pshufw => packed::<Pshuflw>,
        M::Pshufhw | M::Vpshufhw => packed::<Pshufhw>,
        M::Shufps | M::Vshufps => packed::<Shufps>,
        M::Palignr | M::Vpalignr => packed::<Palignr>,
        M::Shufpd => packed::<Shufpd>,
        M::Pblendw | M::Vpblendw => packed::<Pblendw>,
        M::Blendps => packed::<Blendps>,
        M::Blendpd => packed::<Blendpd>,
        M::Mpsadbw => packed::<Mpsadbw>,
        M::Pclmulqdq | M::Vpclmulqdq => packed::<Pclmulqdq>,
        M::Aeskeygenassist | M::Vaeskeygenassist => packed::<Aeskeygenassist>,
        M::Sha1rnds4 => packed::<Sha1rnds4>,
        _ => return None,
    };
    plain(build)
}
