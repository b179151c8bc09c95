//! Bytes in hex, as digests and names are written.

/// Two digits in lower case for each byte.
pub fn hex<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> String {
    bytes.into_iter().map(|b| format!("{b:02x}")).collect()
}
