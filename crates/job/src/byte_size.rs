//! Amounts of memory as people write them: `512 MiB`, `2 GB`, `4096`.

/// Units by their lower-case name; a bare number is bytes.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// Reads an amount of bytes such as `"512 MiB"`, `"1.5GB"` or `"4096"`.
///
/// Decimal units (`kB`, `MB`, `GB`, `TB`) are powers of 1000, binary ones (`KiB`, `MiB`, `GiB`,
/// `TiB`) powers of 1024; case and the space before the unit do not matter. Fractions of a byte
/// are dropped.
///
/// # Errors
/// A sentence that says what is wrong with `text`, to be put behind the name of the setting.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let unit_at = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number = number.replace('_', "");
    let unit = unit.trim().to_ascii_lowercase();
    let Some(&(_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err("is not an amount of bytes; write it as \"512 MiB\", \"2 GB\" or 4096".into());
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole
            .checked_mul(factor)
            .ok_or_else(|| "is more bytes than 64 bits can count".into());
    }
    match number.parse::<f64>() {
        Ok(amount) if amount * (factor as f64) < u64::MAX as f64 => {
            Ok((amount * factor as f64) as u64)
        }
        Ok(_) => Err("is more bytes than 64 bits can count".into()),
        Err(_) => {
            Err("is not an amount of bytes; write it as \"512 MiB\", \"2 GB\" or 4096".into())
        }
    }
}

/// Writes an amount of bytes for people, in binary units with one decimal: `1.5 GiB`.
pub fn format_bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < units.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if amount.fract() == 0.0 {
        format!("{amount} {}", units[unit])
    } else {
        format!("{amount:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_in_decimal_and_binary_units() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("512 MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("512mib"), Ok(512 << 20));
        assert_eq!(parse_bytes("1.5 GB"), Ok(1_500_000_000));
        assert_eq!(parse_bytes("1_000 kB"), Ok(1_000_000));
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", "MiB", "12 parsecs", "1.2.3 MB", "-5 MB", "20000000 TiB"] {
            assert!(parse_bytes(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn formatted_amounts_read_back() {
        assert_eq!(format_bytes(17), "17 bytes");
        assert_eq!(format_bytes(512 << 20), "512 MiB");
        assert_eq!(format_bytes(3 << 29), "1.5 GiB");
        assert_eq!(parse_bytes(&format_bytes(512 << 20)), Ok(512 << 20));
    }
}
