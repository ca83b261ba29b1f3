#!/bin/sh
# Makes the demo clip: hi.mp4, lo.mp4, audio.mp4 (16 s, CMAF fragments of 2 s, one track each).
#
# Everything in it is generated: a moving test pattern, a clock and frame counter, tones. Needs ffmpeg 5 or newer with
# libx264 and libfreetype; only the maker of the clip needs it, the testbed embeds the results.
# Why 16 s: 400 video frames in 8 closed GOPs, and exactly 750 AAC frames of 1024 samples at 48 kHz, so that the loop
# has no gap. The audio is cut out of the middle of a longer run, so the encoder's priming is not in it.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

overlay() { # label, height of the big text
    printf '%s' "drawtext=font=DejaVu Sans Mono:fontsize=$2:fontcolor=white:box=1:boxcolor=black@0.75:boxborderw=8"
    printf '%s' ":x=(w-tw)/2:y=h*0.42:text='%{pts\\:hms}  %{eif\\:n\\:d\\:3}'"
    printf '%s' ",drawtext=font=DejaVu Sans:fontsize=$(($2 * 2 / 3)):fontcolor=white:box=1:boxcolor=black@0.75:boxborderw=6"
    printf '%s' ":x=(w-tw)/2:y=h*0.62:text='MAHP  $1'"
}

video() { # name, size, bit rate in kbit/s, label, text height
    ffmpeg -v error -y -f lavfi -i "testsrc2=size=$2:rate=25:duration=16" -vf "$(overlay "$4" "$5")" \
        -c:v libx264 -profile:v main -preset veryslow -threads 1 -b:v "$3k" -maxrate "$(($3 * 9 / 8))k" -bufsize "$(($3 * 2))k" \
        -bf 0 -g 50 -keyint_min 50 -sc_threshold 0 -flags +cgop -pix_fmt yuv420p -an -fflags +bitexact -flags:v +bitexact "$tmp/$1.mp4"
}

video hi 640x360 330 "640x360" 34
video lo 320x180 110 "320x180" 20

# A chord that changes every 4 s, and a beep each second (higher at the start of each segment).
ffmpeg -v error -y -f lavfi -i "aevalsrc=exprs='0.10*sin(2*PI*(220+55*mod(floor(t/4)\,4))*t)+0.07*sin(2*PI*(330+55*mod(floor(t/4)\,4))*t)+0.25*lt(mod(t\,1)\,0.08)*sin(2*PI*(880+440*lt(mod(t\,2)\,1))*t)':s=48000:d=48" \
    -c:a aac -b:a 64k -fflags +bitexact -flags:a +bitexact "$tmp/long.mp4"
ffmpeg -v error -y -ss 16 -i "$tmp/long.mp4" -t 16 -c copy -fflags +bitexact "$tmp/audio.mp4"

for name in hi lo audio; do
    mkdir "$tmp/$name"
    ffmpeg -v error -y -i "$tmp/$name.mp4" -c copy -map_metadata -1 -fflags +bitexact -f dash -seg_duration 2 -use_template 1 \
        -use_timeline 0 -init_seg_name init.mp4 -media_seg_name 'seg-$Number%02d$.m4s' "$tmp/$name/manifest.mpd"
    cat "$tmp/$name/init.mp4" "$tmp/$name"/seg-*.m4s >"$name.mp4"
done
ls -l hi.mp4 lo.mp4 audio.mp4
