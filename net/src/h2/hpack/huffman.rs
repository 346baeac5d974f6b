//! The static Huffman code of header strings.
//!
//! The code is canonical: codes of one length are consecutive, in the order of the symbols, so the lengths say it all.
//!
//! Source: RFC 7541 appendix B.

/// Code length in bits of each octet, and of the end-of-string symbol at last.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const END_OF_STRING: u16 = 256;
const LENGTH_MAX: usize = 30;

/// Codes up to this length are found by one look-up; that covers all letters, digits and common signs.
const FAST_BITS: usize = 9;

struct Code {
    /// The code of each symbol, right-aligned.
    codes: [u32; 257],
    /// The symbols in the order of their codes.
    symbols: [u16; 257],
    /// The first code of each length.
    first: [u32; LENGTH_MAX + 1],
    /// Where the symbols of each length start in `symbols`, and how many they are.
    runs: [(u16, u16); LENGTH_MAX + 1],
    /// By the next [`FAST_BITS`] bits: length << 9 | symbol, or 0 for a longer code.
    fast: [u16; 1 << FAST_BITS],
}

static CODE: Code = build();

const fn build() -> Code {
    let mut code = Code {
        codes: [0; 257],
        symbols: [0; 257],
        first: [0; LENGTH_MAX + 1],
        runs: [(0, 0); LENGTH_MAX + 1],
        fast: [0; 1 << FAST_BITS],
    };
    let mut next: u32 = 0;
    let mut placed = 0;
    let mut length = 1;
    while length <= LENGTH_MAX {
        next <<= 1;
        code.first[length] = next;
        let start = placed;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                code.codes[symbol] = next;
                code.symbols[placed] = symbol as u16;
                if length <= FAST_BITS {
                    let spare = FAST_BITS - length;
                    let mut i = 0;
                    while i < 1 << spare {
                        code.fast[((next as usize) << spare) + i] = (length as u16) << 9 | symbol as u16;
                        i += 1;
                    }
                }
                next += 1;
                placed += 1;
            }
            symbol += 1;
        }
        code.runs[length] = (start as u16, (placed - start) as u16);
        length += 1;
    }
    code
}

/// The string has an end-of-string symbol, or its padding is too long or not of ones.
///
/// Source: RFC 7541 section 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidHuffman;

/// Appends the decoded octets to `out`.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), InvalidHuffman> {
    out.reserve(input.len() * 8 / 5);
    let mut input = input.iter();
    let mut window: u64 = 0;
    let mut bits = 0;
    loop {
        while bits <= 56 {
            let Some(&byte) = input.next() else { break };
            window |= (byte as u64) << (56 - bits);
            bits += 8;
        }
        let (symbol, length) = symbol_at(window);
        if length > bits {
            break;
        }
        if symbol == END_OF_STRING {
            return Err(InvalidHuffman);
        }
        out.push(symbol as u8);
        window <<= length;
        bits -= length;
    }
    // What is left is padding: fewer than eight bits, all ones. Zeros fill the window behind it.
    let padding_is_ones = bits == 0 || window >> (64 - bits) == (1 << bits) - 1;
    if bits < 8 && padding_is_ones {
        Ok(())
    } else {
        Err(InvalidHuffman)
    }
}

/// The symbol whose code the window starts with, and the length of the code.
fn symbol_at(window: u64) -> (u16, usize) {
    let entry = CODE.fast[(window >> (64 - FAST_BITS)) as usize];
    if entry != 0 {
        return (entry & 0x1ff, (entry >> 9) as usize);
    }
    for length in FAST_BITS + 1..=LENGTH_MAX {
        let (start, count) = CODE.runs[length];
        let code = (window >> (64 - length)) as u32;
        if code < CODE.first[length] + count as u32 {
            return (
                CODE.symbols[start as usize + (code - CODE.first[length]) as usize],
                length,
            );
        }
    }
    unreachable!("the code is complete: every 30 bits start with one of its codes")
}

/// How many octets `input` takes when encoded.
pub(super) fn encoded_len(input: &[u8]) -> usize {
    input
        .iter()
        .map(|&byte| LENGTHS[byte as usize] as usize)
        .sum::<usize>()
        .div_ceil(8)
}

/// Appends the encoded octets, padded with ones.
pub(super) fn encode(input: &[u8], out: &mut impl Extend<u8>) {
    let mut window: u64 = 0;
    let mut bits = 0;
    for &byte in input {
        let length = LENGTHS[byte as usize] as usize;
        window = window << length | CODE.codes[byte as usize] as u64;
        bits += length;
        while bits >= 8 {
            bits -= 8;
            out.extend(Some((window >> bits) as u8));
        }
    }
    if bits > 0 {
        out.extend(Some((window << (8 - bits)) as u8 | 0xff >> bits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octet_survives_a_round_trip() {
        let all: Vec<u8> = (0..=255).collect();
        let mut encoded = Vec::new();
        encode(&all, &mut encoded);
        assert_eq!(encoded.len(), encoded_len(&all));
        let mut decoded = Vec::new();
        decode(&encoded, &mut decoded).unwrap();
        assert_eq!(decoded, all);
    }

    #[test]
    fn the_longest_codes_are_those_of_the_standard() {
        assert_eq!(CODE.codes[10], 0x3ffffffc);
        assert_eq!(CODE.codes[22], 0x3ffffffe);
        assert_eq!(CODE.codes[256], 0x3fffffff);
        assert_eq!(CODE.codes[b'0' as usize], 0);
    }

    #[test]
    fn padding_must_be_short_and_of_ones() {
        let check = |input: &[u8]| decode(input, &mut Vec::new());
        assert_eq!(check(&[0b0000_0111]), Ok(()), "'0' and three ones");
        assert_eq!(check(&[0b0000_0110]), Err(InvalidHuffman), "a zero in the padding");
        assert_eq!(
            check(&[0b0000_0111, 0xff]),
            Err(InvalidHuffman),
            "eleven bits of padding"
        );
        assert_eq!(check(&[0xff]), Err(InvalidHuffman), "eight bits of padding");
        assert_eq!(check(&[0xff; 4]), Err(InvalidHuffman), "the end-of-string symbol");
        assert_eq!(check(&[]), Ok(()));
    }
}
