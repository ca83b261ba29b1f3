//! Arithmetic of GF(256) with the polynomial of RFC 6330, section 5.7.

/// Logarithms to base 2, and powers of 2 twice over.
const TABLES: ([u8; 256], [u8; 512]) = {
    let (mut log, mut exp) = ([0; 256], [0; 512]);
    let (mut value, mut i) = (1u16, 0);
    while i < 255 {
        exp[i] = value as u8;
        exp[i + 255] = value as u8;
        log[value as usize] = i as u8;
        value <<= 1;
        if value > 255 {
            value ^= 0x11d;
        }
        i += 1;
    }
    (log, exp)
};

/// All products: `PRODUCTS[a][b]` is a * b.
static PRODUCTS: [[u8; 256]; 256] = {
    let mut products = [[0; 256]; 256];
    let mut a = 0;
    while a < 256 {
        let mut b = 0;
        while b < 256 {
            products[a][b] = multiply(a as u8, b as u8);
            b += 1;
        }
        a += 1;
    }
    products
};

pub(super) const fn multiply(a: u8, b: u8) -> u8 {
    let (log, exp) = &TABLES;
    if a == 0 || b == 0 { 0 } else { exp[log[a as usize] as usize + log[b as usize] as usize] }
}

/// Of a value that is not 0.
pub(super) const fn inverse(a: u8) -> u8 {
    TABLES.1[255 - TABLES.0[a as usize] as usize]
}

/// Multiplies each byte.
pub(super) fn scale(row: &mut [u8], factor: u8) {
    let products = &PRODUCTS[usize::from(factor)];
    row.iter_mut().for_each(|a| *a = products[usize::from(*a)]);
}

/// Adds `factor` times `other`.
pub(super) fn add_scaled(row: &mut [u8], other: &[u8], factor: u8) {
    let products = &PRODUCTS[usize::from(factor)];
    row.iter_mut().zip(other).for_each(|(a, b)| *a ^= products[usize::from(*b)]);
}

/// The products of a row with every factor, as sums of two: for adding it to many, with many factors.
pub(super) struct Multiples {
    /// 0 to 15 times the row, then 0, 16, … 240 times.
    products: Vec<u8>,
    size: usize,
}

impl Multiples {
    /// Room for rows of up to `size` bytes.
    pub(super) fn new(size: usize) -> Multiples {
        Multiples { products: vec![0; 32 * size], size }
    }

    /// Of this row from now on.
    pub(super) fn set(&mut self, row: &[u8]) {
        self.size = row.len();
        let size = self.size;
        let (low, high) = self.products[..32 * size].split_at_mut(16 * size);
        low[size..2 * size].copy_from_slice(row);
        double_and_add(low, size);
        // What was here before, of another size, may have left something in the place of 0 times the row.
        high[..size].fill(0);
        double(&mut high[size..2 * size], &low[8 * size..9 * size]);
        double_and_add(high, size);
    }

    /// Adds `factor` times the row to another one.
    pub(super) fn add_to(&self, row: &mut [u8], factor: u8) {
        if factor == 0 {
            return;
        }
        let times = |n: u8| &self.products[usize::from(n) * self.size..][..self.size];
        let (low, high) = (times(factor & 15), times(16 + (factor >> 4)));
        row.iter_mut().zip(low).zip(high).for_each(|((a, b), c)| *a ^= b ^ c);
    }
}

/// Fills places 2 to 15 from place 1.
fn double_and_add(products: &mut [u8], size: usize) {
    for n in 1..8 {
        let (known, new) = products.split_at_mut(2 * n * size);
        let (even, odd) = new[..2 * size].split_at_mut(size);
        double(even, &known[n * size..(n + 1) * size]);
        let sum = even.iter().zip(&known[size..2 * size]).map(|(a, b)| a ^ b);
        odd.iter_mut().zip(sum).for_each(|(a, b)| *a = b);
    }
}

/// 2 times each byte, without a table or a branch: compilers make vector instructions of it.
fn double(out: &mut [u8], of: &[u8]) {
    let twice = |b: &u8| (b << 1) ^ (((*b as i8) >> 7) as u8 & 0x1d);
    out.iter_mut().zip(of).for_each(|(a, b)| *a = twice(b));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_inverse() {
        assert!((1..=255).all(|a| multiply(a, inverse(a)) == 1));
        assert_eq!((multiply(0x80, 2), multiply(0, 7)), (0x1d, 0));
    }

    #[test]
    fn multiples_are_products() {
        let symbol: Vec<u8> = (0..=255).collect();
        let mut multiples = Multiples::new(symbol.len() + 10);
        multiples.set(&[0xff; 266]);
        multiples.set(&symbol);
        for factor in 0..=255 {
            let (mut one, mut other) = (vec![0x55; 256], vec![0x55; 256]);
            multiples.add_to(&mut one, factor);
            add_scaled(&mut other, &symbol, factor);
            assert_eq!(one, other, "factor {factor}");
            let mut scaled = symbol.clone();
            scale(&mut scaled, factor);
            other.iter_mut().for_each(|a| *a ^= 0x55);
            assert_eq!(scaled, other, "factor {factor}");
        }
    }
}
