//! Where a CMAF segment can be cut while it is still being made (ISO/IEC 23000-19 section 7.3.2.3): a chunk ends with its `mdat`
//! box, and what comes before that (`styp`, `prft`, `emsg`, `moof`) belongs to it. Only the headers of the outermost boxes
//! (ISO/IEC 14496-12 section 4.2) are read.

use crate::limits;
use bytes::{Bytes, BytesMut};

/// Cuts bytes as they come. What has no boxes is not cut.
#[derive(Clone, Debug, Default)]
pub struct Cutter {
    held: BytesMut,
    /// Where the next box begins in what is held.
    next_box: usize,
    /// There is no further box whose end is known.
    lost: bool,
}

impl Cutter {
    /// More of the segment.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next chunk that is complete.
    pub fn chunk(&mut self) -> Option<Bytes> {
        while !self.lost {
            let header = self.held.get(self.next_box..)?;
            let (kind, size) = match box_header(header)? {
                Ok(header) => header,
                Err(NoBox) => {
                    self.lost = true;
                    return None;
                }
            };
            if header.len() < size {
                return None;
            }
            self.next_box += size;
            if kind == *b"mdat" {
                let end = std::mem::take(&mut self.next_box);
                return Some(self.held.split_to(end).freeze());
            }
        }
        None
    }
}

/// No box begins here, or one that goes on to the end of the file.
struct NoBox;

/// Type and size of the box that begins here; `None`: more bytes are needed.
fn box_header(bytes: &[u8]) -> Option<Result<([u8; 4], usize), NoBox>> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let (header, size) = match u32::from_be_bytes(*size) {
        1 => (16, u64::from_be_bytes(*rest.first_chunk::<8>()?)),
        size => (8, u64::from(size)),
    };
    if size < header || size > limits::OBJECT_BYTES {
        return Some(Err(NoBox));
    }
    // At most the limit of an object.
    Some(usize::try_from(size).map(|size| (*kind, size)).map_err(|_| NoBox))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn a_box(kind: &[u8; 4], payload: usize, wide: bool) -> Vec<u8> {
        let mut out = Vec::new();
        if wide {
            out.extend_from_slice(&1u32.to_be_bytes());
            out.extend_from_slice(kind);
            out.extend_from_slice(&(payload as u64 + 16).to_be_bytes());
        } else {
            out.extend_from_slice(&(payload as u32 + 8).to_be_bytes());
            out.extend_from_slice(kind);
        }
        out.resize(out.len() + payload, 7);
        out
    }

    fn chunks_of(pieces: &[&[u8]]) -> (Vec<Bytes>, Cutter) {
        let (mut cutter, mut out) = (Cutter::default(), Vec::new());
        for piece in pieces {
            cutter.push(piece);
            while let Some(chunk) = cutter.chunk() {
                out.push(chunk);
            }
        }
        (out, cutter)
    }

    #[test]
    fn a_chunk_ends_with_its_mdat() {
        let first =
            [a_box(b"styp", 16, false), a_box(b"moof", 99, false), a_box(b"mdat", 1000, true)].concat();
        let second =
            [a_box(b"prft", 24, false), a_box(b"moof", 80, false), a_box(b"mdat", 0, false)].concat();
        let segment = [&first[..], &second, &a_box(b"mfra", 9, false)].concat();
        let (chunks, rest) = chunks_of(&[&segment]);
        assert_eq!((chunks, rest.held.len()), (vec![Bytes::from(first), Bytes::from(second)], 17));
    }

    #[test]
    fn what_has_no_boxes_is_not_cut() {
        for bytes in
            [&[0x47; 1880][..], &a_box(b"mdat", 9, false)[4..], &[0, 0, 0, 0, b'm', b'd', b'a', b't', 1]]
        {
            let (chunks, rest) = chunks_of(&[bytes]);
            assert!(chunks.is_empty() && rest.lost && rest.held.len() == bytes.len());
        }
    }

    proptest! {
        #[test]
        fn chunks_are_the_same_however_the_bytes_come(
            boxes in proptest::collection::vec((0..3usize, 0..200usize, any::<bool>()), 1..20),
            cuts in proptest::collection::vec(0..4000usize, 0..20),
        ) {
            let kinds = [b"moof", b"mdat", b"free"];
            let segment: Vec<u8> =
                boxes.iter().flat_map(|(kind, size, wide)| a_box(kinds[*kind], *size, *wide)).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(segment.len())).collect();
            cuts.extend([0, segment.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &segment[w[0]..w[1]]).collect();
            let (chunks, rest) = chunks_of(&pieces);
            prop_assert_eq!(&chunks, &chunks_of(&[&segment]).0);
            prop_assert_eq!(chunks.len(), boxes.iter().filter(|b| b.0 == 1).count());
            prop_assert_eq!([chunks.concat(), rest.held.to_vec()].concat(), segment);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (chunks, rest) = chunks_of(&[&bytes]);
            prop_assert_eq!([chunks.concat(), rest.held.to_vec()].concat(), bytes);
        }
    }
}
