//! How reports write numbers.

/// With commas between groups of three digits, as `12,345`; below 10,000 none.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    if digits.len() <= 4 {
        return digits;
    }
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A part of a whole, as `12.3 %`; `-` of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".into();
    }
    let of = part as f64 * 100.0 / whole as f64;
    if part > 0 && of < 0.05 { "<0.1 %".into() } else { format!("{of:.1} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        let check = |number, text: &str| assert_eq!(grouped(number), text);
        check(0, "0");
        check(9999, "9999");
        check(12345, "12,345");
        check(1234567, "1,234,567");
        assert_eq!(percent(1, 8), "12.5 %");
        assert_eq!(percent(1, 1_000_000), "<0.1 %");
        assert_eq!(percent(0, 0), "-");
    }
}
