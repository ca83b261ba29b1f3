#!/bin/bash
# Makes the test content: one short clip in every packaging that the end-to-end tests play.
# usage: make.sh OUT-DIR   (OUT-DIR must not exist; takes about 40 CPU seconds and 65 MB)
# SegmentBase MPDs need byte offsets and are written by tests/src/content.rs afterwards.
set -euo pipefail
out=$1
mkdir -p "$out"
cd "$out"
ff() { ffmpeg -nostdin -hide_banner -loglevel error -y "$@"; }

# --- mezzanine: two video rungs, two languages; closed GOPs of 2 s so that every packaging can copy -------------------------
seconds=36
gop=(-g 50 -keyint_min 50 -sc_threshold 0)
video() { # SIZE RATE OUT SECONDS [extra]
  local size=$1 rate=$2 to=$3 long=$4
  ff -f lavfi -i "testsrc2=size=$size:rate=25:duration=$long" -c:v libx264 -preset superfast -profile:v main -pix_fmt yuv420p \
    -b:v "$rate" -maxrate "$rate" -bufsize "$rate" "${gop[@]}" "$to"
}
audio() { # FREQUENCY LANGUAGE OUT SECONDS
  ff -f lavfi -i "sine=frequency=$1:beep_factor=4:sample_rate=48000:duration=$4" -ac 2 -c:a aac -b:a 64k -metadata:s:a:0 "language=$2" "$3"
}
mkdir mezz
video 480x270 400k mezz/v0.mp4 $seconds
video 256x144 120k mezz/v1.mp4 $seconds
# A little shorter than the pictures: with its priming frame it would outlast them and become a DASH segment of one frame that
# starts where mediaPresentationDuration (which ffmpeg rounds to 0.1 s) ends. Only ffmpeg asks for such a segment.
audio 440 eng mezz/a0.mp4 35.8
audio 660 deu mezz/a1.mp4 35.8
av0=(-i mezz/v0.mp4 -i mezz/a0.mp4 -map 0:v -map 1:a -c copy)
av1=(-i mezz/v1.mp4 -i mezz/a0.mp4 -map 0:v -map 1:a -c copy)
codecs0='avc1.4d4015,mp4a.40.2' codecs1='avc1.4d400c,mp4a.40.2'

master() { # DIR: master playlist over v0/index.m3u8 and v1/index.m3u8, written by hand because ffmpeg omits CODECS when copying
  cat >"$1/master.m3u8" <<M3U
#EXTM3U
#EXT-X-VERSION:6
#EXT-X-INDEPENDENT-SEGMENTS
#EXT-X-STREAM-INF:BANDWIDTH=700000,AVERAGE-BANDWIDTH=500000,RESOLUTION=480x270,FRAME-RATE=25.000,CODECS="$codecs0"
v0/index.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=300000,AVERAGE-BANDWIDTH=220000,RESOLUTION=256x144,FRAME-RATE=25.000,CODECS="$codecs1"
v1/index.m3u8
M3U
}
hls() { # DIR, then ffmpeg's HLS options: both rungs, VOD
  local dir=$1 rung; shift
  for rung in 0 1; do
    mkdir -p "$dir/v$rung"
    local -n av=av$rung
    (cd "$dir/v$rung" && ff "${av[@]//mezz\//../../mezz/}" -f hls -hls_time 2 -hls_playlist_type vod -hls_list_size 0 "$@" index.m3u8)
  done
  master "$dir"
}

# --- HLS --------------------------------------------------------------------------------------------------------------------
hls hls-ts -hls_segment_filename 'seg%03d.ts'
hls hls-fmp4 -hls_segment_type fmp4 -hls_fmp4_init_filename init.mp4 -hls_segment_filename 'seg%03d.m4s'
hls hls-ts-range -hls_flags single_file -hls_segment_filename all.ts
hls hls-fmp4-range -hls_flags single_file -hls_segment_type fmp4 -hls_segment_filename all.mp4
mkdir hls-aes
printf '0123456789abcdef' >hls-aes/clip.key
printf '../clip.key\n%s/hls-aes/clip.key\n00112233445566778899aabbccddeeff\n' "$PWD" >mezz/keyinfo
hls hls-aes -hls_key_info_file "$PWD/mezz/keyinfo" -hls_segment_filename 'seg%03d.ts'

# Alternate audio in two languages and WebVTT subtitles.
mkdir -p hls-alt/{v0,v1,eng,deu,sub}
alt() { (cd "hls-alt/$2" && ff -i "../../mezz/$1.mp4" -c copy -f hls -hls_time 2 -hls_playlist_type vod -hls_list_size 0 \
  -hls_segment_type fmp4 -hls_fmp4_init_filename init.mp4 -hls_segment_filename 'seg%03d.m4s' index.m3u8); }
alt v0 v0; alt v1 v1; alt a0 eng; alt a1 deu
{
  printf '#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:VOD\n'
  for ((i = 0; i < seconds / 6; i++)); do
    printf '#EXTINF:6.000,\nsub%03d.vtt\n' "$i"
    {
      printf 'WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:0,LOCAL:00:00:00.000\n\n'
      for ((s = i * 6; s < i * 6 + 6; s += 2)); do
        printf '00:00:%02d.000 --> 00:00:%02d.900\nSubtitle at %d seconds\n\n' "$s" "$((s + 1))" "$s"
      done
    } >"hls-alt/sub/$(printf 'sub%03d.vtt' "$i")"
  done
  printf '#EXT-X-ENDLIST\n'
} >hls-alt/sub/index.m3u8
cat >hls-alt/master.m3u8 <<M3U
#EXTM3U
#EXT-X-VERSION:6
#EXT-X-INDEPENDENT-SEGMENTS
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="aud",NAME="English",LANGUAGE="en",DEFAULT=YES,AUTOSELECT=YES,CHANNELS="2",URI="eng/index.m3u8"
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="aud",NAME="Deutsch",LANGUAGE="de",DEFAULT=NO,AUTOSELECT=YES,CHANNELS="2",URI="deu/index.m3u8"
#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="sub",NAME="English",LANGUAGE="en",DEFAULT=YES,AUTOSELECT=YES,FORCED=NO,URI="sub/index.m3u8"
#EXT-X-STREAM-INF:BANDWIDTH=700000,AVERAGE-BANDWIDTH=500000,RESOLUTION=480x270,FRAME-RATE=25.000,CODECS="$codecs0",AUDIO="aud",SUBTITLES="sub"
v0/index.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=300000,AVERAGE-BANDWIDTH=220000,RESOLUTION=256x144,FRAME-RATE=25.000,CODECS="$codecs1",AUDIO="aud",SUBTITLES="sub"
v1/index.m3u8
M3U

# --- DASH -------------------------------------------------------------------------------------------------------------------
# -ignore_editlist: without it ffmpeg's $Time$ of copied AAC is the file's priming offset off the MPD's.
dash() { # DIR, then ffmpeg's DASH options
  local dir=$1; shift
  mkdir -p "$dir"
  (cd "$dir" && ff -ignore_editlist 1 -i ../mezz/v0.mp4 -ignore_editlist 1 -i ../mezz/v1.mp4 -ignore_editlist 1 -i ../mezz/a0.mp4 \
    -map 0:v -map 1:v -map 2:a -c copy -f dash -seg_duration 2 -adaptation_sets 'id=0,streams=v id=1,streams=a' "$@" manifest.mpd)
}
dash dash-number -use_template 1 -use_timeline 0
dash dash-time -use_template 1 -use_timeline 1 -media_seg_name 'chunk-$RepresentationID$-$Time$.m4s'
dash dash-list -single_file 1
mkdir dash-base
for track in v0 v1 a0; do
  ff -i mezz/$track.mp4 -c copy -movflags +dash+global_sidx+frag_keyframe -frag_duration 2000000 dash-base/$track.mp4
done

# --- sources of the live channels: longer than any test, copied in real time by ffmpeg -re -----------------------------------
live=300
mkdir live-source
video 480x270 400k live-source/v0.mp4 $live
video 320x180 150k live-source/v1.mp4 $live
audio 550 eng live-source/a0.mp4 $live
