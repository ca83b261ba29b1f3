// Plays a low-latency channel with hls.js or dash.js in headless Chromium and reads the clock that is painted into each frame
// (testbed/src/latency/picture.rs): glass to glass, on one machine with one clock.
// usage: node latency.mjs JOB.json RESULT.json
// JOB:    { chromium, url, player, delay, seconds, settle, config }
//         player: hls.js or dash.js; delay: seconds behind the live edge, of dash.js; config: of hls.js, besides lowLatencyMode
// RESULT: { frames: [[shown, painted], ...], parts: [{ name, asked, loaded, bytes }], stalls, stalled, played, wall, errors, version }
//         times in Unix milliseconds; frames of `settle` seconds after the first one are left out.
import { readFileSync, writeFileSync, createReadStream } from "node:fs";
import { createServer } from "node:http";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
const page = `<!doctype html><meta charset="utf-8"><title>latency</title>
<style>body{margin:0;background:#000}</style><video muted playsinline width="640" height="360"></video><script src="/hls.js"></script><script src="/dash.js"></script>`;
const scripts = { "/hls.js": "node_modules/hls.js/dist/hls.min.js", "/dash.js": "node_modules/dashjs/dist/modern/umd/dash.all.min.js" };

function serve() {
  const server = createServer((request, response) => {
    if (scripts[request.url]) {
      response.writeHead(200, { "content-type": "text/javascript" });
      createReadStream(join(here, scripts[request.url])).pipe(response);
    } else {
      response.writeHead(200, { "content-type": "text/html" }).end(page);
    }
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

// Runs in the page.
function play({ url, config, player, delay }) {
  const cells = 48, cell = 13, middle = 16;
  const video = document.querySelector("video");
  const canvas = new OffscreenCanvas(cells * cell, 1);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const now = () => performance.timeOrigin + performance.now();
  const m = (window.measured = { frames: [], parts: [], lists: [], stalls: 0, stalled: 0, errors: [], unread: 0, began: now(), from: null });
  let waitingSince = null;
  video.addEventListener("waiting", () => { if (m.frames.length && waitingSince === null) { waitingSince = now(); m.stalls += 1; } });
  video.addEventListener("playing", () => { if (waitingSince !== null) { m.stalled += now() - waitingSince; waitingSince = null; } });
  video.addEventListener("error", () => m.errors.push(`media error ${video.error?.code} ${video.error?.message}`));
  const frame = () => {
    context.drawImage(video, 0, middle, cells * cell, 1, 0, 0, cells * cell, 1);
    const pixels = context.getImageData(0, 0, cells * cell, 1).data;
    let ms = 0, check = 0;
    for (let i = 0; i < cells; i++) {
      const bit = pixels[(i * cell + (cell >> 1)) * 4] > 128 ? 1 : 0;
      if (i < 42) ms = ms * 2 + bit; else check = check * 2 + bit;
    }
    let sum = 0b101010;
    for (let n = 0, rest = ms; n < 7; n++, rest = Math.floor(rest / 64)) sum ^= rest % 64;
    if (sum === check) m.frames.push([now(), ms]); else m.unread += 1;
    if (m.from === null) m.from = { at: now(), time: video.currentTime };
    m.to = { at: now(), time: video.currentTime };
    video.requestVideoFrameCallback(frame);
  };
  video.requestVideoFrameCallback(frame);
  const name = (path) => path.split("?")[0].split("/").pop();
  const hlsJs = () => {
    // Without a rate to catch up at, hls.js stays as late as it started: half a second more, where the machine was busy then.
    const hls = (window.hls = new Hls({ maxLiveSyncPlaybackRate: 1.1, ...config, lowLatencyMode: true }));
    m.version = Hls.version;
    hls.on(Hls.Events.ERROR, (_, data) => m.errors.push(`${data.fatal ? "fatal " : ""}${data.type} ${data.details}`));
    // What was asked for and what came of it: by that, a stall can be told from the receiver's hold.
    hls.on(Hls.Events.LEVEL_LOADED, (_, { details, stats, networkDetails }) => {
      const query = new URL(networkDetails?.responseURL || details.url).search, { lastPartSn, lastPartIndex, ageHeader } = details;
      m.lists.push({
        query, last: `${lastPartSn}.${lastPartIndex}`, age: ageHeader,
        asked: performance.timeOrigin + stats.loading.start, loaded: performance.timeOrigin + stats.loading.end,
      });
    });
    hls.on(Hls.Events.FRAG_LOADED, (_, data) => {
      const piece = data.part ?? data.frag, stats = piece.stats;
      m.parts.push({
        name: name(piece.relurl), part: Boolean(data.part), bytes: stats.loaded,
        asked: performance.timeOrigin + stats.loading.start, loaded: performance.timeOrigin + stats.loading.end,
      });
    });
    hls.loadSource(url);
    hls.attachMedia(video);
  };
  // Whole segments: it reads them as they come and tells of their ends.
  const dashJs = () => {
    const dash = (window.dash = dashjs.MediaPlayer().create()), events = dashjs.MediaPlayer.events;
    m.version = dash.getVersion();
    dash.updateSettings({ streaming: { delay: { liveDelay: delay } } });
    dash.on(events.ERROR, (e) => m.errors.push(`dash ${e.error?.code} ${e.error?.message}`));
    dash.on(events.FRAGMENT_LOADING_COMPLETED, ({ request }) => {
      if (request.type !== "MediaSegment" || !request.url) return;
      const at = (date) => (date ? date.getTime() : now());
      m.parts.push({ name: name(request.url), part: false, bytes: request.bytesLoaded, asked: at(request.startDate), loaded: at(request.endDate) });
    });
    dash.initialize(video, url, true);
  };
  if (player === "dash.js") dashJs(); else hlsJs();
  video.play().catch((error) => m.errors.push(String(error)));
}

const [jobFile, resultFile] = process.argv.slice(2);
const job = JSON.parse(readFileSync(jobFile, "utf8"));
const server = await serve();
const browser = await chromium.launch({
  executablePath: job.chromium,
  args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--disable-gpu", "--mute-audio"],
});
try {
  const tab = await browser.newPage();
  await tab.goto(`http://127.0.0.1:${server.address().port}/`);
  await tab.evaluate(play, { url: job.url, config: job.config ?? {}, player: job.player, delay: job.delay });
  // From the first picture on, as long as it takes to come.
  await tab.waitForFunction(() => window.measured.frames.length > 0, null, { timeout: 60000 }).catch(() => {});
  await tab.waitForTimeout((job.seconds + job.settle) * 1000);
  const m = await tab.evaluate(() => window.measured);
  const first = m.frames.length ? m.frames[0][0] + job.settle * 1000 : 0;
  const result = {
    frames: m.frames.filter(([shown]) => shown >= first), parts: m.parts, lists: m.lists, stalls: m.stalls, stalled: m.stalled, unread: m.unread,
    played: m.to ? m.to.time - m.from.time : 0, wall: m.to ? (m.to.at - m.from.at) / 1000 : 0,
    startup: m.from ? m.from.at - m.began : null, errors: m.errors, version: m.version,
  };
  writeFileSync(resultFile, JSON.stringify(result));
} finally {
  await browser.close();
  server.close();
}
