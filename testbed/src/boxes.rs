//! Just enough of the ISO base media file format (ISO/IEC 14496-12) to cut a fragmented file into CMAF segments and to move
//! a segment on the timeline: `mfhd`, `tfdt` and `sidx` are edited in place, so sizes and offsets stay what they are.

use std::ops::Range;

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a usable MP4 file: {0}")]
pub struct BoxError(pub &'static str);

/// One box: its four-character type and where it and its content stand in the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `moof`, `mdat` ...
    pub kind: [u8; 4],
    /// Header and content.
    pub whole: Range<usize>,
    /// Content only.
    pub content: Range<usize>,
}

/// The boxes that stand one after the other in `within`.
pub fn children(file: &[u8], within: Range<usize>) -> Result<Vec<Found>, BoxError> {
    let mut found = Vec::new();
    let mut at = within.start;
    while at < within.end {
        let size = usize::try_from(read_u32(file, at)?).map_err(|_| BoxError("box size"))?;
        let kind = array::<4>(file, at + 4)?;
        // 0 (to the end of the file) and 1 (64-bit size) do not occur in segments of a few seconds.
        if size < 8 || size > within.end - at {
            return Err(BoxError("a box is larger than what holds it"));
        }
        found.push(Found { kind, whole: at..at + size, content: at + 8..at + size });
        at += size;
    }
    Ok(found)
}

/// The first box of this path (`["moof", "traf", "tfdt"]`) in `within`.
pub fn find(file: &[u8], within: Range<usize>, path: &[&[u8; 4]]) -> Result<Option<Found>, BoxError> {
    let Some((first, rest)) = path.split_first() else { return Err(BoxError("empty path")) };
    for found in children(file, within)? {
        if found.kind != **first {
            continue;
        }
        if rest.is_empty() {
            return Ok(Some(found));
        }
        return find(file, found.content, rest);
    }
    Ok(None)
}

/// Where a movie fragment stands on the timeline of its track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// `mfhd.sequence_number`.
    pub sequence: u32,
    /// `tfdt.baseMediaDecodeTime`, in the track's timescale.
    pub decode_time: u64,
}

/// Reads the timing of a segment with one movie fragment.
pub fn timing(segment: &[u8]) -> Result<Timing, BoxError> {
    let places = Places::of(segment)?;
    let decode_time = read_u64(segment, places.decode_time)?;
    Ok(Timing { sequence: read_u32(segment, places.sequence)?, decode_time })
}

/// Rewrites the timing of a segment with one movie fragment; `sidx.earliest_presentation_time` moves along.
pub fn set_timing(segment: &mut [u8], to: Timing) -> Result<(), BoxError> {
    let places = Places::of(segment)?;
    let before = read_u64(segment, places.decode_time)?;
    if let Some(at) = places.earliest {
        let lead = read_u64(segment, at)?.wrapping_sub(before);
        write(segment, at, &to.decode_time.wrapping_add(lead).to_be_bytes())?;
    }
    write(segment, places.sequence, &to.sequence.to_be_bytes())?;
    write(segment, places.decode_time, &to.decode_time.to_be_bytes())
}

/// Sum of the sample durations of a segment, in the track's timescale (default sample durations of `tfhd` only: what the
/// clip's packager writes).
pub fn duration(segment: &[u8]) -> Result<u64, BoxError> {
    let all = 0..segment.len();
    let header = find(segment, all.clone(), &[b"moof", b"traf", b"tfhd"])?.ok_or(BoxError("no tfhd"))?;
    let run = find(segment, all, &[b"moof", b"traf", b"trun"])?.ok_or(BoxError("no trun"))?;
    let flags = read_u32(segment, header.content.start)?;
    if flags & 0x8 == 0 || read_u32(segment, run.content.start)? & 0x100 != 0 {
        return Err(BoxError("sample durations are not the default of tfhd"));
    }
    // Optional fields before it: base_data_offset (0x1, 8 bytes), sample_description_index (0x2, 4 bytes).
    let skip = if flags & 0x1 != 0 { 8 } else { 0 } + if flags & 0x2 != 0 { 4 } else { 0 };
    let each = read_u32(segment, header.content.start + 8 + skip)?;
    Ok(u64::from(each) * u64::from(read_u32(segment, run.content.start + 4)?))
}

/// `mdhd.timescale` of the first track.
pub fn timescale(init: &[u8]) -> Result<u32, BoxError> {
    let header =
        find(init, 0..init.len(), &[b"moov", b"trak", b"mdia", b"mdhd"])?.ok_or(BoxError("no mdhd"))?;
    let long = array::<1>(init, header.content.start)? == [1];
    read_u32(init, header.content.start + if long { 20 } else { 12 })
}

/// Byte offsets of the fields that place a segment in time.
struct Places {
    sequence: usize,
    decode_time: usize,
    earliest: Option<usize>,
}

impl Places {
    fn of(segment: &[u8]) -> Result<Places, BoxError> {
        let all = 0..segment.len();
        let mfhd = find(segment, all.clone(), &[b"moof", b"mfhd"])?.ok_or(BoxError("no mfhd"))?;
        let tfdt = find(segment, all.clone(), &[b"moof", b"traf", b"tfdt"])?.ok_or(BoxError("no tfdt"))?;
        if array::<1>(segment, tfdt.content.start)? != [1] {
            return Err(BoxError("tfdt is not version 1, so an endless timeline does not fit"));
        }
        let earliest = match find(segment, all, &[b"sidx"])? {
            None => None,
            Some(s) if array::<1>(segment, s.content.start)? == [1] => Some(s.content.start + 12),
            Some(_) => return Err(BoxError("sidx is not version 1")),
        };
        Ok(Places { sequence: mfhd.content.start + 4, decode_time: tfdt.content.start + 4, earliest })
    }
}

fn array<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N], BoxError> {
    let bytes = at.checked_add(N).and_then(|end| file.get(at..end));
    bytes.and_then(|b| b.try_into().ok()).ok_or(BoxError("cut short"))
}

fn read_u32(file: &[u8], at: usize) -> Result<u32, BoxError> {
    Ok(u32::from_be_bytes(array(file, at)?))
}

fn read_u64(file: &[u8], at: usize) -> Result<u64, BoxError> {
    Ok(u64::from_be_bytes(array(file, at)?))
}

fn write(file: &mut [u8], at: usize, value: &[u8]) -> Result<(), BoxError> {
    let place = file.get_mut(at..at + value.len()).ok_or(BoxError("cut short"))?;
    place.copy_from_slice(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> Vec<u8> {
        let clip = crate::clip::Clip::embedded();
        clip.tracks()[0].fragments()[3].bytes.to_vec()
    }

    #[test]
    fn editing_changes_only_the_fields_it_names() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let original = segment();
        let places = Places::of(&original).unwrap();
        let earliest = places.earliest.unwrap();
        let fields = [
            places.sequence..places.sequence + 4,
            places.decode_time..places.decode_time + 8,
            earliest..earliest + 8,
        ];
        for _ in 0..200 {
            let to = Timing { sequence: rng.u32(..), decode_time: rng.u64(..u64::MAX / 2) };
            let mut edited = original.clone();
            set_timing(&mut edited, to).unwrap();
            assert_eq!(timing(&edited).unwrap(), to);
            assert_eq!(read_u64(&edited, earliest).unwrap(), to.decode_time);
            assert_eq!(duration(&edited), duration(&original));
            for (at, (a, b)) in original.iter().zip(&edited).enumerate() {
                assert!(a == b || fields.iter().any(|f| f.contains(&at)), "byte {at} changed");
            }
            set_timing(&mut edited, timing(&original).unwrap()).unwrap();
            assert_eq!(edited, original, "there and back");
        }
    }

    #[test]
    fn damaged_files_are_refused_without_panic() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let original = segment();
        for _ in 0..2000 {
            let mut bytes = original[..rng.usize(..512)].to_vec();
            for _ in 0..rng.usize(..4) {
                if let Some(b) = bytes.get_mut(rng.usize(..512)) {
                    *b = rng.u8(..);
                }
            }
            let _ = (timing(&bytes), duration(&bytes), timescale(&bytes));
            let _ = set_timing(&mut bytes, Timing { sequence: 1, decode_time: 1 });
        }
        assert!(timing(&original[..100]).is_err());
        assert!(timing(&[]).is_err());
    }
}
