//! The host's own vector unit as the judge.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)] // Intrinsics are how the host is asked.

use super::*;
use core::arch::x86_64::*;
use core::mem::transmute;

fn vectors() -> impl Iterator<Item = (u128, u128)> {
    let mut state = 0x0123_4567_89ab_cdefu64;
    let mut roll = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..20_000).map(move |case| {
        let mut value = || {
            let wide = u128::from(roll()) << 64 | u128::from(roll());
            match case % 4 {
                0 => wide & 0x8080_7f7f_8000_7fff_8000_0000_7fff_ffff,
                1 => wide & wide >> 3,
                _ => wide,
            }
        };
        (value(), value())
    })
}

macro_rules! check {
    ($($feature:tt { $($ours:expr => $native:expr;)* })*) => {
        $(if is_x86_feature_detected!($feature) {
            for (a, b) in vectors() {
                $({
                    // SAFETY: the feature was detected above; __m128i and u128 are both 16 plain bytes.
                    let expected: u128 = unsafe {
                        #[allow(clippy::redundant_closure_call)]
                        transmute::<__m128i, u128>(($native)(
                            transmute::<u128, __m128i>(a),
                            transmute::<u128, __m128i>(b),
                        ))
                    };
                    #[allow(clippy::redundant_closure_call)]
                    let got = ($ours)(a, b);
                    assert_eq!(got, expected, "{}: {a:#x} {b:#x}", stringify!($ours));
                })*
            }
        } else {
            eprintln!("skipped: this host has no {}", $feature);
        })*
    };
}

#[test]
fn every_function_is_the_hosts() {
    check! {
        "sse2" {
            paddb => |a, b| _mm_add_epi8(a, b);
            paddw => |a, b| _mm_add_epi16(a, b);
            paddq => |a, b| _mm_add_epi64(a, b);
            paddsb => |a, b| _mm_adds_epi8(a, b);
            paddusw => |a, b| _mm_adds_epu16(a, b);
            psubsw => |a, b| _mm_subs_epi16(a, b);
            psubusb => |a, b| _mm_subs_epu8(a, b);
            pavgb => |a, b| _mm_avg_epu8(a, b);
            pavgw => |a, b| _mm_avg_epu16(a, b);
            pcmpgtb => |a, b| _mm_cmpgt_epi8(a, b);
            pcmpeqd => |a, b| _mm_cmpeq_epi32(a, b);
            pmulhw => |a, b| _mm_mulhi_epi16(a, b);
            pmulhuw => |a, b| _mm_mulhi_epu16(a, b);
            pmuludq => |a, b| _mm_mul_epu32(a, b);
            pmaddwd => |a, b| _mm_madd_epi16(a, b);
            psadbw => |a, b| _mm_sad_epu8(a, b);
            pandn => |a, b| _mm_andnot_si128(a, b);
            packsswb => |a, b| _mm_packs_epi16(a, b);
            packssdw => |a, b| _mm_packs_epi32(a, b);
            packuswb => |a, b| _mm_packus_epi16(a, b);
            punpcklbw => |a, b| _mm_unpacklo_epi8(a, b);
            punpckhwd => |a, b| _mm_unpackhi_epi16(a, b);
            punpckhdq => |a, b| _mm_unpackhi_epi32(a, b);
            punpcklqdq => |a, b| _mm_unpacklo_epi64(a, b);
            |a, b: u128| psllw(a, b as u64 & 31) => |a, b| _mm_sll_epi16(a, _mm_and_si128(b, _mm_set_epi64x(0, 31)));
            |a, b: u128| psrad(a, b as u64) => |a, b| _mm_sra_epi32(a, b);
            |a, b: u128| psrlq(a, b as u64 & 127) => |a, b| _mm_srl_epi64(a, _mm_and_si128(b, _mm_set_epi64x(0, 127)));
            |a, _| pslldq(a, 5) => |a, _| _mm_slli_si128(a, 5);
            |a, _| pshufd(a, 0x1b) => |a, _| _mm_shuffle_epi32(a, 0x1b);
            |a, _| pshuflw(a, 0x6c) => |a, _| _mm_shufflelo_epi16(a, 0x6c);
            |a, _| pshufhw(a, 0x6c) => |a, _| _mm_shufflehi_epi16(a, 0x6c);
            |a, _| u128::from(pmovmskb(a)) => |a, _| _mm_set_epi64x(0, i64::from(_mm_movemask_epi8(a)));
        }
        "ssse3" {
            pshufb => |a, b| _mm_shuffle_epi8(a, b);
            pmaddubsw => |a, b| _mm_maddubs_epi16(a, b);
            pmulhrsw => |a, b| _mm_mulhrs_epi16(a, b);
            phaddw => |a, b| _mm_hadd_epi16(a, b);
            phaddsw => |a, b| _mm_hadds_epi16(a, b);
            phsubd => |a, b| _mm_hsub_epi32(a, b);
            phsubsw => |a, b| _mm_hsubs_epi16(a, b);
            psignb => |a, b| _mm_sign_epi8(a, b);
            psignw => |a, b| _mm_sign_epi16(a, b);
            psignd => |a, b| _mm_sign_epi32(a, b);
            |a, _| pabsw(a) => |a, _| _mm_abs_epi16(a);
            |a, b| palignr(a, b, 5) => |a, b| _mm_alignr_epi8(a, b, 5);
            |a, b| palignr(a, b, 21) => |a, b| _mm_alignr_epi8(a, b, 21);
        }
        "sse4.1" {
            pmulld => |a, b| _mm_mullo_epi32(a, b);
            pmuldq => |a, b| _mm_mul_epi32(a, b);
            pminsb => |a, b| _mm_min_epi8(a, b);
            pmaxuw => |a, b| _mm_max_epu16(a, b);
            packusdw => |a, b| _mm_packus_epi32(a, b);
            |a, b| mpsadbw(a, b, 6) => |a, b| _mm_mpsadbw_epu8(a, b, 6);
            |a, _| phminposuw(a) => |a, _| _mm_minpos_epu16(a);
            |a, _| pmovsxbq(a) => |a, _| _mm_cvtepi8_epi64(a);
            |a, _| pmovzxwd(a) => |a, _| _mm_cvtepu16_epi32(a);
            |a, b| pblendvb(a, b, a ^ b) => |a, b| _mm_blendv_epi8(a, b, _mm_xor_si128(a, b));
            |a, b| pblendw(a, b, 0x9a) => |a, b| _mm_blend_epi16(a, b, 0x9a);
        }
        "sse4.2" {
            pcmpgtq => |a, b| _mm_cmpgt_epi64(a, b);
            |a, b| compare_implicit(a, b, 0x00).expanded(0x00) => |a, b| _mm_cmpistrm(a, b, 0x00);
            |a, b| compare_implicit(a, b, 0x44).expanded(0x44) => |a, b| _mm_cmpistrm(a, b, 0x44);
            |a, b| compare_implicit(a, b, 0x39).expanded(0x39) => |a, b| _mm_cmpistrm(a, b, 0x39);
            |a, b| compare_implicit(a, b, 0x4c).expanded(0x4c) => |a, b| _mm_cmpistrm(a, b, 0x4c);
            |a, b| compare_explicit(a, 5, b, -20, 0x5a).expanded(0x5a) => |a, b| _mm_cmpestrm(a, 5, b, -20, 0x5a);
            |a, b| compare_explicit(a, 3, b, 7, 0x0d).expanded(0x0d) => |a, b| _mm_cmpestrm(a, 3, b, 7, 0x0d);
            |a, b| u128::from(compare_implicit(a, b, 0x18).index) =>
                |a, b| _mm_set_epi64x(0, i64::from(_mm_cmpistri(a, b, 0x18)));
        }
        "pclmulqdq" {
            |a, b| pclmulqdq(a, b, 0x10) => |a, b| _mm_clmulepi64_si128(a, b, 0x10);
            |a, b| pclmulqdq(a, b, 0x01) => |a, b| _mm_clmulepi64_si128(a, b, 0x01);
        }
        "aes" {
            aesenc => |a, b| _mm_aesenc_si128(a, b);
            aesenclast => |a, b| _mm_aesenclast_si128(a, b);
            aesdec => |a, b| _mm_aesdec_si128(a, b);
            aesdeclast => |a, b| _mm_aesdeclast_si128(a, b);
            |a, _| aesimc(a) => |a, _| _mm_aesimc_si128(a);
            |a, _| aeskeygenassist(a, 0x36) => |a, _| _mm_aeskeygenassist_si128(a, 0x36);
        }
        "sha" {
            sha1msg1 => |a, b| _mm_sha1msg1_epu32(a, b);
            sha1msg2 => |a, b| _mm_sha1msg2_epu32(a, b);
            sha1nexte => |a, b| _mm_sha1nexte_epu32(a, b);
            |a, b| sha1rnds4(a, b, 0) => |a, b| _mm_sha1rnds4_epu32(a, b, 0);
            |a, b| sha1rnds4(a, b, 2) => |a, b| _mm_sha1rnds4_epu32(a, b, 2);
            |a, b| sha1rnds4(a, b, 3) => |a, b| _mm_sha1rnds4_epu32(a, b, 3);
            sha256msg1 => |a, b| _mm_sha256msg1_epu32(a, b);
            sha256msg2 => |a, b| _mm_sha256msg2_epu32(a, b);
            |a, b| sha256rnds2(a, b, a ^ b) => |a, b| _mm_sha256rnds2_epu32(a, b, _mm_xor_si128(a, b));
        }
        "avx2" {
            psllvd => |a, b| _mm_sllv_epi32(a, b);
            psrlvq => |a, b| _mm_srlv_epi64(a, b);
            psravd => |a, b| _mm_srav_epi32(a, b);
        }
    }
}
