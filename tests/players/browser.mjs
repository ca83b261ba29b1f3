// Drives real browser players in headless Chromium and measures how they play.
// usage: node browser.mjs JOB.json RESULT.json
// JOB:    { chromium, shots, seconds, jobs: [ { name, player: hls|dash|shaka|native|page, url, files?, channel? } ] }
//         All jobs play side by side. Player `page` opens the URL, which is a receiver's own page, and presses Play of `channel`.
//         `files`: the folder of the manifest on the origin's disk; every media body that the page got is compared with it.
// RESULT: [ { name, played, wall, stalls, ... } ], see measure() and summary() below.
// The page is served from a port of its own, so every media request is cross-origin: CORS is under test too.
import { readFileSync, writeFileSync, createReadStream } from "node:fs";
import { createServer } from "node:http";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
const libraries = {
  "/hls.js": "node_modules/hls.js/dist/hls.min.js",
  "/dash.js": "node_modules/dashjs/dist/modern/umd/dash.all.min.js",
  "/shaka.js": "node_modules/shaka-player/dist/shaka-player.compiled.js",
};

// With one player's library only: to parse all of them on every page costs more than playing.
const pageHtml = (player) => `<!doctype html><meta charset="utf-8"><title>player</title>
<style>body{margin:0;background:#123;color:#fff;font:16px sans-serif}video{width:240px;height:135px;background:#000}</style>
<video muted playsinline crossorigin="anonymous"></video><pre id="log"></pre>${libraries[`/${player}.js`] ? `<script src="/${player}.js"></script>` : ""}`;

function servePages() {
  const server = createServer((request, response) => {
    const path = request.url.split("?")[0];
    if (path === "/favicon.ico") { response.writeHead(204).end(); return; }
    if (libraries[path]) {
      response.writeHead(200, { "content-type": "text/javascript" });
      createReadStream(join(here, libraries[path])).pipe(response);
      return;
    }
    response.writeHead(200, { "content-type": "text/html" }).end(pageHtml(path.slice(1)));
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

// Runs in the page: counts what a viewer would see. Installed before the player starts.
function measure() {
  const video = document.querySelector("video");
  const m = (window.measured = {
    started: null, startup: null, stalls: 0, stalled: 0, freezes: 0, jumps: 0, errors: [], warnings: [], samples: [], frames: 0, ended: false,
  });
  const began = performance.now();
  let waitingSince = null, last = null, advanced = null, frozen = false;
  let ready = false;
  video.addEventListener("playing", () => {
    ready = true;
    if (waitingSince !== null) { m.stalled += (performance.now() - waitingSince) / 1000; waitingSince = null; }
  });
  video.addEventListener("waiting", () => {
    if (m.started === null || m.done || video.ended || waitingSince !== null) return;
    waitingSince = performance.now();
    m.stalls += 1;
  });
  video.addEventListener("ended", () => { m.ended = true; });
  video.addEventListener("error", () => m.errors.push(`media error ${video.error?.code} ${video.error?.message}`));
  const frame = () => { m.frames += 1; video.requestVideoFrameCallback(frame); };
  video.requestVideoFrameCallback(frame);
  setInterval(() => {
    const at = performance.now(), time = video.currentTime, b = video.buffered;
    const ahead = b.length ? b.end(b.length - 1) - time : 0;
    if (last && time !== last.time) { advanced = at; frozen = false; }
    // The play begins when the clock runs: some players say "playing" and fill their buffer first.
    if (m.started === null && ready && last && time - last.time < 1 && time - last.time > (at - last.at) / 2000) {
      m.started = advanced = at;
      m.startup = (at - began) / 1000;
      m.from = time;
    }
    if (m.started !== null && !m.done) {
      // From before the first picture the clock jumps to where the player wants to be.
      if (last && last.at >= m.started && time - last.time - (at - last.at) / 1000 > 0.4) m.jumps += 1;
      // A clock that stands still for a second is a stall as well: players do not always send the event.
      if (at - advanced > 1000 && !video.ended && waitingSince === null && !frozen) { frozen = true; m.freezes += 1; }
      m.samples.push([(at - m.started) / 1000, time, ahead].map((x) => Math.round(x * 100) / 100));
    }
    last = { at, time };
  }, 200);
}

// Runs in the page: starts the named player on the URL.
async function play({ player, url }) {
  const video = document.querySelector("video"), m = window.measured;
  if (player === "hls") {
    // Where there is a choice: German, with English subtitles.
    const hls = new Hls({ audioPreference: { lang: "de" }, subtitlePreference: { lang: "en" } });
    hls.on(Hls.Events.ERROR, (_, e) => (e.fatal ? m.errors : m.warnings).push(`${e.type} ${e.details} ${e.response?.code ?? ""}`));
    hls.loadSource(url);
    hls.attachMedia(video);
    window.player = hls;
  } else if (player === "dash") {
    const dash = dashjs.MediaPlayer().create();
    dash.updateSettings({ streaming: { delay: { liveDelay: 8 }, liveCatchup: { enabled: false }, utcSynchronization: { enabled: false } } });
    dash.on(dashjs.MediaPlayer.events.ERROR, (e) => m.errors.push(`dash ${e.error?.code} ${e.error?.message}`));
    dash.initialize(video, url, true);
    window.player = dash;
  } else if (player === "shaka") {
    shaka.polyfill.installAll();
    const p = new shaka.Player();
    await p.attach(video);
    // By default it starts with the first segment and runs dry when the second takes a moment, as on a busy machine.
    p.configure({
      manifest: { defaultPresentationDelay: 8, dash: { ignoreSuggestedPresentationDelay: true } },
      streaming: { rebufferingGoal: 4, bufferingGoal: 20 },
    });
    p.addEventListener("error", (e) => (e.detail.severity === 2 ? m.errors : m.warnings).push(`shaka ${e.detail.code} ${e.detail.data}`));
    window.player = p;
    await p.load(url).catch((e) => m.errors.push(`shaka load ${e.code} ${e.data}`));
  } else {
    video.src = url;
  }
  video.muted = true;
  video.play().catch(() => {});
}

// Runs in the page: the language that hls.js plays, and the subtitle that is on the screen; null for other players.
function tracks() {
  const hls = window.player;
  if (!window.Hls || !(hls instanceof Hls)) return null;
  const shown = [...document.querySelector("video").textTracks].filter((track) => track.mode === "showing");
  const cues = shown.flatMap((track) => [...(track.activeCues ?? [])].map((cue) => cue.text));
  return { audio: hls.audioTracks[hls.audioTrack]?.lang ?? "", cue: cues.join(" ") };
}

// Runs in the page: what the picture looks like now, as a coarse checksum and its contrast.
function picture() {
  const video = document.querySelector("video"), canvas = document.createElement("canvas");
  canvas.width = 64; canvas.height = 36;
  const g = canvas.getContext("2d");
  try {
    g.drawImage(video, 0, 0, 64, 36);
    const d = g.getImageData(0, 0, 64, 36).data;
    let sum = 0, squares = 0, check = 0;
    for (let i = 0; i < d.length; i += 4) { sum += d[i]; squares += d[i] * d[i]; check = (check * 31 + d[i] + d[i + 1] * 3) >>> 0; }
    const n = d.length / 4;
    return { contrast: Math.sqrt(squares / n - (sum / n) ** 2), check, width: video.videoWidth, height: video.videoHeight };
  } catch (e) {
    return { contrast: 0, check: 0, error: String(e) };
  }
}

// Runs in the page: what a cross-origin script may read of the media responses.
async function readable(url) {
  const response = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(10000) });
  const seen = {};
  for (const name of ["date", "age", "etag", "cache-status", "content-length"]) seen[name] = response.headers.get(name);
  const host = new URL(url).host;
  // A request that the player gave up has neither status nor times.
  const timed = performance.getEntriesByType("resource").filter((e) => new URL(e.name).host === host && e.responseStatus > 0);
  return { headers: seen, requests: timed.length, timed: timed.filter((e) => e.responseStart > 0 && e.requestStart > 0).length };
}

// Compares a media body with the file that the origin has: null when it is no media, else { path, bytes, same }.
async function compare(response, job) {
  const { pathname, host } = new URL(response.url());
  const base = new URL(".", job.url);
  const type = response.headers()["content-type"] ?? "";
  if (host !== base.host || response.status() >= 300 || /mpegurl|dash/.test(type)) return null;
  // Below the manifest; or, where the origin redirects to another folder, below one of the same name.
  const folder = [base.pathname, `/${basename(job.files)}/`].find((folder) => pathname.includes(folder));
  if (!folder) return null;
  // A looped VOD names its segments by pass; see src/looped.rs.
  const path = pathname.slice(pathname.indexOf(folder) + folder.length).replace(/pass\d+-/, "");
  const body = await response.body();
  const file = readFileSync(join(job.files, path));
  const range = /bytes (\d+)-(\d+)/.exec(response.headers()["content-range"] ?? "");
  const want = range ? file.subarray(Number(range[1]), Number(range[2]) + 1) : file;
  return { path: path + (range ? ` ${range[0]}` : ""), bytes: body.length, same: body.equals(want) };
}

// Every response but those of our own page.
function watchResponses(page, job, pageHost) {
  const seen = [];
  page.on("response", (response) => {
    const url = new URL(response.url());
    if (url.host === pageHost || !url.protocol.startsWith("http")) return;
    const h = response.headers();
    // A body that the player gave up, or that the browser keeps for itself, cannot be compared.
    const compared = compare(response, job).catch(() => null);
    const range = response.request().headers().range ?? "";
    const part = /bytes (\d+)-(\d+)/.exec(h["content-range"] ?? "");
    const bytes = part ? part[2] - part[1] + 1 : Number(h["content-length"] ?? 0);
    seen.push({ url: response.url(), range, status: response.status(), bytes, from: h["cache-status"] ?? "", compared });
  });
  return seen;
}

// Runs in the page: titles of the plots on which nothing is drawn in colour.
function emptyPlots() {
  const isColour = (d, i) => d[i + 3] > 128 && Math.max(d[i], d[i + 1], d[i + 2]) - Math.min(d[i], d[i + 1], d[i + 2]) > 60;
  return [...document.querySelectorAll("#plots figure")].filter((figure) => {
    const canvas = figure.querySelector("canvas");
    const d = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    for (let i = 0; i < d.length; i += 4) if (isColour(d, i)) return false;
    return true;
  }).map((figure) => figure.querySelector("b")?.textContent ?? "");
}

// Plays every other channel of the page, and then its own again: the names of those whose clock ran.
async function changeChannels(page, job) {
  const names = await page.evaluate(() => [...document.querySelectorAll("#channels li")].map((li) => li.dataset.name));
  const ran = [];
  for (const name of [...names.filter((n) => n !== job.channel), job.channel]) {
    await page.click(`li[data-name="${name}"] button`);
    // The picture of the channel before may be there for a moment.
    await page.waitForFunction(() => document.querySelector("video").readyState < 2, null, { timeout: 10000, polling: 20 });
    const plays = () => {
      const video = document.querySelector("video");
      window.from ??= video.readyState > 2 ? video.currentTime : null;
      return window.from !== null && video.currentTime > window.from + 1;
    };
    await page.evaluate(() => { window.from = null; });
    await page.waitForFunction(plays, null, { timeout: 30000, polling: 100 }).then(() => ran.push(name), () => {});
  }
  return ran;
}

// The receiver's own page while it plays: what it shows, and how it looks in light and dark, wide and on a phone.
async function lookAtReceiver(page, plan, job) {
  await page.click("#ask");
  await page.waitForFunction(() => document.querySelector("#findings li") && !/looking/.test(document.querySelector("#findings").textContent), null, { timeout: 15000 });
  const told = await page.evaluate(() => {
    const text = (id) => document.getElementById(id).textContent;
    const cells = (kind) => document.querySelectorAll(`#segments .${kind}`).length;
    return {
      headline: text("headline"), playing: text("playing"), overlay: text("overlay"), findings: text("findings"), flows: document.querySelectorAll("#flows tbody tr").length,
      multicast: cells("multicast"), repaired: cells("repaired"), unicast: cells("unicast"),
    };
  });
  told.empty_plots = await page.evaluate(emptyPlots);
  for (const [kind, width, height] of [["wide", 1200, 900], ["phone", 390, 844]]) {
    await page.setViewportSize({ width, height });
    told[`overflow_${kind}`] = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await page.waitForTimeout(1200); // plots are drawn anew once a second
      await page.screenshot({ path: join(plan.shots, `${job.name}-${kind}-${colorScheme}.png`), fullPage: true });
    }
  }
  // What others play is not compared with this channel's files.
  page.removeAllListeners("response");
  told.changed = await changeChannels(page, job);
  return told;
}

async function run(browser, job, plan, pageHost) {
  const context = await browser.newContext({ viewport: { width: 900, height: 620 } });
  const page = await context.newPage();
  const ours = job.player !== "page";
  const responses = watchResponses(page, job, pageHost);
  const consoleLines = [];
  page.on("console", (line) => consoleLines.push(`${line.type()}: ${line.text()}`));
  page.on("pageerror", (error) => consoleLines.push(`error: ${error.message}`));
  let failure = null;
  try {
    await page.goto(ours ? `http://${pageHost}/${job.player}` : new URL("/", job.url).href);
    const button = `li[data-name="${job.channel}"] button`;
    if (!ours) await page.waitForSelector(button, { timeout: 30000 });
    await page.evaluate(measure);
    if (ours) await page.evaluate(play, job);
    else await page.click(button);
    await page.waitForFunction(() => window.measured.started !== null || window.measured.errors.length, null, { timeout: 45000, polling: 100 });
    await page.waitForTimeout(1000 * plan.seconds / 3);
    const first = await page.evaluate(picture);
    await page.screenshot({ path: join(plan.shots, `${job.name}.png`) });
    const until = plan.seconds;
    await page.waitForFunction((s) => window.measured.ended || performance.now() - window.measured.started >= s * 1000, until, { timeout: 90000, polling: 50 });
    const end = await page.evaluate(() => {
      const m = window.measured, video = document.querySelector("video"), q = video.getVideoPlaybackQuality();
      m.done = true;
      return { ...m, wall: (performance.now() - m.started) / 1000, played: video.currentTime - m.from, dropped: q.droppedVideoFrames, total: q.totalVideoFrames };
    });
    const second = await page.evaluate(picture);
    const heard = await page.evaluate(tracks);
    const cors = ours ? await page.evaluate(readable, job.url).catch((e) => ({ error: String(e) })) : null;
    const told = ours ? null : await lookAtReceiver(page, plan, job);
    return await summary(job, end, responses, { first, second, heard, cors, told, consoleLines });
  } catch (error) {
    failure = String(error).split("\n")[0];
    const m = await page.evaluate(() => window.measured).catch(() => ({}));
    await page.screenshot({ path: join(plan.shots, `${job.name}.png`) }).catch(() => {});
    return await summary(job, { errors: [], ...m, played: 0, wall: 0, failure }, responses, { consoleLines });
  } finally {
    await context.close();
  }
}

async function summary(job, m, responses, more) {
  const compared = (await Promise.all(responses.map((r) => r.compared))).filter(Boolean);
  const bytes = { multicast: 0, repaired: 0, unicast: 0, other: 0 };
  for (const r of responses) {
    const detail = /detail=([a-z]+)/.exec(r.from)?.[1] ?? "other";
    bytes[detail in bytes ? detail : "other"] += r.bytes;
  }
  return {
    name: job.name, player: job.player, url: job.url, played: m.played, wall: m.wall, startup: m.startup, stalls: (m.stalls ?? 0) + (m.freezes ?? 0),
    stalled: m.stalled, jumps: m.jumps ?? 0, frames: m.frames ?? 0, dropped: m.dropped ?? 0, total: m.total ?? 0, ended: m.ended ?? false,
    errors: m.errors ?? [], failure: m.failure ?? null, warnings: m.warnings ?? [],
    bytes, requests: responses.length, unicast: responses.filter((r) => /unicast/.test(r.from)).map((r) => `${r.url} ${r.range} ${r.from}`), bad: responses.filter((r) => r.status >= 400).map((r) => `${r.status} ${r.url}`),
    picture: more.first ?? null, moves: Boolean(more.first && more.second && more.first.check !== more.second.check),
    compared: compared.reduce((bytes, c) => bytes + c.bytes, 0), different: compared.filter((c) => !c.same).map((c) => c.path),
    cors: more.cors ?? null, told: more.told ?? null, tracks: more.heard ?? null, console: more.consoleLines.slice(0, 20), samples: m.samples ?? [],
  };
}

const [jobFile, resultFile] = process.argv.slice(2);
const plan = JSON.parse(readFileSync(jobFile, "utf8"));
const server = await servePages();
const pageHost = `127.0.0.1:${server.address().port}`;
const browser = await chromium.launch({
  executablePath: plan.chromium,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--autoplay-policy=no-user-gesture-required"],
});
try {
  const results = await Promise.all(plan.jobs.map((job) => run(browser, job, plan, pageHost)));
  writeFileSync(resultFile, JSON.stringify(results, null, 1));
} finally {
  await browser.close();
  server.close();
}
