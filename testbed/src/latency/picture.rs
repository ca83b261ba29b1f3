//! A picture with a clock in it: the wall clock's milliseconds as black and white cells along the upper edge, read again from
//! the player's picture by `tests/players/latency.mjs`. Below it something moves, so that there is something to encode.

use mahp_common::WallTime;

/// Width, pixels.
pub const WIDTH: usize = 640;
/// Height, pixels.
pub const HEIGHT: usize = 360;
/// Frames per second. A frame lasts whole microseconds: at 24, Chromium's buffer ends a microsecond before the segment now and then
/// (201.999999 s), and hls.js 1.7.4 waits for the rest of a segment that it has, until its parts have left the playlist 6 s later.
pub const RATE: u32 = 20;
/// Cells of the clock: 42 bits of milliseconds, most significant first, and 6 bits of a check sum.
pub const CELLS: usize = 48;
/// Width of a cell, pixels.
const CELL: usize = 13;
/// Height of the clock, pixels.
const CLOCK_HEIGHT: usize = 32;

/// What the cells show: bits of the time, and of its check sum.
pub fn cells(ms: u64) -> u64 {
    let ms = ms & ((1 << 42) - 1);
    let check = (0..7).fold(0, |sum, n| sum ^ ((ms >> (n * 6)) & 63)) ^ 0b10_1010;
    (ms << 6) | check
}

/// Paints one frame, planar YUV 4:2:0. `number`: of the frame.
pub fn paint(now: WallTime, number: u64, frame: &mut Vec<u8>) {
    frame.clear();
    frame.resize(WIDTH * HEIGHT * 3 / 2, 128);
    let shown = cells(now.unix_millis());
    let step = usize::try_from(number % 4096).unwrap_or(0) * 5;
    for (y, row) in frame.chunks_exact_mut(WIDTH).take(HEIGHT).enumerate() {
        if y < CLOCK_HEIGHT {
            for (x, pixel) in row.iter_mut().enumerate() {
                let cell = x / CELL;
                let lit = cell < CELLS && (shown >> (CELLS - 1 - cell)) & 1 == 1;
                *pixel = if lit { 235 } else { 16 };
            }
        } else {
            for (x, pixel) in row.iter_mut().enumerate() {
                *pixel = 60 + ((((x + step) / 16) ^ (y / 16)) % 8) as u8 * 16;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_can_be_read_from_the_picture() {
        let ms = 1_795_400_000_123;
        let mut frame = Vec::new();
        paint(WallTime::from_unix_millis(ms), 7, &mut frame);
        assert_eq!(frame.len(), WIDTH * HEIGHT * 3 / 2);
        let row = &frame[WIDTH * 16..];
        let read =
            (0..CELLS).fold(0, |bits, cell| (bits << 1) | u64::from(row[cell * CELL + CELL / 2] > 128));
        assert_eq!((read, read >> 6), (cells(ms), ms));
    }

    #[test]
    fn a_bit_that_is_read_wrong_is_noticed() {
        let good = cells(1_795_400_000_123);
        for bit in 6..48 {
            let bad = good ^ (1 << bit);
            assert_ne!(cells(bad >> 6), bad);
        }
    }
}
