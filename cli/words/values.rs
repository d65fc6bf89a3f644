//! What options take: our words, sizes, times, shares.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use hv_defs::policy::PRESETS;

/// A parser of one of our words.
pub fn word<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.iter().map(|&value| PossibleValue::new(name(value))))
        .map(move |text| *all.iter().find(|&&value| name(value) == text).expect("clap lets only these words through"))
}

/// The presets' names.
pub fn presets() -> PossibleValuesParser {
    PossibleValuesParser::new(PRESETS.iter().map(|preset| PossibleValue::new(preset.name).help(preset.about)))
}

/// A number that is one: `inf` and `NaN` are no limits.
pub fn finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| "not a number".to_owned())
}

/// Bytes: `256M`, `1G`, `64K`, or mebibytes without a letter, as QEMU's `-m` has it.
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.strip_suffix(['B', 'b']).unwrap_or(text);
    let text = text.strip_suffix(['i']).unwrap_or(text);
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 20),
    };
    let number: u64 = digits.parse().map_err(|_| "not a size; write it as 256M or 1G".to_owned())?;
    let bytes = number.checked_mul(1 << shift).ok_or("larger than any memory")?;
    if bytes == 0 || bytes % 4096 != 0 {
        return Err("not a whole number of pages of 4 KiB, or none at all".to_owned());
    }
    Ok(bytes)
}

/// A mark and how often it is to be met: `M` or `M:COUNT`.
pub fn mark(text: &str) -> Result<(u32, u64), String> {
    let (mark, count) = text.split_once(':').unwrap_or((text, "1"));
    let hex = mark.strip_prefix("0x").or_else(|| mark.strip_prefix("0X"));
    let mark = hex.map_or_else(|| mark.parse(), |hex| u32::from_str_radix(hex, 16));
    match (mark, count.parse()) {
        (Ok(mark), Ok(count @ 1..)) => Ok((mark, count)),
        (Ok(_), _) => Err("the count is a number from 1".to_owned()),
        (Err(_), _) => Err("a mark is a number below 2^32, in decimal or with 0x".to_owned()),
    }
}

/// Seconds, with or without `s`, of which there may be parts.
pub fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 =
        text.strip_suffix('s').unwrap_or(text).parse().map_err(|_| "it is a number of seconds".to_owned())?;
    if (0.05..=1e8).contains(&seconds) { Ok(seconds) } else { Err("it is from 0.05 to 100000000".to_owned()) }
}

/// The size of a ring, which is a power of two to the kernel.
pub fn buffer(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes @ 0x1000..=0x4000_0000 => Ok(bytes.next_power_of_two()),
        _ => Err("it is from 4K to 1G".to_owned()),
    }
}

/// A share in thousandths, from a percentage.
pub fn percent(text: &str) -> Result<u32, String> {
    let percent: f64 = text.parse().map_err(|_| "a percentage is a number".to_owned())?;
    if (0.1..=100_000.0).contains(&percent) {
        Ok((percent * 10.0).round() as u32)
    } else {
        Err("it is from 0.1 to 100000".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, bytes: Option<u64>| assert_eq!(size(text).ok(), bytes, "{text}");
        check("256M", Some(256 << 20));
        check("256", Some(256 << 20));
        check("1g", Some(1 << 30));
        check("64K", Some(64 << 10));
        check("64KiB", Some(64 << 10));
        check("6K", None);
        check("0", None);
        check("", None);
        check("M", None);
        check("-1M", None);
        check("99999999999G", None);
    }
}
