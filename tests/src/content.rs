//! Test content: made by ffmpeg with `content/make.sh` once, and kept in `target/e2e` under a name that hashes its recipe.

use crate::client::Piece;
use crate::tools;
use anyhow::{Context, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Seconds of every VOD clip.
pub const CLIP_SECONDS: f64 = 36.0;
/// Frames of every VOD clip.
pub const CLIP_FRAMES: usize = 900;

/// The manifest of a VOD folder, as a path of the origin.
pub fn manifest(folder: &str) -> String {
    let name = if folder.starts_with("dash") { "manifest.mpd" } else { "master.m3u8" };
    format!("{folder}/{name}")
}

/// The folder with the content, made if it is not there yet. Safe to call from several processes at once.
///
/// # Errors
/// When ffmpeg fails or the disk is full; ffmpeg's own message is in the error.
pub fn make() -> anyhow::Result<PathBuf> {
    let work = tools::work_dir();
    let recipe = [include_str!("../content/make.sh"), include_str!("content.rs")].concat();
    let dir = work.join(format!("content-{}", &blake3::hash(recipe.as_bytes()).to_hex()[..12]));
    let lock = File::create(work.join("content.lock"))?;
    lock.lock().context("locking the content folder")?;
    if dir.is_dir() {
        return Ok(dir);
    }
    tools::say("making test content with ffmpeg (about 40 CPU seconds, once)");
    let partial = dir.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("content/make.sh");
    let made = Command::new("bash").arg(&script).arg(&partial).output().context("running bash")?;
    if !made.status.success() {
        bail!("{}: {}\n{}", script.display(), made.status, String::from_utf8_lossy(&made.stderr));
    }
    segment_base(&partial.join("dash-base"))?;
    fs::rename(&partial, &dir)?;
    Ok(dir)
}

/// Every request that a player could make below a presentation's folder: each file whole, and each byte range its manifests name.
/// Keys are left out: they never travel by multicast and are compared by playing.
///
/// # Errors
/// When the folder cannot be read.
pub fn pieces(folder: &Path) -> anyhow::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(relative) = folders.pop() {
        for entry in fs::read_dir(folder.join(&relative))? {
            let entry = entry?;
            let path = relative.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.to_string_lossy().into_owned();
            let ranges = match path.extension().and_then(|extension| extension.to_str()) {
                Some("key") => continue,
                Some("m3u8") => hls_ranges(&fs::read_to_string(entry.path())?, &relative),
                Some("mpd") => dash_ranges(&fs::read_to_string(entry.path())?),
                _ => Vec::new(),
            };
            pieces.push((name, None));
            pieces.extend(ranges);
        }
    }
    pieces.sort();
    Ok(pieces)
}

/// `BYTERANGE` attributes of EXT-X-MAP and EXT-X-BYTERANGE tags (RFC 8216 section 4.3.2.2), as ffmpeg writes them.
fn hls_ranges(playlist: &str, folder: &Path) -> Vec<Piece> {
    let quoted = |line: &str, name: &str| line.split_once(name)?.1.split('"').next().map(str::to_owned);
    let mut found = Vec::new();
    let mut pending = None;
    for line in playlist.lines() {
        if let Some(value) = line.strip_prefix("#EXT-X-BYTERANGE:") {
            pending = length_at_offset(value);
        } else if line.starts_with("#EXT-X-MAP:") {
            let range = quoted(line, "BYTERANGE=\"").as_deref().and_then(length_at_offset);
            found.extend(quoted(line, "URI=\"").zip(range));
        } else if !line.starts_with('#') {
            found.extend(pending.take().map(|range| (line.to_owned(), range)));
        }
    }
    found
        .into_iter()
        .map(|(file, range)| (folder.join(file).to_string_lossy().into_owned(), Some(range)))
        .collect()
}

/// `LENGTH@OFFSET` as first and last byte.
fn length_at_offset(text: &str) -> Option<(usize, usize)> {
    let (length, offset) = text.trim().split_once('@')?;
    let (length, offset): (usize, usize) = (length.parse().ok()?, offset.parse().ok()?);
    Some((offset, offset + length.checked_sub(1)?))
}

/// Every `…ange="a-b"` attribute of an MPD, with the BaseURL before it.
fn dash_ranges(mpd: &str) -> Vec<Piece> {
    let mut base = None;
    let mut found = Vec::new();
    for element in mpd.split('<') {
        if let Some(url) = element.strip_prefix("BaseURL>") {
            base = Some(url.to_owned());
        }
        for value in element.split("ange=\"").skip(1) {
            let range = value.split('"').next().and_then(|text| text.split_once('-'));
            let range = range.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
            found.extend(base.clone().zip(range.map(Some)));
        }
    }
    found
}

/// Writes an MPD with SegmentBase over the single-file tracks, which ffmpeg's DASH muxer cannot (it writes SegmentList).
fn segment_base(dir: &Path) -> anyhow::Result<()> {
    let mut representation = String::new();
    for (set, tracks) in [("video", &["v0", "v1"][..]), ("audio", &["a0"][..])] {
        representation.push_str(&format!(
            "  <AdaptationSet contentType=\"{set}\" mimeType=\"{set}/mp4\" subsegmentAlignment=\"true\" subsegmentStartsWithSAP=\"1\">\n"
        ));
        for track in tracks {
            let attributes = match *track {
                "v0" => {
                    "codecs=\"avc1.4d4015\" bandwidth=\"412000\" width=\"480\" height=\"270\" frameRate=\"25\""
                }
                "v1" => {
                    "codecs=\"avc1.4d400c\" bandwidth=\"126000\" width=\"256\" height=\"144\" frameRate=\"25\""
                }
                _ => "codecs=\"mp4a.40.2\" bandwidth=\"65000\" audioSamplingRate=\"48000\"",
            };
            let (first, last) = index_range(&fs::read(dir.join(format!("{track}.mp4")))?)?;
            let init_end = first - 1;
            representation.push_str(&format!(
                "   <Representation id=\"{track}\" {attributes}>\n    <BaseURL>{track}.mp4</BaseURL>\n    \
                 <SegmentBase indexRange=\"{first}-{last}\"><Initialization range=\"0-{init_end}\"/></SegmentBase>\n   </Representation>\n"
            ));
        }
        representation.push_str("  </AdaptationSet>\n");
    }
    let mpd = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\" \
         profiles=\"urn:mpeg:dash:profile:isoff-on-demand:2011\" minBufferTime=\"PT2S\" mediaPresentationDuration=\"PT{CLIP_SECONDS}S\">\n \
         <Period>\n{representation} </Period>\n</MPD>\n"
    );
    fs::write(dir.join("manifest.mpd"), mpd)?;
    Ok(())
}

/// First and last byte of the `sidx` box (ISO/IEC 14496-12 section 8.16.3) of a file.
fn index_range(file: &[u8]) -> anyhow::Result<(usize, usize)> {
    let mut at = 0;
    while let Some(header) = file.get(at..at + 8) {
        let size = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if &header[4..] == b"sidx" {
            return Ok((at, at + size - 1));
        }
        if size < 8 {
            break;
        }
        at += size;
    }
    bail!("no sidx box: the file is not segmented for SegmentBase")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_box_is_found_behind_others() {
        let mut file = vec![0, 0, 0, 12];
        file.extend_from_slice(b"ftypabcd");
        file.extend_from_slice(&[0, 0, 0, 10]);
        file.extend_from_slice(b"sidxXY");
        assert_eq!(index_range(&file).unwrap(), (12, 21));
        assert!(index_range(&file[..12]).is_err());
    }

    #[test]
    fn ranges_of_manifests_are_found() {
        let hls = "#EXTM3U\n#EXT-X-MAP:URI=\"a.mp4\",BYTERANGE=\"10@0\"\n#EXTINF:2,\n#EXT-X-BYTERANGE:5@10\na.mp4\n#EXTINF:2,\nb.mp4\n";
        let found = hls_ranges(hls, Path::new("v0"));
        assert_eq!(found, [("v0/a.mp4".into(), Some((0, 9))), ("v0/a.mp4".into(), Some((10, 14)))]);
        let mpd = "<BaseURL>x.mp4</BaseURL><Initialization range=\"0-4\"/><SegmentURL mediaRange=\"5-9\" indexRange=\"5-6\"/>";
        let ranges: Vec<_> = dash_ranges(mpd).into_iter().map(|(_, range)| range).collect();
        assert_eq!(ranges, [Some((0, 4)), Some((5, 9)), Some((5, 6))]);
    }
}
